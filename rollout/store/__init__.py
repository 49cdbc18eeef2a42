"""What a run folder holds: the journal, run.json, the result."""

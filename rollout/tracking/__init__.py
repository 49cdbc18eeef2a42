"""How far a run is and how fast, for metrics.jsonl and W&B."""

"""After a run: some of its rows generated again and compared. `python -m rollout verify`."""

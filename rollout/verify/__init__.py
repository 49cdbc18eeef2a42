"""After a run: generate some of its rows again and compare. `python -m rollout verify`."""

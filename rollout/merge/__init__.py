"""After a job array: the results of its runs as one. `python -m rollout merge`."""

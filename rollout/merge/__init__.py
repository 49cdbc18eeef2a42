"""After a job array: merge the results of its runs. `python -m rollout merge`."""

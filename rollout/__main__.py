"""`python -m rollout`. The guard matters: an engine may start worker processes that import this module again."""

from rollout.cli.main import main

if __name__ == "__main__":
    main()

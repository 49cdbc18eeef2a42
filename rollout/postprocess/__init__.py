"""The second stage: rollouts.parquet -> tables and numbers people look at."""

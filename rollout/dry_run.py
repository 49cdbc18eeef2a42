"""`dry_run=true`: what would run, after every check that needs no model."""

from rollout.config import RunConfig
from rollout.prompts import read_prompts, shard_in_words
from rollout.tables import Table


def show_plan(run: RunConfig, table: Table) -> None:
    """Print the plan of `run` on `table`. Reads the whole input, to count the rows that cannot be sampled."""
    n_samples, max_tokens = run.sampling.n_samples, run.sampling.max_tokens
    bad = [prompt for prompt in read_prompts(table, run.data) if prompt.error is not None]
    print(f"input     {table.path}: {table.num_rows:,} rows, columns {', '.join(table.schema.names)}")
    if run.data.num_shards > 1:
        print(f"shard     {shard_in_words(table, run.data)}")
    print(f"prompts   {table.num_rows - len(bad):,} usable, {len(bad):,} not")
    for prompt in bad[:5]:
        print(f"          row {prompt.row_id}: {prompt.error}")
    samples = n_samples * table.num_rows
    print(f"samples   {samples:,} ({n_samples} per row), at most {samples * max_tokens:,} tokens")
    print(f"model     {run.model.path}")
    print(f"sampling  temperature {run.sampling.temperature}, top_p {run.sampling.top_p}, seed {run.sampling.seed}")
    print(f"hardware  {run.hardware.device}, tensor_parallel_size {run.hardware.tensor_parallel_size}")

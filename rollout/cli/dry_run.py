"""`dry_run=true`: what would run, after every check that needs no model."""

import sys
from collections.abc import Iterator

from rollout.config import HardwareConfig, RunConfig
from rollout.config.check import column_warnings, config_warnings
from rollout.data.prompts import read_prompts, shard_in_words, watch_roles
from rollout.data.tables import Table
from rollout.engine.devices import gpu_names, gpus_needed
from rollout.generation.session import error_limit
from rollout.preflight import scorer_warnings
from rollout.records import Outcome


def show_plan(run: RunConfig, table: Table) -> None:
    """Print the plan of `run` on `table`. Reads the whole input, to count the rows that cannot be sampled.

    Raises UserError, after the plan, where there are more of them than the run allows.
    """
    n_samples, max_tokens = run.sampling.n_samples, run.sampling.max_tokens
    warnings = list[str]()
    bad = [prompt for prompt in watch_roles(read_prompts(table, run.data), warnings.append) if prompt.error is not None]
    print(f"input     {table.path}: {table.num_rows:,} rows, columns {', '.join(table.schema.names)}")
    if run.data.num_shards > 1:
        print(f"shard     {shard_in_words(table, run.data)}")
    print(f"prompts   {table.num_rows - len(bad):,} usable, {len(bad):,} not")
    for prompt in bad[:5]:
        print(f"          row {prompt.row_id}: {prompt.error}")
    for warning in warnings:
        print(f"warning   {warning}")
    samples = n_samples * (table.num_rows - len(bad))
    print(f"samples   {samples:,} ({n_samples} per row), at most {samples * max_tokens:,} tokens")
    print(f"model     {run.model.path}")
    print(f"sampling  temperature {run.sampling.temperature}, top_p {run.sampling.top_p}, seed {run.sampling.seed}")
    print(f"hardware  {', '.join(_hardware(run.hardware))}")
    known = (*config_warnings(run), *column_warnings(run, table.schema.names))
    for warning in (*known, *scorer_warnings(run, table)):
        print(f"warning: {warning}", file=sys.stderr)
    check = error_limit(run, table.num_rows)
    for prompt in bad:
        check(Outcome(prompt.row_id, sample_idx=0, num_prompt_tokens=None, num_generated_tokens=0, error=prompt.error))


def _hardware(hardware: HardwareConfig) -> Iterator[str]:
    """Device and parallel sizes, and what of the keys for several engines is not the default."""
    yield hardware.device
    yield f"tensor_parallel_size {hardware.tensor_parallel_size}"
    if hardware.replicas != HardwareConfig.replicas:
        yield f"replicas {hardware.replicas or 'null (as many as there are GPUs for)'}"
    if hardware.replicas_per_gpu != HardwareConfig.replicas_per_gpu:
        yield f"replicas_per_gpu {hardware.replicas_per_gpu}"
    if hardware.ray_address is not None:
        yield f"ray_address {hardware.ray_address}"
    if needed := gpus_needed(hardware):
        yield f"needs {needed} GPU{'s' * (needed > 1)} (this machine shows {len(gpu_names())})"

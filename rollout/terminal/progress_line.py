"""Progress on screen: a bar on a terminal, a line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TransferSpeedColumn,
)

from rollout.terminal.text import duration
from rollout.tracking.progress import Snapshot

log = logging.getLogger(__name__)

_UNSEEN_SECONDS = 0.5  # shorter work needs no progress line


@contextmanager
def progress_view(console: Console) -> Iterator[Callable[[Snapshot], None]]:
    """Yield a function that shows a snapshot: as a bar on a terminal, as a log line now and then elsewhere."""
    if not console.is_terminal:
        yield _log_lines()
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("samples  {task.description}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(now: Snapshot) -> None:
            bar.update(
                task, completed=now.samples_done, total=now.samples_total, description=rates(now, now.eta_seconds)
            )

        yield show


def _log_lines() -> Callable[[Snapshot], None]:
    next_line = 10.0

    def show(now: Snapshot) -> None:
        nonlocal next_line
        if now.elapsed_seconds >= next_line:
            log.info("%d/%d samples  %s", now.samples_done, now.samples_total, rates(now, now.eta_seconds))
            next_line = now.elapsed_seconds + max(10.0, 0.1 * now.elapsed_seconds)  # fewer as a run gets longer

    return show


def rates(now: Snapshot, eta_seconds: float | None) -> str:
    """The speed, and the time that is left."""
    eta = "?" if eta_seconds is None else duration(eta_seconds)
    failed = f"  {now.samples_failed} failed" if now.samples_failed else ""
    return f"{now.output_tok_s_now:,.0f} tok/s now, {now.output_tok_s:,.0f} overall  ETA {eta}{failed}"


@contextmanager
def byte_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows how many bytes of how many are done, once the work has taken a moment."""
    is_terminal = sys.stderr is not None and sys.stderr.isatty()  # FORCE_COLOR does not count: a notebook sets it
    console = Console(stderr=True, highlight=False, force_jupyter=False, force_terminal=is_terminal)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, began, shown = None, time.monotonic(), False

        def report(done: int, total: int) -> None:
            nonlocal task, shown
            if time.monotonic() - began < _UNSEEN_SECONDS:
                return
            if not (shown or console.is_terminal):
                console.print(f"{title} ({total / 1e9:.1f} GB) ...", markup=False, soft_wrap=True)
            shown = True
            task = bar.add_task(title, total=total) if task is None else task
            bar.update(task, completed=done)

        yield report

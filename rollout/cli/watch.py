"""`rollout watch RUN`: show a run or a sweep from outside, while it works or after it was killed.

Nothing in its folder is written or taken, so it may belong to somebody else, be on another machine's disk, or be
read-only. Exit code 0 while the run goes on or when it is done, else 1.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from rollout.cli.arguments import output_problems, show_help
from rollout.cli.help import text
from rollout.cli.latest import named_path
from rollout.cli.one_line_errors import one_line_errors
from rollout.cli.watched import WatchedRun, WatchedSweep
from rollout.config import WatchCommand
from rollout.config.arguments import parse
from rollout.errors import UserError
from rollout.files import short, user_path
from rollout.process.signals import stop_on_signal
from rollout.store import run_record
from rollout.sweep.notes import is_sweep
from rollout.terminal.watch import Lines

_FIRST_LINES = 10.0  # seconds between two lines in a file; fewer as it takes longer
_REPORT_SECONDS = 60.0
_REPORT_SHARE = 20  # of the time that it takes to write a report, it is left alone at least so many times that


class Watched(Protocol):
    """What is watched."""

    def look(self) -> None:
        """See how it is now."""

    @property
    def goes_on(self) -> bool: ...
    @property
    def is_well(self) -> bool:
        """Whether it goes on, or is done."""

    @property
    def share_done(self) -> float | None: ...
    @property
    def doing(self) -> str:
        """Changes when there is something to say of it at once."""

    def describe(self) -> Lines: ...
    def progress_line(self) -> str: ...


def watch(arguments: list[str]) -> None:
    """`rollout watch RUN`: show how it is, until it ends or only once. Exits with 1 where it has not ended well."""
    with one_line_errors(), stop_on_signal():
        show_help(arguments, lambda: text(["watch"]))
        keys = parse(WatchCommand, arguments, paths=("run",))
        path = named_path(keys.run)
        watched: WatchedRun | WatchedSweep
        if is_sweep(path) and not run_record.exists(path):
            watched, write = WatchedSweep(path), _no_report(keys)
        else:
            watched = WatchedRun(path)
            write = _reports(keys, watched)
        _show(watched, keys, write)
        sys.exit(0 if watched.is_well else 1)


def _show(watched: Watched, keys: WatchCommand, write_report: Callable[[], None]) -> None:
    """Look again and again; what was seen last stays on the screen."""
    watched.look()
    console = Console(highlight=False)
    is_terminal = sys.stdout.isatty()
    with _live(console) if is_terminal else _lines() as show:
        while watched.goes_on and not keys.once:
            show(watched)
            write_report()
            time.sleep(keys.every)
            watched.look()
    for name, said in watched.describe():
        console.print(Text.assemble((f"{name:<9} ", "bold"), said), soft_wrap=True)
    write_report()


@contextmanager
def _live(console: Console) -> Iterator[Callable[[Watched], None]]:
    with Live(console=console, transient=True, auto_refresh=False) as live:

        def show(watched: Watched) -> None:
            grid = Grid.grid(padding=(0, 1))
            grid.add_column(style="bold", width=9)
            grid.add_column(no_wrap=True, overflow="ellipsis")
            for name, said in watched.describe():
                grid.add_row(name, Text(said))
            share = watched.share_done
            bar = [] if share is None else [ProgressBar(total=1.0, completed=share)]
            live.update(Group(grid, *bar), refresh=True)

        yield show


@contextmanager
def _lines() -> Iterator[Callable[[Watched], None]]:
    """Lines for a file or a pipe: now and then, and when it does something else."""
    began, due, doing = time.monotonic(), 0.0, ""

    def show(watched: Watched) -> None:
        nonlocal due, doing
        waited = time.monotonic() - began
        if waited >= due or watched.doing != doing:
            print(f"{datetime.now():%H:%M:%S} {watched.progress_line()}", flush=True)
            due, doing = waited + max(_FIRST_LINES, 0.1 * waited), watched.doing

    yield show


def _no_report(keys: WatchCommand) -> Callable[[], None]:
    if keys.report or keys.output is not None:
        raise UserError("report=true: a sweep has its own page, sweep.html in its folder; give the folder of one job")
    return lambda: None


def _reports(keys: WatchCommand, watched: WatchedRun) -> Callable[[], None]:
    """A function that writes the report where that is asked for and due. Raises UserError for where it cannot go."""
    if not keys.report:
        if keys.output is not None:
            raise UserError(f"output={keys.output}: is the name of the report; add report=true")
        return lambda: None
    path = user_path(keys.output) if keys.output is not None else Path(_name(watched.run_dir))
    if problems := list(output_problems("output", path, (".html",), lambda _: False, keys.overwrite)):
        raise UserError(*problems)
    due, written = 0.0, None

    def write() -> None:
        nonlocal due, written
        state = watched.state
        if state == written or (watched.goes_on and time.monotonic() < due):
            return
        began = time.monotonic()
        for warning in watched.write_report(path):
            print(f"warning: {warning}", file=sys.stderr)
        if written is None or not watched.goes_on or keys.once:
            print(f"wrote {short(path)}", flush=True)
        took, written = time.monotonic() - began, state
        due = time.monotonic() + max(_REPORT_SECONDS, _REPORT_SHARE * took)

    return write


def _name(run_dir: Path) -> str:
    """Of a report of this run: a job's folder has no name of its own."""
    return f"{'-'.join(run_dir.absolute().parts[-2:])}.html"

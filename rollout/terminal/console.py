"""Output on screen: our lines, one progress bar, a final table; the output of libraries goes to rollout.log."""

import logging
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TextIO, cast

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rollout.terminal.streams import open_if_closed, process_streams
from rollout.terminal.text import printable

log = logging.getLogger(__name__)

_WIDEST = 10_000  # characters in a line of a table


@contextmanager
def screen(log_file: Path) -> Iterator[Console]:
    """Send file descriptors 1 and 2 to `log_file` and yield a console on the former stdout.

    Redirecting the descriptors also catches the output of C++ libraries and of the engine's processes, which no logging
    setting does. Our logger `rollout` writes to both. At the end everything is restored.
    """
    with (
        _redirected() as (saved, redirect),
        _as_far_as_possible(log_file) as sink,
        os.fdopen(os.dup(saved), "w", encoding=_encoding(), errors="replace") as terminal,
        process_streams() as notebook,
    ):
        stream = cast(IO[str], _Terminal(notebook or terminal))
        # a notebook says in its environment (FORCE_COLOR) that it is a terminal
        is_terminal = False if notebook else None
        console = Console(file=stream, highlight=False, force_jupyter=False, force_terminal=is_terminal)
        redirect(sink.fileno())
        try:
            with _our_log(_ScreenHandler(console), _file_handler(sink)):
                yield console
        finally:
            _flush()
            with suppress(OSError):
                terminal.close()


@contextmanager
def _as_far_as_possible(log_file: Path) -> Iterator[TextIO]:
    """Yield `log_file`, open for appending. What a full disk does not accept is left out: a log ends no run."""
    sink = log_file.open("a", encoding="utf-8")
    try:
        yield sink
    finally:
        with suppress(OSError):
            sink.close()


@contextmanager
def unseen() -> Iterator[None]:
    """Discard the output of libraries in the body."""
    with _redirected() as (_, redirect), process_streams(), Path(os.devnull).open("wb") as null:
        redirect(null.fileno())
        try:
            yield
        finally:
            _flush()


@contextmanager
def plain_screen() -> Iterator[Console]:
    """Yield a console on stdout that also shows our logger's lines; nothing is redirected."""
    console = Console(highlight=False)
    with _our_log(_ScreenHandler(console)):
        yield console


@contextmanager
def _our_log(*handlers: logging.Handler) -> Iterator[None]:
    """Send our logger's lines to `handlers`, and to no other handler, in the body."""
    ours = logging.getLogger("rollout")
    before, level, propagates = ours.handlers[:], ours.level, ours.propagate
    ours.setLevel(logging.INFO)
    ours.propagate = False
    ours.handlers[:] = handlers
    try:
        yield
    finally:
        ours.handlers[:], ours.propagate = before, propagates
        ours.setLevel(level)


@contextmanager
def _redirected() -> Iterator[tuple[int, Callable[[int], None]]]:
    """Yield a copy of descriptor 1, and a function that sends 1 and 2 to another one until the end."""
    _flush()
    for descriptor in (1, 2):
        open_if_closed(descriptor)
    saved = os.dup(1), os.dup(2)

    def redirect(target: int) -> None:
        for descriptor in (1, 2):
            os.dup2(target, descriptor)

    try:
        yield saved[0], redirect
    finally:
        for descriptor, original in zip((1, 2), saved, strict=True):
            os.dup2(original, descriptor)
            os.close(original)


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if stream is not None:
            with suppress(OSError, ValueError):  # full, or closed
                stream.flush()


class _Terminal:
    """The former stdout. If writing fails (for example, the reader of the pipe has ended), the run continues without
    it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None)
        self._gone = False

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def _attempt(self, action: Callable[[], object]) -> None:
        if not self._gone:
            try:
                action()
            except OSError as error:
                self._gone = True
                log.warning("stdout is closed (%s), continuing without it", error)


class _ScreenHandler(logging.Handler):
    """Log lines above the progress bar; warnings and errors are marked."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        style = {"WARNING": "yellow", "ERROR": "red"}.get(record.levelname, "")
        prefix = f"{record.levelname.lower()}: " if style else ""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = Text.assemble((f"{clock} ", "dim"), (prefix, style), record.getMessage())
        self._console.print(line, soft_wrap=True)


class _LogHandler(logging.StreamHandler[TextIO]):
    """Log lines in rollout.log, as far as its disk accepts them."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name in `logging`
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def _file_handler(sink: TextIO) -> logging.Handler:
    handler = _LogHandler(sink)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler


def show_table(
    console: Console, title: str, columns: list[str], rows: list[list[str]], left: Collection[str] = ()
) -> None:
    """A small table; every column except the first and those named in `left` is aligned right.

    On a narrow screen its lines run over: a column that was cut would show another number.
    """
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for position, name in enumerate(columns):
        table.add_column(name, justify="right" if position and name not in left else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    needed = Measurement.get(console, console.options.update(width=_WIDEST), table).maximum
    table.width = needed if needed > console.width else None
    console.print(table, crop=False)

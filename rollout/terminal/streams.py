"""Standard output and error in any state: of any encoding, closed, full, or a pipe that nobody reads any more."""

import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO


def forgive_output() -> None:
    """From now on printing never raises: characters that the encoding lacks are replaced, and unread output is dropped.

    Descriptors 1 and 2 are open afterwards, so that no other file gets their number. Streams that replace the process's
    own stay as they are.
    """
    for descriptor in (1, 2):
        open_if_closed(descriptor)
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _forgiving(1, sys.stdout)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _forgiving(2, sys.stderr)


def open_if_closed(descriptor: int) -> None:
    """Open `descriptor` if the program was started with it closed."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)


@contextmanager
def process_streams() -> Iterator[TextIO | None]:
    """In the body, `sys.stdout` and `sys.stderr` write to descriptors 1 and 2, also in a notebook, which replaces both
    streams. Yields the replaced stdout; None if stdout is the process's own.

    A library that keeps the `sys.stdout` that it finds, as vLLM's log does, then has one that stays open.
    """
    before = sys.stdout, sys.stderr
    is_own = [_is_own(stream, descriptor) for descriptor, stream in enumerate(before, start=1)]
    try:
        if not is_own[0]:
            sys.stdout = _own(1, sys.__stdout__)
        if not is_own[1]:
            sys.stderr = _own(2, sys.__stderr__)
        yield None if is_own[0] else before[0]
    finally:
        sys.stdout, sys.stderr = before


def _is_own(stream: TextIO | None, descriptor: int) -> bool:
    """Whether `stream` writes to `descriptor`."""
    try:
        return stream is None or stream.fileno() == descriptor
    except (AttributeError, OSError, ValueError):  # it has no descriptor, or is closed
        return False


def _own(descriptor: int, stream: TextIO | None) -> TextIO:
    """The process's own `stream`, or if that is lost, a new one on `descriptor`."""
    if stream is not None and not stream.closed and _is_own(stream, descriptor):
        return stream
    return open(descriptor, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)


def _forgiving(descriptor: int, before: TextIO | None) -> TextIO:
    if before is not None:
        with suppress(OSError):
            before.flush()
    raw = _Unread(descriptor)
    encoding = "utf-8" if before is None else before.encoding
    at_once = descriptor == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors="replace", line_buffering=at_once)


class _Unread(io.RawIOBase):
    """A descriptor to which writing always succeeds, even if nobody reads it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def write(self, data: Any, /) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:
            select.select([], [self._descriptor], [])
            return self.write(data)
        except OSError:
            return memoryview(data).nbytes

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

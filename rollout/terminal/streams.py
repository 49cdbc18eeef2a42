"""Standard output and error as they may be: of any encoding, closed, full, or a pipe that nobody reads any more."""

import io
import os
import select
import sys
from contextlib import suppress
from typing import Any, TextIO


def forgive_output() -> None:
    """From now on what is printed never raises: what the encoding lacks is replaced, and what nobody takes is dropped.

    Descriptors 1 and 2 are open afterwards, so that no other file gets their number. Streams that somebody has put
    there instead of the process's own stay as they are.
    """
    for descriptor in (1, 2):
        open_if_closed(descriptor)
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        sys.stdout = _forgiving(1, sys.stdout)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _forgiving(2, sys.stderr)


def open_if_closed(descriptor: int) -> None:
    """A program may be started with its output closed."""
    try:
        os.fstat(descriptor)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)


def _forgiving(descriptor: int, before: TextIO | None) -> TextIO:
    if before is not None:
        with suppress(OSError):
            before.flush()
    raw = _Unread(descriptor)
    encoding = "utf-8" if before is None else before.encoding
    at_once = descriptor == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors="replace", line_buffering=at_once)


class _Unread(io.RawIOBase):
    """A descriptor to which writing succeeds, also when nobody takes what is written."""

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

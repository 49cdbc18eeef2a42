"""Ctrl-C, SIGTERM and a closed terminal: after the first the run stops cleanly, a second one ends it at once."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals by which somebody asks a run to stop. SIGHUP: its terminal was closed, or the
connection to it was lost."""


class Interrupted(BaseException):
    """The run was asked to stop. A BaseException, so that nothing treats it as a failure and continues."""

    def __init__(self, signum: int, at_once: bool = False) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum
        self.signum = signum
        self.at_once = at_once
        """Whether it was the second signal: the engine may be in the middle of any work."""


class StopRequest:
    """Whether a signal has come. Outside `deferred` it raises Interrupted at any place in the program."""

    def __init__(self, ends_process: bool = True) -> None:
        """`ends_process`: whether a second signal ends the process, not only the current work."""
        self._ends_process = ends_process
        self._signum: int | None = None
        self._deferred = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """In the body, a signal is only noted, for `raise_if_requested` to act on between two steps."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def raise_if_requested(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self._signum is not None:
            raise Interrupted(self._signum)

    def handle(self, signum: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        if self._signum is not None and signum == signal.SIGHUP:  # the shell and the kernel each send one
            return
        if self._signum is not None and not self._ends_process:
            raise Interrupted(signum, at_once=True)
        if self._signum is not None:
            for child in multiprocessing.active_children():  # the engine's own processes
                child.kill()
            os._exit(128 + signum)
        self._signum = signum
        if not self._deferred:
            raise Interrupted(signum)


@contextmanager
def stop_on_signal(ends_process: bool = True) -> Iterator[StopRequest]:
    """Handle STOPPING in the body, but SIGHUP only if nobody has set what it does, as `nohup` or a program may. Python
    delivers signals to the main thread only; in other threads none comes.

    `ends_process`: whether a second signal may end the whole process, which in a notebook is not ours.
    """
    stop = StopRequest(ends_process)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {signum: signal.signal(signum, stop.handle) for signum in STOPPING if _is_ours(signum)}
    try:
        yield stop
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _is_ours(signum: signal.Signals) -> bool:
    return signum != signal.SIGHUP or signal.getsignal(signum) == signal.SIG_DFL

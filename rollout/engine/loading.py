"""Supervise the start of an engine: after a failure no process of vLLM's is left, and this process does not hang.

vLLM's engine core and its workers are processes of their own. When one of them fails, the others may wait for it, or
hang in their own clean-up, and our process would wait for them. So a thread watches their log and whether they are
alive: once one has failed, the rest have a few seconds to write why, and are then killed, which vLLM notices at once.
"""

import ctypes
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rollout.process.watchdog import Family, is_our_command

log = logging.getLogger(__name__)

_FAILED = re.compile(
    r"EngineCore failed to start|WorkerProc failed to start|WorkerProc hit an exception|"
    r"Worker proc \S+ died unexpectedly"
)
"""What vLLM 0.26 to 0.33 write once the start has failed, whatever happens to their processes.

With several GPUs that is often nothing: the engine core waits for the answers of its workers in the order of their
ranks, and rank 0 waits on its GPU, in a collective, for the one that has failed.
"""

_PR_SET_CHILD_SUBREAPER = 36
_ENGINE = "VLLM::"  # how the names of vLLM's processes begin
_LOOK_SECONDS = 0.25
_GRACE_SECONDS = 8.0  # from vLLM's failure until its processes are killed: they write why, and vLLM gives them 5 s
_END_SECONDS = 16.0  # from vLLM's failure until this process ends, if it still waits
_EXIT_SECONDS = 5.0  # for this process to end by itself after a failed start
_LEAVE_SECONDS = 2.0  # for the processes of an engine to end by themselves once the body has raised


@dataclass
class Loading:
    """The state of an engine's start."""

    timed_out: bool = False
    """Whether it took longer than `limit`."""
    is_tried_again: bool = False
    """Set by the caller if it will try again after a failure."""
    _ended: threading.Event = field(default_factory=threading.Event)


@contextmanager
def supervised(log_file: Path, limit: float | None, ends_process: bool | None = None) -> Iterator[Loading]:
    """Load an engine in the body, which raises soon after one of the engine's processes has failed.

    `log_file` is where they write to; `limit` is how many seconds loading may take (None: any number). When the body
    raises anything, no process that it has started is left. `ends_process` says whether to end this process if the body
    hangs after a failure; None: only if the process is one of our commands.
    """
    _adopt_orphans(True)
    before = Family(os.getpid())
    before.look()
    family, loading = Family(os.getpid(), before.members), Loading()
    if ends_process is None:
        ends_process = is_our_command()
    watched = (loading, family, log_file, limit, ends_process)
    thread = threading.Thread(target=_watch, args=watched, name="loading", daemon=True)
    thread.start()
    try:
        yield loading
    except BaseException:
        _stop(loading, thread)
        _end(family)
        if is_our_command():
            threading.Thread(target=_do_not_hang_at_exit, args=(loading,), name="exit", daemon=True).start()
        raise
    finally:
        _adopt_orphans(False)
    _stop(loading, thread)


def _adopt_orphans(wanted: bool) -> None:
    """Make this process the parent of processes whose parent ends, see prctl(2); else nobody could find them."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)


def _stop(loading: Loading, thread: threading.Thread) -> None:
    loading._ended.set()
    thread.join()


def _do_not_hang_at_exit(loading: Loading) -> None:
    """End this process some seconds after its main thread, because threads and exit handlers that a failed start has
    left behind may hang.
    """
    threading.main_thread().join()
    if loading.is_tried_again:
        return
    time.sleep(_EXIT_SECONDS)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(1)


def _end(family: Family) -> None:
    """Wait a little for the family to end, then kill the rest."""
    deadline = time.monotonic() + _LEAVE_SECONDS
    family.look()
    while family.alive() and time.monotonic() < deadline:
        time.sleep(0.05)
        family.look()
    family.kill()


def _watch(loading: Loading, family: Family, log_file: Path, limit: float | None, ends_process: bool) -> None:
    began, position = time.monotonic(), log_file.stat().st_size
    failed_at: float | None = None
    while not loading._ended.wait(_LOOK_SECONDS):
        now = time.monotonic()
        family.look()
        if failed_at is None:
            if limit is not None and now - began > limit:
                loading.timed_out, failed_at = True, now - _GRACE_SECONDS  # there is no reason to write
            elif _has_failed(family, log_file, position):
                failed_at = now
        elif now - failed_at > _END_SECONDS:
            log.error("the engine failed to start and does not end; see %s", log_file)
            family.kill()
            if ends_process:
                os._exit(1)
            return  # our caller can be interrupted, and has more to lose
        elif now - failed_at > _GRACE_SECONDS:
            family.kill()


def _has_failed(family: Family, log_file: Path, position: int) -> bool:
    alive = family.alive()
    if any(member.name.startswith(_ENGINE) and pid not in alive for pid, member in family.members.items()):
        return True
    with log_file.open("rb") as file:
        file.seek(position)
        return _FAILED.search(file.read().decode("utf-8", "replace")) is not None

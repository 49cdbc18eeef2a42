"""Processes that score responses, one chunk at a time each; and what goes on in one of them."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing.synchronize import Semaphore
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from rollout.config import ScoreConfig
from rollout.errors import UserError
from rollout.scoring.scorers import Scored, Scorer, scorer_of

if TYPE_CHECKING:  # takes 50 ms, and most commands score nothing
    from pebble import ProcessFuture, ProcessPool

Item = tuple[str, Any, dict[str, Any]]
"""What a scorer is called with: response, ground truth, row."""

_GRACE = 5.0  # seconds a worker gets beyond the limit, before it is killed; and all of them, to begin
_LOOK_SECONDS = 0.1  # between two looks whether those that have not begun still may

_scorer: Scorer | UserError
_timeout: float


class _TimeUp(BaseException):
    """Not an Exception, so that a scorer's own `except Exception` lets it through."""


class Chunk(NamedTuple):
    """What comes back from a worker."""

    results: list[Scored]
    seconds: float


@contextmanager
def processes(score: ScoreConfig) -> Iterator["Workers"]:
    """The processes that score. At an error what is still waiting for them is dropped."""
    from pebble import ProcessPool

    context = multiprocessing.get_context("spawn")  # a fork would copy the engine's threads and locks
    count = score.workers or os.cpu_count() or 1

    def start() -> _Processes:
        begun, ready = context.Semaphore(0), context.Semaphore(0)
        pool = ProcessPool(count, initializer=_begin, initargs=(score, begun, ready), context=context)
        return _Processes(pool, begun, ready)

    workers, is_well = Workers(start, count, score.timeout), False
    try:
        yield workers
        is_well = True
    finally:
        workers.end(is_well)


@dataclass
class _Processes:
    """Those of one pool; they are started with the first task."""

    pool: "ProcessPool"
    begun: Semaphore
    """Released by each of them, as soon as it can."""
    ready: Semaphore
    """Released by each of them that has the scorer."""
    is_used: bool = False

    @property
    def is_ready(self) -> bool:
        """Whether one of them is, or has been."""
        return self.ready.get_value() > 0

    def await_begun(self, count: int) -> None:
        """One that is still starting when the pool ends would find its locks gone, and say so on stderr."""
        deadline = time.monotonic() + _GRACE
        while self.is_used and count and self.pool.active and time.monotonic() < deadline:
            count -= self.begun.acquire(timeout=_LOOK_SECONDS)


class Workers:
    """Processes that score, and others in their place where pebble gives up.

    It does when a process has ended and no task is known to be with it: where none starts, and where a scorer ends its
    process before the pool has read that the task has begun.
    """

    def __init__(self, start: Callable[[], _Processes], count: int, timeout: float) -> None:
        """`timeout` is in seconds, for one response."""
        self._start, self.count, self.timeout = start, count, timeout
        self._now, self._was_ready = start(), False

    def schedule(self, chunk: Sequence[Item]) -> "ProcessFuture[Chunk]":
        """Have responses scored by one process.

        Several slow responses in a chunk are no reason to kill it; one that ignores its own limit is. Raises UserError
        where the processes are known not to start.
        """
        was_used, self._now.is_used = self._now.is_used, True
        seconds = self.timeout if len(chunk) == 1 else 3 * self.timeout
        try:
            with nullcontext() if was_used else _without_ctrl_c():
                return self._now.pool.schedule(_score_chunk, (chunk,), timeout=seconds + _GRACE)
        except RuntimeError as error:
            if not was_used:
                raise
            self._renew(error)  # what pebble says of a pool that is broken
            return self.schedule(chunk)

    def result(self, future: "ProcessFuture[Chunk]") -> Chunk | None:
        """The scores of a chunk, or None when its worker had to be killed or died. Raises UserError as `schedule`."""
        from pebble import ProcessExpired

        try:
            return future.result()
        except (TimeoutError, ProcessExpired):
            return None
        except BrokenProcessPool as error:
            self._was_ready = self._was_ready or self._now.is_ready
            if not self._was_ready:
                raise _do_not_start(error) from error
            return None

    def end(self, is_well: bool) -> None:
        """When what was scheduled is done; where not all is well, what waits is dropped."""
        pool = self._now.pool
        try:
            self._now.await_begun(self.count)
        finally:
            pool.close() if is_well else pool.stop()
            pool.join()

    def _renew(self, error: RuntimeError) -> None:
        """Raises UserError where none of those that are there was ever ready."""
        if not self._now.is_ready:
            raise _do_not_start(error) from error
        self._was_ready = True
        self.end(is_well=False)
        self._now = self._start()


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes and threads that begin in the body do not hear of Ctrl-C: a process would, before it can ignore it.

    Nor is the body cut short: a pool of which half has started cannot be ended.
    """
    with _signals_afterwards():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _signals_afterwards() -> Iterator[None]:
    """What is done at a signal is done after the body. Python does it in the main thread, whichever hears of it."""
    came, handlers = list[tuple[int, FrameType | None]](), dict[int, Callable[[int, FrameType | None], Any]]()
    if threading.current_thread() is threading.main_thread():
        found = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
        handlers |= {signum: handler for signum, handler in found.items() if callable(handler)}
    try:
        for signum in handlers:
            signal.signal(signum, lambda *what: came.append(what))
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    for what in came:
        handlers[what[0]](*what)


def _do_not_start(error: Exception) -> UserError:
    return UserError(
        f"score.workers: the processes that score do not start ({error}); a script needs "
        '`if __name__ == "__main__":` around its calls'
    )


def _begin(score: ScoreConfig, begun: Semaphore, ready: Semaphore) -> None:
    """In a worker, once."""
    global _scorer, _timeout
    begun.release()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        _scorer = scorer_of(score)
    except UserError as error:  # as of a module that can be imported by the parent only; told with the first chunk
        _scorer = error
    _timeout = score.timeout
    signal.signal(signal.SIGALRM, _time_is_up)
    ready.release()


def _end_with(parent: int) -> None:
    """End this worker when its parent has been killed: nobody else would, and a slow scorer has hours to go."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _time_is_up(_number: int, _frame: FrameType | None) -> None:
    raise _TimeUp


def _storable(scored: Scored) -> Scored:
    """Without lone surrogates, which Arrow cannot hold."""
    answer, error = (
        None if text is None else text.encode("utf-8", "replace").decode() for text in (scored.answer, scored.error)
    )
    return Scored(scored.score, answer, error)


def _score_chunk(chunk: Sequence[Item]) -> Chunk:
    if isinstance(_scorer, UserError):
        raise _scorer
    start = time.monotonic()
    results = [_score_one(_scorer, *item) for item in chunk]
    return Chunk(results, time.monotonic() - start)


def _score_one(scorer: Scorer, response: str, ground_truth: Any, row: dict[str, Any]) -> Scored:
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, _timeout)
            return _storable(scorer(response, ground_truth, row))
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # by contract they belong to the response
            return _storable(Scored(None, error=f"{type(error).__name__}: {error}"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _TimeUp:  # it may come as late as in the lines that handle another error
        return Scored(None, error=late(_timeout))


def late(timeout: float) -> str:
    """Why a response has no score after `timeout` seconds."""
    return f"timed out after {timeout:g} s"

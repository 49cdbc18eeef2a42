"""Processes that score responses in chunks: first their start and end, then their work."""

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
"""The arguments of a scorer: response, ground truth, row."""

_GRACE = 5.0  # seconds beyond the limit before a worker is killed; also for all workers to begin
_LOOK_SECONDS = 0.1  # between two checks whether workers can still begin
_OF_A_TERMINAL = {signal.SIGINT, signal.SIGHUP}  # a terminal sends them to all of its processes

_scorer: Scorer | UserError
_timeout: float


class _TimeUp(BaseException):
    """Not an Exception, so that a scorer's own `except Exception` lets it through."""


class ScoredChunk(NamedTuple):
    """What a worker returns: a result for each response, and the seconds that scoring took."""

    results: list[Scored]
    seconds: float


@contextmanager
def processes(score: ScoreConfig) -> Iterator["Workers"]:
    """Yield the processes that score. At an error, responses that still wait for them are dropped."""
    from pebble import ProcessPool

    context = multiprocessing.get_context("spawn")  # a fork would copy the engine's threads and locks
    count = score.workers or os.cpu_count() or 1

    def new_pool() -> _Pool:
        begun, ready = context.Semaphore(0), context.Semaphore(0)
        pool = ProcessPool(count, initializer=_begin, initargs=(score, begun, ready), context=context)
        return _Pool(pool, count, begun, ready)

    workers = Workers(new_pool, score.timeout)
    try:
        yield workers
    except BaseException:
        workers.pool.end(drop=True)
        raise
    workers.pool.end(drop=False)


@dataclass
class _Pool:
    """A pool of pebble; it starts its processes with the first task."""

    pebbles: "ProcessPool"
    count: int
    begun: Semaphore
    """Each process releases it as soon as it can."""
    ready: Semaphore
    """Each process releases it once it has loaded the scorer."""
    is_used: bool = False

    @property
    def was_ready(self) -> bool:
        """Whether one of its processes is ready, or has been."""
        return self.ready.get_value() > 0

    def end(self, drop: bool) -> None:
        """End the pool once all scheduled chunks are done; with `drop` at once."""
        try:
            self._await_begun()
        finally:
            self.pebbles.stop() if drop else self.pebbles.close()
            self.pebbles.join()

    def _await_begun(self) -> None:
        """Wait for starting processes: if the pool ended first, they would report missing locks on stderr."""
        deadline, count = time.monotonic() + _GRACE, self.count
        while self.is_used and count and self.pebbles.active and time.monotonic() < deadline:
            count -= self.begun.acquire(timeout=_LOOK_SECONDS)


class Workers:
    """Processes that score, in a pool; if pebble gives the pool up, in a new one.

    pebble gives a pool up when a process ends that has no task as far as pebble knows. Either no process starts at all,
    which is a UserError; or, in a pool that was ready, a scorer ended its process before pebble had read that the task
    had begun.
    """

    def __init__(self, new_pool: Callable[[], _Pool], timeout: float) -> None:
        """`timeout`: seconds for one response."""
        self._new_pool, self.timeout = new_pool, timeout
        self.pool, self._is_renewed = new_pool(), False

    def schedule(self, chunk: Sequence[Item]) -> "ProcessFuture[ScoredChunk]":
        """Have responses scored by one process.

        A worker is not killed for several slow responses in a chunk, but for one that ignores its own limit. Raises
        UserError if it is known that the processes do not start.
        """
        was_used, self.pool.is_used = self.pool.is_used, True
        seconds = self.timeout if len(chunk) == 1 else 3 * self.timeout
        try:
            with nullcontext() if was_used else _without_signals():
                return self.pool.pebbles.schedule(_score_chunk, (chunk,), timeout=seconds + _GRACE)
        except RuntimeError as error:
            if not was_used:
                raise
            self._renew(error)  # pebble has given the pool up
            return self.schedule(chunk)

    def result(self, future: "ProcessFuture[ScoredChunk]") -> ScoredChunk | None:
        """The scores of a chunk, or None if its worker was killed or died. Raises UserError as `schedule` does."""
        from pebble import ProcessExpired

        try:
            return future.result()
        except (TimeoutError, ProcessExpired):
            return None
        except BrokenProcessPool as error:
            if not (self._is_renewed or self.pool.was_ready):
                raise _do_not_start(error) from error
            return None

    def _renew(self, error: RuntimeError) -> None:
        """Replace the pool. Raises UserError if it was never ready."""
        if not self.pool.was_ready:
            raise _do_not_start(error) from error
        self.pool.end(drop=True)
        self.pool, self._is_renewed = self._new_pool(), True


@contextmanager
def _without_signals() -> Iterator[None]:
    """Keeps a terminal's signals from processes and threads that begin in the body: a process could get a signal before
    it ignores it.

    No signal interrupts the body either: a pool that has started only in part cannot be ended.
    """
    with _signals_afterwards():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_A_TERMINAL)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _signals_afterwards() -> Iterator[None]:
    """Handles signals after the body. Python calls handlers in the main thread, whichever thread gets the signal."""
    received, handlers = list[tuple[int, FrameType | None]](), dict[int, Callable[[int, FrameType | None], Any]]()
    if threading.current_thread() is threading.main_thread():
        found = {signum: signal.getsignal(signum) for signum in {*_OF_A_TERMINAL, signal.SIGTERM}}
        handlers |= {signum: handler for signum, handler in found.items() if callable(handler)}
    try:
        for signum in handlers:
            signal.signal(signum, lambda *what: received.append(what))
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    for what in received:
        handlers[what[0]](*what)


def _do_not_start(error: Exception) -> UserError:
    return UserError(
        f"score.workers: the processes that score do not start ({error}); a script needs "
        '`if __name__ == "__main__":` around its calls'
    )


def _begin(score: ScoreConfig, begun: Semaphore, ready: Semaphore) -> None:
    """Prepare a worker; called in it once."""
    global _scorer, _timeout
    begun.release()
    for signum in _OF_A_TERMINAL:  # the parent handles them
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_A_TERMINAL)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        _scorer = scorer_of(score)
    except UserError as error:  # only the parent can import the module; raised with the first chunk
        _scorer = error
    _timeout = score.timeout
    signal.signal(signal.SIGALRM, _time_is_up)
    ready.release()


def _end_with(parent: int) -> None:
    """End this worker if its parent is killed: nothing else would end it, and a slow scorer may need hours."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _time_is_up(_number: int, _frame: FrameType | None) -> None:
    raise _TimeUp


def _storable(scored: Scored) -> Scored:
    """`scored` without lone surrogates, which Arrow cannot hold."""
    answer, error = (
        None if text is None else text.encode("utf-8", "replace").decode() for text in (scored.answer, scored.error)
    )
    return Scored(scored.score, answer, error)


def _score_chunk(chunk: Sequence[Item]) -> ScoredChunk:
    if isinstance(_scorer, UserError):
        raise _scorer
    start = time.monotonic()
    results = [_score_one(_scorer, *item) for item in chunk]
    return ScoredChunk(results, time.monotonic() - start)


def _score_one(scorer: Scorer, response: str, ground_truth: Any, row: dict[str, Any]) -> Scored:
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, _timeout)
            return _storable(scorer(response, ground_truth, row))
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # by contract they are errors of the response
            return _storable(Scored(None, error=f"{type(error).__name__}: {error}"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _TimeUp:  # it may even come while another error is handled
        return Scored(None, error=late(_timeout))


def late(timeout: float) -> str:
    """Why a response has no score after `timeout` seconds."""
    return f"timed out after {timeout:g} s"

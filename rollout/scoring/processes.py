"""Processes that score responses in chunks: first how they are started and ended, then what they do."""

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
_OF_A_TERMINAL = {signal.SIGINT, signal.SIGHUP}  # which all of its processes get

_scorer: Scorer | UserError
_timeout: float


class _TimeUp(BaseException):
    """Not an Exception, so that a scorer's own `except Exception` lets it through."""


class ScoredChunk(NamedTuple):
    """What comes back from a worker: a result for each response, and the seconds that they took."""

    results: list[Scored]
    seconds: float


@contextmanager
def processes(score: ScoreConfig) -> Iterator["Workers"]:
    """The processes that score. At an error what is still waiting for them is dropped."""
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
    """A pool of pebble's, which starts its processes with the first task."""

    pebbles: "ProcessPool"
    count: int
    begun: Semaphore
    """Released by each process, as soon as it can."""
    ready: Semaphore
    """Released by each process that has the scorer."""
    is_used: bool = False

    @property
    def was_ready(self) -> bool:
        """Whether a process of it is, or has been."""
        return self.ready.get_value() > 0

    def end(self, drop: bool) -> None:
        """End it when what was scheduled is done; with `drop` at once."""
        try:
            self._await_begun()
        finally:
            self.pebbles.stop() if drop else self.pebbles.close()
            self.pebbles.join()

    def _await_begun(self) -> None:
        """A process that is still starting when the pool ends would find its locks gone, and say so on stderr."""
        deadline, count = time.monotonic() + _GRACE, self.count
        while self.is_used and count and self.pebbles.active and time.monotonic() < deadline:
            count -= self.begun.acquire(timeout=_LOOK_SECONDS)


class Workers:
    """Processes that score, in a pool; in another one after pebble has given up the first.

    pebble gives a pool up when a process has ended that has no task as far as it knows. Either no process starts at
    all, which is a UserError; or, in a pool that was ready, a scorer has ended its process before pebble had read that
    the task has begun.
    """

    def __init__(self, new_pool: Callable[[], _Pool], timeout: float) -> None:
        """`timeout` is in seconds, for one response."""
        self._new_pool, self.timeout = new_pool, timeout
        self.pool, self._is_renewed = new_pool(), False

    def schedule(self, chunk: Sequence[Item]) -> "ProcessFuture[ScoredChunk]":
        """Have responses scored by one process.

        Several slow responses in a chunk are no reason to kill it; one that ignores its own limit is. Raises UserError
        where the processes are known not to start.
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
        """The scores of a chunk, or None when its worker had to be killed or died. Raises UserError as `schedule`."""
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
        """Raises UserError where the pool was never ready."""
        if not self.pool.was_ready:
            raise _do_not_start(error) from error
        self.pool.end(drop=True)
        self.pool, self._is_renewed = self._new_pool(), True


@contextmanager
def _without_signals() -> Iterator[None]:
    """Processes and threads that begin in the body do not get a terminal's signals: a process could get one before it
    ignores it.

    Nor does a signal interrupt the body: a pool of which half has started cannot be ended.
    """
    with _signals_afterwards():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_A_TERMINAL)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _signals_afterwards() -> Iterator[None]:
    """Signals are handled after the body. Python calls handlers in the main thread, whichever thread gets a signal."""
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
    """In a worker, once."""
    global _scorer, _timeout
    begun.release()
    for signum in _OF_A_TERMINAL:  # they are the parent's
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_A_TERMINAL)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        _scorer = scorer_of(score)
    except UserError as error:  # of a module that only the parent can import; raised with the first chunk
        _scorer = error
    _timeout = score.timeout
    signal.signal(signal.SIGALRM, _time_is_up)
    ready.release()


def _end_with(parent: int) -> None:
    """End this worker when its parent was killed: nobody else would, and a slow scorer may need hours."""
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
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # by contract they belong to the response
            return _storable(Scored(None, error=f"{type(error).__name__}: {error}"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _TimeUp:  # it may come as late as in the lines that handle another error
        return Scored(None, error=late(_timeout))


def late(timeout: float) -> str:
    """Why a response has no score after `timeout` seconds."""
    return f"timed out after {timeout:g} s"

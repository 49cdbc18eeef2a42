"""Scoring in processes of their own: a scorer that raises, hangs or dies costs one score, not the run."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
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

_CHUNK = 64  # responses per task: one costs about as much to send as a cheap scorer takes
_GRACE = 5.0  # seconds a worker gets beyond the limit, before it is killed; and all of them, to begin
_LOOK_SECONDS = 0.1  # between two looks whether those that have not begun still may
_CHUNK_SECONDS = 0.05  # that a chunk may take where scores are waited for
_NEWEST = 0.25  # of what a response takes: how much the newest chunk says
_SENT_PER_WORKER = 8  # chunks: one to work on, and the next

_scorer: Scorer | UserError
_timeout: float


class _TimeUp(BaseException):
    """Not an Exception, so that a scorer's own `except Exception` lets it through."""


@contextmanager
def scoring(score: ScoreConfig) -> Iterator[Callable[[Sequence[Item]], list[Scored]]]:
    """Yield a function that scores many responses at once, results in the order of the items.

    It never raises for a scorer's sake: such a response has no score but an error. A scorer that a process cannot
    import, and processes that do not start, are a UserError.
    """
    with _workers(score) as workers:

        def score_all(items: Sequence[Item]) -> list[Scored]:
            chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
            futures = [workers.schedule(chunk) for chunk in chunks]
            results: list[Scored] = []
            for chunk, future in zip(chunks, futures, strict=True):
                done = _result(future)
                results += _one_by_one(workers, chunk) if done is None else done.results
            return results

        yield score_all


@contextmanager
def scoring_beside(score: ScoreConfig) -> Iterator["Background"]:
    """Yield what scores responses while others are made. Its processes start at once, and nobody waits for them.

    Those that do not start, or cannot import the scorer, are a UserError of the first call of `scored`. At an error
    what is still to be scored is dropped.
    """
    with _workers(score) as workers:
        background = Background(workers)
        yield background
        if background.num_waiting:
            raise RuntimeError(f"{background.num_waiting} responses were not scored")


class Background:
    """Scores responses, each with a name of the caller's, while the caller does something else.

    As in `scoring` no scorer's fault is raised. A scorer that is slow gets few responses at a time, so that each has
    its score soon.
    """

    def __init__(self, workers: "_Workers") -> None:
        self._workers = workers
        self._queue: deque[tuple[Hashable, Item]] = deque()
        self._alone: deque[tuple[Hashable, Item]] = deque()
        """Of chunks whose worker had to be killed or died."""
        self._sent: dict[ProcessFuture[_Chunk], list[tuple[Hashable, Item]]] = {workers.schedule([]): []}
        """Chunks that the processes have. The first starts them and tells whether that went well."""
        self._seconds = _CHUNK_SECONDS
        """What a response takes, about."""
        self.num_waiting = 0
        """Responses that were given, and whose scores were not returned."""

    def give(self, name: Hashable, item: Item) -> None:
        """Have a response scored."""
        self._queue.append((name, item))
        self.num_waiting += 1

    def scored(self, seconds: float = 0.0) -> list[tuple[Any, Scored]]:
        """Names and scores of those that were scored since the last call; waits at most `seconds` for the first.

        To be called again and again: only here are responses handed to the processes.
        """
        self._send()
        if seconds and self._sent:
            wait([*self._sent], seconds, FIRST_COMPLETED)
        found = list[tuple[Any, Scored]]()
        for future in [future for future in self._sent if future.done()]:
            found += self._results(future, self._sent.pop(future))
        if found:
            self._send()
        self.num_waiting -= len(found)
        return found

    def _send(self) -> None:
        while (self._alone or self._queue) and len(self._sent) < _SENT_PER_WORKER * self._workers.count:
            chunk = [self._alone.popleft()] if self._alone else self._next_chunk()
            self._sent[self._workers.schedule([item for _, item in chunk])] = chunk

    def _next_chunk(self) -> list[tuple[Hashable, Item]]:
        size = max(1, min(_CHUNK, int(_CHUNK_SECONDS / self._seconds)))
        return [self._queue.popleft() for _ in range(min(size, len(self._queue)))]

    def _results(
        self, future: "ProcessFuture[_Chunk]", chunk: list[tuple[Hashable, Item]]
    ) -> list[tuple[Hashable, Scored]]:
        names = [name for name, _ in chunk]
        if (done := _result(future)) is not None:
            if chunk:
                self._seconds += _NEWEST * (done.seconds / len(chunk) - self._seconds)
            return list(zip(names, done.results, strict=True))
        if len(chunk) == 1:
            return [(names[0], _single(future, self._workers.timeout))]
        self._alone.extend(chunk)  # to find the one that is to blame
        return []


class _Chunk(NamedTuple):
    """What comes back from a worker."""

    results: list[Scored]
    seconds: float


@contextmanager
def _workers(score: ScoreConfig) -> Iterator["_Workers"]:
    """The processes that score. At an error what is still waiting for them is dropped."""
    from pebble import ProcessPool

    context = multiprocessing.get_context("spawn")  # a fork would copy the engine's threads and locks
    count = score.workers or os.cpu_count() or 1
    begun = context.Semaphore(0)
    pool = ProcessPool(count, initializer=_begin, initargs=(score, begun), context=context)
    workers, is_well = _Workers(pool, count, score.timeout), False
    try:
        yield workers
        is_well = True
    finally:
        try:
            if workers.is_used:
                _await_begun(pool, begun, count)
        finally:
            pool.close() if is_well else pool.stop()
            pool.join()


def _await_begun(pool: "ProcessPool", begun: Semaphore, count: int) -> None:
    """One that is still starting when the pool ends would find its locks gone, and say so on stderr."""
    deadline = time.monotonic() + _GRACE
    while count and pool.active and time.monotonic() < deadline:
        count -= begun.acquire(timeout=_LOOK_SECONDS)


@dataclass
class _Workers:
    """Processes that score; they are started with the first task."""

    pool: "ProcessPool"
    count: int
    timeout: float
    """Seconds that one response may take."""
    is_used: bool = False

    def schedule(self, chunk: Sequence[Item]) -> "ProcessFuture[_Chunk]":
        """Have responses scored by one process.

        Several slow responses in a chunk are no reason to kill it; one that ignores its own limit is. Raises UserError
        where the processes are known not to start.
        """
        was_used, self.is_used = self.is_used, True
        seconds = self.timeout if len(chunk) == 1 else 3 * self.timeout
        try:
            with nullcontext() if was_used else _without_ctrl_c():
                return self.pool.schedule(_score_chunk, (chunk,), timeout=seconds + _GRACE)
        except RuntimeError as error:
            if was_used:  # what pebble says of a pool that is broken
                raise _do_not_start(error) from error
            raise


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


def _result(future: "ProcessFuture[_Chunk]") -> _Chunk | None:
    """The scores of a chunk, or None when its worker had to be killed or died."""
    from pebble import ProcessExpired

    try:
        return future.result()
    except (TimeoutError, ProcessExpired):
        return None
    except BrokenProcessPool as error:
        raise _do_not_start(error) from error


def _do_not_start(error: Exception) -> UserError:
    return UserError(
        f"score.workers: the processes that score do not start ({error}); a script needs "
        '`if __name__ == "__main__":` around its calls'
    )


def _one_by_one(workers: _Workers, chunk: Sequence[Item]) -> list[Scored]:
    """The same chunk again, to find the response that is to blame and to score the others."""
    futures = [workers.schedule([item]) for item in chunk]
    return [_single(future, workers.timeout) for future in futures]


def _single(future: "ProcessFuture[_Chunk]", timeout: float) -> Scored:
    from pebble import ProcessExpired

    try:
        (scored,) = future.result().results
    except TimeoutError:
        return Scored(None, error=_late(timeout))
    except ProcessExpired as error:
        return Scored(None, error=f"the scorer ended its process (exit code {error.exitcode})")
    return scored


def _late(timeout: float) -> str:
    return f"timed out after {timeout:g} s"


def _begin(score: ScoreConfig, begun: Semaphore) -> None:
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


def _score_chunk(chunk: Sequence[Item]) -> _Chunk:
    if isinstance(_scorer, UserError):
        raise _scorer
    start = time.monotonic()
    results = [_score_one(_scorer, *item) for item in chunk]
    return _Chunk(results, time.monotonic() - start)


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
        return Scored(None, error=_late(_timeout))

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

_ENDED = "the scorer ended its process"
_BY_ITSELF = Scored(None, error=_ENDED)
"""Of a response that was out alone when the processes were given up."""

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
                done = workers.result(future)
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
        self._suspects: deque[tuple[Hashable, Item]] = deque()
        """Of those, the ones that were out with others when the processes were given up: scored with no other out."""
        self._sent: dict[ProcessFuture[_Chunk], list[tuple[Hashable, Item]]] = {workers.schedule([]): []}
        """Chunks that the processes have. The first starts them and tells whether that went well."""
        self._seconds = _CHUNK_SECONDS
        """What a response takes, about."""
        self._on_trial = False
        """Whether what is out is a suspect."""
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
        self._on_trial = self._on_trial and bool(self._sent)
        if found:
            self._send()
        self.num_waiting -= len(found)
        return found

    def _send(self) -> None:
        most = 1 if self._suspects or self._on_trial else _SENT_PER_WORKER * self._workers.count
        while (self._suspects or self._alone or self._queue) and len(self._sent) < most:
            self._on_trial = bool(self._suspects)
            suspects = self._suspects or self._alone
            chunk = [suspects.popleft()] if suspects else self._next_chunk()
            self._sent[self._workers.schedule([item for _, item in chunk])] = chunk

    def _next_chunk(self) -> list[tuple[Hashable, Item]]:
        size = max(1, min(_CHUNK, int(_CHUNK_SECONDS / self._seconds)))
        return [self._queue.popleft() for _ in range(min(size, len(self._queue)))]

    def _results(
        self, future: "ProcessFuture[_Chunk]", chunk: list[tuple[Hashable, Item]]
    ) -> list[tuple[Hashable, Scored]]:
        names = [name for name, _ in chunk]
        if (done := self._workers.result(future)) is not None:
            if chunk:
                self._seconds += _NEWEST * (done.seconds / len(chunk) - self._seconds)
            return list(zip(names, done.results, strict=True))
        if len(chunk) > 1:
            self._alone.extend(chunk)  # to find the one that is to blame
            return []
        if (scored := _single(future, self._workers.timeout)) is None and not self._on_trial:
            self._suspects.extend(chunk)
            return []
        return [(names[0], scored or _BY_ITSELF)]


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

    def start() -> _Processes:
        begun, ready = context.Semaphore(0), context.Semaphore(0)
        pool = ProcessPool(count, initializer=_begin, initargs=(score, begun, ready), context=context)
        return _Processes(pool, begun, ready)

    workers, is_well = _Workers(start, count, score.timeout), False
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


class _Workers:
    """Processes that score, and others in their place where pebble gives up.

    It does when a process has ended and no task is known to be with it: where none starts, and where a scorer ends its
    process before the pool has read that the task has begun.
    """

    def __init__(self, start: Callable[[], _Processes], count: int, timeout: float) -> None:
        """`timeout` is in seconds, for one response."""
        self._start, self.count, self.timeout = start, count, timeout
        self._now, self._was_ready = start(), False

    def schedule(self, chunk: Sequence[Item]) -> "ProcessFuture[_Chunk]":
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

    def result(self, future: "ProcessFuture[_Chunk]") -> _Chunk | None:
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


def _one_by_one(workers: _Workers, chunk: Sequence[Item]) -> list[Scored]:
    """The same chunk again, to find the response that is to blame and to score the others."""
    futures = [workers.schedule([item]) for item in chunk]
    return [
        _single(future, workers.timeout) or _alone(workers, item) for item, future in zip(chunk, futures, strict=True)
    ]


def _alone(workers: _Workers, item: Item) -> Scored:
    """Of a response whose process died with others that may be to blame."""
    return _single(workers.schedule([item]), workers.timeout) or _BY_ITSELF


def _single(future: "ProcessFuture[_Chunk]", timeout: float) -> Scored | None:
    """The score of a response that was sent alone; None where it is not known which one has ended a process."""
    from pebble import ProcessExpired

    try:
        (scored,) = future.result().results
    except TimeoutError:
        return Scored(None, error=_late(timeout))
    except ProcessExpired as error:
        return Scored(None, error=f"{_ENDED} (exit code {error.exitcode})")
    except BrokenProcessPool:
        return None
    return scored


def _late(timeout: float) -> str:
    return f"timed out after {timeout:g} s"


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

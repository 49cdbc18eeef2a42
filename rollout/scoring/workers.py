"""Scoring in processes of their own: a scorer that raises, hangs or dies costs one score, not the run."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.synchronize import Semaphore
from types import FrameType
from typing import TYPE_CHECKING, Any

from rollout.config import ScoreConfig
from rollout.errors import UserError
from rollout.scoring.scorers import Scored, Scorer, scorer_of

if TYPE_CHECKING:  # takes 50 ms, and most commands score nothing
    from pebble import ProcessFuture, ProcessPool

Item = tuple[str, Any, dict[str, Any]]
"""What a scorer is called with: response, ground truth, row."""

_CHUNK = 64  # responses per task: one costs about as much to send as a cheap scorer takes
_GRACE = 5.0  # seconds a worker gets beyond the limit, before it is killed

_scorer: Scorer
_timeout: float


class _TimeUp(BaseException):
    """Not an Exception, so that a scorer's own `except Exception` lets it through."""


@contextmanager
def scoring(score: ScoreConfig) -> Iterator[Callable[[Sequence[Item]], list[Scored]]]:
    """Yield a function that scores many responses at once, results in the order of the items.

    It never raises for a scorer's sake: such a response has no score but an error.
    """
    from pebble import ProcessPool

    context = multiprocessing.get_context("spawn")  # a fork would copy the engine's threads and locks
    workers = score.workers or os.cpu_count() or 1
    begun = context.Semaphore(0)
    pool = ProcessPool(workers, initializer=_begin, initargs=(score, begun), context=context)
    is_used = False

    def score_all(items: Sequence[Item]) -> list[Scored]:
        nonlocal is_used
        is_used |= bool(items)  # the workers are started with the first task
        chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
        # several slow responses in a chunk are no reason to kill it; one that ignores its own limit is
        futures = [pool.schedule(_score_chunk, (chunk,), timeout=3 * score.timeout + _GRACE) for chunk in chunks]
        results: list[Scored] = []
        for chunk, future in zip(chunks, futures, strict=True):
            results += _result(future) or _one_by_one(pool, chunk, score.timeout)
        return results

    try:
        yield score_all
        # one that is still starting when the pool is closed finds its locks gone, and says so on stderr
        for _ in range(workers if is_used else 0):
            begun.acquire(timeout=_GRACE)
        pool.close()
    except BaseException:
        pool.stop()  # what is still waiting to be scored
        raise
    finally:
        pool.join()


def _result(future: "ProcessFuture[list[Scored]]") -> list[Scored] | None:
    """The scores of a chunk, or None when its worker had to be killed or died."""
    from pebble import ProcessExpired

    try:
        return future.result()
    except (TimeoutError, ProcessExpired):
        return None
    except BrokenProcessPool as error:
        raise UserError(
            f"score.workers: the processes that score do not start ({error}); a script needs "
            '`if __name__ == "__main__":` around its calls'
        ) from error


def _one_by_one(pool: "ProcessPool", chunk: Sequence[Item], timeout: float) -> list[Scored]:
    """The same chunk again, to find the response that is to blame and to score the others."""
    futures = [pool.schedule(_score_chunk, ([item],), timeout=timeout + _GRACE) for item in chunk]
    return [_single(future, timeout) for future in futures]


def _single(future: "ProcessFuture[list[Scored]]", timeout: float) -> Scored:
    from pebble import ProcessExpired

    try:
        (scored,) = future.result()
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
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    _scorer, _timeout = scorer_of(score), score.timeout
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
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


def _score_chunk(chunk: Sequence[Item]) -> list[Scored]:
    return [_score_one(*item) for item in chunk]


def _score_one(response: str, ground_truth: Any, row: dict[str, Any]) -> Scored:
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, _timeout)
            return _storable(_scorer(response, ground_truth, row))
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # by contract they belong to the response
            return _storable(Scored(None, error=f"{type(error).__name__}: {error}"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _TimeUp:  # it may come as late as in the lines that handle another error
        return Scored(None, error=_late(_timeout))

"""Scoring in processes of their own: a scorer that raises, hangs or dies costs one score, not the run."""

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rollout.config import ScoreConfig
from rollout.scoring.processes import Chunk, Item, Workers, late, processes
from rollout.scoring.scorers import Scored

if TYPE_CHECKING:  # takes 50 ms, and most commands score nothing
    from pebble import ProcessFuture

_CHUNK = 64  # responses per task: one costs about as much to send as a cheap scorer takes
_CHUNK_SECONDS = 0.05  # that a chunk may take where scores are waited for
_NEWEST = 0.25  # of what a response takes: how much the newest chunk says
_SENT_PER_WORKER = 8  # chunks: one to work on, and the next

_ENDED = "the scorer ended its process"
_BY_ITSELF = Scored(None, error=_ENDED)
"""Of a response that was out alone when the processes were given up."""


@contextmanager
def scoring(score: ScoreConfig) -> Iterator[Callable[[Sequence[Item]], list[Scored]]]:
    """Yield a function that scores many responses at once, results in the order of the items.

    It never raises for a scorer's sake: such a response has no score but an error. A scorer that a process cannot
    import, and processes that do not start, are a UserError.
    """
    with processes(score) as workers:

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
    with processes(score) as workers:
        background = Background(workers)
        yield background
        if background.num_waiting:
            raise RuntimeError(f"{background.num_waiting} responses were not scored")


class Background:
    """Scores responses, each with a name of the caller's, while the caller does something else.

    As in `scoring` no scorer's fault is raised. A scorer that is slow gets few responses at a time, so that each has
    its score soon.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._queue: deque[tuple[Hashable, Item]] = deque()
        self._alone: deque[tuple[Hashable, Item]] = deque()
        """Of chunks whose worker had to be killed or died."""
        self._suspects: deque[tuple[Hashable, Item]] = deque()
        """Of those, the ones that were out with others when the processes were given up: scored with no other out."""
        self._sent: dict[ProcessFuture[Chunk], list[tuple[Hashable, Item]]] = {workers.schedule([]): []}
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
        self, future: "ProcessFuture[Chunk]", chunk: list[tuple[Hashable, Item]]
    ) -> list[tuple[Hashable, Scored]]:
        names = [name for name, _ in chunk]
        if (done := self._workers.result(future)) is not None:
            if chunk:
                self._seconds += _NEWEST * (done.seconds / len(chunk) - self._seconds)
            return list(zip(names, done.results, strict=True))
        if len(chunk) != 1:
            self._alone.extend(chunk)  # to find the one that is to blame
            return []
        if (scored := _single(future, self._workers.timeout)) is None and not self._on_trial:
            self._suspects.extend(chunk)
            return []
        return [(names[0], scored or _BY_ITSELF)]


def _one_by_one(workers: Workers, chunk: Sequence[Item]) -> list[Scored]:
    """The same chunk again, to find the response that is to blame and to score the others."""
    futures = [workers.schedule([item]) for item in chunk]
    return [
        _single(future, workers.timeout) or _alone(workers, item) for item, future in zip(chunk, futures, strict=True)
    ]


def _alone(workers: Workers, item: Item) -> Scored:
    """Of a response whose process died with others that may be to blame."""
    return _single(workers.schedule([item]), workers.timeout) or _BY_ITSELF


def _single(future: "ProcessFuture[Chunk]", timeout: float) -> Scored | None:
    """The score of a response that was sent alone; None where it is not known which one has ended a process."""
    from pebble import ProcessExpired

    try:
        (scored,) = future.result().results
    except TimeoutError:
        return Scored(None, error=late(timeout))
    except ProcessExpired as error:
        return Scored(None, error=f"{_ENDED} (exit code {error.exitcode})")
    except BrokenProcessPool:
        return None
    return scored

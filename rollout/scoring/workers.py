"""Scoring in separate processes: a scorer that raises, hangs or dies costs one score, not the run."""

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from rollout.config import ScoreConfig
from rollout.data.text import counted
from rollout.process.timer import every
from rollout.scoring.processes import Item, ScoredChunk, Workers, late, processes
from rollout.scoring.scorers import Scored

if TYPE_CHECKING:  # takes 50 ms, and most commands score nothing
    from pebble import ProcessFuture

log = logging.getLogger(__name__)

_CHUNK = 64  # responses per task at most: sending one takes about as long as a cheap scorer
_CHUNK_SECONDS = 0.05  # for a chunk: its scores come together, and someone may wait for them
_NEWEST = 0.25  # weight of the newest chunk in the mean time of a response
_SENT_PER_WORKER = 8  # chunks: those in work and those that come next
_SAY_SECONDS = 10.0  # between two lines of the log
_WAIT_SECONDS = 60.0  # longest single wait for the next score; a score ends it

_ENDED = "the scorer ended its process"


@contextmanager
def scoring(score: ScoreConfig) -> Iterator[Callable[[Sequence[Item]], list[Scored]]]:
    """Yield a function that scores many responses at once; its results are in the order of the items.

    An error of a scorer is never raised: the response gets this error instead of a score. Raises UserError if a process
    cannot import the scorer, or the processes do not start. The log says now and then how far it is.
    """
    with scoring_beside(score) as background:
        began, num_scored, is_due = time.monotonic(), 0, every(_SAY_SECONDS)

        def score_all(items: Sequence[Item]) -> list[Scored]:
            nonlocal num_scored
            for number, item in enumerate(items):
                background.give(number, item)
            found = dict[int, Scored]()
            while background.num_waiting:
                scored = background.scored(_WAIT_SECONDS)
                found.update(scored)
                num_scored += len(scored)
                if is_due():
                    rate = num_scored / (time.monotonic() - began)
                    log.info("score: %s so far, %.3g per second", counted(num_scored, "response"), rate)
            return [found[number] for number in range(len(items))]

        yield score_all


@contextmanager
def scoring_beside(score: ScoreConfig) -> Iterator["Background"]:
    """Yield a `Background`, which scores responses while others are generated. Its processes start at once, without
    waiting for them.

    If they do not start, or cannot import the scorer, the first call of `scored` raises UserError. At an error,
    responses that are not scored yet are dropped.
    """
    with processes(score) as workers:
        background = Background(workers)
        yield background
        if background.num_waiting:
            raise RuntimeError(f"{background.num_waiting} responses were not scored")


_Named = tuple[Hashable, Item]


class _Sent(NamedTuple):
    """A chunk that was sent to the processes."""

    responses: list[_Named]
    is_only: bool = False
    """Whether nothing else is sent until it comes back: then, if a process ends, this chunk is the cause."""


class Background:
    """Scores responses, each named by the caller, while the caller does something else.

    As in `scoring`, errors of a scorer are not raised. A slow scorer gets few responses at a time, so that each score
    comes soon.

    If a worker is killed or dies, the responses of its chunk are scored again, each in its own chunk. If this happens
    to a response in its own chunk and pebble gives all processes up, any response that was sent may be the cause: each
    of them is scored once more, alone.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._queue: deque[_Named] = deque()
        self._one_by_one: deque[_Named] = deque()
        """Responses to score in chunks of one."""
        self._suspects: deque[_Named] = deque()
        """Responses to score alone, with nothing else sent."""
        self._sent: dict[ProcessFuture[ScoredChunk], _Sent] = {workers.schedule([]): _Sent([])}
        """The first chunk is empty: it starts the processes and shows whether that succeeded."""
        self._seconds = _CHUNK_SECONDS
        """About the mean time that a response takes."""
        self.num_waiting = 0
        """The number of given responses whose scores were not returned yet."""

    def give(self, name: Hashable, item: Item) -> None:
        """Add a response to score."""
        self._queue.append((name, item))
        self.num_waiting += 1

    def scored(self, seconds: float = 0.0) -> list[tuple[Any, Scored]]:
        """Names and scores of the responses scored since the last call; waits at most `seconds` for the first.

        Call it repeatedly: only this method sends responses to the processes.
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
        is_only = bool(self._suspects) or any(sent.is_only for sent in self._sent.values())
        most = 1 if is_only else _SENT_PER_WORKER * self._workers.pool.count
        while len(self._sent) < most and (chunk := self._next_chunk()):
            self._sent[self._workers.schedule([item for _, item in chunk])] = _Sent(chunk, is_only)

    def _next_chunk(self) -> list[_Named]:
        if single := self._suspects or self._one_by_one:
            return [single.popleft()]
        size = max(1, min(_CHUNK, int(_CHUNK_SECONDS / self._seconds)))
        return [self._queue.popleft() for _ in range(min(size, len(self._queue)))]

    def _results(self, future: "ProcessFuture[ScoredChunk]", sent: _Sent) -> list[tuple[Hashable, Scored]]:
        names = [name for name, _ in sent.responses]
        if (done := self._workers.result(future)) is not None:
            if names:
                self._seconds += _NEWEST * (done.seconds / len(names) - self._seconds)
            return list(zip(names, done.results, strict=True))
        if len(names) != 1:
            self._one_by_one.extend(sent.responses)
            return []
        why = _why_unscored(future, self._workers.timeout)
        if why is None and not sent.is_only:
            self._suspects.extend(sent.responses)
            return []
        return [(names[0], Scored(None, error=why or _ENDED))]


def _why_unscored(future: "ProcessFuture[ScoredChunk]", timeout: float) -> str | None:
    """Why a response in its own chunk has no score; None if another response may have ended the process."""
    from pebble import ProcessExpired

    error = future.exception()
    if isinstance(error, TimeoutError):
        return late(timeout)
    return f"{_ENDED} (exit code {error.exitcode})" if isinstance(error, ProcessExpired) else None

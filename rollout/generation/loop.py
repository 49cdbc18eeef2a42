"""The generation stage: prompts in, samples out, the engine never waiting.

A feeder thread reads, renders and tokenises ahead. The loop keeps twice as many requests in the engine as it can work
on and takes every sample as it finishes: no batches, so no sample waits for the slowest of its batch, and neither the
prompts nor the samples are ever all in memory.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Generic, Protocol, TypeVar

from rollout.engine.protocol import Engine
from rollout.errors import PromptError
from rollout.generation.requests import Feed
from rollout.records import Request, Sample, failed_sample

T = TypeVar("T")

WINDOW = 2
"""Requests held in the engine, as a multiple of max_num_seqs. Measurements show no gain from more."""

_CHUNK = 128  # items per queue entry: handing them over one by one would cost more than making them
_QUEUE_CHUNKS = 8
TAKE_SECONDS = 0.1  # how long to wait for the feed before looking for signals again


class Source(Protocol):
    """Gives requests to the loop. It hears of every sample that ends, and may then have more requests."""

    @property
    def ended(self) -> bool:
        """Whether there is nothing to take, and only samples that are still in the engine can bring more."""
        ...

    def take(self, wait: bool) -> Request | Sample | None:
        """The next request, or a sample that failed before it became a request; None when there is neither.

        Returns at once or, with `wait` (the engine has nothing to do), may wait a moment.
        """
        ...

    def hear(self, sample: Sample) -> None:
        """Called for a sample that has finished or failed, after `record`."""
        ...


def as_it_is(source: Source) -> Source:
    """The source itself: the default for `around` in `generate`."""
    return source


def generate(
    engine: Engine,
    feed: Feed,
    record: Callable[[Sample], None],
    tick: Callable[[], None],
    around: Callable[[Source], Source] = as_it_is,
) -> None:
    """Run `feed`, read ahead in a thread, through the engine; see `drain`. An error of `feed` ends the stage too.

    `around` may wrap the source, to change its order.
    """
    with read_ahead(feed) as queued:
        drain(engine, around(queued), record, tick)


def drain(engine: Engine, source: Source, record: Callable[[Sample], None], tick: Callable[[], None]) -> None:
    """Run the requests of `source` through the engine until it ends.

    `record` and then `source.hear` are called with every sample as it finishes, `tick` between steps. Any error of the
    engine, the source or the two callbacks ends the stage; requests still in the engine are dropped.
    """
    unfinished, hear = 0, source.hear

    def finish(sample: Sample) -> None:
        record(sample)
        hear(sample)

    try:
        while unfinished or not source.ended:
            tick()
            while unfinished < WINDOW * engine.max_num_seqs:
                item = source.take(wait=unfinished == 0)
                if item is None:
                    break
                if (failed := _submit(engine, item) if isinstance(item, Request) else item) is None:
                    unfinished += 1
                    continue
                finish(failed)
                tick()  # a long stretch of bad rows must not keep a signal waiting
            for sample in engine.step() if unfinished else ():
                unfinished -= 1
                finish(sample)
    finally:
        if unfinished:
            engine.abort()


def _submit(engine: Engine, request: Request) -> Sample | None:
    """Queue `request`. Returns the failed sample if the engine refuses it."""
    try:
        engine.add(request)
    except PromptError as error:
        return failed_sample(request.row_id, request.sample_idx, request.seed, str(error))
    return None


class Queued(Generic[T]):
    """A source that another thread fills, in chunks."""

    def __init__(self, most_chunks: int = 0) -> None:
        self.chunks: queue.Queue[list[T] | BaseException] = queue.Queue(most_chunks)
        """Lists of items, at most `most_chunks` of them (0: any number). An empty list ends the source; an error is
        raised by `take`."""
        self._ready: deque[T] = deque()
        self._no_more_chunks = False

    @property
    def ended(self) -> bool:
        """Whether everything has been taken."""
        return self._no_more_chunks and not self._ready

    def take(self, wait: bool) -> T | None:
        """The next item, or None if there is none: at once, or with `wait` after a moment.

        Raises the error of the feed.
        """
        if not self._ready and not self._no_more_chunks:
            try:
                chunk = self.chunks.get(timeout=TAKE_SECONDS) if wait else self.chunks.get_nowait()
            except queue.Empty:
                return None
            if isinstance(chunk, BaseException):
                raise chunk
            self._ready.extend(chunk)
            self._no_more_chunks = not chunk  # an empty one is the end
        return self._ready.popleft() if self._ready else None

    def hear(self, sample: Sample) -> None:
        """A finished sample brings no more requests here."""


@contextmanager
def read_ahead(feed: Iterator[T]) -> Iterator[Queued[T]]:
    """Run `feed` in a thread, a bounded number of items ahead."""
    source = Queued[T](_QUEUE_CHUNKS)
    stopped = threading.Event()

    def put(chunk: list[T] | BaseException) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                source.chunks.put(chunk, timeout=0.1)
                return

    def work() -> None:
        try:
            while not stopped.is_set():
                chunk = list(islice(feed, _CHUNK))
                put(chunk)
                if not chunk:
                    return
        except BaseException as error:  # any error must end the run, not only this thread
            put(error)

    thread = threading.Thread(target=work, name="feeder", daemon=True)
    thread.start()
    try:
        yield source
    finally:
        stopped.set()
        thread.join()

"""The generation stage: prompts in, samples out, the engine never waiting.

A feeder thread reads, renders and tokenises ahead. The loop keeps twice as many requests in the engine as it can work
on and takes every sample as it finishes: no batches, so no sample waits for the slowest of its batch, and neither the
prompts nor the samples are ever all in memory.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from itertools import islice
from typing import TypeAlias

from rollout.config import SamplingConfig
from rollout.engine import Engine
from rollout.errors import PromptError
from rollout.fit import fit
from rollout.records import Prompt, Request, Sample, failed_sample

WINDOW = 2
"""Requests held in the engine, as a multiple of max_num_seqs. Measured: more gains nothing."""

_CHUNK = 128  # items per queue entry: handing them over one by one would cost more than making them
_QUEUE_CHUNKS = 8

Feed: TypeAlias = Iterator[Request | Sample]
Take: TypeAlias = Callable[[bool], Request | Sample | None]


def sample_seed(seed: int, row_id: int, sample_idx: int) -> int:
    """The seed of one sample: the first 63 bits of BLAKE2b over "seed:row_id:sample_idx".

    The same on every machine and in every order, and unlike `seed + i` never shared by neighbouring rows.
    """
    digest = blake2b(f"{seed}:{row_id}:{sample_idx}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def requests(
    prompts: Iterable[Prompt],
    engine: Engine,
    sampling: SamplingConfig,
    owed: Callable[[int], list[int]],
    too_long: str,
) -> Feed:
    """What is owed of each prompt, as requests; for a prompt that cannot be sampled, as failed samples.

    `owed(row_id)` gives the sample indices still to be generated, `too_long` is `data.too_long`.
    """
    for prompt in prompts:
        indices = owed(prompt.row_id)
        if not indices:
            continue
        seeds = {index: sample_seed(sampling.seed, prompt.row_id, index) for index in indices}
        try:
            if prompt.error is not None:
                raise PromptError(prompt.error)
            token_ids = engine.render(prompt.messages).token_ids
            ready = fit(token_ids, sampling.max_tokens, engine.max_model_len, too_long, engine.bos_token_id)
        except PromptError as error:
            yield from (failed_sample(prompt.row_id, index, seed, str(error)) for index, seed in seeds.items())
        else:
            cut = engine.decode(ready.removed) if ready.removed else None
            for index, seed in seeds.items():
                yield Request(prompt.row_id, index, seed, ready.token_ids, ready.max_tokens, cut)


def generate(engine: Engine, feed: Feed, record: Callable[[Sample], None], tick: Callable[[], None]) -> None:
    """Run `feed` through the engine. `record` gets every sample as it finishes, `tick` is called between steps.

    Whatever `feed`, the engine or the two callbacks raise ends the stage; requests still in the engine are dropped.
    """
    unfinished = 0
    with _read_ahead(feed) as take:
        try:
            while True:
                while unfinished < WINDOW * engine.max_num_seqs:
                    item = take(unfinished == 0)
                    if item is None:
                        break
                    if isinstance(item, Request):
                        unfinished += _submit(engine, item, record)
                    else:
                        record(item)
                if unfinished == 0:
                    return
                for sample in engine.step():
                    unfinished -= 1
                    record(sample)
                tick()
        finally:
            if unfinished:
                engine.abort()


def _submit(engine: Engine, request: Request, record: Callable[[Sample], None]) -> int:
    """Queue `request`, or record why the engine refuses it; how many requests were queued."""
    try:
        engine.add(request)
    except PromptError as error:
        record(failed_sample(request.row_id, request.sample_idx, request.seed, str(error)))
        return 0
    return 1


@contextmanager
def _read_ahead(feed: Feed) -> Iterator[Take]:
    """Run `feed` in a thread, a bounded number of items ahead.

    Yields `take(wait)`: the next item, or None when there is none yet (`wait=False`) or no more (`wait=True`). What
    `feed` raises, `take` raises.
    """
    chunks: queue.Queue[list[Request | Sample] | BaseException] = queue.Queue(_QUEUE_CHUNKS)
    stopped = threading.Event()

    def put(chunk: list[Request | Sample] | BaseException) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                chunks.put(chunk, timeout=0.1)
                return

    def work() -> None:
        try:
            while not stopped.is_set():
                chunk = list(islice(feed, _CHUNK))
                put(chunk)
                if not chunk:  # an empty chunk says that there are no more
                    return
        except BaseException as error:  # whatever it is, it must end the run, not only this thread
            put(error)

    ready: deque[Request | Sample] = deque()
    ended = False

    def take(wait: bool) -> Request | Sample | None:
        nonlocal ended
        if not ready and not ended and (wait or not chunks.empty()):
            chunk = chunks.get()
            if isinstance(chunk, BaseException):
                raise chunk
            ready.extend(chunk)
            ended = not chunk
        return ready.popleft() if ready else None

    thread = threading.Thread(target=work, name="feeder", daemon=True)
    thread.start()
    try:
        yield take
    finally:
        stopped.set()
        thread.join()

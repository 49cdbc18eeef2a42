"""The generation stage on the echo engine: nothing lost, nothing doubled, nothing held that is not needed yet."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, product
from typing import Any

import pytest

from rollout.config import EchoConfig, HardwareConfig, RunConfig, SamplingConfig
from rollout.engine.echo_engine import EchoEngine
from rollout.engine.protocol import Rendered
from rollout.errors import PromptError
from rollout.generation.loop import generate
from rollout.generation.requests import Feed, requests, sample_seed
from rollout.records import Message, Prompt, Request, Sample
from tests.conftest import chat

SAMPLING = SamplingConfig(n_samples=3, max_tokens=4)
RUN = RunConfig(sampling=SAMPLING)


class WatchedEngine(EchoEngine):
    """An echo engine that notes what it is given."""

    def __init__(self, max_num_seqs: int = 4, **echo: Any) -> None:
        super().__init__(EchoConfig(**echo), HardwareConfig(max_num_seqs=max_num_seqs))
        self.rendered: list[list[Message]] = []
        self.added: list[Request] = []
        self.held = self.most_held = self.aborts = 0

    def render(self, messages: list[Message], tools: list[dict[str, Any]] | None = None) -> Rendered:
        self.rendered.append(messages)
        return super().render(messages, tools)

    def add(self, request: Request) -> None:
        super().add(request)
        self.added.append(request)
        self.held += 1
        self.most_held = max(self.most_held, self.held)

    def step(self) -> list[Sample]:
        samples = super().step()
        self.held -= len(samples)
        return samples

    def abort(self) -> None:
        super().abort()
        self.aborts += 1


def prompts(rows: int) -> list[Prompt]:
    return [Prompt(row, chat(f"question {row}")) for row in range(rows)]


def everything(_row_id: int) -> list[int]:
    return list(range(SAMPLING.n_samples))


def feed_of(engine: EchoEngine, rows: int) -> Feed:
    return requests(prompts(rows), engine, RUN, everything)


def ignore(*_: Sample) -> None:
    pass


def run(engine: EchoEngine, feed: Feed) -> list[Sample]:
    samples: list[Sample] = []
    generate(engine, feed, samples.append, ignore)
    return samples


def places(items: list[Sample] | list[Request]) -> list[tuple[int, int]]:
    return sorted((item.row_id, item.sample_idx) for item in items)


def feeders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "feeder"]


def test_a_seed_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert sample_seed(42, 0, 0) == 284164701241247703
    assert sample_seed(0, 2**40, 7) == 267291889679145195


def test_seeds_have_63_bits_and_none_occurs_twice() -> None:
    grid = list(product((0, 1, 42, 2**63), (*range(150), *range(10**9, 10**9 + 20)), range(70)))
    seeds = {sample_seed(*place) for place in grid}
    assert len(seeds) == len(grid)
    assert min(seeds) >= 0
    assert 2**62 < max(seeds) < 2**63


@pytest.mark.parametrize("neighbour", [(43, 5, 5), (42, 6, 5), (42, 5, 6)])
def test_the_seeds_of_neighbours_have_nothing_in_common(neighbour: tuple[int, int, int]) -> None:
    different_bits = (sample_seed(42, 5, 5) ^ sample_seed(*neighbour)).bit_count()
    assert 16 < different_bits < 48


@pytest.mark.parametrize("max_steps", [1, 7])
@pytest.mark.parametrize("max_num_seqs", [1, 4, 1000])
def test_every_sample_is_generated_once_in_the_engine_s_own_order(max_num_seqs: int, max_steps: int) -> None:
    engine = WatchedEngine(max_num_seqs, max_steps=max_steps)
    samples = run(engine, feed_of(engine, 200))
    assert places(samples) == places(engine.added) == list(product(range(200), range(3)))
    assert all(sample.seed == sample_seed(SAMPLING.seed, sample.row_id, sample.sample_idx) for sample in samples)
    assert engine.aborts == 0
    assert feeders() == []


@pytest.mark.parametrize("max_num_seqs", [1, 4, 50])
def test_the_engine_holds_twice_what_it_can_work_on_and_never_more(max_num_seqs: int) -> None:
    engine = WatchedEngine(max_num_seqs, max_steps=5)
    run(engine, feed_of(engine, 300))
    assert engine.most_held == 2 * max_num_seqs


def test_tick_is_called_between_steps() -> None:
    engine, seen = WatchedEngine(), set[int]()
    generate(engine, feed_of(engine, 20), ignore, lambda: seen.add(engine.steps))
    assert seen >= set(range(engine.steps))
    assert engine.steps > 14


def test_an_empty_feed_is_no_work() -> None:
    engine = WatchedEngine()
    assert run(engine, iter([])) == []
    assert engine.steps == 0


def test_prompts_that_cannot_be_rendered_become_failed_samples_and_the_others_go_on() -> None:
    engine = WatchedEngine(refuse_word="forbidden", max_model_len=8)
    rows = [
        Prompt(0, chat("question 0")),
        Prompt(1, chat("a forbidden word")),
        Prompt(2, [], "the prompt is null"),
        Prompt(3, chat("word " * 8)),
        Prompt(4, chat("question 4")),
    ]
    samples = run(engine, requests(rows, engine, RUN, everything))
    assert places(samples) == list(product(range(5), range(3)))
    failed = {sample.row_id: sample for sample in samples if sample.error is not None}
    assert {row: sample.error for row, sample in failed.items()} == {
        1: "refused: forbidden",
        2: "the prompt is null",
        3: "the prompt has 9 tokens and sampling.max_tokens is 4; the context holds 8",
    }
    assert {sample.row_id for sample in samples if sample.response is not None} == {0, 4}
    assert {(sample.response, sample.finish_reason) for sample in failed.values()} == {(None, "error")}
    assert {request.row_id for request in engine.added} == {0, 4}


def test_a_request_that_the_engine_refuses_becomes_a_failed_sample_and_the_others_go_on() -> None:
    class Choosy(WatchedEngine):
        def add(self, request: Request) -> None:
            if request.row_id % 2:
                raise PromptError(f"no odd rows like {request.row_id}")
            super().add(request)

    engine = Choosy()
    samples = run(engine, feed_of(engine, 40))
    assert places(samples) == list(product(range(40), range(3)))
    for sample in samples:
        assert sample.error == (f"no odd rows like {sample.row_id}" if sample.row_id % 2 else None)
        assert sample.seed == sample_seed(SAMPLING.seed, sample.row_id, sample.sample_idx)
    assert engine.most_held == 8


def test_many_requests_that_the_engine_refuses_keep_no_signal_waiting() -> None:
    class Refuses(WatchedEngine):
        def add(self, request: Request) -> None:
            raise PromptError("no")

    engine, ticks = Refuses(), list[int]()
    samples: list[Sample] = []
    generate(engine, feed_of(engine, 40), samples.append, lambda: ticks.append(len(samples)))
    assert {*range(1, 121)} <= {*ticks}


def test_an_input_of_bad_prompts_only_ends_without_a_step() -> None:
    engine = WatchedEngine()
    rows = [Prompt(row, [], "the prompt is null") for row in range(1000)]
    samples = run(engine, requests(rows, engine, RUN, everything))
    assert [(sample.row_id, sample.sample_idx) for sample in samples] == list(product(range(1000), range(3)))
    assert engine.steps == 0


def test_only_what_is_owed_is_asked_for() -> None:
    engine = WatchedEngine()
    owed = {0: [2], 1: [], 2: [0, 1]}
    asked = list(requests(prompts(3), engine, RUN, owed.__getitem__))
    assert places([item for item in asked if isinstance(item, Request)]) == [(0, 2), (2, 0), (2, 1)]
    assert engine.rendered == [chat("question 0"), chat("question 2")]


def test_the_samples_of_a_row_share_one_list_of_tokens() -> None:
    engine = WatchedEngine()
    one, two, three = (item for item in feed_of(engine, 1) if isinstance(item, Request))
    assert one.prompt_token_ids is two.prompt_token_ids is three.prompt_token_ids
    assert len(engine.rendered) == 1


def test_a_prompt_is_read_when_its_requests_are_asked_for() -> None:
    engine, source = WatchedEngine(), iter(prompts(10))
    feed = requests(source, engine, RUN, everything)
    assert engine.rendered == []
    next(feed)
    assert next(source).row_id == 1


class Counted:
    """A long feed that knows how far it has been read."""

    def __init__(self, length: int) -> None:
        self.length, self.read = length, 0

    def __iter__(self) -> Iterator[Request | Sample]:
        for row_id in range(self.length):
            self.read += 1
            yield Request(row_id, 0, row_id, [1], 8)


def test_the_feed_is_read_ahead_but_only_so_far() -> None:
    feed, recorded, ahead = Counted(30_000), 0, [0]

    def record(_: Sample) -> None:
        nonlocal recorded
        if recorded % 10_000 == 0:
            time.sleep(0.2)  # time enough to read everything, if nothing held it back
        recorded += 1
        ahead.append(feed.read - recorded)

    generate(WatchedEngine(max_num_seqs=16), iter(feed), record, ignore)
    assert recorded == 30_000
    assert 200 < max(ahead) < 2_000


def test_the_engine_goes_on_while_the_feed_is_slow() -> None:
    finished = threading.Event()

    def slow() -> Feed:
        yield from Counted(128)
        assert finished.wait(10), "the engine waited for the feed"
        yield Request(129, 0, 129, [1], 8)

    samples: list[Sample] = []

    def record(sample: Sample) -> None:
        samples.append(sample)
        if len(samples) == 128:
            finished.set()

    generate(WatchedEngine(max_num_seqs=1000), slow(), record, ignore)
    assert len(samples) == 129


class BrokenError(Exception):
    pass


def fail_at(number: int) -> Callable[..., None]:
    """A function that raises BrokenError when it is called for the `number`th time."""
    calls = count(1)

    def call(*_: object) -> None:
        if next(calls) == number:
            raise BrokenError

    return call


class Failing(WatchedEngine):
    """An engine that breaks in its 50th add or its 20th step."""

    def __init__(self, where: str) -> None:
        super().__init__(max_steps=5)
        self._before_add = fail_at(50) if where == "add" else ignore
        self._before_step = fail_at(20) if where == "step" else ignore

    def add(self, request: Request) -> None:
        self._before_add()
        super().add(request)

    def step(self) -> list[Sample]:
        self._before_step()
        return super().step()


@pytest.mark.parametrize("where", ["feed", "add", "step", "record", "tick"])
@pytest.mark.parametrize("length", [1000, 10**12], ids=["short", "endless"])
def test_what_breaks_anywhere_ends_the_stage_and_empties_the_engine(where: str, length: int) -> None:
    engine, source = Failing(where), Counted(length)

    def feed() -> Feed:
        check = fail_at(400) if where == "feed" else ignore
        for item in source:
            check()
            yield item

    record = fail_at(30) if where == "record" else ignore
    tick = fail_at(20) if where == "tick" else ignore
    with pytest.raises(BrokenError):
        generate(engine, feed(), record, tick)
    assert engine.added != []
    assert engine.stats().running == engine.stats().waiting == 0
    assert feeders() == []
    read = source.read
    time.sleep(0.01)
    assert source.read == read


def test_a_feed_that_breaks_at_once_ends_the_stage() -> None:
    def feed() -> Feed:
        raise BrokenError
        yield

    with pytest.raises(BrokenError):
        run(WatchedEngine(), feed())
    assert feeders() == []


def test_an_engine_can_work_again_after_a_stage_that_broke() -> None:
    engine = WatchedEngine(max_steps=5)
    with pytest.raises(BrokenError):
        generate(engine, feed_of(engine, 100), fail_at(30), ignore)
    assert places(run(engine, feed_of(engine, 10))) == list(product(range(10), range(3)))

"""`sampling.order=longest_first`: what is long begins early, and the samples are the same in any order."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Sized
from itertools import groupby, islice
from pathlib import Path
from statistics import mean
from typing import Any

import pyarrow.parquet as pq
import pytest

from benchmarks.order import Work, on_replicas, steps_over_bound
from rollout.config import EchoConfig, HardwareConfig, RunConfig, SamplingConfig
from rollout.engine.echo_engine import EchoEngine
from rollout.errors import PromptError
from rollout.generation.loop import Queued, drain
from rollout.generation.order import LongestFirst, most_given
from rollout.generation.requests import requests
from rollout.generation.turns import SAMPLES, Turns
from rollout.records import Lengths, Prompt, Request, Sample, failed_sample
from rollout.resume import resume
from tests.conftest import Rollout, chat

ROWS = [{"prompt": chat(f"question {number}")} for number in range(60)]
LONG_TAIL = (
    "sampling.n_samples=6",
    "hardware.max_num_seqs=4",
    "engine.echo.token_steps=true",
    "engine.echo.length_spread=1",
    "engine.echo.row_share=0.8",
    "engine.echo.response_tokens=8",
    "engine.echo.refuse_word=33",
    "postprocess=none",
)


class Clocked:
    """Turns on one engine with `slots` slots, and a clock that a test sets."""

    def __init__(self, slots: int = 16) -> None:
        self.now = 0.0
        self.turns = Turns(lambda: self.now)
        self.turns.set_slots(slots)
        self.given = Counter[int]()

    def rows(self, *row_ids: int, samples: int = 4, known: Lengths | None = None) -> None:
        for row_id in row_ids:
            self.turns.add(row_id, samples, known or Lengths())

    def take(self, times: int = 1) -> list[int]:
        """The rows of the next samples that are started."""
        return [self.start()[0] for _ in range(times)]

    def start(self) -> tuple[int, int]:
        """The next sample."""
        turn = self.turns.next()
        assert turn is not None
        self.turns.start(turn.row_id, self.given[turn.row_id])
        self.given[turn.row_id] += 1
        return turn.row_id, self.given[turn.row_id] - 1

    def finish(self, row_id: int, sample_idx: int, tokens: int | None) -> None:
        assert self.turns.finish(row_id, sample_idx, tokens)


def runs(row_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Equal neighbours as (row_id, how many)."""
    return [(row_id, len(list(group))) for row_id, group in groupby(row_ids)]


def test_first_a_sample_of_every_row_then_what_is_left_of_the_longest() -> None:
    clocked = Clocked(slots=8)
    clocked.rows(0, 1, 2, 3)
    assert runs(clocked.take(5)) == [(0, 2), (1, 1), (2, 1), (3, 1)]  # of every fourth row two
    for row_id, tokens in ((0, 40), (1, 70), (2, 90), (3, 60)):
        clocked.finish(row_id, 0, tokens)
    assert runs(clocked.take(11)) == [(2, 3), (1, 3), (3, 3), (0, 2)]
    assert clocked.turns.next() is None


def test_a_row_whose_first_sample_is_still_running_is_taken_for_half_as_long_again() -> None:
    clocked = Clocked(slots=8)
    clocked.rows(0, 1, 2)
    clocked.take(4)
    clocked.now = 60.0
    clocked.finish(1, 0, 60)
    clocked.now = 39.0 + 0.5
    assert clocked.take() == [1]
    clocked.now = 61.0
    assert clocked.take(2) == [0, 0]  # 91 against 60
    assert clocked.take() == [2]


def test_a_sample_that_waits_in_the_engine_has_not_begun() -> None:
    clocked = Clocked(slots=1)
    clocked.rows(1, 2)
    clocked.turns.set_slots(1)
    assert clocked.take(3) == [1, 1, 2]
    clocked.now = 100.0
    clocked.finish(1, 0, 10)
    clocked.now = 101.0
    assert clocked.take() == [1]  # 10 tokens; the sample of row 2 is behind another one of row 1


def test_steps_are_tokens_at_the_rate_at_which_they_have_come_so_far() -> None:
    clocked = Clocked(slots=8)
    clocked.rows(1, 2, 3, samples=3)
    clocked.take(4)
    clocked.now = 1000.0
    clocked.finish(1, 0, 10)  # a hundredth of a token per step
    assert clocked.take() == [2]  # 15 by now
    clocked.now = 1001.0
    clocked.finish(2, 0, 40)
    assert clocked.take() == [2]
    assert clocked.take() == [3]


def test_what_is_known_from_before_needs_no_probe() -> None:
    clocked = Clocked()
    clocked.rows(0, known=Lengths(2, 20))
    clocked.rows(1, known=Lengths(1, 90))
    clocked.rows(2, known=Lengths(3, 90))
    assert runs(clocked.take(12)) == [(1, 4), (2, 4), (0, 4)]


def test_a_row_that_comes_back_is_still_known() -> None:
    clocked = Clocked(slots=8)
    clocked.rows(0, 1, samples=1)
    clocked.take(2)
    clocked.finish(0, 0, 5)
    clocked.finish(1, 0, 50)
    clocked.rows(0, 1, 2, samples=2)
    assert clocked.take(6) == [0, 2, 2, 1, 1, 0]  # 0 and 2 are of those of which two are started


def test_where_a_first_sample_fails_another_is_tried() -> None:
    clocked = Clocked(slots=8)
    clocked.rows(1, 2)
    clocked.take(3)
    clocked.finish(2, 0, None)
    clocked.finish(1, 0, 10)
    assert clocked.take() == [2]


def test_a_short_row_is_passed_over_by_so_many_and_not_more() -> None:
    clocked = Clocked(slots=1)
    clocked.rows(0, known=Lengths(1, 1))
    for row_id in range(1, 8):
        clocked.rows(row_id, samples=7, known=Lengths(1, 100))
        assert clocked.take() == [1]
    clocked.rows(8, known=Lengths(1, 100))
    assert runs(clocked.take(5)) == [(0, 4), (2, 1)]


def started_and_finished(clocked: Clocked, num_rows: int, length: Callable[[int, int], int]) -> None:
    """Rows of which the first samples have finished, and the others wait."""
    clocked.rows(*range(num_rows))
    for place in [clocked.start() for _ in range(num_rows + num_rows // 4)]:
        clocked.finish(*place, length(*place))


def test_rows_in_which_nothing_is_alike_keep_their_order() -> None:
    clocked = Clocked(slots=1000)
    started_and_finished(clocked, 400, lambda row_id, index: 10 + (37, 53)[index] * row_id % 101)
    rest = clocked.take(700)
    assert rest == sorted(rest)


def test_where_samples_are_only_somewhat_alike_two_of_a_row_are_started_before_any_is_longest() -> None:
    clocked = Clocked(slots=1000)
    started_and_finished(clocked, 400, lambda row_id, index: 10 + row_id % 50 + (37, 53)[index] * row_id % 71)
    seconds = clocked.take(300)
    assert sorted(seconds) == [row_id for row_id in range(400) if row_id % 4]
    rest = clocked.take(100)
    assert rest != sorted(rest)


def test_what_is_remembered_does_not_grow_with_the_input() -> None:
    clocked = Clocked(slots=4)
    for row_id in range(3000):
        clocked.rows(row_id, samples=3)
        for place in [clocked.start() for _ in range(3 if row_id > 30 else 2)]:
            clocked.finish(*place, 10 + place[0] % 7)
    turns = clocked.turns
    held: list[Sized] = [turns._rows, turns._gone, turns._arrivals, turns._fresh, turns._running, turns._known]
    assert max(len(one) for one in held) < 300


# --- through the loop


def loop(engine: EchoEngine, items: Iterator[Request | Sample], record: Callable[[Sample], None]) -> LongestFirst:
    source = Queued[Request | Sample]()
    source.chunks.put(list(items))
    source.chunks.put([])
    order = LongestFirst(source, engine)
    drain(engine, order, record, lambda: None)
    return order


class Counting(EchoEngine):
    """Notes what it is given, and how much of it at most at a time."""

    def __init__(self, slots: int, **echo: Any) -> None:
        super().__init__(EchoConfig(token_steps=True, **echo), HardwareConfig(max_num_seqs=slots))
        self.added: list[Request] = []
        self.held = self.most_held = 0

    def add(self, request: Request) -> None:
        if request.row_id % 7 == 6:
            raise PromptError("no such rows")
        super().add(request)
        self.added.append(request)
        self.held += 1
        self.most_held = max(self.most_held, self.held)

    def step(self) -> list[Sample]:
        samples = super().step()
        self.held -= len(samples)
        return samples


RUN = RunConfig(sampling=SamplingConfig(n_samples=5, max_tokens=2000))


def feed(engine: EchoEngine, rows: int) -> Iterator[Request | Sample]:
    prompts = (Prompt(row, chat(f"question {row}"), "it is bad" if row % 5 == 4 else None) for row in range(rows))
    return requests(prompts, engine, RUN, lambda _: list(range(5)))


@pytest.mark.parametrize("slots", [1, 3, 16])
def test_every_sample_is_there_once_and_the_engine_holds_little_more_than_it_works_on(slots: int) -> None:
    engine, samples = Counting(slots, length_spread=0.8, row_share=0.7, response_tokens=20), list[Sample]()
    loop(engine, feed(engine, 100), samples.append)
    places = [(sample.row_id, sample.sample_idx) for sample in samples]
    assert sorted(places) == [(row, index) for row in range(100) for index in range(5)]
    assert {sample.row_id for sample in samples if sample.error} == {
        row for row in range(100) if row % 7 == 6 or row % 5 == 4
    }
    assert engine.most_held == min(most_given(slots), 2 * slots)


def test_no_more_is_looked_at_than_fits_in_the_window() -> None:
    taken = 0

    class Endless:
        ended = False

        def take(self, wait: bool) -> Request | Sample | None:
            nonlocal taken
            taken += 1
            return Request(taken // 1000, taken % 1000, taken, [1, 2], 8)

        def hear(self, sample: Sample) -> None:
            pass

    order = LongestFirst(Endless(), EchoEngine(EchoConfig(), HardwareConfig(max_num_seqs=2)))
    given = list(islice(iter(lambda: order.take(False), None), 1000))
    assert len(given) == most_given(2)
    assert taken == len(given) + SAMPLES * 2


def test_a_sample_that_failed_before_it_was_a_request_is_handed_on_at_once() -> None:
    bad = failed_sample(7, 0, 1, "the prompt is null")
    source = Queued[Request | Sample]()
    source.chunks.put([Request(0, 0, 1, [1], 8), bad])
    order = LongestFirst(source, EchoEngine(EchoConfig(), HardwareConfig(max_num_seqs=2)))
    assert order.take(False) is bad
    order.hear(bad)
    assert isinstance(order.take(False), Request)
    assert order.take(False) is None
    assert not order.ended


@pytest.mark.long
@pytest.mark.parametrize(("share", "most"), [(0.8, 1.08), (0.5, 1.25)])
def test_a_run_ends_about_as_early_as_its_longest_sample_allows(share: float, most: float) -> None:
    works = [Work(1000, 8, 256, share, seed) for seed in range(8)]
    assert mean(steps_over_bound(work, "longest_first") for work in works) <= most
    assert steps_over_bound(works[0], "input") > most


@pytest.mark.long
def test_so_does_one_on_several_engines() -> None:
    works = [Work(1000, 8, 256, 0.8, seed, replicas=4) for seed in range(2)]
    assert mean(on_replicas(work, "longest_first") for work in works) <= 1.08
    assert on_replicas(works[0], "input") > 1.15


@pytest.mark.long
def test_where_rows_do_not_differ_nothing_is_lost() -> None:
    works = [Work(1000, 8, 256, 0.0, seed) for seed in range(3)]
    now, before = (mean(steps_over_bound(work, order) for work in works) for order in ("longest_first", "input"))
    assert now <= 1.02 * before


# --- whole runs


def result(run_dir: Path) -> bytes:
    return (run_dir / "rollouts.parquet").read_bytes()


def generated(run_dir: Path) -> list[int]:
    """Rows in the order in which their samples were made durable."""
    parts = sorted((run_dir / "samples").glob("part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part)["row_id"].to_pylist()]


@pytest.mark.long
def test_the_samples_are_the_same_byte_for_byte_in_any_order(rollout: Rollout) -> None:
    given = rollout(ROWS, *LONG_TAIL, "store.flush_samples=20", name="given")
    longest = rollout(ROWS, *LONG_TAIL, "store.flush_samples=20", "sampling.order=longest_first", name="longest")
    assert result(given) == result(longest)
    assert sorted(generated(given)) == sorted(generated(longest))
    assert generated(given) != generated(longest)


@pytest.mark.long
def test_a_run_goes_on_in_another_order_and_begins_with_what_it_knows_to_be_long(rollout: Rollout) -> None:
    whole = rollout(ROWS, *LONG_TAIL, name="whole")
    part = rollout(ROWS, *LONG_TAIL, "sampling.n_samples=2", name="part")
    table = pq.read_table(part / "rollouts.parquet").to_pylist()
    lengths = {row["row_id"]: sum(row["num_generated_tokens"]) for row in table if row["error"] is None}
    longest = sorted(lengths, key=lambda row_id: -lengths[row_id])
    before = len(generated(part))
    resume(part, ["sampling.n_samples=6", "sampling.order=longest_first", "store.flush_samples=4"])
    assert result(part) == result(whole)
    begun = [row_id for row_id in generated(part)[before:] if row_id in lengths]
    assert len(begun) == 4 * len(lengths)
    assert mean(map(longest.index, begun[:60])) < mean(map(longest.index, begun[-60:])) - 15


@pytest.mark.long
def test_rows_that_stop_early_stop_at_the_same_samples_in_any_order(rollout: Rollout) -> None:
    adaptive = (
        *LONG_TAIL,
        "adaptive=mixed",
        "sampling.n_samples=8",
        "postprocess.score.scorer=regex",
        "postprocess.score.pattern='-[0-9a-f]*[02468ace]( word)*$'",
        "postprocess.score.workers=1",
    )
    given = rollout(ROWS, *adaptive, name="given")
    longest = rollout(ROWS, *adaptive, "sampling.order=longest_first", name="longest")
    assert result(given) == result(longest)
    assert len({len(row) for row in pq.read_table(given / "rollouts.parquet")["responses"].to_pylist()}) > 1

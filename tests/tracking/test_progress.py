"""The numbers of a run while it goes on, also when samples that were counted are lost with a replica."""

import pytest

from rollout.engine.protocol import EngineStats
from rollout.records import Outcome
from rollout.tracking import progress
from rollout.tracking.progress import Progress


def ended(tokens: int = 10, error: str | None = None) -> Outcome:
    return Outcome(0, 0, None if error else 5, 0 if error else tokens, error)


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_sample_that_is_lost_is_as_if_it_had_not_been_counted() -> None:
    lost, never = Progress(20, 3), Progress(20, 3)
    for counted in (lost, never):
        counted.count(ended(8))
        counted.count(ended(error="refused"))
    for outcome in (ended(7), ended(9), ended(error="refused")):
        lost.count(outcome)
    for outcome in (ended(7), ended(9), ended(error="refused")):
        lost.count(outcome, times=-1)
    assert lost.snapshot() == never.snapshot()
    assert (lost.snapshot().samples_done, lost.snapshot().samples_failed) == (5, 1)


def test_a_sample_that_is_lost_and_generated_again_counts_once(clock: Clock) -> None:
    counted = Progress(2, 0)
    with counted.watching(lambda: EngineStats(0, 0, 0)):
        for times in (1, -1, 1):
            counted.count(ended(30), times)
        clock.now += 10
        now = counted.snapshot()
    assert (now.samples_done, now.generated_tokens, now.prompt_tokens, now.output_tok_s) == (1, 30, 5, 3.0)


def test_lost_responses_are_forgotten_in_the_estimate_of_what_is_left(clock: Clock) -> None:
    """Ten samples of 10 tokens, of which the long one that was lost must not be expected again."""
    counted = Progress(10, 0)
    with counted.watching(lambda: EngineStats(0, 0, 0)):
        counted.count(ended(1000))
        counted.count(ended(1000), times=-1)
        for _ in range(5):
            counted.count(ended(10))
        clock.now += 5
        assert counted.snapshot().eta_seconds == pytest.approx(5)


def test_each_replica_has_a_rate_of_its_own(clock: Clock) -> None:
    tokens = [0, 0]
    counted = Progress(10, 0)
    with counted.watching(lambda: EngineStats(2, 0, sum(tokens), 0, tuple(tokens))):
        clock.now += 4
        tokens[:] = [40, 200]
        now = counted.snapshot()
    assert now.replica_tok_s_now == (10, 50)
    assert now.output_tok_s_now == 60


def test_now_is_the_last_ten_seconds_of_a_replica_too(clock: Clock) -> None:
    tokens = [0]
    counted = Progress(10, 0)
    with counted.watching(lambda: EngineStats(1, 0, sum(tokens), 0, tuple(tokens))):
        for added in (*[1000] * 20, *[10] * 11):  # a second each
            clock.now += 1
            tokens[0] += added
            now = counted.snapshot()
    assert now.replica_tok_s_now == (10,)


def test_a_replica_that_lost_tokens_has_no_negative_rate(clock: Clock) -> None:
    tokens = [0, 0]
    counted = Progress(10, 0)
    with counted.watching(lambda: EngineStats(0, 0, sum(tokens), 0, tuple(tokens))):
        for tokens[:] in ([100, 100], [200, 200], [40, 300]):
            clock.now += 10
            now = counted.snapshot()
    assert now.replica_tok_s_now == (0, 10)
    assert now.output_tok_s_now == 10


def test_preemptions_are_those_of_this_run_and_go_on_with_an_engine_that_was_started_again(clock: Clock) -> None:
    counted, of_engine = Progress(10, 0), [7]
    with counted.watching(lambda: EngineStats(0, 0, 0, of_engine[0])):
        clock.now += 1
        of_engine[0] = 9
        assert counted.snapshot().preemptions == 2
    of_engine[0] = 0
    with counted.watching(lambda: EngineStats(0, 0, 0, of_engine[0])):
        of_engine[0] = 3
        assert counted.snapshot().preemptions == 5


def test_an_engine_that_is_gone_is_not_asked_any_more(clock: Clock) -> None:
    """Its last numbers stay; nothing runs or waits there."""
    counted, answers = Progress(10, 0), [EngineStats(2, 3, 70), EngineStats(2, 3, 0)]
    with counted.watching(lambda: answers.pop()):
        clock.now += 7
    now = counted.snapshot()
    assert (now.generated_tokens, now.output_tok_s, now.running, now.waiting) == (70, 10.0, 0, 0)


def test_one_engine_has_no_replica_rates(clock: Clock) -> None:
    counted = Progress(10, 0)
    with counted.watching(lambda: EngineStats(0, 0, 7)):
        clock.now += 1
        assert counted.snapshot().replica_tok_s_now == ()


def test_rows_that_have_enough_lower_what_is_expected_of_the_others(clock: Clock) -> None:
    """Four rows of at most 10 samples: one has stopped after 4, and the others are expected to."""
    counted = Progress(40, 0, samples_open=40)
    assert counted.snapshot().samples_total == 40
    for _ in range(4):
        counted.count(ended(10))
    counted.settle(6, 10)
    assert counted.snapshot().samples_total == 16
    counted.settle(-6, -10)  # a sample of it was lost
    assert counted.snapshot().samples_total == 40
    for spared in (6, 0, 6, 0):
        counted.settle(spared, 10)
    assert counted.snapshot().samples_total == 28


def test_the_time_that_is_left_knows_that_rows_stop(clock: Clock) -> None:
    counted = Progress(100, 0, samples_open=100)
    with counted.watching(lambda: EngineStats(0, 0, 0)):
        for _ in range(10):
            counted.count(ended(10))
        clock.now += 10
        assert counted.snapshot().eta_seconds == 90
        counted.settle(15, 25)  # 40 samples in all
        assert counted.snapshot().eta_seconds == 30

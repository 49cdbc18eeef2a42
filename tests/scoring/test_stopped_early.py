"""Rows that stop early: every estimate is right on average over all outcomes, and what one would write first is not."""

from collections.abc import Callable
from fractions import Fraction
from functools import cache, partial
from itertools import product
from math import factorial, prod
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stopped_early import expected_samples
from rollout.config import AdaptiveConfig
from rollout.data.stopping import is_met
from rollout.scoring.pass_at_k import pass_at_k
from rollout.scoring.stopped_early import Estimator, Stops, pass_at_ks, sample_weights
from rollout.scoring.summary import ScoreCounts

EXACT = 1e-12
RATES = (Fraction(1, 10), Fraction(1, 2), Fraction(7, 9))

Outcome = tuple[bool, ...]
"""Whether each sample of a row passes, as far as the budget goes."""
State = tuple[int, int]
Ends = tuple[int, ...] | range
Estimate = Callable[[int, int], float]


def rule(**config: Any) -> Stops:
    return partial(is_met, AdaptiveConfig(**config))


mixed = rule(until="mixed")
narrow = rule(until="interval", width=0.6, low=0.1, high=0.8)
RULES = {f"passes={wanted}": rule(until="passes", passes=wanted) for wanted in (1, 2, 3)}
RULES |= {"mixed": mixed, "interval": narrow}
ROUNDS = {"one by one": range(1, 9), "2, 2, 4": (2, 4, 8), "3, 3, 1": (3, 6, 7), "5, 3": (5, 8), "all": (6,)}

_SCORED = {"response": "4", "finish_reason": "stop", "extracted_answer": "4"}
_SAMPLES = pa.schema(
    [("row_id", pa.int64()), ("sample_idx", pa.int32()), ("score", pa.float64())]
    + [(name, pa.string()) for name in ("response", "finish_reason", "extracted_answer", "score_error")]
)

every_rule = pytest.mark.parametrize("stops", RULES.values(), ids=RULES)
every_rounds = pytest.mark.parametrize("ends", ROUNDS.values(), ids=ROUNDS)


def stopped(outcome: Outcome, ends: Ends, stops: Stops) -> Outcome:
    """What of it a row takes."""
    n = next((end for end in ends if stops(end, sum(outcome[:end]))), ends[-1])
    return outcome[:n]


@cache
def ways(ends: Ends, stops: Stops) -> dict[State, set[Outcome]]:
    """All that can come of a row, by (n, c)."""
    found: dict[State, set[Outcome]] = {}
    for outcome in product((False, True), repeat=ends[-1]):
        taken = stopped(outcome, ends, stops)
        found.setdefault((len(taken), sum(taken)), set()).add(taken)
    return found


def stops_early(ends: Ends, stops: Stops) -> bool:
    return len({n for n, _ in ways(ends, stops)}) > 1


def chance(rate: Fraction, n: int, c: int) -> Fraction:
    return rate**c * (1 - rate) ** (n - c)


def expected(rate: Fraction, ends: Ends, stops: Stops, estimate: Estimate) -> float:
    """The mean of `estimate(n, c)` over all outcomes."""
    states = ways(ends, stops).items()
    return float(sum(len(of) * chance(rate, n, c) * Fraction(estimate(n, c)) for (n, c), of in states))


def of_one(k: int, ends: Ends, stops: Stops) -> Estimate:
    return lambda n, c: float(pass_at_ks(np.array([n]), np.array([c]), [k], ends, stops)[0, 0])


def naive_pass_at_k(k: int, n: int, c: int) -> float:
    return pass_at_k(n, c, min(n, k))


@every_rounds
@every_rule
def test_pass_at_1_is_the_pass_rate_on_average_and_the_share_of_passes_is_not(stops: Stops, ends: Ends) -> None:
    for rate in RATES:
        assert expected(rate, ends, stops, of_one(1, ends, stops)) == pytest.approx(float(rate), abs=EXACT)
    naive = [abs(expected(rate, ends, stops, lambda n, c: c / n) - float(rate)) for rate in RATES]
    assert (max(naive) > 0.01) == stops_early(ends, stops)


@every_rounds
@every_rule
def test_pass_at_k_is_the_chance_of_a_pass_among_k_and_the_usual_formula_is_not(stops: Stops, ends: Ends) -> None:
    off = []
    for k in range(1, (ends[0] if stops is narrow else ends[-1]) + 1):
        for rate in RATES:
            true = float(1 - (1 - rate) ** k)
            assert expected(rate, ends, stops, of_one(k, ends, stops)) == pytest.approx(true, abs=EXACT)
            naive = partial(naive_pass_at_k, k)
            off.append(abs(expected(rate, ends, stops, naive) - true))
    assert (max(off) > 0.01) == stops_early(ends, stops)


@every_rounds
@every_rule
def test_what_came_says_as_much_in_any_order(stops: Stops, ends: Ends) -> None:
    """The estimate is the share of rows with a pass among their first k, over all orders of what came."""
    for (n, c), orders in ways(ends, stops).items():
        for k in range(1, n + 1):
            share = sum(any(order[:k]) for order in orders) / len(orders)
            assert of_one(k, ends, stops)(n, c) == pytest.approx(share, abs=EXACT)


@given(data=st.data(), rounds=st.lists(st.integers(1, 3), min_size=1, max_size=3), rate=st.fractions(0, 1))
def test_whatever_the_rule_is_the_first_round_can_be_estimated(
    data: st.DataObject, rounds: list[int], rate: Fraction
) -> None:
    ends = tuple(int(end) for end in np.cumsum(rounds))
    states = [(n, c) for n in ends for c in range(n + 1)]
    stopping = data.draw(st.sets(st.sampled_from(states)))

    def stops(n: int, c: int) -> bool:
        return (n, c) in stopping

    for k in range(1, ends[0] + 1):
        found = expected(rate, ends, stops, of_one(k, ends, stops))
        assert found == pytest.approx(float(1 - (1 - rate) ** k), abs=EXACT)


def test_for_the_second_pass_one_by_one_it_is_the_formula_of_negative_binomial_sampling() -> None:
    budget, rate, stops = 8, Fraction(1, 10), RULES["passes=2"]
    ends = range(1, budget + 1)
    estimate = of_one(1, ends, stops)
    assert [estimate(m, 2) for m in ends[1:]] == pytest.approx([1 / (m - 1) for m in ends[1:]], abs=EXACT)
    assert [estimate(budget, c) for c in (0, 1)] == pytest.approx([0, 1 / budget], abs=EXACT)

    def ended_by_the_budget_as_0(n: int, c: int) -> float:
        return 0.0 if c < 2 else 1 / (n - 1)

    as_0 = expected(rate, ends, stops, ended_by_the_budget_as_0)
    dropped = as_0 / expected(rate, ends, stops, lambda n, c: c >= 2)
    assert (as_0, dropped) == pytest.approx((0.052, 0.279), abs=0.0005)


def test_the_pooled_share_of_passes_is_wrong_as_soon_as_rows_differ() -> None:
    rates, ends, stops = (Fraction(1, 10), Fraction(9, 10)), range(1, 9), RULES["passes=1"]
    of_rows = [expected(rate, ends, stops, of_one(1, ends, stops)) for rate in rates]
    pooled = sum(expected(rate, ends, stops, lambda n, c: c) for rate in rates)
    pooled /= sum(expected(rate, ends, stops, lambda n, c: n) for rate in rates)
    assert sum(of_rows) / 2 == pytest.approx(0.5, abs=EXACT)
    assert pooled < 0.25


@every_rule
def test_weighted_samples_have_the_mean_that_all_samples_of_the_prompt_would_have(stops: Stops) -> None:
    """Scores are 0, 0.25 and 1, of which only 1 passes, and lengths go with them."""
    ends, chances = (2, 4, 6), {0.0: Fraction(1, 2), 0.25: Fraction(1, 8), 1.0: Fraction(3, 8)}
    found = naive = Fraction()
    for scores in product(chances, repeat=ends[-1]):
        taken = stopped(tuple(score == 1.0 for score in scores), ends, stops)
        n, c, chance_of_all = len(taken), sum(taken), prod(chances[score] for score in scores)
        passing, failing = sample_weights(np.array([n]), np.array([c]), np.array([of_one(1, ends, stops)(n, c)]))
        weights = [float(passing[0] if score == 1.0 else failing[0]) for score in scores[:n]]
        assert sum(weights) == pytest.approx(1, abs=EXACT)
        found += chance_of_all * Fraction(float(np.dot(weights, scores[:n])))
        naive += chance_of_all * Fraction(sum(scores[:n]) / n)
    true = float(sum(score * share for score, share in chances.items()))
    assert float(found) == pytest.approx(true, abs=EXACT)
    assert abs(float(naive) - true) > 0.005


@pytest.mark.parametrize(
    ("until", "counted", "largest_k", "majorities"),
    [
        ("passes", 12, 12, {1, 2, 3}),
        ("mixed", 12, 12, {1, 2, 3}),
        ("interval", 12, 3, {1, 2, 3}),
        ("agree", 3, 3, {1, 2, 3, 12}),
    ],
)
def test_each_rule_has_its_limits(until: str, counted: int, largest_k: int, majorities: set[int]) -> None:
    estimator = Estimator(AdaptiveConfig(until=until, rounds=[3, 4]), 12)
    assert (estimator.ends, estimator.counted, estimator.largest_k) == ((3, 7, 11, 12), counted, largest_k)
    assert {k for k in range(1, 13) if estimator.has_majority(k)} == majorities


def test_rows_with_budgets_of_their_own_count_where_their_budget_is_not_below_k() -> None:
    one, two = (
        Estimator(AdaptiveConfig(until="passes", passes=k, rounds=[2]), 8, has_own_budgets=True) for k in (1, 2)
    )
    assert (one.largest_k, one.ks) == (2, [1, 2])
    found = one.pass_at_ks(np.array([1, 1, 2, 3]), np.array([0, 1, 0, 0]), [1, 2])
    assert found == pytest.approx(np.array([[0, np.nan], [1, np.nan], [0, 0], [0, 0]]), nan_ok=True)
    n, c = np.array([12]), np.array([2])  # more than the budget of the others
    assert two.pass_at_ks(n, c, [1]) == pytest.approx(pass_at_ks(n, c, [1], range(2, 12, 2), RULES["passes=2"]))
    agreed = Estimator(AdaptiveConfig(until="agree", rounds=[3]), 8, has_own_budgets=True)
    assert [k for k in range(1, 9) if agreed.has_majority(k)] == [1, 2, 3]

    rows = [(0, 0, 0.0), (1, 0, 1.0), (1, 1, 0.0), (2, 0, 0.0), (2, 1, 0.0)]
    samples = [{"row_id": row, "sample_idx": sample, "score": score, **_SCORED} for row, sample, score in rows]
    counts = ScoreCounts(1.0, early=one)
    counts.add(pa.RecordBatch.from_pylist(samples, schema=_SAMPLES))
    summary = counts.summary()
    assert summary is not None
    assert {k: (of, summary.estimates[f"pass@{k}"].n) for k, of in summary.pass_at_k.items()} == {
        "1": (pytest.approx(1 / 6), 3),
        "2": (0.5, 2),
    }


def test_under_agree_the_first_round_is_a_sample_like_any_other() -> None:
    estimator = Estimator(AdaptiveConfig(until="agree", rounds=[4]), 16)
    found = estimator.pass_at_ks(np.array([4, 4, 4]), np.array([0, 1, 3]), [1, 2, 4])
    assert found == pytest.approx(np.array([[pass_at_k(4, c, k) for k in (1, 2, 4)] for c in (0, 1, 3)]), abs=EXACT)


def test_the_rule_of_a_run_is_the_one_that_is_counted_by() -> None:
    estimator = Estimator(AdaptiveConfig(until="passes", passes=2, rounds=[1, 3]), 8)
    n, c = np.array([4, 7, 8, 8]), np.array([2, 3, 1, 2])
    assert np.array_equal(estimator.pass_at_ks(n, c, [1, 8]), pass_at_ks(n, c, [1, 8], (1, 4, 7, 8), RULES["passes=2"]))


def test_a_larger_budget_changes_nothing_for_rows_that_have_stopped() -> None:
    n, c, ks = np.array([2, 4, 8, 8, 8]), np.array([1, 1, 0, 1, 4]), [1, 2, 8]
    small, large = (pass_at_ks(n, c, ks, ends, mixed) for ends in ((2, 4, 8), (2, 4, 8, 16, 24)))
    assert np.array_equal(small, large)


def test_a_row_that_could_not_have_come_so_far_has_no_estimate() -> None:
    found = pass_at_ks(np.array([4, 4]), np.array([3, 2]), [1], (2, 4), mixed)  # 3 of 4 after 2 of 2, or after 1 of 2
    assert found[0] == pytest.approx([1.0])
    assert np.isnan(pass_at_ks(np.array([3, 3, 3]), np.array([1, 0, 3]), [1, 2], range(1, 9), mixed)[1:]).sum() == 0
    assert np.isnan(pass_at_ks(np.array([5]), np.array([3]), [1, 2], range(1, 9), mixed)).all()


def test_without_a_row_whose_first_round_is_scored_there_is_no_majority() -> None:
    scores = [(None, None, "timed out"), (1.0, "4", None)]
    found_of = [dict(zip(("score", "extracted_answer", "score_error"), told, strict=True)) for told in scores]
    samples = [{**_SCORED, "row_id": 0, "sample_idx": at, **told} for at, told in enumerate(found_of)]
    counts = ScoreCounts(1.0, early=Estimator(AdaptiveConfig(until="passes", rounds=[2]), 4))
    counts.add(pa.RecordBatch.from_pylist(samples, schema=_SAMPLES))
    found = counts.summary()
    assert found is not None
    assert (found.pass_at_k["1"], found.majority_at_k) == (0.5, {})


def test_no_rows_have_no_estimates() -> None:
    none = np.array([], np.int64)
    assert pass_at_ks(none, none, [1, 2], (2, 4), mixed).shape == (0, 2)


def test_a_million_rows_ask_the_rule_as_often_as_ten() -> None:
    asked = list[tuple[int, int]]()

    def stops(n: int, c: int) -> bool:
        asked.append((n, c))
        return c >= 1

    n = np.tile([2, 4, 8, 16, 16], 200_000)
    found = pass_at_ks(n, np.tile([1, 1, 1, 1, 0], 200_000), [1, 16], (2, 4, 8, 16), stops)
    assert found.shape == (1_000_000, 2)
    assert len(asked) < 40


def test_nothing_is_lost_to_rounding_in_a_budget_of_thousands() -> None:
    n, c = np.array([10_000, 2_500]), np.array([49, 50])
    found = pass_at_ks(n, c, [1], range(1, 10_001), rule(until="passes", passes=50))[:, 0]
    assert found == pytest.approx([49 / 10_000, 49 / 2_499], rel=1e-11)


def test_samples_to_expect_when_pass_rates_are_uniform() -> None:
    one_by_one, rounds, uniform = range(1, 17), (2, 4, 8, 16), Fraction(1)
    found = [
        expected_samples(ends, stops, uniform, uniform)
        for ends, stops in ((one_by_one, RULES["passes=1"]), (rounds, RULES["passes=1"]), (one_by_one, mixed))
    ]
    assert found[0] == sum(Fraction(1, m) for m in range(1, 17))  # the chance that m - 1 samples fail, for each m
    assert [round(float(one), 2) for one in found] == [3.38, 4.36, 5.76]


@every_rounds
@every_rule
def test_samples_to_expect_are_those_of_all_outcomes(stops: Stops, ends: Ends) -> None:
    """For pass rates near 0 and 1, whose Beta(1/2, 1/2) is Polya's urn begun with half a ball of each kind."""
    half, total = Fraction(1, 2), Fraction(0)
    for (n, c), orders in ways(ends, stops).items():
        drawn = [*((half + i) for i in range(c)), *((half + i) for i in range(n - c))]
        total += Fraction(len(orders) * prod(drawn, start=Fraction(1)) / factorial(n) * n)
    assert expected_samples(ends, stops, half, half) == total

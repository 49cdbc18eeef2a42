"""Paired differences against the t test, the sign-flip test against all flips, Holm against its example."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.coverage import BAD, GOOD, HIGH, LOW, MOST_ALARMS, simulate
from rollout.scoring.paired import DRAWS, FEW_ROWS, holm, paired_difference, sign_flip

RNG = np.random.default_rng(1)


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    earlier, later = RNG.normal(0, 1, 300), RNG.normal(0.2, 1, 300)
    found, test = paired_difference(earlier, later), stats.ttest_rel(later, earlier)
    assert found.difference is not None
    assert found.difference.interval == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found.p == pytest.approx(test.pvalue)
    assert found.test == "t"
    assert found.wins + found.losses == found.rows == 300


def test_rows_without_a_value_on_a_side_are_left_out_and_rounding_is_no_win() -> None:
    earlier = np.array([0.1 + 0.2, 0.0, np.nan, 1.0])
    later = np.array([0.3, 1.0, 1.0, 0.5])
    found = paired_difference(earlier, later)
    assert (found.rows, found.wins, found.ties, found.losses) == (3, 1, 1, 1)
    assert found.difference is not None
    assert found.difference.value == pytest.approx(0.5 / 3)


@pytest.mark.parametrize("size", [1e-200, 1e-10, 1.0, 1e12])
def test_differences_count_by_the_size_of_the_numbers(size: float) -> None:
    earlier = size * (1 + np.arange(30.0) / 30)
    found = paired_difference(earlier, earlier + size * (1 + np.arange(30.0) / 60))
    assert (found.wins, found.ties, found.losses) == (30, 0, 0)
    assert found.p == pytest.approx(2 / 2**30)
    equal = paired_difference(earlier, earlier * (1 + 1e-12))
    assert (equal.ties, equal.p) == (30, 1.0)
    alike = paired_difference(earlier, earlier + 0.3 * size)
    assert (alike.wins, alike.difference is not None and alike.difference.interval) == (30, None)


def test_a_sum_that_rounding_keeps_from_being_0_is_no_win() -> None:
    found = paired_difference(np.array([0.0, 0.5]), np.array([0.1 + 0.2 - 0.3, 1.0]))
    assert (found.wins, found.ties) == (1, 1)


def test_copies_of_a_row_make_nothing_surer() -> None:
    earlier, later = RNG.random(40), RNG.random(40)
    once = paired_difference(earlier, later)
    clusters = np.repeat(np.arange(40), 5)
    copied = paired_difference(np.repeat(earlier, 5), np.repeat(later, 5), clusters)
    alone = paired_difference(np.repeat(earlier, 5), np.repeat(later, 5))
    assert once.difference is not None
    assert copied.difference is not None
    assert alone.difference is not None
    assert copied.difference.interval == pytest.approx(once.difference.interval)
    assert copied.p == pytest.approx(once.p)
    assert (copied.difference.n, copied.rows) == (40, 200)
    assert (alone.difference.se or 0) < 0.6 * (once.difference.se or 0)


@pytest.mark.parametrize("same", [0.0, 0.25])
def test_where_all_rows_differ_alike_their_spread_gives_no_interval(same: float) -> None:
    found = paired_difference(np.full(10, 0.5), np.full(10, 0.5 + same))
    assert found.difference is not None
    assert (found.difference.value, found.difference.interval) == (same, None)
    assert found.p == (1.0 if same == 0 else 2 / 2**10)


@pytest.mark.parametrize("rows", [0, 1])
def test_one_row_says_nothing(rows: int) -> None:
    found = paired_difference(np.zeros(rows), np.ones(rows))
    assert (found.rows, found.p, found.test) == (rows, None, None)
    assert found.difference is None or found.difference.interval is None


def of_all_flips(differences: list[float]) -> float:
    seen = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in product((-1, 1), repeat=len(differences))
    ]
    return sum(total >= seen - 1e-9 for total in sums) / len(sums)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([0.0, 0.1, -0.1, 0.3, -0.7, 1.0]) | st.floats(-1, 1, width=16), min_size=1, max_size=9))
def test_the_sign_flip_test_counts_all_flips(differences: list[float]) -> None:
    p, how = sign_flip(np.array(differences))
    assert p == pytest.approx(of_all_flips(differences))
    assert how == "sign-flip, exact"


def test_rates_of_many_rows_are_counted_too_and_what_cannot_be_is_drawn() -> None:
    """Of rows that all differ by as much, the sum is binomial."""
    signs = np.array([1.0] * 110 + [-1.0] * 85)
    p, how = sign_flip(signs / 10)
    assert p == pytest.approx(stats.binomtest(110, 195).pvalue)
    assert how == "sign-flip, exact"
    differences = RNG.normal(0.15, 1, FEW_ROWS - 1)
    p, how = sign_flip(differences)
    assert how == f"sign-flip, {DRAWS:,} drawn"
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert sign_flip(differences) == (p, how)


@pytest.mark.parametrize("equal", [0, 195, 196, 10_000])
@pytest.mark.parametrize(("better", "worse"), [(4, 0), (9, 2), (50, 30)])
def test_rows_that_do_not_differ_change_nothing_in_the_test(better: int, worse: int, equal: int) -> None:
    """Of scores of 0 and 1 it is McNemar's."""
    earlier = np.array([0.0] * better + [1.0] * (worse + equal))
    later = np.array([1.0] * better + [0.0] * worse + [1.0] * equal)
    found = paired_difference(earlier, later)
    assert found.p == pytest.approx(stats.binomtest(better, better + worse).pvalue)
    assert found.test == "sign-flip, exact"


def test_holm_corrects_as_in_its_definition_and_leaves_out_what_has_no_p() -> None:
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.long
@pytest.mark.parametrize("beta", [(1.0, 1.0), (0.3, 0.3), (2.0, 5.0)])
def test_intervals_cover_and_formulas_that_do_not_pair_or_cluster_fail(beta: tuple[float, float]) -> None:
    """With fixed draws; `python -m benchmarks.coverage` does it at length."""
    cell = simulate(beta, rows=200, pairs=1000)
    assert list(cell.wrong()) == []
    assert all(LOW <= cell.coverage[name] <= HIGH for name in GOOD if cell.is_judged(name))
    assert all(not LOW <= cell.coverage[name] <= HIGH for name in BAD)
    assert cell.alarms <= MOST_ALARMS

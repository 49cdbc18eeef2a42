"""Error bars: the formulas as they are written, worked out another way, and intervals that cover."""

import math

import numpy as np
import pytest
from scipy import stats

from rollout.scoring.intervals import (
    Moments,
    SeedSums,
    effective_n,
    mean_of,
    share_estimate,
    share_of,
    wilson,
)

RNG = np.random.default_rng(0)


def moments(*batches: tuple[list[float], list[float]]) -> Moments:
    added = Moments()
    for sums, sizes in batches:
        added.add(sums, sizes)
    return added


def test_the_mean_of_rows_has_the_interval_of_a_t_test() -> None:
    values = RNG.normal(3, 2, 12)
    found, test = mean_of(values), stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.interval == pytest.approx((test.low, test.high))
    assert (found.value, found.se, found.n) == pytest.approx((values.mean(), stats.sem(values), 12))
    assert found.trusted


def test_rows_of_unequal_size_are_clusters_of_a_pooled_mean() -> None:
    rows = [[1.0, 0.0, 1.0], [0.0], [1.0, 1.0], [0.5, 0.25, 0.0, 0.0]]
    mean = np.mean([value for row in rows for value in row])
    spread = sum(sum(value - mean for value in row) ** 2 for row in rows)
    found = moments(([sum(row) for row in rows], [len(row) for row in rows]))
    assert found.mean == pytest.approx(mean)
    assert found.se == pytest.approx(math.sqrt(4 / 3 * spread) / 10)


def test_rows_of_one_size_give_the_error_of_their_means() -> None:
    samples = RNG.random((20, 5))
    found = moments((samples.sum(1).tolist(), [5.0] * 20))
    assert (found.mean, found.se) == pytest.approx((samples.mean(), stats.sem(samples.mean(1))))


def test_rows_may_come_in_parts_and_those_of_no_values_do_not_count() -> None:
    sums, sizes = [1.0, 0.0, 4.0, 2.5, 0.0], [2.0, 1.0, 5.0, 3.0, 0.0]
    parts = moments((sums[:1], sizes[:1]), ([], []), (sums[1:], sizes[1:]))
    whole = moments((sums, sizes))
    assert (parts.n, parts.mean, parts.se) == pytest.approx((4, whole.mean, whole.se))
    counted = Moments()
    counted.add([0.5, 0.25], times=[3, 2])
    assert counted.se == pytest.approx(mean_of([0.5] * 3 + [0.25] * 2).se)


def test_scores_far_from_zero_lose_no_digits() -> None:
    values = RNG.random(50)
    assert mean_of(values + 1e9).se == pytest.approx(mean_of(values).se, rel=1e-6)


def test_groups_are_clusters_and_resemblance_in_them_widens_the_interval() -> None:
    groups = [str(number // 10) for number in range(200)]
    values = np.repeat(RNG.random(20), 10)
    alone, together = mean_of(values), mean_of(values, groups)
    assert together.value == pytest.approx(alone.value)
    assert together.n == 20
    assert together.se == pytest.approx(stats.sem(values[::10]))
    assert together.interval == pytest.approx(mean_of(values[::10]).interval)
    (low, high), (few_low, few_high) = (share_of(values, by).interval or (0.0, 0.0) for by in (None, groups))
    assert few_low < low < high < few_high


def test_a_share_of_draws_has_the_interval_that_wilson_gave() -> None:
    expected = stats.binomtest(7, 40).proportion_ci(0.95, "wilson")
    assert wilson(7 / 40, 40) == pytest.approx((expected.low, expected.high))
    assert effective_n(0.3, math.sqrt(0.3 * 0.7 / 80), 10) == pytest.approx(80)


@pytest.mark.parametrize("share", [0.0, 0.1 + 0.2, 1.0])
@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_a_share_without_spread_has_an_interval_of_some_width_within_0_and_1(share: float, rows: int) -> None:
    found = share_of([share] * rows)
    assert found.interval is not None
    low, high = found.interval
    assert 0 <= low <= share <= high <= 1
    assert (low, high) == pytest.approx(wilson(share, rows))
    assert high > low


def test_one_row_says_nothing_of_the_error_of_a_mean() -> None:
    found = mean_of([0.25])
    assert (found.value, found.se, found.interval, found.trusted) == (0.25, None, None, False)
    assert not mean_of([2.0, 2.0, 2.0]).trusted


@pytest.mark.parametrize(("share", "rows", "trusted"), [(0.05, 200, True), (0.049, 200, False), (0.96, 200, False)])
def test_an_interval_is_not_to_be_trusted_with_fewer_than_ten_rows_on_one_side(
    share: float, rows: int, trusted: bool
) -> None:
    assert share_estimate(share, 0.01, rows).trusted is trusted


def test_new_seeds_on_the_same_prompts_vary_by_what_sampling_contributes() -> None:
    samples = RNG.random((15, 4))
    squares = samples.var(1) * 4
    seeds = SeedSums()
    seeds.add([4] * 5, squares[:5])
    seeds.add([4] * 10, squares[5:])
    assert seeds.se == pytest.approx(math.sqrt((samples.var(1, ddof=1) / 4).sum()) / 15)
    seeds.add([1], [0.0])
    assert seeds.se is None


@pytest.mark.parametrize("size", [1e-10, 1.0, 1e12])
def test_whether_there_is_a_spread_does_not_depend_on_the_unit(size: float) -> None:
    assert mean_of(size * (1 + 1e-11 * RNG.random(50))).trusted
    assert not mean_of([size * (0.1 + 0.2), size * 0.3, size * 0.3]).trusted  # this is rounding
    assert mean_of([-size * 0.3, size * 0.1, size * 0.2]).value == 0.0  # so is this sum


def test_numbers_whose_squares_are_too_large_have_a_mean_and_no_error() -> None:
    found = mean_of([1e200, 3e200])
    assert (found.value, found.se, found.interval) == (2e200, None, None)

"""Which of several estimates is the best, as far as their intervals show."""

from collections.abc import Mapping
from math import hypot
from statistics import NormalDist

from rollout.scoring.intervals import CONFIDENCE, FEWEST, Estimate, normal_quantile


def best_of(estimates: Mapping[int, Estimate], highest: bool = True) -> list[int]:
    """The keys of the best value and of all values that cannot be distinguished from it: several keys are a tie.

    Each value is compared with the best. With m comparisons each has a share 1/m of the error (Bonferroni), so with
    95 % confidence none of the others is better than a single best. The estimates count as independent, which is on the
    safe side if they are of the same rows; see `is_better`.
    """
    keys = sorted(estimates, key=lambda key: estimates[key].value, reverse=highest)
    if not keys:
        return []
    first, *others = keys
    best = estimates[first]
    return [first, *(key for key in others if not is_better(best, estimates[key], highest, len(others)))]


def is_better(one: Estimate, other: Estimate, highest: bool = True, comparisons: int = 1) -> bool:
    """Whether the interval of the difference excludes 0: Newcombe's, from two Wilson intervals or other ones.

    The difference of a > b is at least a - b - sqrt((a - a_low)^2 + (b_high - b)^2): Newcombe 1998, method 10
    (Statistics in Medicine 17(8), 873-890); Zou and Donner 2008 (27(10), 1693-1702) for any two intervals. False if one
    has no interval, no spread, or fewer than 2 FEWEST rows.
    """
    if not (_can_tell(one) and _can_tell(other)):
        return False
    high, low = (one, other) if highest else (other, one)
    assert high.interval is not None
    assert low.interval is not None
    margin = hypot(high.value - high.interval[0], low.interval[1] - low.value)
    return high.value - low.value > margin * _widened(comparisons)


def _can_tell(estimate: Estimate) -> bool:
    if estimate.interval is None or estimate.n < 2 * FEWEST:
        return False
    low, high = estimate.interval
    return low < high


def _widened(comparisons: int) -> float:
    """How much wider an interval is if its error is divided by `comparisons`."""
    return NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * comparisons)) / normal_quantile()

"""Whether one set of scores is better than another for the same rows: paired differences, a test, and its correction.

Pairing removes the differences in difficulty between rows, which are most of the spread of scores; see Miller 2024,
"Adding Error Bars to Evals" (arXiv:2411.00640), section 4.2.

- The interval: Student's t of the differences, rows of the same cluster together (`rollout.scoring.intervals`).
- The test: if fewer than FEW_ROWS rows differ, Fisher's randomization test ("The Design of Experiments", 1935, section
  21): if neither were better, each difference would be as likely with the other sign. Rows that do not differ change
  nothing in it, as in McNemar's test, which it is for scores of 0 and 1. With more rows that differ, Student's t.
- Several tests: Holm 1979, "A simple sequentially rejective multiple test procedure" (Scand. J. Statist. 6(2), 65-70).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from rollout.scoring.intervals import NOISE, Estimate, Moments

FEW_ROWS = 200
"""If fewer rows differ (or groups of rows), the sign-flip test is used instead of Student's t."""

DRAWS = 100_000
"""The number of random sign flips, used if there are too many to count; always the same ones."""

_MAX_SUMS = 1 << 17  # with more different sums of the differences, not all flips are counted
_EPSILON = 1e-9  # as a share of the larger of two numbers, or of the largest difference: closer ones are equal
_BLOCK = 1000  # draws at a time

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """How much larger the later values are than the earlier ones of the same rows."""

    rows: int
    """The number of rows with both values. The number of their clusters is `difference.n`."""
    difference: Estimate | None
    """The mean difference; None without rows. It has no interval if there is only one row, or if all rows differ
    equally (for example not at all): then there is no spread."""
    wins: int
    """The number of rows whose later value is larger."""
    ties: int
    losses: int
    p: float | None
    """Two-sided: how likely a difference at least this large is if neither is better. None with fewer than two rows."""
    test: str | None
    """The name of the test that gave `p`."""
    p_holm: float | None = None
    """`p` corrected for the number of comparisons; None if there is only one."""


def paired_difference(
    earlier: Floats, later: Floats, clusters: npt.NDArray[np.int64] | None = None
) -> PairedDifference:
    """`later` minus `earlier`, row by row; rows where either is NaN are left out.

    `clusters` are numbers from 0; rows with the same number are not independent. None: all rows are independent.
    """
    there = ~(np.isnan(earlier) | np.isnan(later))
    earlier, later = earlier[there], later[there]
    differences, of_rows = later - earlier, np.maximum(np.abs(earlier), np.abs(later))
    noise = NOISE * float(of_rows.max(initial=0.0))  # of a sum that is 0, nothing but this is left
    differences[np.abs(differences) <= np.maximum(_EPSILON * of_rows, noise)] = 0.0  # 3/10 - 0.3 is not a win
    groups = np.arange(len(differences)) if clusters is None else clusters[there]
    sums, sizes = np.bincount(groups, differences).astype(np.float64), np.bincount(groups)
    moments = Moments()
    moments.add(sums, sizes)
    estimate = moments.as_mean() if moments.n else None
    sums, sizes = sums[sizes > 0], sizes[sizes > 0]
    if estimate is not None and (not estimate.trusted or np.ptp(sums / sizes) <= noise):
        estimate = replace(estimate, interval=None, trusted=False)
    p, test = _tested(sums, estimate)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return PairedDifference(
        rows=len(differences),
        difference=estimate,
        wins=wins,
        ties=len(differences) - wins - losses,
        losses=losses,
        p=p,
        test=test,
    )


def _tested(sums: Floats, estimate: Estimate | None) -> tuple[float | None, str | None]:
    """The p value for the sums of the clusters, and the name of the test."""
    if estimate is None or estimate.se is None:
        return None, None
    if np.count_nonzero(sums) >= FEW_ROWS and estimate.trusted:
        return _student(estimate.value / estimate.se, estimate.n - 1), "t"
    return sign_flip(sums)


def _student(t: float, degrees: int) -> float:
    from scipy.special import stdtr  # as in `rollout.scoring.intervals`

    return float(2 * stdtr(degrees, -abs(t)))


def sign_flip(differences: Floats) -> tuple[float, str]:
    """The share of all sign flips that give a sum at least as far from 0, and the method used.

    Exact if the flips have at most about 100,000 different sums: always with 17 differences or fewer, and with up to
    FEW_ROWS if they are multiples of one number, such as rates of n samples. Else estimated from DRAWS random flips and
    the observed one (Phipson and Smyth 2010, arXiv:1603.05766).
    """
    sizes = np.abs(differences[differences != 0])
    if not len(sizes):
        return 1.0, "sign-flip, exact"
    sizes = np.sort(sizes / sizes.max())[::-1]
    seen = abs(float(np.sum(differences))) / float(np.abs(differences).max())
    counted = _all_sums(sizes)
    if counted is not None:
        sums, chances = counted
        return min(1.0, float(chances[np.abs(sums) >= seen - _EPSILON].sum())), "sign-flip, exact"
    return (_extreme_draws(sizes, seen) + 1) / (DRAWS + 1), f"sign-flip, {DRAWS:,} drawn"


def _all_sums(sizes: Floats) -> tuple[Floats, Floats] | None:
    """Every sum that flips can give, with its probability; None if there are too many sums."""
    sums: Floats = np.zeros(1)
    chances: Floats = np.ones(1)
    for size in sizes:
        both = np.concatenate([sums - size, sums + size])
        _, first, which = np.unique(np.round(both / _EPSILON), return_index=True, return_inverse=True)
        if len(first) > _MAX_SUMS:
            return None
        sums, chances = both[first], np.bincount(which, np.tile(chances / 2, 2)).astype(np.float64)
    return sums, chances


def _extreme_draws(sizes: Floats, seen: float) -> int:
    """How many of DRAWS random flips give a sum at least as far from 0 as `seen`."""
    random = np.random.default_rng(0)
    count = 0
    for _ in range(DRAWS // _BLOCK):
        signs = 2.0 * random.integers(0, 2, (_BLOCK, len(sizes)), np.int8) - 1.0
        count += int((np.abs(signs @ sizes) >= seen - _EPSILON).sum())
    return count


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """The p values, corrected so that any false alarm among all of them is as unlikely as for a single test."""
    there = sorted((p, at) for at, p in enumerate(p_values) if p is not None)
    corrected, largest = list[float | None]([None] * len(p_values)), 0.0
    for rank, (p, at) in enumerate(there):
        largest = max(largest, min(1.0, (len(there) - rank) * p))
        corrected[at] = largest
    return corrected

"""Whether 95 % intervals hold what they promise: over many simulated pairs of runs, how often they cover the truth.

    python -m benchmarks.coverage [pairs] [samples]

A row passes with a rate drawn from a Beta distribution, in the better of the two runs with that rate to the power 0.8;
each run has 8 samples per row. So every truth is known exactly, from the formulas and not from our code. The intervals
of means and of paired differences, and those of pass@k wherever at least ten rows are expected to pass and ten to fail
(a * marks where not), must cover it in 93 to 97 % of the pairs. Two formulas that are often used must not: the one that
takes the samples of a row for independent, and the one that does not pair the rows. `false alarms` are pairs of two
equal runs that the test calls different at the level of 5 %: at most 6 %. Exits with 1 where any of this is not so.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, lgamma, sqrt

import numpy as np
import numpy.typing as npt

from rollout.scoring.intervals import FEWEST, Moments, mean_of, share_of
from rollout.scoring.paired import paired_difference
from rollout.scoring.pass_at_k import pass_at_k

BETAS = ((1.0, 1.0), (0.3, 0.3), (2.0, 5.0))
ROWS = (30, 200, 2000)
PAIRS = 2000
SAMPLES = 8
KS = (1, 2, 4, 8)
POWER = 0.8
LOW, HIGH = 0.93, 0.97
MOST_ALARMS = 0.06
_Z = 1.959964

Floats = npt.NDArray[np.float64]
Ends = tuple[float, float]

GOOD = ("mean", "pooled", "difference", *(f"pass@{k}" for k in KS))
"""Intervals that must hold."""
BAD = ("unclustered", "unpaired")
"""Intervals that must not."""


@dataclass(frozen=True)
class Cell:
    """What came of the pairs with one Beta distribution and one number of rows."""

    beta: tuple[float, float]
    rows: int
    coverage: dict[str, float]
    """By the name of the interval, the share of pairs in which it covers the truth."""
    alarms: float
    """Share of pairs without a difference that the test calls different."""

    def is_judged(self, name: str) -> bool:
        """Whether the interval has to hold here: enough rows are expected on either side of a share."""
        if not name.startswith("pass@"):
            return True
        share = truth_of_pass(self.beta, int(name.removeprefix("pass@")))
        return self.rows * min(share, 1 - share) >= FEWEST

    def wrong(self) -> Iterator[str]:
        """What is not as it must be."""
        where = f"Beta{self.beta}, {self.rows} rows"
        for name in GOOD:
            if self.is_judged(name) and not LOW <= self.coverage[name] <= HIGH:
                yield f"{where}: {name} covers {self.coverage[name]:.1%}"
        for name in BAD:
            if LOW <= self.coverage[name] <= HIGH:
                yield f"{where}: {name} covers {self.coverage[name]:.1%}, and should not"
        if self.alarms > MOST_ALARMS:
            yield f"{where}: {self.alarms:.1%} false alarms"


def moment(beta: tuple[float, float], power: float, of_failure: float = 0.0) -> float:
    """The mean of p^power (1-p)^of_failure over a Beta distribution: a quotient of two Beta functions."""
    a, b = beta
    return exp(_log_beta(a + power, b + of_failure) - _log_beta(a, b))


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def truth_of_pass(beta: tuple[float, float], k: int) -> float:
    """pass@k: 1 less the mean of (1-p)^k."""
    return 1 - moment(beta, 0.0, k)


def simulate(beta: tuple[float, float], rows: int, pairs: int, seed: int = 0, samples: int = SAMPLES) -> Cell:
    """Draw the pairs and count."""
    random = np.random.default_rng([seed, rows, *(round(10 * part) for part in beta)])
    base = moment(beta, 1.0)
    truths = dict.fromkeys(("mean", "pooled", "unclustered"), base)
    truths |= {name: moment(beta, POWER) - base for name in ("difference", "unpaired")}
    truths |= {f"pass@{k}": truth_of_pass(beta, k) for k in KS}
    covered, alarms = dict.fromkeys(truths, 0), 0
    for _ in range(pairs):
        rates = random.beta(*beta, rows)
        first, second, again = (random.binomial(samples, rate) for rate in (rates, rates**POWER, rates))
        some = random.integers(1, samples + 1, rows)
        found = _intervals(first, second, samples) | {"pooled": _pooled(random.binomial(some, rates), some)}
        for name, (low, high) in found.items():
            covered[name] += low <= truths[name] <= high
        p = paired_difference(first / samples, again / samples).p
        alarms += p is not None and p < 0.05
    return Cell(beta, rows, {name: count / pairs for name, count in covered.items()}, alarms / pairs)


def _intervals(first: npt.NDArray[np.int64], second: npt.NDArray[np.int64], n: int) -> dict[str, Ends]:
    """Of one pair; the numbers are passes per row."""
    earlier, later = first / n, second / n
    difference = paired_difference(earlier, later).difference
    found = {
        "mean": mean_of(earlier).interval,
        "difference": None if difference is None else difference.interval,
        **{f"pass@{k}": share_of(_pass_at(first, n, k)).interval for k in KS},
        "unclustered": _normal(earlier.mean(), _as_independent(earlier, n)),
        "unpaired": _normal(later.mean() - earlier.mean(), sqrt(_variance(earlier) + _variance(later))),
    }
    return {name: ends or (np.nan, np.nan) for name, ends in found.items()}  # none covers nothing


def _pass_at(passes: npt.NDArray[np.int64], n: int, k: int) -> Floats:
    return np.array([pass_at_k(n, c, k) for c in range(n + 1)])[passes]


def _pooled(passes: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> Ends:
    """The mean over samples where rows have different numbers of them."""
    moments = Moments()
    moments.add(passes, sizes)
    return moments.as_mean().interval or (np.nan, np.nan)


def _normal(value: float, se: float) -> Ends:
    return value - _Z * se, value + _Z * se


def _as_independent(row_means: Floats, n: int) -> float:
    """The standard error that takes every sample for a draw of its own."""
    share = row_means.mean()
    return float(np.sqrt(share * (1 - share) / (n * len(row_means))))


def _variance(values: Floats) -> float:
    return float(values.var(ddof=1) / len(values))


def main(pairs: int, samples: int) -> None:
    """Print the table, a line as soon as it is known."""
    print("Beta       rows  " + "".join(f"{name:>12}" for name in (*GOOD, *BAD)) + "  false alarms")
    wrong = list[str]()
    for beta in BETAS:
        for rows in ROWS:
            cell = simulate(beta, rows, pairs, samples=samples)
            marks = {name: " " if cell.is_judged(name) else "*" for name in GOOD}
            shares = "".join(f"{cell.coverage[name]:>11.1%}{marks.get(name, ' ')}" for name in (*GOOD, *BAD))
            print(f"{beta[0]:g}, {beta[1]:g}".ljust(11) + f"{rows:<6}{shares}  {cell.alarms:>12.1%}", flush=True)
            wrong += cell.wrong()
    print(f"* fewer than {FEWEST} rows are expected to pass, or to fail: not judged")
    print(*(wrong or [f"all hold: {LOW:.0%} to {HIGH:.0%}, and {' and '.join(BAD)} do not"]), sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    main(*(given + [PAIRS, SAMPLES][len(given) :]))

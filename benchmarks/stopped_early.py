"""What rules that stop rows cost statistically: simulated on rows of known pass rates, without an engine.

    python -m benchmarks.stopped_early [--rows 200000] [--budget 16]

For every rule: samples per row beside the exact expectation, and the mean pass@1 by `rollout.scoring.stopped_early`
beside what one would write first, the mean of each row's share of passes and the pooled share, all minus the true mean.
`error` is by how much more pass@1 scatters than with the full budget: the ratio of standard errors, for pass rates as
given and, in brackets, for the same prompts sampled again. Prints a table for uniform pass rates, for
U-shaped ones and for low ones.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rollout.config import AdaptiveConfig
from rollout.data.stopping import is_met
from rollout.scoring.stopped_early import Counts, Estimator, Floats, Stops

Number = TypeVar("Number", float, Fraction)

SHAPES = {
    "uniform in [0, 1]": (1.0, 1.0),
    "U-shaped, Beta(1/2, 1/2)": (0.5, 0.5),
    "mostly low, Beta(1/2, 2)": (0.5, 2.0),
}

RULES = {
    "passes, rounds of one": AdaptiveConfig(until="passes", rounds=[1]),
    "passes, [2, 2, 4, 8]": AdaptiveConfig(until="passes"),
    "passes=4, [2, 2, 4, 8]": AdaptiveConfig(until="passes", passes=4),
    "mixed, rounds of one": AdaptiveConfig(until="mixed", rounds=[1]),
    "mixed, [2, 2, 4, 8]": AdaptiveConfig(until="mixed"),
    "interval, width 0.4, [2, 2, 4, 8]": AdaptiveConfig(until="interval", width=0.4),
}


@dataclass(frozen=True)
class Stopped:
    """Rows after a rule: `n` samples, of which `c` pass, and what their pass@1 is estimated to be."""

    n: Counts
    c: Counts
    pass_at_1: Floats

    @classmethod
    def by(cls, rule: AdaptiveConfig, outcomes: npt.NDArray[np.bool_]) -> "Stopped":
        """Rows whose samples pass as `outcomes` says, a row of it each."""
        estimator = Estimator(rule, outcomes.shape[1])
        ends = estimator.ends
        passed = outcomes.cumsum(axis=1)
        n, going = np.full(len(outcomes), ends[-1]), np.ones(len(outcomes), bool)
        for end in ends:
            enough = np.array([is_met(rule, end, c) for c in range(end + 1)])[passed[:, end - 1]]
            n[going & enough] = end
            going &= ~enough
        c = passed[np.arange(len(n)), n - 1]
        return cls(n, c, estimator.pass_at_ks(n, c, [1])[:, 0])


def expected_samples(ends: Sequence[int], stops: Stops, a: Number, b: Number) -> Number:
    """Samples that a row takes on average when the pass rates of rows are distributed as Beta(a, b): (1, 1) is uniform
    in [0, 1], and (0.5, 0.5) has most rows near 0 and 1. The last of `ends` is the budget. Exact for Fractions.
    """
    total, reached = a * 0, {0: a / a}
    for size in range(1, ends[-1] + 1):
        total += sum(reached.values())
        grown = dict.fromkeys(range(min(reached), max(reached) + 2), a * 0)
        for c, chance in reached.items():
            passes = (a + c) / (a + b + size - 1)  # Polya's urn: what is likely after what has come
            grown[c + 1] += chance * passes
            grown[c] += chance * (1 - passes)
        reached = {c: chance for c, chance in grown.items() if not (size in ends and stops(size, c))}
        if not reached:
            break
    return total


def table(a: float, b: float, num_rows: int, budget: int) -> str:
    """A line for each rule, and one for none."""
    random = np.random.default_rng(0)
    rates = random.beta(a, b, num_rows)
    outcomes = random.random((num_rows, budget)) < rates[:, None]
    lines = [
        "| rule | samples per row | expected | pass@1 | mean of shares | pooled share | error |",
        "|---|---|---|---|---|---|---|",
    ]
    full = outcomes.mean(axis=1)
    for name, rule in RULES.items():
        rows = Stopped.by(rule, outcomes)
        samples = expected_samples(Estimator(rule, budget).ends, partial(is_met, rule), a, b)
        off = (rows.pass_at_1.mean(), (rows.c / rows.n).mean(), rows.c.sum() / rows.n.sum())
        error = rows.pass_at_1.std() / full.std()
        again = (rows.pass_at_1 - rates).std() / (full - rates).std()
        cells = [name, f"{rows.n.mean():.2f}", f"{samples:.2f}"]
        cells += [f"{one - rates.mean():+.3f}" for one in off] + [f"{error:.2f} ({again:.1f})"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, simulate, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--budget", type=int, default=16)
    options = parser.parse_args()
    for name, (a, b) in SHAPES.items():
        print(f"Pass rates {name}, at most {options.budget} samples:\n\n{table(a, b, options.rows, options.budget)}\n")


if __name__ == "__main__":
    main()

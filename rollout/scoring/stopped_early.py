"""Unbiased estimates from rows that a rule stopped because of their own scores; c / n would be biased.

A row that stops at its first pass has a larger share of passes than is expected for its prompt, so neither this share
nor the pooled one is a valid estimate. Girshick, Mosteller and Savage ("Unbiased estimates for certain binomial
sampling problems with applications", Annals of Mathematical Statistics 17, 1946) count paths. They take all orders of
`c` passes among `n` samples in which the row does not stop earlier, and the share of them whose first sample passes.
All orders are equally likely, so this share is the probability that the first sample passed, given `n` and `c`; and the
first sample of a row is not selected by the rule. The same holds for "one of the first k passes". If all rows have n
samples, the estimates are c / n and the pass@k of `rollout.scoring.pass_at_k`.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollout.config import AdaptiveConfig, RunConfig, ScoreConfig
from rollout.config.adaptive import RULES
from rollout.data.stopping import is_met, round_ends
from rollout.scoring.pass_at_k import reported_ks
from rollout.scoring.rows import RowScores, row_scores

Stops: TypeAlias = Callable[[int, int], bool]
"""Whether a row stops after `n` samples of which `c` pass; called only for the ends of rounds."""


Floats: TypeAlias = npt.NDArray[np.float64]
Counts: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimator:
    """Estimates for rows that `rule` has stopped, with at most `budget` samples each."""

    rule: AdaptiveConfig
    budget: int
    has_own_budgets: bool = False
    """Whether a row may have its own budget (`data.sampling_key`), which is not known here."""

    @property
    def ends(self) -> tuple[int, ...]:
        """The numbers of samples after which a row may have stopped."""
        return round_ends(tuple(self.rule.rounds), self.budget)

    @property
    def counted(self) -> int:
        """How many of a row's first samples `n` and `c` count: all, but with `agree` only those of the first round.
        `agree` stops rows by their answers, so passes alone do not tell which orders were possible.
        """
        return self.ends[0] if self.rule.until == "agree" else self.budget

    @property
    def largest_k(self) -> int:
        """The largest k with a pass@k. If rows wait for a pass, those that stop before k are known to have one, unless
        their own budget was smaller.
        """
        waits = self.rule.until in ("passes", "mixed") and not self.has_own_budgets
        return self.budget if waits else self.ends[0]

    def is_told(self, n: int, k: int) -> bool:
        """Whether a row of `n` samples has a pass@k: not if its own budget may have been smaller than k."""
        return n >= k or not self.has_own_budgets

    def has_majority(self, k: int) -> bool:
        """Whether majority@k is known: for k in the first round, and with `agree` for the whole budget."""
        is_of_all = self.rule.until == "agree" and k == self.budget and not self.has_own_budgets
        return k <= self.ends[0] or is_of_all

    def pass_at_ks(self, n: Counts, c: Counts, ks: Sequence[int]) -> Floats:
        """pass@k of rows with `n` samples, of which `c` pass: shape (rows, ks), see `pass_at_ks`.

        A sample that failed or has no score counts as one that does not pass. NaN if not known, see `is_told`.
        """
        if self.rule.until == "agree":
            found = pass_at_ks(n, c, ks, (), lambda _n, _c: False)
        else:
            ends = round_ends(tuple(self.rule.rounds), max(self.budget, int(n.max(initial=0))))
            found = pass_at_ks(n, c, ks, ends, partial(is_met, self.rule))
        if self.has_own_budgets:
            found[n[:, None] < np.array(ks)] = np.nan
        return found

    @property
    def ks(self) -> list[int]:
        """Every k for which pass@k is reported."""
        return reported_ks([self.largest_k])


def estimator_of(run: RunConfig, score: ScoreConfig) -> Estimator | None:
    """The estimator for the rows of `run`, scored by `score`; None if no rule stops them, or one with other scores."""
    asked = (getattr(run.postprocess.score, name) == getattr(score, name) for name in (*MADE_WITH, "pass_score"))
    if run.adaptive.until is None or not all(asked):
        return None
    return Estimator(run.adaptive, run.sampling.n_samples, run.data.sampling_key is not None)


def estimator_at(run: RunConfig | None, pass_score: float, scored_by: ScoreConfig | None) -> Estimator | None:
    """The estimator for the rows of `run`, where a response with at least `pass_score` passes; None without a run.

    `scored_by` is the config that the existing scores were made with; None: that of the run, as far as is known.
    """
    if run is None:
        return None
    return estimator_of(run, replace(made_by(scored_by, run.postprocess.score), pass_score=pass_score))


def made_by(scored_by: ScoreConfig | None, score: ScoreConfig) -> ScoreConfig:
    """`score` with the fields MADE_WITH from `scored_by`, if that is known."""
    return score if scored_by is None else replace(score, **{name: getattr(scored_by, name) for name in MADE_WITH})


def has_stopped(batch: pa.RecordBatch) -> bool:
    """Whether a rule has stopped some of the rows, according to the column `stopped`."""
    at = batch.schema.get_field_index("stopped")
    if at < 0 or not pa.types.is_string(batch.schema.field(at).type):
        return False
    return bool(pc.any(pc.is_in(batch.column(at), pa.array(RULES))).as_py())


MADE_WITH = ("scorer", "ground_truth", "pattern", "after")
"""The fields of a ScoreConfig that determine the score of a response."""


@dataclass(frozen=True)
class EarlyRows:
    """Arrays with an entry for each row that has a scored response, in the order of the file."""

    row_ids: Counts
    n: Counts
    """The number of samples, with failed and unscored ones: all or, with `agree`, those of the first round."""
    c: Counts
    """The number of these samples that pass."""
    pass_at_1: Floats
    """An estimate; NaN if the rule cannot have left such a row, for example after a sample passed at its second try."""
    mean: Floats
    """The estimated mean score, where a sample without a score counts as 0."""
    majority: dict[int, Floats]
    """k -> majority@k; NaN in rows where it is not known."""


def early_rows(
    batch: pa.RecordBatch, scored: pa.RecordBatch, all_of: RowScores, pass_score: float, estimator: Estimator
) -> EarlyRows:
    """The values of the whole rows in `batch`, which has the columns of a flat file and `score`. `scored` are its
    samples with a response and a score, `all_of` their `row_scores`.
    """
    counted = batch.filter(pc.less(batch.column("sample_idx"), estimator.counted))
    place = np.searchsorted(all_of.row_ids, counted.column("row_id").to_numpy())
    known = np.append(all_of.row_ids, -1)[place] == counted.column("row_id").to_numpy()
    scores = np.nan_to_num(counted.column("score").to_numpy(zero_copy_only=False), nan=0.0)
    has_score = pc.and_(counted.column("response").is_valid(), counted.column("score").is_valid())
    passes = has_score.to_numpy(zero_copy_only=False) & (scores >= pass_score)

    def summed(values: npt.NDArray[Any]) -> Floats:
        return np.bincount(place[known], values[known], minlength=len(all_of.row_ids)).astype(np.float64)

    n, c = (summed(values).astype(np.int64) for values in (np.ones(len(place)), passes))
    pass_at_1 = estimator.pass_at_ks(n, c, [1])[:, 0]
    of_passing, of_others = sample_weights(n, c, pass_at_1)
    mean = of_passing * summed(np.where(passes, scores, 0.0)) + of_others * summed(np.where(passes, 0.0, scores))
    return EarlyRows(all_of.row_ids, n, c, pass_at_1, mean, _majority(scored, all_of, pass_score, estimator))


def _majority(scored: pa.RecordBatch, all_of: RowScores, pass_score: float, estimator: Estimator) -> dict[int, Floats]:
    """majority@k in the first round, for rows where all of it is scored; with `agree` also for the budget."""
    first = row_scores(scored.filter(pc.less(scored.column("sample_idx"), estimator.ends[0])), pass_score)
    at, found = np.searchsorted(all_of.row_ids, first.row_ids), dict[int, Floats]()
    for k, values in first.majority.items():
        is_whole = first.sizes == estimator.ends[0]
        found[k] = np.full(len(all_of.row_ids), np.nan)
        found[k][at[is_whole]] = values[is_whole]
    if estimator.has_majority(estimator.budget):
        of_all = [all_of.majority[size][row] for row, size in enumerate(all_of.sizes.tolist())]
        found[estimator.budget] = np.array(of_all, np.float64)
    return found


def pass_at_ks(n: Counts, c: Counts, ks: Sequence[int], ends: Collection[int], stops: Stops) -> Floats:
    """The probability, for each row and each of `ks`, that one of its first k samples passes: shape (rows, ks).

    A row has `n` samples, of which `c` pass, and could have stopped at each of `ends` below its n. The mean over rows
    is unbiased for k up to the first end; also for every k up to the budget if no row stops without a pass before that
    (a row of fewer than k samples is then known to have one). NaN for a row that would have stopped earlier. A million
    rows are quick: time and memory grow only with the number of different (n, c).
    """
    width = int(n.max(initial=0)) + 1
    states, place = np.unique(n * width + c, return_inverse=True)
    sizes, passes = np.divmod(states, width)
    found = np.full((len(states), len(ks)), np.nan)
    for size, fewest, paths in _paths(width - 1, ks, frozenset(ends), stops):
        here = np.flatnonzero(sizes == size)
        at = passes[here] - fewest
        is_there = (at >= 0) & (at < paths.shape[1])
        every, failing = paths[0, at[is_there]], paths[1:, at[is_there]]
        with np.errstate(invalid="ignore"):  # 0 / 0 where there is no path
            found[here[is_there]] = 1.0 - (failing / every).T
    return found[place]


def sample_weights(n: Counts, c: Counts, pass_at_1: Floats) -> tuple[Floats, Floats]:
    """The weights, for each row, of a sample that passes and of one that does not; they add up to 1 in a row.

    With them the mean of any value of samples (score, length) is as unbiased as `pass_at_1`. All passing samples weigh
    the same, because which of them came first does not affect when the row stopped.
    """
    return pass_at_1 / np.maximum(c, 1), (1.0 - pass_at_1) / np.maximum(n - c, 1)


def _paths(most: int, ks: Sequence[int], ends: Collection[int], stops: Stops) -> Iterator[tuple[int, int, Floats]]:
    """For 1, 2, ... `most` samples: this number, the fewest possible passes, and a column for this many passes, one
    more, ... A column holds the orders of passes in which the row does not stop earlier, and for each of `ks` those of
    them in which the first k fail, as shares of all orders.

    Shares, because the numbers have hundreds of digits. Only positive numbers are added, so no digit is lost.
    """
    fewest, paths = 0, np.ones((1 + len(ks), 1))
    all_fail = np.array([0, *ks])[:, None]
    for size in range(1, most + 1):
        passes = fewest + np.arange(paths.shape[1] + 1)
        grown = np.zeros((len(paths), len(passes)))
        grown[:, :-1] += paths * ((size - passes[:-1]) / size)
        grown[:, 1:] += np.where(all_fail < size, paths, 0.0) * (passes[1:] / size)
        yield size, fewest, grown
        if size in ends:
            grown[:, [stops(size, int(c)) for c in passes]] = 0.0
        going = np.flatnonzero(grown[0])
        if not len(going):
            return
        paths, fewest = grown[:, going[0] : going[-1] + 1], fewest + int(going[0])

"""Estimates without bias from rows that a rule stopped because of their own scores; c / n would be biased.

A row that stops at its first pass shows more passes per sample than its prompt has, so neither its own share of passes
nor the pooled one is an estimate of anything. Girshick, Mosteller and Savage ("Unbiased estimates for certain binomial
sampling problems with applications", Annals of Mathematical Statistics 17, 1946) count paths: of all orders in which
`c` passes among `n` samples could have come without the row stopping earlier, those whose first sample passes. All of
them are equally likely, so that share is the chance that the first sample passed, given what came; and the first sample
of every row is a sample like any other. The same holds for "one of the first k passes". For rows that all have n
samples these are c / n and the pass@k of `rollout.scoring.pass_at_k`.
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
"""Whether a row ends after `n` samples of which `c` pass; asked at the ends of rounds only."""


Floats: TypeAlias = npt.NDArray[np.float64]
Counts: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Estimator:
    """What can be told of rows that `rule` has stopped, of at most `budget` samples each."""

    rule: AdaptiveConfig
    budget: int
    has_own_budgets: bool = False
    """Whether a row may have a budget of its own (`data.sampling_key`), which these numbers do not tell."""

    @property
    def ends(self) -> tuple[int, ...]:
        """After how many samples a row may have stopped."""
        return round_ends(tuple(self.rule.rounds), self.budget)

    @property
    def counted(self) -> int:
        """How many of the first samples of a row `n` and `c` are to count: all, but under `agree` those of the first
        round. It stops rows by their answers, so no count of passes says how they could have come.
        """
        return self.ends[0] if self.rule.until == "agree" else self.budget

    @property
    def largest_k(self) -> int:
        """The largest k for which there is a pass@k. Rows that wait for a pass have one if they stop before k, and had
        no smaller budget.
        """
        waits = self.rule.until in ("passes", "mixed") and not self.has_own_budgets
        return self.budget if waits else self.ends[0]

    def is_told(self, n: int, k: int) -> bool:
        """Whether a row of `n` samples has a pass@k: not where its own budget was smaller than k."""
        return n >= k or not self.has_own_budgets

    def has_majority(self, k: int) -> bool:
        """Whether majority@k can be told: in the first round, and under `agree` that of the whole budget."""
        is_of_all = self.rule.until == "agree" and k == self.budget and not self.has_own_budgets
        return k <= self.ends[0] or is_of_all

    def pass_at_ks(self, n: Counts, c: Counts, ks: Sequence[int]) -> Floats:
        """pass@k of rows with `n` samples, of which `c` pass: shape (rows, ks), see `pass_at_ks`.

        A sample that failed or has no score is one that does not pass. NaN where it is not told, see `is_told`.
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
        """The k of which pass@k is reported."""
        return reported_ks([self.largest_k])


def estimator_of(run: RunConfig, score: ScoreConfig) -> Estimator | None:
    """For the rows of `run`, scored by `score`; None where no rule stops them, and where it went by other scores."""
    asked = (getattr(run.postprocess.score, name) == getattr(score, name) for name in (*MADE_WITH, "pass_score"))
    if run.adaptive.until is None or not all(asked):
        return None
    return Estimator(run.adaptive, run.sampling.n_samples, run.data.sampling_key is not None)


def estimator_at(run: RunConfig | None, pass_score: float, scored_by: ScoreConfig | None) -> Estimator | None:
    """For the rows of `run`, where a response passes from `pass_score` on; None of no run.

    `scored_by` is what the scores that are there were made with; None: as the run did, as far as is known.
    """
    if run is None:
        return None
    return estimator_of(run, replace(made_by(scored_by, run.postprocess.score), pass_score=pass_score))


def made_by(scored_by: ScoreConfig | None, score: ScoreConfig) -> ScoreConfig:
    """`score` with that of `scored_by` which scores are made with, where it is known."""
    return score if scored_by is None else replace(score, **{name: getattr(scored_by, name) for name in MADE_WITH})


def has_stopped(batch: pa.RecordBatch) -> bool:
    """Whether a rule has stopped some of the rows, as the column `stopped` of a run's responses says."""
    at = batch.schema.get_field_index("stopped")
    if at < 0 or not pa.types.is_string(batch.schema.field(at).type):
        return False
    return bool(pc.any(pc.is_in(batch.column(at), pa.array(RULES))).as_py())


MADE_WITH = ("scorer", "ground_truth", "pattern", "after")
"""The fields of a ScoreConfig that decide which score a response has."""


@dataclass(frozen=True)
class EarlyRows:
    """Arrays with an entry for each row that has a scored response, in the order of the file."""

    row_ids: Counts
    n: Counts
    """Samples, failed and unscored ones too: of all or, under `agree`, of the first round."""
    c: Counts
    """Those that pass."""
    pass_at_1: Floats
    """An estimate; NaN for what the rule cannot have left, as where a sample passes at its second try."""
    mean: Floats
    """The same of the scores, where a sample without a score counts as 0."""
    majority: dict[int, Floats]
    """k -> majority@k; NaN in the rows of which it is not known."""


def early_rows(
    batch: pa.RecordBatch, scored: pa.RecordBatch, all_of: RowScores, pass_score: float, estimator: Estimator
) -> EarlyRows:
    """Of whole rows with the columns of a flat file and `score`. `scored` are those with a response and a score, and
    `all_of` their `row_scores`.
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
    """Of the first round, in rows in which all of it is scored; under `agree` of the budget too."""
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
    """The chance, for each row and each of `ks`, that one of its first k samples passes: shape (rows, ks).

    A row has `n` samples, of which `c` pass, and could have stopped at those of `ends` that are below its n. The mean
    over rows is unbiased for k up to the first end, and for every k up to the budget where no row stops without a pass
    before it (of a row of fewer than k samples it is known then that one passed). NaN for a row that would have ended
    before. A million rows are quick: time and memory are those of the different (n, c).
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
    """What a sample that passes counts in its row, and one that does not; together those of a row count 1.

    With them the mean of anything that a sample has (its score, its length) is as unbiased as `pass_at_1` is, in which
    every passing sample counts the same: which of them came first has nothing to do with when the row stopped.
    """
    return pass_at_1 / np.maximum(c, 1), (1.0 - pass_at_1) / np.maximum(n - c, 1)


def _paths(most: int, ks: Sequence[int], ends: Collection[int], stops: Stops) -> Iterator[tuple[int, int, Floats]]:
    """For 1, 2, ... `most` samples: that number, the fewest passes that can be reached, and a column for as many,
    one more, ... A column holds the orders in which they can come without the row stopping earlier, and for each of
    `ks` those in which the first k fail, as shares of all orders.

    Shares and not numbers, which have hundreds of digits. Only positive numbers are added: no digit is lost.
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

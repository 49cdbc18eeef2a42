"""A summary of the scores of many rows: mean, pass rate, pass@k, majority@k."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollout.scoring.distribution import Histogram
from rollout.scoring.intervals import Clusters, Estimate, SeedSums, clusters
from rollout.scoring.pass_at_k import pass_at_k, reported_ks
from rollout.scoring.rows import RowScores, row_scores, scored_responses
from rollout.scoring.stopped_early import EarlyRows, Estimator, early_rows, has_stopped

_MAX_DISTINCT = 1000  # different scores that the histogram counts without rounding
_BINS = 20


@dataclass(frozen=True, kw_only=True)
class ScoreSummary:
    """The scored responses. `unscored` ones have no score: no ground truth, the scorer raised or timed out, or one that
    is too large for sums.

    Mean and pass rate are None if no response has a score.
    """

    scored: int
    no_answer: int = 0
    """Scored responses in which the scorer found no answer."""
    cut_off: int = 0
    """Scored responses that max_tokens cut off. They are scored as they are."""
    unscored: int
    mean: float | None
    pass_rate: float | None
    """Share of the scored responses that pass."""
    pass_at_k: dict[str, float]
    """Mean over the rows with at least k scored responses. If a rule stopped rows, these, `mean` and `pass_rate` are
    unbiased estimates, see `rollout.scoring.stopped_early`.
    """
    majority_at_k: dict[str, float]
    """Mean over the same rows, for the first k scored responses of each; a row without an answer counts as wrong. If a
    rule stopped rows, mean over those where it is known. Empty for a scorer that gives no answers."""
    histogram: Histogram
    row_pass_rates: Histogram
    """The number of rows by pass rate."""
    pass_score: float
    """The score from which a response passes."""
    estimates: dict[str, Estimate] = field(default_factory=dict)
    """`mean`, `pass_rate`, `pass@1`, `majority@1`, ...: the numbers above, each with its error bar."""
    same_prompts_se: float | None = None
    """Standard error of the mean for the same prompts with new seeds; None if a row has only one scored response."""
    note: str | None = None
    """What a reader has to know about all these numbers."""
    is_graded: bool = False
    """Whether there are scores other than 0 and 1."""


PLAIN = (
    "a rule has stopped some of these rows, by other scores or with more samples as far as is known: the numbers are "
    "those of the samples that are there, and may lean to one side; no interval of a score is to be relied on, and "
    "compare tests no score"
)
"""The note if there is no unbiased estimate."""


class ScoreCounts:
    """Adds up scores, a batch of whole rows at a time. Memory grows with different scores and counts, not with rows."""

    def __init__(self, pass_score: float, grouped: bool = False, early: Estimator | None = None) -> None:
        """`grouped`: error bars are over groups of rows, see `add`. `early`: estimates for rows that a rule stopped."""
        self._pass_score, self._grouped, self._early = pass_score, grouped, early
        self._unscored = self._no_answer = self._cut_off = 0
        self._values = Counter[float]()
        self._rows = Counter[tuple[str, int, int]]()
        """(group, scored responses, those that pass) -> rows"""
        self._mean, self._seeds = clusters(grouped), SeedSums()
        self._majority: dict[int, Clusters] = {}
        self._has_answers = self._is_plain = False

    def add(self, batch: pa.RecordBatch, groups: Mapping[int, str] | None = None) -> None:
        """Count a batch with the columns of SCORE_FIELDS and `finish_reason`; `groups` maps each row to its group."""
        present = batch.filter(batch.column("response").is_valid())
        scored = scored_responses(present)
        self._unscored += present.num_rows - scored.num_rows
        self._no_answer += len(scored) - scored.column("score_error").null_count
        self._cut_off += pc.sum(pc.equal(scored.column("finish_reason"), "length")).as_py() or 0
        self._count_values(scored.column("score").to_numpy())
        rows = row_scores(scored, self._pass_score)
        self._has_answers |= rows.has_answers
        of_rows = [groups[row] if groups else "" for row in rows.row_ids.tolist()]
        if self._early is None:
            self._is_plain |= has_stopped(batch)
            self._add_rows(rows, of_rows)
        else:
            self._add_early(early_rows(batch, scored, rows, self._pass_score, self._early), of_rows)

    def _count_values(self, scores: npt.NDArray[np.float64]) -> None:
        for value, count in zip(*np.unique(scores, return_counts=True), strict=True):
            rounded = float(value) if len(self._values) < _MAX_DISTINCT else round(float(value), 3)
            self._values[rounded] += int(count)

    def _add_rows(self, rows: RowScores, groups: list[str]) -> None:
        self._rows.update(zip(groups, rows.sizes.tolist(), rows.passed.tolist(), strict=True))
        self._mean.add(rows.sums, rows.sizes, groups=groups)
        self._seeds.add(rows.sizes, rows.squares)
        self._add_majority(rows.majority, groups)

    def _add_early(self, rows: EarlyRows, groups: list[str]) -> None:
        """The mean is that of the estimates for each row; rows without an estimate are left out."""
        there = ~np.isnan(rows.pass_at_1)
        of_known = [group for group, is_known in zip(groups, there, strict=True) if is_known]
        self._rows.update(zip(of_known, rows.n[there].tolist(), rows.c[there].tolist(), strict=True))
        self._mean.add(rows.mean[there], groups=of_known)
        self._add_majority(rows.majority, groups)

    def _add_majority(self, majority: Mapping[int, npt.NDArray[np.float64]], groups: list[str]) -> None:
        for k, values in majority.items():
            there = ~np.isnan(values)
            if not there.any():  # the first round is not completely scored in any row
                continue
            voted = self._majority.setdefault(k, clusters(self._grouped))
            voted.add(values[there], groups=[group for group, is_there in zip(groups, there, strict=True) if is_there])

    def summary(self) -> ScoreSummary | None:
        """The summary; None if there were no responses to score."""
        scored = self._values.total()
        if not scored + self._unscored:
            return None
        estimates = self._estimates() if self._rows else {}
        values = np.array([*self._values], np.float64)
        rates = np.array([c / n for _, n, c in self._rows])
        mean, pass_rate = estimates.get("mean"), estimates.get("pass_rate")
        return ScoreSummary(
            scored=scored,
            no_answer=self._no_answer,
            cut_off=self._cut_off,
            unscored=self._unscored,
            mean=None if mean is None else mean.value,
            pass_rate=None if pass_rate is None else pass_rate.value,
            pass_at_k=_by_k(estimates, "pass@"),
            majority_at_k=_by_k(estimates, "majority@"),
            histogram=_histogram(values, [*self._values.values()], values.min(initial=0.0), values.max(initial=1.0)),
            row_pass_rates=_histogram(rates, [*self._rows.values()], 0.0, 1.0),
            pass_score=self._pass_score,
            estimates=untrusted(estimates) if self._is_plain else estimates,
            same_prompts_se=self._seeds.se,
            note=PLAIN if self._is_plain else None,
            is_graded=self._is_graded,
        )

    def _estimates(self) -> dict[str, Estimate]:
        """All estimates over all rows. A mean of only zeros and ones is a share."""
        ks = [k for k in self._ks() if any(self._is_told(n, k) for _, n, _ in self._rows)]
        majority = self._majority if self._has_answers else {}  # not every scorer gives answers
        return {
            "mean": self._mean.as_mean() if self._is_graded else self._mean.as_share(),
            "pass_rate": self._pass_rate(),
            **{f"pass@{k}": self._pass_at(k) for k in ks},
            **{f"majority@{k}": majority[k].as_share() for k in sorted(majority) if self._early or k in ks},
        }

    @property
    def _is_graded(self) -> bool:
        return not self._values.keys() <= {0.0, 1.0}

    def _ks(self) -> list[int]:
        return reported_ks(n for _, n, _ in self._rows) if self._early is None else self._early.ks

    def _is_told(self, n: int, k: int) -> bool:
        """Whether a row of `n` scored samples has a pass@k."""
        return n >= k if self._early is None else self._early.is_told(n, k)

    def _pass_rate(self) -> Estimate:
        if self._early is not None:
            return self._pass_at(1)
        groups, n, c = zip(*self._rows, strict=True)
        counted = clusters(self._grouped)
        counted.add(c, n, [*self._rows.values()], groups)
        return counted.as_share()

    def _pass_at(self, k: int) -> Estimate:
        enough = {row: times for row, times in self._rows.items() if self._is_told(row[1], k)}
        groups, n, c = zip(*enough, strict=True)
        counted = clusters(self._grouped)
        counted.add(self._pass_at_k(n, c, k), times=[*enough.values()], groups=groups)
        return counted.as_share()

    def _pass_at_k(self, n: Sequence[int], c: Sequence[int], k: int) -> npt.NDArray[np.float64]:
        """pass@k of rows with `n` samples each, of which `c` pass."""
        if self._early is not None:
            return self._early.pass_at_ks(np.array(n), np.array(c), [k])[:, 0]
        return np.array([pass_at_k(*of_row, k) for of_row in zip(n, c, strict=True)])


def untrusted(estimates: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """The estimates, marked as not to be relied on."""
    return {name: replace(it, trusted=False) for name, it in estimates.items()}


def _by_k(estimates: dict[str, Estimate], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): it.value for name, it in estimates.items() if name.startswith(prefix)}


def _histogram(values: npt.NDArray[np.float64], weights: list[int], low: float, high: float) -> Histogram:
    counts, edges = np.histogram(values, bins=_BINS, range=(low, high), weights=weights)
    return Histogram([round(float(edge), 6) for edge in edges], [int(count) for count in counts])

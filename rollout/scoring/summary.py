"""Scores of many rows in a few numbers: mean, pass rate, pass@k, majority@k."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollout.data.arrow import row_slices
from rollout.scoring.distribution import Histogram
from rollout.scoring.pass_at_k import majority_at_k, pass_at_k, reported_ks

_MAX_DISTINCT = 1000  # different scores that are counted one by one, for the histogram
_BINS = 20


@dataclass(frozen=True, kw_only=True)
class ScoreSummary:
    """Of the responses that have a score. `unscored` have none: no ground truth, or the scorer raised or timed out.

    Mean and pass rate are None where no response has a score.
    """

    scored: int
    no_answer: int = 0
    """Of the scored: those in which the scorer found no answer."""
    cut_off: int = 0
    """Of the scored: those that max_tokens cut off. They are scored as they are."""
    unscored: int
    mean: float | None
    pass_rate: float | None
    """Share of the scored responses that pass."""
    pass_at_k: dict[str, float]
    """Mean over the rows with at least k scored responses."""
    majority_at_k: dict[str, float]
    """Mean over the same rows, of those whose first k responses have an answer; empty for a scorer that names none."""
    histogram: Histogram
    row_pass_rates: Histogram
    """How many rows have which pass rate."""
    pass_score: float
    """The score from which a response passes."""


class ScoreCounts:
    """Adds up scores, a batch of whole rows at a time."""

    def __init__(self, pass_score: float) -> None:
        self._pass_score = pass_score
        self._unscored = self._no_answer = self._cut_off = 0
        self._sum = 0.0
        self._values = Counter[float]()
        self._rows = Counter[tuple[int, int]]()
        """(scored responses, those that pass) -> rows"""
        self._votes: defaultdict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
        """k -> (sum of majority@k, rows)"""
        self._has_answers = False

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch that has the columns of SCORE_FIELDS and `finish_reason`."""
        present = batch.filter(batch.column("response").is_valid())
        scored = present.filter(present.column("score").is_valid())
        self._unscored += present.num_rows - scored.num_rows
        self._no_answer += len(scored) - scored.column("score_error").null_count
        self._cut_off += pc.sum(pc.equal(scored.column("finish_reason"), "length")).as_py() or 0
        scores = scored.column("score").to_numpy()
        self._sum += float(scores.sum())
        self._count_values(scores)
        passed = scores >= self._pass_score
        answers = scored.column("extracted_answer").to_pylist()
        for start, stop in row_slices(scored):
            self._rows[stop - start, int(passed[start:stop].sum())] += 1
            self._vote(answers[start:stop], passed[start:stop].tolist())

    def _count_values(self, scores: npt.NDArray[np.float64]) -> None:
        for value, count in zip(*np.unique(scores, return_counts=True), strict=True):
            rounded = float(value) if len(self._values) < _MAX_DISTINCT else round(float(value), 3)
            self._values[rounded] += int(count)

    def _vote(self, answers: list[str | None], passed: list[bool]) -> None:
        self._has_answers |= any(answer is not None for answer in answers)
        for k in reported_ks([len(answers)]):
            self._votes[k][0] += majority_at_k(answers, passed, k)
            self._votes[k][1] += 1

    def summary(self) -> ScoreSummary | None:
        """The numbers; None where there was nothing to score."""
        scored = sum(n * rows for (n, _), rows in self._rows.items())
        if not scored + self._unscored:
            return None
        passed = sum(c * rows for (_, c), rows in self._rows.items())
        pass_at = {k: self._pass_at(k) for k in reported_ks(n for n, _ in self._rows)}
        votes = self._votes if self._has_answers else {}  # not every scorer gives answers
        values = np.array([*self._values], np.float64)
        rates = np.array([c / n for n, c in self._rows])
        return ScoreSummary(
            scored=scored,
            no_answer=self._no_answer,
            cut_off=self._cut_off,
            unscored=self._unscored,
            mean=self._sum / scored if scored else None,
            pass_rate=passed / scored if scored else None,
            pass_at_k={str(k): share for k, share in pass_at.items()},
            majority_at_k={str(k): total / rows for k, (total, rows) in sorted(votes.items()) if k in pass_at},
            histogram=_histogram(values, [*self._values.values()], values.min(initial=0.0), values.max(initial=1.0)),
            row_pass_rates=_histogram(rates, [*self._rows.values()], 0.0, 1.0),
            pass_score=self._pass_score,
        )

    def _pass_at(self, k: int) -> float:
        enough = {(n, c): rows for (n, c), rows in self._rows.items() if n >= k}
        return sum(pass_at_k(n, c, k) * rows for (n, c), rows in enough.items()) / sum(enough.values())


def _histogram(values: npt.NDArray[np.float64], weights: list[int], low: float, high: float) -> Histogram:
    counts, edges = np.histogram(values, bins=_BINS, range=(low, high), weights=weights)
    return Histogram([round(float(edge), 6) for edge in edges], [int(count) for count in counts])

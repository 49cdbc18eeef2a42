"""The scores of each row, reduced to values per row, from which means, shares and differences are computed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollout.data.arrow import row_slices, row_sums
from rollout.scoring.intervals import Floats
from rollout.scoring.pass_at_k import majorities_at_k, reported_ks

_MAX_VOTES = 1 << 22  # pairs of answers of the same row that are compared at a time


LARGEST = 1e300
"""The largest score that numbers are made of: sums of larger ones may be too large for a float."""


def scored_responses(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The responses with a score; one beyond LARGEST counts as none, as an infinite one does."""
    has_score = pc.fill_null(pc.less_equal(pc.abs(batch.column("score")), LARGEST), False)
    return batch.filter(pc.and_(batch.column("response").is_valid(), has_score))


@dataclass(frozen=True)
class RowScores:
    """Arrays with an entry for each row that has a scored response, in the order of the file."""

    row_ids: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    """The number of scored responses."""
    sums: Floats
    """The sum of their scores."""
    squares: Floats
    """The sum of the squared differences of the scores from the row's mean."""
    passed: npt.NDArray[np.int64]
    """The number of responses that pass."""
    majority: dict[int, Floats]
    """k -> majority@k, for each k that is reported for the number of responses of a row; NaN in the other rows."""
    has_answers: bool
    """Whether the scorer has found any answer."""


def row_scores(scored: pa.RecordBatch, pass_score: float) -> RowScores:
    """The values of whole rows in which every response has a `score`."""
    slices = row_slices(scored)
    scores = scored.column("score").to_numpy()
    passed = scores >= pass_score
    sizes = np.array([stop - start for start, stop in slices], np.int64)
    sums = row_sums(scores, slices)
    answers = _numbered(scored.column("extracted_answer"))
    return RowScores(
        row_ids=scored.column("row_id").to_numpy(zero_copy_only=False)[[start for start, _ in slices]],
        sizes=sizes,
        sums=sums,
        squares=row_sums(_squares(scores - np.repeat(sums / sizes, sizes)), slices),
        passed=row_sums(passed.astype(np.int64), slices),
        majority=_majority(answers, passed, sizes),
        has_answers=bool((answers >= 0).any()),
    )


def _squares(values: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return values**2


def _numbered(texts: pa.Array) -> npt.NDArray[np.int64]:
    """A number for each text, the same for equal texts; -1 for null."""
    indices = pc.fill_null(pc.dictionary_encode(texts).indices, -1)
    return np.asarray(indices.to_numpy(zero_copy_only=False), np.int64)


def _majority(
    answers: npt.NDArray[np.int64], passed: npt.NDArray[np.bool_], sizes: npt.NDArray[np.int64]
) -> dict[int, Floats]:
    majority: dict[int, Floats] = {}
    firsts = np.cumsum(sizes) - sizes
    for size in np.unique(sizes).tolist():
        rows = np.flatnonzero(sizes == size)
        for k in reported_ks([size]):
            of_k = majority.setdefault(k, np.full(len(sizes), np.nan))
            for some in np.array_split(rows, 1 + len(rows) * k * k // _MAX_VOTES):
                places = firsts[some, None] + np.arange(k)
                of_k[some] = majorities_at_k(answers[places], passed[places])
    return majority

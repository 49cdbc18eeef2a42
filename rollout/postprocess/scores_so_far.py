"""Scores of a run that a rule stops (`adaptive`), while it is running: from the first round of each row only.

Which rows have finished by now, and how many samples each has, depends on how many passed, so scores of all samples
would be biased. But every row begins with a first round, whatever its samples score.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rollout.config import RunConfig
from rollout.data.stopping import round_ends
from rollout.data.text import counted
from rollout.errors import UserError
from rollout.postprocess.durable import first_of_each, sample_keys
from rollout.scoring.stopped_early import Estimator
from rollout.scoring.summary import ScoreCounts, ScoreSummary
from rollout.store.journal import read_part

_READ = ["row_id", "sample_idx", "error", "finish_reason", "is_scored", "score", "score_error"]
_KEPT = pa.schema(
    [
        ("row_id", pa.int64()),
        ("sample_idx", pa.int32()),
        ("response", pa.bool_()),
        ("finish_reason", pa.dictionary(pa.int8(), pa.string())),
        ("score", pa.float64()),
        ("extracted_answer", pa.string()),
        ("score_error", pa.bool_()),
    ]
)
"""Of texts only whether there is one; of answers nothing."""


class ScoresSoFar:
    """The first rounds that are durable with their scores, kept up to date by `look`. Some 30 bytes for each sample."""

    def __init__(self, run: RunConfig) -> None:
        """`run` has a rule."""
        self._pass_score = run.postprocess.score.pass_score
        self._size = round_ends(tuple(run.adaptive.rounds), run.sampling.n_samples)[0]
        self._early = Estimator(run.adaptive, self._size)
        self._parts, self._samples = set[Path](), _KEPT.empty_table()
        self.summary: ScoreSummary | None = None
        """The numbers of the rows whose first round is all there; None where no sample of theirs has a score."""

    def look(self, parts: Sequence[Path]) -> None:
        """Take in those of `parts`, the whole parts of the journal, that are new."""
        if not self._parts <= set(parts):  # somebody has deleted some
            self._parts, self._samples, self.summary = set(), _KEPT.empty_table(), None
        new = [path for path in parts if path not in self._parts]
        if new:
            self._parts.update(new)
            self._samples = _once(pa.concat_tables([self._samples, *self._read(new)]).combine_chunks())
            self.summary = self._summary()

    def _read(self, parts: Sequence[Path]) -> Iterator[pa.Table]:
        for path in parts:
            try:
                part = read_part(path, _READ)
            except UserError:  # whoever counts the samples says so
                continue
            is_known = part.column("error").is_valid().to_numpy() | part.column("is_scored").fill_null(False).to_numpy()
            yield _kept(part.filter(pa.array(is_known & (part.column("sample_idx").to_numpy() < self._size))))

    def _summary(self) -> ScoreSummary | None:
        row_ids = self._samples.column("row_id").to_numpy()
        rows, sizes = np.unique(row_ids, return_counts=True)
        rows = rows[sizes == self._size]
        counts = ScoreCounts(self._pass_score, early=self._early)
        for batch in self._samples.filter(pa.array(np.isin(row_ids, rows))).combine_chunks().to_batches():
            counts.add(batch)
        found = counts.summary()
        if found is None or not found.estimates:
            return None
        samples = "sample" if self._size == 1 else f"{self._size} samples"
        of_rows = counted(found.estimates["mean"].n, "row")
        return replace(found, note=f"so far: of the first {samples} of {of_rows}, which no rule has stopped by then")


def _kept(part: pa.Table) -> pa.Table:
    """The rows of _KEPT of samples that have their scores or have failed."""
    columns = {
        "row_id": part.column("row_id"),
        "sample_idx": part.column("sample_idx"),
        "response": _true_or_null(part.column("error").is_null().to_numpy()),
        "finish_reason": part.column("finish_reason"),
        "score": part.column("score"),
        "extracted_answer": pa.nulls(part.num_rows, pa.string()),
        "score_error": _true_or_null(part.column("score_error").is_valid().to_numpy()),
    }
    return pa.table(columns).cast(_KEPT)


def _true_or_null(is_true: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(is_true, mask=~is_true)


def _once(samples: pa.Table) -> pa.Table:
    """Each sample once, in order: of equals the oldest, and one that failed only where no other is there."""
    return samples.take(pa.array(first_of_each(sample_keys(samples), samples.column("response").is_null().to_numpy())))

"""`row_id` and `sample_idx` for the responses of a flat file that lacks them: which of them belong to one row."""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollout.data.arrow import equal

PROMPT = ("prompt",)
"""The column of the prompts, unless others are named."""
_ROW, _SAMPLE = "row_id", "sample_idx"


def prompt_of(columns: Collection[str], prompts: Sequence[str] = PROMPT) -> str | None:
    """The column of a file that has the prompts: the first of `prompts` that is one of its `columns`."""
    return next((name for name in prompts if name in columns), None)


def told_by(columns: Collection[str], prompts: Sequence[str] = PROMPT) -> tuple[str, ...]:
    """The columns that tell the rows of a file with prompts apart, the prompts first; none where it has row_ids."""
    prompt = prompt_of(columns, prompts)
    if prompt is None or _ROW in columns:
        return ()
    return (prompt, _SAMPLE) if _SAMPLE in columns else (prompt,)


class Numbering:
    """Numbers the responses of one file, batch after batch.

    Without `row_id`, a response belongs to the row of the one before it where the two have the same prompt and its
    `sample_idx`, if there is one, is the higher. Without any of the three columns each response is a row of its own.
    """

    def __init__(self, columns: Collection[str], prompts: Sequence[str] = PROMPT) -> None:
        """Of a file with these `columns`; `prompts` as of `prompt_of`."""
        self._prompt = prompt_of(columns, prompts)
        self._missing = [name for name in (_ROW, _SAMPLE) if name not in columns]
        told_by = (_ROW,) if _ROW in columns else (self._prompt, _SAMPLE)
        self._told_by = [name for name in told_by if name is not None and name in columns]
        self._last: dict[str, pa.Array] = {}
        self._row, self._sample = -1, -1

    def missing(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """The columns that the file lacks (row_id, sample_idx), for its next `batch`."""
        if not (self._missing and batch.num_rows):
            return {}
        begins = self._begins_row(batch)
        rows, places = self._row + np.cumsum(begins), np.arange(batch.num_rows)
        samples = places - np.maximum.accumulate(np.where(begins, places, -1 - self._sample))
        self._row, self._sample = rows[-1], samples[-1]
        made = {_ROW: pa.array(rows, pa.int64()), _SAMPLE: pa.array(samples, pa.int32())}
        return {name: made[name] for name in self._missing}

    def _begins_row(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        begins = np.full(batch.num_rows, not self._told_by)
        for name in self._told_by:
            column = batch.column(name)
            begins[1:] |= self._is_new(name, column.slice(0, len(column) - 1), column.slice(1))
            begins[:1] |= self._is_new(name, self._last[name], column.slice(0, 1)) if self._last else True
        self._last = {name: batch.column(name).slice(batch.num_rows - 1) for name in self._told_by}
        return begins

    def _is_new(self, name: str, before: pa.Array, now: pa.Array) -> npt.NDArray[np.bool_]:
        """Whether each response begins a row, as far as the column `name` tells; `before` is of the ones before."""
        if name == _SAMPLE:
            return np.asarray(now.to_numpy() <= before.to_numpy())
        is_new = ~equal(before, now)
        return is_new | np.asarray(pc.is_null(now, nan_is_null=True)) if name == self._prompt else is_new

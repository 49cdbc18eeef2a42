"""`row_id` and `sample_idx` for the responses of a flat file that lacks them: which of them belong to one row."""

from collections.abc import Collection, Iterator, Sequence
from itertools import repeat
from typing import Any

import pyarrow as pa

from rollout.data.arrow import values

PROMPT = ("prompt",)
"""The column of the prompts, unless others are named."""
_ROW, _SAMPLE = "row_id", "sample_idx"


class Numbering:
    """Numbers the responses of one file, batch after batch.

    Without `row_id`, a response belongs to the row of the one before it where the two have the same prompt and its
    `sample_idx`, if there is one, is the higher. Without any of the three columns each response is a row of its own.
    """

    def __init__(self, columns: Collection[str], prompts: Sequence[str] = PROMPT) -> None:
        """Of a file with these `columns`; the first of `prompts` that is one of them holds the prompt."""
        self._prompt = next((name for name in prompts if name in columns), None)
        self._missing = [name for name in (_ROW, _SAMPLE) if name not in columns]
        told_by = (_ROW,) if _ROW in columns else (self._prompt, _SAMPLE)
        self._told_by = [name for name in told_by if name is not None and name in columns]
        self._last: dict[str, Any] = {}
        self._row, self._sample = -1, -1

    def missing(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """The columns that the file lacks (row_id, sample_idx), for its next `batch`."""
        if not self._missing:
            return {}
        numbers = list(self._numbers(batch))
        made = {
            _ROW: pa.array([row for row, _ in numbers], pa.int64()),
            _SAMPLE: pa.array([sample for _, sample in numbers], pa.int32()),
        }
        return {name: made[name] for name in self._missing}

    def _numbers(self, batch: pa.RecordBatch) -> Iterator[tuple[int, int]]:
        columns = [values(batch.column(name)) for name in self._told_by]
        for cells in zip(*columns, strict=True) if columns else repeat((), batch.num_rows):
            now = dict(zip(self._told_by, cells, strict=True))
            if self._begins_row(now):
                self._row, self._sample = self._row + 1, -1
            self._sample, self._last = self._sample + 1, now
            yield self._row, self._sample

    def _begins_row(self, now: dict[str, Any]) -> bool:
        before = self._last
        if not before:  # the first response, or nothing tells
            return True
        if self._prompt in now and (now[self._prompt] is None or now[self._prompt] != before[self._prompt]):
            return True
        if _SAMPLE in now and now[_SAMPLE] <= before[_SAMPLE]:
            return True
        return _ROW in now and bool(now[_ROW] != before[_ROW])

"""`row_id` and `sample_idx` for the responses of a flat file that lacks them: which of them belong to one row."""

from collections.abc import Collection, Iterator
from itertools import repeat
from typing import Any

import pyarrow as pa

from rollout.data.arrow import values

_PROMPT, _ROW, _SAMPLE = "prompt", "row_id", "sample_idx"


class Numbering:
    """Numbers the responses of one file, batch after batch.

    Without `row_id`, a response belongs to the row of the one before it where the two have the same `prompt` and its
    `sample_idx`, if there is one, is the higher. Without any of the three columns each response is a row of its own.
    """

    def __init__(self, columns: Collection[str]) -> None:
        self._missing = [name for name in (_ROW, _SAMPLE) if name not in columns]
        self._told_by = [name for name in ((_ROW,) if _ROW in columns else (_PROMPT, _SAMPLE)) if name in columns]
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
        if _PROMPT in now and (now[_PROMPT] is None or now[_PROMPT] != before[_PROMPT]):
            return True
        if _SAMPLE in now and now[_SAMPLE] <= before[_SAMPLE]:
            return True
        return _ROW in now and bool(now[_ROW] != before[_ROW])

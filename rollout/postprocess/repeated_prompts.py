"""Rows that ask what an earlier one asks, in a file that does not number its rows: these are likely samples of one row
that do not stand together.
"""

from array import array
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from rollout.data.arrow import row_slices, values
from rollout.data.text import counted
from rollout.postprocess.source import Source


class RepeatedPrompts:
    """Counts them while a source is read. 8 bytes for each row."""

    def __init__(self) -> None:
        self._hashes = array("q")
        self._rows = 0
        self._told_by: tuple[str, ...] = ()

    def counting(self, source: Source) -> Source:
        """`source`, whose rows are counted the next time that it is read, if only their prompts tell them apart."""
        self._told_by = source.told_by
        return source.then(source.schema, self._read) if source.told_by else source

    def note(self) -> str | None:
        """How many rows repeat a prompt, and the cure, once all are read; None where none does."""
        repeats = len(self._hashes) - len(np.unique(np.frombuffer(self._hashes, np.int64)))
        if not repeats:
            return None
        prompt, *numbers = self._told_by
        cure = f"sort the file by {prompt}{' and drop sample_idx' if numbers else ''}"
        of_rows = f"{repeats:,} of {counted(self._rows, 'row')}"
        return f"{of_rows} repeat the {prompt} of an earlier one; {cure}, so that they are samples of one row"

    def _read(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            first = pa.array([start for start, _ in row_slices(batch)], pa.int64())
            self._rows += len(first)
            prompts = batch.column(self._told_by[0]).take(first).drop_null()
            self._hashes.extend(hash(repr(prompt)) for prompt in values(prompts))
            yield batch

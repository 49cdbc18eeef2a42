"""Read the journal in the order of its rows, in bounded memory."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rollout.data.arrow import is_list
from rollout.data.row_sampling import SampleCounts
from rollout.records import JUDGED_FIELDS, SAMPLE_SCHEMA, Sample, sample_schema
from rollout.store.journal import check_origin, parts, read_part
from rollout.store.judged import Judged

_STEP_SAMPLES = 8192
_STEP_BYTES = 64 << 20
"""Limits on the samples that are put in order at a time: how many, and about how large."""

_BLOCK = 256
"""How many rows are read at a time to find samples without a score."""


class JournalReader:
    """Reads the parts of a journal once, in row order: each row group when its first row comes up."""

    def __init__(self, paths: Iterable[Path], schema: pa.Schema) -> None:
        self._schema = schema
        first_rows, num_samples, num_bytes = dict[tuple[Path, int], int](), 0, 0
        for path in paths:
            metadata = pq.read_metadata(path)
            check_origin(path, metadata)
            num_samples += metadata.num_rows
            for number in range(metadata.num_row_groups):
                group = metadata.row_group(number)
                first_rows[path, number] = group.column(0).statistics.min
                num_bytes += group.total_byte_size
        self.step = min(_STEP_SAMPLES, _STEP_BYTES * num_samples // num_bytes) if num_bytes else _STEP_SAMPLES
        """How many samples to put in order at a time."""
        self._closed = sorted(first_rows.items(), key=lambda item: item[1], reverse=True)
        self._open: dict[tuple[Path, int], pa.Table] = {}

    def rows_below(self, row_id: int) -> pa.Table:
        """The samples of all rows before `row_id` that have not been returned yet, older parts first."""
        while self._closed and self._closed[-1][1] < row_id:
            (path, group), _ = self._closed.pop()
            self._open[path, group] = read_part(path, self._schema.names, group)
        pieces = []
        for place in sorted(self._open):
            samples = self._open[place]
            cut = int(np.searchsorted(samples.column("row_id").to_numpy(), row_id))
            pieces.append(samples.slice(0, cut))
            if cut == samples.num_rows:
                del self._open[place]
            else:
                self._open[place] = samples.slice(cut)
        # a part that is older than a column has nulls there
        found = pa.concat_tables([*pieces, self._schema.empty_table()], promote_options="default")
        return found.select(self._schema.names)


class Scores:
    """The scores of a journal, row after row."""

    def __init__(self, run_dir: Path, counts: SampleCounts) -> None:
        """`counts` says how many samples each row has in the end."""
        names = ("row_id", "sample_idx", "error")
        schema = pa.schema([*(SAMPLE_SCHEMA.field(name) for name in names), *JUDGED_FIELDS])
        self._counts, self._journal = counts, JournalReader(parts(run_dir), schema)

    def of(self, row_id: int, num_rows: int) -> pa.Table:
        """JUDGED_FIELDS of all samples of `num_rows` rows from `row_id` on; to be called with ascending rows."""
        asked = self._counts.of_rows(row_id, num_rows)
        samples = self._journal.rows_below(row_id + num_rows)
        samples = samples.filter(asked.asks_for(samples))
        return samples.take(positions(samples, asked)).select([field.name for field in JUDGED_FIELDS])


def positions(samples: pa.Table, counts: SampleCounts) -> npt.NDArray[np.int64]:
    """The position in `samples` of each (row, sample) that `counts` asks for, in output order.

    A sample may be there twice: if it failed first and succeeded later, the success counts; if it was written before it
    had its score, the one with the score. Of equals the oldest counts.
    """
    slot = counts.places_of(samples)
    worth = samples.column("error").is_null().to_numpy().astype(np.int8)
    if "is_scored" in samples.schema.names:
        worth += samples.column("is_scored").fill_null(False).to_numpy()
    found = np.full(counts.total, -1, dtype=np.int64)
    for group in (np.flatnonzero(worth == value)[::-1] for value in range(worth.max(initial=0) + 1)):
        found[slot[group]] = group  # of several writes to one slot the last stays
    if missing := int((found < 0).sum()):
        last_row = counts.first_row + counts.num_rows - 1
        raise RuntimeError(f"{missing} samples of rows {counts.first_row} to {last_row} are not in the journal")
    return found


class Unscored:
    """The samples of a journal that have no score yet, row after row."""

    def __init__(self, run_dir: Path, extras: Sequence[str], judged: Judged) -> None:
        self._judged, self._found, self._read_to = judged, dict[int, list[Sample]](), judged.counts.first_row
        self._schema = sample_schema(extras)
        self._journal = JournalReader(parts(run_dir), self._schema) if judged.has_unscored else None

    def of(self, row_id: int) -> list[Sample]:
        """The samples of a row; to be called with ascending rows."""
        if self._journal is None:
            return []
        while row_id >= self._read_to:
            self._read(self._journal)
        return self._found.pop(row_id, [])

    def _read(self, journal: JournalReader) -> None:
        """Find the samples of the next rows."""
        rows = range(self._read_to, self._read_to + _BLOCK)
        self._read_to, self._found = rows.stop, {}
        table = journal.rows_below(rows.stop)
        row_ids, numbers = (table.column(name).to_pylist() for name in ("row_id", "sample_idx"))
        known = range(self._judged.counts.first_row, self._judged.counts.first_row + self._judged.counts.num_rows)
        wanted = {row: set(self._judged.unscored(row)) for row in {*row_ids} if row in known}
        for position, (row, number) in enumerate(zip(row_ids, numbers, strict=True)):
            if number in wanted.get(row, ()):
                wanted[row].discard(number)  # the journal may have a sample twice
                self._found.setdefault(row, []).append(_sample(table.slice(position, 1)))


def _sample(of_one: pa.Table) -> Sample:
    """A sample without an error, as it was before it was written."""
    (values,) = of_one.to_pylist()
    for field in of_one.schema:
        if is_list(field.type) and values[field.name] is not None:
            values[field.name] = np.array(values[field.name], field.type.value_type.to_pandas_dtype())
    return Sample(**values)

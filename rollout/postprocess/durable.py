"""The durable samples of a run that is still growing or was killed: numbers, and a Source of them.

Only parts of the journal under their final names are read: they are complete and never change. A sample that is there
twice counts once, as in the merge: the oldest without an error.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rollout.config import RunConfig
from rollout.data.row_sampling import SampleCounts
from rollout.data.tables import BATCH_BYTES, Table
from rollout.errors import UserError
from rollout.postprocess.source import Source, flat_schema
from rollout.records import sample_schema
from rollout.scoring.distribution import Distribution, ValueCounts
from rollout.store.finalize import PROMPT, prompts_of, wide
from rollout.store.journal import parts, read_part
from rollout.store.journal_reader import JournalReader

_COLUMNS = ["row_id", "sample_idx", "error", "finish_reason", "num_generated_tokens"]
_INDEX_BITS = 24  # of a sample's key; the others are for its row
_PARTS = 64  # that are taken in at a time
_NOTHING = " "  # the name of a column that is not asked for

Keys = npt.NDArray[np.int64]
"""Samples, each as one number."""


class Durable:
    """The numbers of all samples that are durable, kept up to date by `look`. Takes 8 bytes for each of them."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.damaged: dict[Path, str] = {}
        """Parts that cannot be read, and why."""
        self._forget()

    def _forget(self) -> None:
        self.parts: list[Path] = []
        """The parts that these numbers are from, oldest first."""
        self.finish_reasons = Counter[str]()
        """Of the samples without an error."""
        self._done = np.empty(0, np.int64)
        self._errors: dict[int, str] = {}
        self._lengths = ValueCounts()

    def look(self) -> None:
        """Read the parts that are new."""
        there = parts(self.run_dir)
        if not set(self.parts) <= set(there):  # somebody has deleted some
            self._forget()
        self.damaged, new = {}, sorted(set(there) - set(self.parts))
        for start in range(0, len(new), _PARTS):
            if tables := list(self._read(new[start : start + _PARTS])):
                self._add(pa.concat_tables(tables))
        self.parts.sort()

    def _read(self, paths: list[Path]) -> Iterator[pa.Table]:
        for path in paths:
            try:
                yield read_part(path, _COLUMNS)
                self.parts.append(path)
            except UserError as error:  # looked at again the next time
                self.damaged[path] = str(error)

    @property
    def num_done(self) -> int:
        """Durable samples without an error."""
        return len(self._done)

    @property
    def num_failed(self) -> int:
        """Samples that have only failed so far."""
        return len(self._errors)

    @property
    def num_rows(self) -> int:
        """Rows with a durable sample, also a failed one."""
        return len(np.unique(np.concatenate([self._done, self._failed()]) >> _INDEX_BITS))

    @property
    def tokens(self) -> Distribution | None:
        """Lengths of the responses."""
        return self._lengths.distribution()

    @property
    def errors(self) -> Counter[str]:
        """Why samples failed."""
        return Counter(self._errors.values())

    def counts(self, n_samples: int) -> SampleCounts:
        """How many samples each row may have, as far as can be told without the input."""
        rows = np.concatenate([self._done, self._failed()]) >> _INDEX_BITS
        first, last = (int(rows.min()), int(rows.max())) if len(rows) else (0, -1)
        return SampleCounts.equal(last + 1 - first, n_samples, first)

    def _failed(self) -> Keys:
        return np.fromiter(self._errors, np.int64, len(self._errors))

    def _add(self, samples: pa.Table) -> None:
        keys = sample_keys(samples)
        failed = samples.column("error").is_valid().to_numpy()
        new, first = np.unique(keys[~failed], return_index=True)  # of equals the oldest
        is_new = ~_is_in(new, self._done)
        chosen = samples.take(np.flatnonzero(~failed)[first[is_new]])
        self._done = np.sort(np.concatenate([self._done, new[is_new]]), kind="stable")
        self._lengths.add(chosen.column("num_generated_tokens").to_numpy())
        self.finish_reasons.update(chosen.column("finish_reason").to_pylist())
        errors = samples.column("error").take(np.flatnonzero(failed)).to_pylist()
        self._errors |= zip(keys[failed].tolist(), errors, strict=True)
        tried = self._failed()
        for key in tried[_is_in(tried, self._done)].tolist():  # it failed first, and succeeded later
            del self._errors[key]


def durable_source(durable: Durable, run: RunConfig, table: Table | None, counts: SampleCounts) -> Source:
    """The samples that `durable` is of, one per row: what is not there yet has none.

    `table` is the input, whose columns come first; None where it cannot be read here. `counts` says how many samples a
    row may have.
    """
    paths, extras = list(durable.parts), run.extra_columns
    schema = flat_schema([] if table is None else table.schema, extras)

    def batches() -> Iterator[pa.RecordBatch]:
        reader = JournalReader(paths, sample_schema(extras))
        for first, rows in _inputs(table, counts):
            row, step = first, min(reader.step, BATCH_BYTES // (1 + rows.nbytes // max(1, rows.num_rows)))
            while row < first + rows.num_rows:
                end = min(first + rows.num_rows, row + counts.rows_within(row, step))
                if (samples := _once(reader.rows_below(end))).num_rows:
                    yield _beside(rows, first, samples, schema)
                row = end

    return Source(durable.run_dir, schema, batches)


def _inputs(table: Table | None, counts: SampleCounts) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(row_id of the first row, rows) of the input."""
    if table is None:
        yield counts.first_row, pa.record_batch([pa.nulls(counts.num_rows)], [_NOTHING])
        return
    row_id = table.first_row
    for batch in table.batches():
        yield row_id, batch
        row_id += batch.num_rows


def sample_keys(samples: pa.Table) -> Keys:
    """Row and number of each sample, as one integer."""
    keys: Keys = (samples.column("row_id").to_numpy() << _INDEX_BITS) | samples.column("sample_idx").to_numpy()
    return keys


def _is_in(keys: Keys, ascending: Keys) -> npt.NDArray[np.bool_]:
    if not len(ascending):
        return np.zeros(len(keys), np.bool_)
    found: npt.NDArray[np.bool_] = ascending[np.searchsorted(ascending[:-1], keys)] == keys
    return found


def _once(samples: pa.Table) -> pa.Table:
    """Each sample once, in order; `samples` are those of older parts first."""
    keys = sample_keys(samples)
    is_unscored = np.zeros(len(keys), np.bool_)
    if "is_scored" in samples.schema.names:
        is_unscored = ~samples.column("is_scored").fill_null(False).to_numpy()
    first = first_of_each(keys, samples.column("error").is_valid().to_numpy(), is_unscored)
    chosen = samples.cast(wide(samples.schema)).take(first).cast(samples.schema)
    if PROMPT not in samples.schema.names:
        return chosen
    prompts = prompts_of(samples, chosen.column("row_id").to_numpy())
    return chosen.set_column(chosen.schema.get_field_index(PROMPT), PROMPT, prompts)


def first_of_each(keys: Keys, *last: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Where each key is, ascending: of equals the first one that none of `last` is true of, if there is any."""
    order = np.lexsort((*reversed(last), keys))  # which keeps the order of equals
    _, first = np.unique(keys[order], return_index=True)
    places: npt.NDArray[np.intp] = order[first]
    return places


def _beside(rows: pa.RecordBatch, first_row: int, samples: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    """`samples` behind the columns of their input rows, of which `rows` are some, from `first_row` on."""
    taken = rows.take(pa.array(samples.column("row_id").to_numpy() - first_row))
    inputs = dict(zip(taken.schema.names, taken.columns, strict=True))
    told = {name: samples.column(name).combine_chunks() for name in samples.schema.names} | inputs
    # why a row has stopped is known when it has all its samples, and not in the journal
    columns = [told[field.name] if field.name in told else pa.nulls(samples.num_rows, field.type) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)

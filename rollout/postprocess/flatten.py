"""One row per response: `row_id`, `sample_idx`, every input column, every field of the response."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rollout.files import replacing
from rollout.records import FLAT_FIELDS, ROLLOUT_COLUMNS
from rollout.tables import BATCH_BYTES, Table, open_table

FLAT = "flat.parquet"


def flatten(rollouts: Path, output_dir: Path) -> Path:
    """Write `flat.parquet` from `rollouts`."""
    output = output_dir / FLAT
    batches = flat_batches(rollouts)
    first = next(batches)
    with replacing(output) as partial, pq.ParquetWriter(partial, first.schema, compression="zstd") as writer:
        writer.write_batch(first)
        for batch in batches:
            writer.write_batch(batch)
    return output


def flat_batches(rollouts: Path) -> Iterator[pa.RecordBatch]:
    """The rows of `rollouts`, one per response, in order, a batch of input rows at a time."""
    table = open_table(rollouts, "input")
    inputs = [column for column in table.schema if column.name not in ROLLOUT_COLUMNS]
    schema = pa.schema([*inputs, *FLAT_FIELDS])
    for batch in _pieces(table):
        responses = batch.column("responses")
        counts = pc.list_value_length(responses).to_numpy()
        row = pa.array(np.repeat(np.arange(batch.num_rows), counts))
        sample_idx = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
        response = pc.list_flatten(responses)
        error = pc.if_else(pc.is_null(response), batch.column("error").take(row), None)
        columns = [batch.column(column.name).take(row) for column in inputs]
        columns += [
            batch.column("row_id").take(row),
            pa.array(sample_idx),
            response,
            pc.list_flatten(batch.column("finish_reasons")),
            batch.column("num_prompt_tokens").take(row),
            pc.list_flatten(batch.column("num_generated_tokens")),
            pc.list_flatten(batch.column("seeds")),
            error,
            batch.column("truncated_prompt").take(row),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _pieces(table: Table) -> Iterator[pa.RecordBatch]:
    """The batches of `table`, split where repeating the input columns for every response would make them too large."""
    for batch in table.batches():
        most = pc.max(pc.list_value_length(batch.column("responses"))).as_py()
        rows = max(1, batch.num_rows * BATCH_BYTES // max(batch.nbytes * most, BATCH_BYTES))
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)

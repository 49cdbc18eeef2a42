"""Write Parquet files, complete or not at all, with the same settings for all results."""

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from rollout.files import replacing
from rollout.records import EXTRAS


def write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write `batches` to `path`, complete or not at all. Returns the number of rows."""
    num_rows = 0
    with replacing(path) as partial_path, parquet_writer(partial_path, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            num_rows += batch.num_rows
    return num_rows


def parquet_writer(where: Path | BinaryIO, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer with the settings of all results; the caller closes it."""
    return pq.ParquetWriter(where, schema, compression="zstd", use_dictionary=_with_dictionary(schema))


def _with_dictionary(schema: pa.Schema) -> bool | list[str]:
    """The columns to write with a dictionary, as paths to their leaves; True for all.

    Token ids and log-probabilities have none: it would make log-probabilities larger, and both slower to write.
    """
    if EXTRAS.keys().isdisjoint(schema.names):
        return True
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    leaves = pq.read_metadata(pa.BufferReader(sink.getvalue())).schema
    paths = [leaves.column(number).path for number in range(len(leaves))]
    return [path for path in paths if path.split(".")[0] not in EXTRAS]

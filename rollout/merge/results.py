"""Concatenate several rollouts.parquet to the one that a run over the whole input would have written.

Usually the same byte for byte: row groups are cut where `finalize` would have cut them, unless the input is a CSV of
more than 16 MiB, has rows of more than 256 KiB on average, or categorical columns in several row groups.
"""

import base64
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rollout.data.parquet_output import write_parquet
from rollout.data.tables import BATCH_BYTES, BATCH_ROWS, Table, conform, open_table
from rollout.data.text import counted
from rollout.errors import UserError
from rollout.merge.shards import Shard
from rollout.records import extras_of, rollout_fields
from rollout.store.digest import Digest
from rollout.store.finalize import row_groups
from rollout.store.footer import DIGEST, digest_text
from rollout.store.layout import OUTPUT
from rollout.terminal.text import resume_command

_DIGEST = DIGEST.encode()


def open_results(shards: list[Shard]) -> list[Table]:
    """The rollouts.parquet of each shard. Raises UserError for those that have changed since their run wrote them."""
    tables, problems = list[Table](), list[str]()
    for shard in shards:
        again = f"delete it, then `{resume_command(shard.run_dir)}`"
        try:
            tables.append(open_table(shard.run_dir / OUTPUT, OUTPUT))
        except UserError as error:
            problems += [f"{line}; or {again}" for line in error.problems]
            continue
        if _footer(tables[-1].path).get(_DIGEST) != digest_text(shard.record.digest).encode():
            problems.append(f"{tables[-1].path}: not the file that the run has written; {again}")
        elif tables[-1].num_rows != (rows := shard.totals.rows):
            problems.append(
                f"{tables[-1].path}: has {counted(tables[-1].num_rows, 'row')}, and the run has {rows}; {again}"
            )
        elif tables[-1].schema != tables[0].schema:
            problems.append(f"{tables[-1].path}: its columns are not those of {tables[0].path}; {again}")
    if problems:
        raise UserError(*problems)
    return tables


def write_merged(path: Path, tables: list[Table], digest: Digest) -> None:
    """Write the rows of `tables` to `path`, completely or not at all; `digest` goes to the footer.

    Raises UserError if a row is missing, doubled or in the wrong place.
    """
    schema = _schema([table.path for table in tables], digest)
    write_parquet(path, schema, _batches(tables, schema))


def _schema(paths: list[Path], digest: Digest) -> pa.Schema:
    """The schema that the first run has written, with the footer keys that are equal in all runs.

    Reading the file gives another schema: in Parquet the items of lists have their own names.
    """
    footers = [_footer(path) for path in paths]
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(footers[0][b"ARROW:schema"])))
    alike = {key: text for key, text in schema.metadata.items() if all(text == footer.get(key) for footer in footers)}
    return schema.with_metadata(alike | {_DIGEST: digest_text(digest)})


def _footer(path: Path) -> dict[bytes, bytes]:
    return pq.read_metadata(path).metadata or {}


def _batches(tables: list[Table], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    parts = _numbered(_in_order(tables), _batch_rows(tables))
    for _, rows in groupby(parts, key=itemgetter(0)):
        for group in row_groups(part for _, part in rows):
            yield conform(group, schema)


def _numbered(batches: Iterator[pa.RecordBatch], num_rows: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows of `batches`, cut at every multiple of `num_rows`; each part comes with the number of multiples before
    it.
    """
    row = 0
    for batch in batches:
        while batch.num_rows:
            part = batch.slice(0, num_rows - row % num_rows)
            yield row // num_rows, part
            row += part.num_rows
            batch = batch.slice(part.num_rows)


def _in_order(tables: list[Table]) -> Iterator[pa.RecordBatch]:
    """The rows of all tables. Raises UserError unless their row_ids are 0, 1, 2, ..."""
    row_id = 0
    for table in tables:
        for batch in table.batches():
            if batch.column("row_id").to_pylist() != [*range(row_id, row_id + batch.num_rows)]:
                raise UserError(
                    f"{table.path}: its row_ids do not go on with {row_id}; delete it, then "
                    f"`{resume_command(table.path.parent)}`"
                )
            row_id += batch.num_rows
            yield batch


def _batch_rows(tables: list[Table]) -> int:
    """Rows in a batch of the input, as `open_parquet` would choose it, from the size of the input's columns."""
    num_bytes = 0
    for table in tables:
        about = pq.read_metadata(table.path)
        groups = [about.row_group(number) for number in range(about.num_row_groups)]
        inputs = range(about.num_columns - len(rollout_fields(extras_of(table.schema))))  # each is one Parquet column
        num_bytes += sum(group.column(number).total_uncompressed_size for group in groups for number in inputs)
    return max(1, min(BATCH_ROWS, BATCH_BYTES * sum(table.num_rows for table in tables) // max(1, num_bytes)))

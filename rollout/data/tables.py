"""Parquet, JSONL, CSV and plain text files as a stream of Arrow batches with one fixed schema.

At most one batch of a file is in memory. JSONL, CSV and text files are scanned once when opened, to count rows and to
determine every column's type before the first row is written; Parquet has both in its footer.
"""

import json
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from rollout.data.arrow import cast, plain_field
from rollout.data.json_text import load_json
from rollout.data.jsonl_types import ColumnType, column_array
from rollout.data.missing import no_such_file, refuse_other_than_a_file
from rollout.data.text_files import COMPRESSED, is_utf8, line_blocks, open_text
from rollout.errors import UserError
from rollout.files import is_read_once

BATCH_ROWS = 1024
BATCH_BYTES = 256 << 20
"""Approximate limits for the size of a batch."""

_CSV_BLOCK = 16 << 20  # bytes; also the longest line
_LOOK_AHEAD = 1 << 20  # characters after the first line of a .jsonl file

_INT96_UNIT = "us"  # for Spark's timestamps: in nanoseconds the year 9999 would silently become another year


class NotALineEach(ValueError):
    """A .jsonl file does not hold one JSON object per line; the message says what it holds, and the cure."""


@dataclass(frozen=True)
class Table:
    """All or some rows of a file. Every call of `batches()` starts again from the first row."""

    path: Path
    schema: pa.Schema
    num_rows: int
    batches: Callable[[], Iterator[pa.RecordBatch]]
    bad_rows: dict[int, str] = field(default_factory=dict)
    """Rows of the file that could not be read, with the reason; every column of such a row is null."""
    first_row: int = 0
    """Position of the first row in the file. All row ids, also in `bad_rows`, are positions in the file."""
    from_row: Callable[[int], Iterator[pa.RecordBatch]] | None = None
    """`from_row(n)`: the batches from row n of the file on, if earlier rows need not be decoded for that."""


def open_table(path: Path, key: str, may_be_empty: bool = False) -> Table:
    """Open a file. Raises UserError, naming the config `key`, if this is impossible, or if the file has no rows but
    must have some.
    """
    openers = {".parquet": open_parquet, ".jsonl": _open_jsonl, ".csv": _open_csv, ".txt": _open_text}
    compressed = [*openers][1:]
    kind = Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix
    if not path.exists():
        raise no_such_file(path, key)
    if path.is_dir():
        raise UserError(
            f"{key}={path}: is a folder; give a file, or make one of its files: "
            "python -m rollout prepare FOLDER input.parquet"
        )
    if is_read_once(path):
        raise UserError(f"{key}={path}: is a pipe or a device, and a file is read more than once; give a file")
    if kind not in (openers if kind == path.suffix else compressed):
        raise UserError(
            f"{key}={path}: give a file that ends in {', '.join(openers)} ({' or '.join(COMPRESSED)} behind the last "
            "three)"
        )
    table = opened(path, openers[kind], key)
    return table if may_be_empty else not_empty(table, key)


def open_result(path: Path, key: str) -> Table:
    """Open a file of responses, which may have no rows. Raises UserError as `open_table` does."""
    refuse_other_than_a_file(path, key)
    return open_table(path, key, may_be_empty=True)


def opened(path: Path, opener: Callable[[Path], Table], key: str) -> Table:
    """`opener(path)`. Raises UserError, naming the config `key`, for anything wrong with the file."""
    try:
        table = opener(path)
    except NotALineEach as error:
        raise UserError(f"{key}={path}: {error}") from error
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if path.suffix != ".parquet" and not is_utf8(path):
            hint = " (in Excel: CSV UTF-8)" if ".csv" in path.suffixes else ""
            raise UserError(f"{key}={path}: the text is not UTF-8; save it as UTF-8{hint}") from error
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{key}={path}: not a readable {path.suffix} file ({reason}); write it again") from error
    except UnicodeEncodeError as error:  # Arrow raises it for the path
        raise UserError(f"{key}={path}: the name is not UTF-8; give the file another one") from error
    except OSError as error:
        raise UserError(f"{key}={path}: cannot be read ({error}); check the file and its permissions") from error
    doubled = sorted({name for name in table.schema.names if table.schema.names.count(name) > 1})
    if doubled:
        raise UserError(f"{key}={path}: more than one column is called {', '.join(doubled)}; rename one")
    return table


def not_empty(table: Table, key: str) -> Table:
    """`table`. Raises UserError, naming the config `key`, if it has no rows."""
    if table.num_rows == 0:
        raise UserError(f"{key}={table.path}: has no rows; check what wrote it")
    return table


def select(
    table: Table,
    drop_columns: Iterable[str] = (),
    limit: int | None = None,
    num_shards: int = 1,
    shard_index: int = 0,
) -> Table:
    """A file's table without some columns, and only one shard of its first `limit` rows.

    Shard i of S has the rows from i * N // S up to (i + 1) * N // S: every row is in one shard, and sizes differ by
    one at most. Raises KeyError for a column that does not exist.
    """
    dropped = set(drop_columns)
    if missing := dropped - set(table.schema.names):
        raise KeyError(", ".join(sorted(missing)))
    kept = [name for name in table.schema.names if name not in dropped]
    num_rows = table.num_rows if limit is None else min(limit, table.num_rows)
    first, end = (index * num_rows // num_shards for index in (shard_index, shard_index + 1))

    def batches() -> Iterator[pa.RecordBatch]:
        left = end - first
        for batch in _from_row(table, first):
            yield batch.select(kept).slice(0, left)
            left -= batch.num_rows
            if left <= 0:
                return

    schema = pa.schema([table.schema.field(name) for name in kept])
    return Table(table.path, schema, end - first, batches, table.bad_rows, first)


def _from_row(table: Table, row: int) -> Iterator[pa.RecordBatch]:
    return _without_first(table.batches(), row) if table.from_row is None else table.from_row(row)


def _without_first(batches: Iterator[pa.RecordBatch], num_rows: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if num_rows < batch.num_rows:
            yield batch.slice(num_rows)
        num_rows = max(0, num_rows - batch.num_rows)


def open_parquet(path: Path) -> Table:
    """Open a Parquet file. Raises the error of pyarrow if it cannot be read."""
    with pq.ParquetFile(path, coerce_int96_timestamp_unit=_INT96_UNIT) as file:
        schema, num_rows = plain_schema(file.schema_arrow), file.metadata.num_rows
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    # an Arrow array of text holds 2 GiB at most
    batch_rows = max(1, min(BATCH_ROWS, BATCH_BYTES * num_rows // max(1, sum(g.total_byte_size for g in groups))))
    batches = partial(_parquet_batches, path, schema, batch_rows)
    ends = list(accumulate(group.num_rows for group in groups))

    def from_row(row: int) -> Iterator[pa.RecordBatch]:
        group = bisect_right(ends, row)
        return _without_first(batches(first_group=group), row - (ends[group - 1] if group else 0))

    return Table(path, schema, num_rows, batches, from_row=from_row)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """`schema` with plain types, and without pandas' metadata, which describes the old types."""
    return pa.schema(map(plain_field, schema))


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """`batch` with its columns cast to the types of `schema`, in the same order."""
    columns = [cast(array, column.type) for array, column in zip(batch.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _parquet_batches(path: Path, schema: pa.Schema, batch_rows: int, first_group: int = 0) -> Iterator[pa.RecordBatch]:
    # without these two settings a large row group would be in memory as a whole
    options: dict[str, Any] = {"pre_buffer": False, "buffer_size": 1 << 20}
    with pq.ParquetFile(path, coerce_int96_timestamp_unit=_INT96_UNIT, **options) as file:
        batches = file.iter_batches(batch_size=batch_rows, row_groups=range(first_group, file.num_row_groups))
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (OSError, pa.ArrowInvalid) as error:
                raise UserError(f"{path}: damaged ({str(error).splitlines()[0]}); write it again") from error
            yield conform(batch, schema)


def _open_csv(path: Path) -> Table:
    """Every column is text: CSV has no types, and guessing them would change what the file says."""
    with open_text(path) as file:
        if not file.read(1):  # Arrow calls an empty file unreadable
            return Table(path, pa.schema([]), 0, partial(iter, ()))
    with _csv_reader(path, {}) as reader:
        schema = pa.schema([(name, pa.string()) for name in reader.schema.names])
    num_rows = sum(batch.num_rows for batch in _csv_batches(path, schema))
    return Table(path, schema, num_rows, partial(_csv_batches, path, schema))


def _csv_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with _csv_reader(path, {column.name: column.type for column in schema}) as reader:
        for batch in reader:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)


def _csv_reader(path: Path, types: dict[str, pa.DataType]) -> pa_csv.CSVStreamingReader:
    return pa_csv.open_csv(
        path,
        read_options=pa_csv.ReadOptions(block_size=_CSV_BLOCK),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            column_types=types, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
        ),
    )


def _open_text(path: Path) -> Table:
    """Open a text file with one prompt per line, as a column `prompt`."""
    schema, num_rows = pa.schema([("prompt", pa.string())]), sum(map(len, line_blocks(path)))
    batches = partial(_text_batches, path, schema)
    return Table(path, schema, num_rows, batches, from_row=batches)


def _text_batches(path: Path, schema: pa.Schema, first_row: int = 0) -> Iterator[pa.RecordBatch]:
    for lines in line_blocks(path, first_row):
        texts = [line.removesuffix("\n").removesuffix("\r") for _, line in lines]
        yield pa.RecordBatch.from_arrays([pa.array(texts, pa.string())], schema=schema)


def _open_jsonl(path: Path) -> Table:
    """Open a JSONL file. Types are determined from the whole file; a column that no single type fits becomes JSON text.

    Raises NotALineEach for a file that is JSON, but does not have one object per line.
    """
    _refuse_other_json(path)
    columns, num_rows, bad_rows = dict[str, ColumnType](), 0, dict[int, str]()
    for lines in line_blocks(path):
        rows = []
        for number, line in lines:
            row = _parse_line(line)
            if isinstance(row, str):
                bad_rows[num_rows] = f"line {number}: {row}"
            else:
                rows.append(row)
            num_rows += 1
        for name in dict.fromkeys(name for row in rows for name in row):
            columns.setdefault(name, ColumnType()).add([row.get(name) for row in rows])
    schema = pa.schema([column.field(name) for name, column in columns.items()])
    batches = partial(_jsonl_batches, path, schema)
    return Table(path, schema, num_rows, batches, bad_rows, from_row=batches)


def _refuse_other_json(path: Path) -> None:
    """Raise NotALineEach for an array of objects, or an object over several lines."""
    with open_text(path) as file:
        first = next((line for line in file if line.strip()), "").strip()
        text = f"{first}\n{file.read(_LOOK_AHEAD)}"
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):  # it may be longer than the part that was read
        value, end = None, len(text)
    is_one_line = end <= len(first)
    if first.startswith("[") and (first == "[" or (value and not (is_one_line and text[end:].strip()))):
        raise NotALineEach("holds one JSON array; write an object a line, as `jq -c '.[]'` does")
    if first == "{" or (isinstance(value, dict) and not is_one_line):
        raise NotALineEach("holds JSON over several lines; write an object a line, as `jq -c .` does")


def _jsonl_batches(path: Path, schema: pa.Schema, first_row: int = 0) -> Iterator[pa.RecordBatch]:
    for lines in line_blocks(path, first_row):
        rows = [row if isinstance(row, dict) else {} for row in (_parse_line(line) for _, line in lines)]
        arrays = [column_array([row.get(column.name) for row in rows], column) for column in schema]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _parse_line(line: str) -> dict[str, Any] | str:
    """A line's object, or what is wrong with it."""
    try:
        row = load_json(line)
    except ValueError as error:
        return f"not JSON ({error})"
    return row if isinstance(row, dict) else f"not a JSON object but {type(row).__name__}"

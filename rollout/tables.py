"""Parquet, JSONL and CSV files as a stream of Arrow batches with one fixed schema.

Never more than one batch of a file is in memory. JSONL and CSV are scanned once when opened, to count rows and to
settle every column's type before the first row is written; Parquet says both in its footer.
"""

import codecs
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from rollout.errors import UserError

BATCH_ROWS = 1024


@dataclass(frozen=True)
class Table:
    """A file of rows. `batches()` starts again from row 0 at every call."""

    path: Path
    schema: pa.Schema
    num_rows: int
    batches: Callable[[], Iterator[pa.RecordBatch]]
    bad_rows: dict[int, str] = field(default_factory=dict)
    """Rows the file holds but that could not be read, with the reason; every column of such a row is null."""


def open_table(path: Path, key: str) -> Table:
    """Open a .parquet, .jsonl or .csv file. Raises UserError, naming the config `key`, when that cannot be done."""
    openers = {".parquet": _open_parquet, ".jsonl": _open_jsonl, ".csv": _open_csv}
    if not path.exists():
        raise UserError(f"{key}={path}: no such file; check the path (it is relative to {Path.cwd()})")
    if path.suffix not in openers or path.is_dir():
        raise UserError(f"{key}={path}: give a file that ends in {', '.join(openers)}")
    try:
        table = openers[path.suffix](path)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"{key}={path}: not a readable {path.suffix} file ({reason}); write it again") from error
    except OSError as error:
        raise UserError(f"{key}={path}: cannot be read ({error}); check the file and its permissions") from error
    if table.num_rows == 0:
        raise UserError(f"{key}={path}: has no rows; check what wrote it")
    doubled = sorted({name for name in table.schema.names if table.schema.names.count(name) > 1})
    if doubled:
        raise UserError(f"{key}={path}: more than one column is called {', '.join(doubled)}; rename one")
    return table


def select(table: Table, drop_columns: Iterable[str] = (), limit: int | None = None) -> Table:
    """The same table without some columns and beyond-`limit` rows. Raises KeyError for a column that is not there."""
    dropped = set(drop_columns)
    if missing := dropped - set(table.schema.names):
        raise KeyError(", ".join(sorted(missing)))
    kept = [name for name in table.schema.names if name not in dropped]
    num_rows = table.num_rows if limit is None else min(limit, table.num_rows)

    def batches() -> Iterator[pa.RecordBatch]:
        left = num_rows
        for batch in table.batches():
            yield batch.select(kept).slice(0, left)
            left -= batch.num_rows
            if left <= 0:
                return

    schema = pa.schema([table.schema.field(name) for name in kept])
    return Table(table.path, schema, num_rows, batches, table.bad_rows)


def _open_parquet(path: Path) -> Table:
    with pq.ParquetFile(path) as file:
        # pandas' metadata describes the columns as they were; it would be wrong beside ours
        schema, num_rows = file.schema_arrow.remove_metadata(), file.metadata.num_rows
    return Table(path, schema, num_rows, partial(_parquet_batches, path, schema))


def _parquet_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    # without these two settings one large row group is held in memory whole
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)


def _open_csv(path: Path) -> Table:
    """Every column is text: CSV has no types, and guessing them would change what the file says."""
    with path.open("rb") as file:
        header = pa_csv.read_csv(
            pa.BufferReader(file.readline()), read_options=pa_csv.ReadOptions(autogenerate_column_names=False)
        )
    schema = pa.schema([(name, pa.string()) for name in header.column_names])
    num_rows = sum(batch.num_rows for batch in _csv_batches(path, schema))
    return Table(path, schema, num_rows, partial(_csv_batches, path, schema))


def _csv_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    convert = pa_csv.ConvertOptions(
        column_types=schema, strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""]
    )
    reader = pa_csv.open_csv(path, parse_options=pa_csv.ParseOptions(newlines_in_values=True), convert_options=convert)
    for batch in reader:
        for start in range(0, batch.num_rows, BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


def _open_jsonl(path: Path) -> Table:
    """Types are settled over the whole file. A column without one common type becomes text, holding JSON."""
    schema, as_json, num_rows, bad_rows = pa.schema([]), set[str](), 0, dict[int, str]()
    for lines in _line_blocks(path):
        rows = [_parse_line(line) for line in lines]
        for offset, row in enumerate(rows):
            if isinstance(row, str):
                bad_rows[num_rows + offset] = f"line {num_rows + offset + 1}: {row}"
        num_rows += len(rows)
        for name, values in _columns([row for row in rows if isinstance(row, dict)]).items():
            found = _common_type(schema, name, values)
            if found is None:
                as_json.add(name)
                found = pa.string()
            position = schema.get_field_index(name)
            column = pa.field(name, found)
            schema = schema.append(column) if position < 0 else schema.set(position, column)
    for position, column in enumerate(schema):
        if column.name in as_json or pa.types.is_null(column.type):
            schema = schema.set(position, column.with_type(pa.string()))
    return Table(path, schema, num_rows, partial(_jsonl_batches, path, schema, frozenset(as_json)), bad_rows)


def _jsonl_batches(path: Path, schema: pa.Schema, as_json: frozenset[str]) -> Iterator[pa.RecordBatch]:
    for lines in _line_blocks(path):
        rows = [row if isinstance(row, dict) else {} for row in map(_parse_line, lines)]
        arrays = []
        for column in schema:
            values = [row.get(column.name) for row in rows]
            if column.name in as_json:
                values = [value if value is None or isinstance(value, str) else _dumps(value) for value in values]
            arrays.append(pa.array(values, column.type))
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _line_blocks(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        lines = (line for line in file if line.strip())
        while block := list(islice(lines, BATCH_ROWS)):
            yield block


def _parse_line(line: str) -> dict[str, Any] | str:
    """A line's object, or what is wrong with it."""
    try:
        # Arrow holds UTF-8 only, and a lone surrogate (half of an escaped pair) has no UTF-8 form
        row = json.loads(line) if "\\ud" not in line.lower() else _loads_replacing_surrogates(line)
    except ValueError as error:
        return f"not JSON ({error})"
    return row if isinstance(row, dict) else f"not a JSON object but {type(row).__name__}"


def _loads_replacing_surrogates(line: str) -> Any:
    text = json.dumps(json.loads(line), ensure_ascii=False)
    return json.loads(codecs.decode(text.encode("utf-8", "replace"), "utf-8"))


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _common_type(schema: pa.Schema, name: str, values: list[Any]) -> pa.DataType | None:
    """The type that fits these values and those of earlier blocks, or None when there is none."""
    try:
        here = pa.schema([(name, pa.array(values).type)])
        known = [pa.schema([schema.field(name)])] if name in schema.names else []
        found = pa.unify_schemas([*known, here], promote_options="permissive").field(name).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None
    return found if _storable(found) else None


def _storable(kind: pa.DataType) -> bool:
    """Parquet has no form for a struct without fields."""
    children = [kind.field(i) for i in range(kind.num_fields)]
    return not (pa.types.is_struct(kind) and not children) and all(_storable(child.type) for child in children)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

"""Write rows to a file of the type that its name ends with: JSONL or CSV, compressed or not, Parquet, slime's dump."""

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv

from rollout.data.arrow import is_list, plain_values, shown, valid_text
from rollout.data.json_text import dump_json, holds_json
from rollout.data.parquet_output import parquet_writer
from rollout.errors import UserError
from rollout.postprocess.chats import Records
from rollout.postprocess.slime import write_dump

_COMPRESSION = {"": None, ".gz": "gzip", ".zst": "zstd"}
SUFFIXES = (*(kind + end for kind in (".jsonl", ".csv") for end in _COMPRESSION), ".parquet")
"""What the name of a file of rows may end in."""

_DUMP = ".pt"


def suffixes(export_format: str) -> tuple[str, ...]:
    """What the name of a file with such an `export.format` may end in."""
    return (_DUMP,) if export_format == "slime" else SUFFIXES


Part: TypeAlias = pa.RecordBatch | Records


def write(path: Path, name: str, schema: pa.Schema, parts: Iterable[Part]) -> int:
    """Write `parts` to `path`, as the kind of file that `name` says. Returns the number of rows.

    Raises UserError for a chat that such a file cannot hold.
    """
    if name.endswith(_DUMP):
        return write_dump(path, _as_batches(schema, parts, name))
    suffix = max((suffix for suffix in SUFFIXES if name.endswith(suffix)), key=len)
    if suffix == ".parquet":
        return _write_parquet(path, schema, _as_batches(schema, parts, name))
    kind, _, end = suffix[1:].partition(".")
    compression = _COMPRESSION[f".{end}" if end else ""]
    # opened here, because Arrow's own errors about a path do not name it
    with path.open("wb") as file, pa.output_stream(file, compression=compression) as stream:
        if kind == "csv":
            return _write_csv(stream, schema, _as_batches(schema, parts, name))
        return _write_jsonl(stream, parts)


def _write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    count = 0
    with path.open("wb") as file, parquet_writer(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


_LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY


def _write_jsonl(stream: pa.NativeFile, parts: Iterable[Part]) -> int:
    count = 0
    for part in parts:
        if isinstance(part, Records):
            rows = [made | beside for made, beside in zip(part.made, _plain_rows(part.beside), strict=True)]
        else:
            rows = _plain_rows(part)
        # text as it is (no \u escapes); NaN becomes null, dates ISO 8601
        stream.write(b"".join(orjson.dumps(row, default=_plain, option=_LINE) for row in rows))
        count += len(rows)
    return count


def _plain_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """As `rollout.data.json_text.rows_of`, with JSON as it stands in its column."""
    columns = []
    for column, array in zip(batch.schema, batch.columns, strict=True):
        found = plain_values(array)
        if holds_json(column):
            found = [None if text is None else orjson.Fragment(text) for text in found]
        columns.append(found)
    names = batch.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)] or [{}] * batch.num_rows


def _plain(value: Any) -> Any:
    """What JSON has no form for: bytes as base64, a decimal or a duration as text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _write_csv(stream: pa.NativeFile, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Lists and structs become JSON text, bytes base64; null is an empty field, an empty text is a quoted one."""
    flat = pa.schema([pa.field(column.name, pa.string()) if _needs_text(column.type) else column for column in schema])
    count = 0
    with pa_csv.CSVWriter(stream, flat) as writer:
        for batch in batches:
            columns = [_as_text(array) if _needs_text(array.type) else array for array in batch.columns]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=flat))
            count += batch.num_rows
    return count


def _needs_text(kind: pa.DataType) -> bool:
    """Whether Arrow's writer of CSV files may refuse values of a type, or write what is no CSV; or durations, which it
    writes as numbers without a unit.
    """
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)
    return not any(test(kind) for test in (*tests, pa.types.is_time))


def _as_text(array: pa.Array) -> pa.Array:
    if pa.types.is_string(array.type):
        return valid_text(array)
    if pa.types.is_date(array.type) or pa.types.is_timestamp(array.type):
        return shown(array)
    return pa.array([None if value is None else _cell(value) for value in plain_values(array)], pa.string())


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict | tuple | bool | np.ndarray):
        return orjson.dumps(value, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    return str(_plain(value))


def _as_batches(schema: pa.Schema, parts: Iterable[Part], name: str) -> Iterator[pa.RecordBatch]:
    for part in parts:
        yield _typed(schema, part, name) if isinstance(part, Records) else part


def _typed(schema: pa.Schema, part: Records, name: str) -> pa.RecordBatch:
    """`part` as a batch of `schema`. Raises UserError where a chat says more than its columns can hold."""
    fields = [schema.field(i) for i in range(len(schema) - part.beside.num_columns)]
    columns = [_column(field, [record[field.name] for record in part.made], name) for field in fields]
    return pa.RecordBatch.from_arrays([*columns, *part.beside.columns], schema=schema)


def _column(field: pa.Field, cells: list[Any], name: str) -> pa.Array:
    if holds_json(field):
        return pa.array(map(dump_json, cells), field.type)
    if is_list(field.type):
        known = {field.type.value_type.field(i).name for i in range(field.type.value_type.num_fields)}
        said = {key for chat in cells for message in chat for key, value in message.items() if value is not None}
        if lost := said - known:
            raise UserError(f"{_cannot_hold(name)} ({', '.join(sorted(lost))} of a message); write .jsonl")
    try:
        return pa.array(cells, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"{_cannot_hold(name)} ({str(error).splitlines()[0]}); write .jsonl") from error


def _cannot_hold(name: str) -> str:
    return f"postprocess.export.file={name}: a {Path(name).suffix} file cannot hold these chats"

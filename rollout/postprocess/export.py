"""The responses in the form that others read: JSONL, CSV or Parquet; as they are, as chats, or as preference pairs."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv

from rollout.config import DataConfig, ExportConfig
from rollout.data.tables import write_parquet
from rollout.data.text import rows_of, values_of
from rollout.errors import UserError
from rollout.files import replacing
from rollout.postprocess.chats import Records, chat_type, messages, preferences
from rollout.postprocess.source import Source

_COMPRESSION = {"": None, ".gz": "gzip", ".zst": "zstd"}
SUFFIXES = (*(kind + end for kind in (".jsonl", ".csv") for end in _COMPRESSION), ".parquet")
"""File names that `export.file` may end in."""

_KEY = [pa.field("row_id", pa.int64()), pa.field("sample_idx", pa.int32())]


def export(source: Source, output_dir: Path, config: ExportConfig, data: DataConfig, continued: bool = False) -> int:
    """Write `export.file` and return how many records it has: responses, chats or pairs.

    `messages` and `preference` leave failed samples out, and rows whose prompt is no chat; with `continued`, a last
    message of the assistant and the response are one turn. Raises UserError for a chat that the format of the file
    cannot hold.
    """
    path = output_dir / Path(config.file).expanduser()
    schema, records = _records(source, config, data, continued)
    if path.suffix == ".parquet":
        return write_parquet(path, schema, _as_batches(schema, records, path))
    suffix = max((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), key=len)
    kind, _, end = suffix[1:].partition(".")
    compression = _COMPRESSION[f".{end}" if end else ""]
    with replacing(path) as partial, pa.output_stream(str(partial), compression=compression) as stream:
        if kind == "csv":
            return _write_csv(stream, schema, _as_batches(schema, records, path))
        return _write_jsonl(stream, records)


def _records(
    source: Source, config: ExportConfig, data: DataConfig, continued: bool
) -> tuple[pa.Schema, Iterator[Records]]:
    """The schema of the file, and what to write: Arrow batches, or lists of plain records where chats are made."""
    if config.format == "responses":
        schema = source.schema
        if config.columns is not None:
            names = dict.fromkeys(["row_id", "sample_idx", *config.columns])
            schema = pa.schema([schema.field(name) for name in names])
        return schema, (batch.select(schema.names) for batch in source.batches())
    kind = chat_type(source.schema.field(data.prompt_key).type)
    extra = [source.schema.field(name) for name in config.columns or []]
    if config.format == "messages":
        schema = pa.schema([pa.field("messages", kind), *_KEY, *extra])
        return schema, (messages(batch, data, extra, continued) for batch in source.batches())
    sides = [pa.field(name, kind) for name in ("prompt", "chosen", "rejected")]
    scores = [pa.field(f"{side}_score", pa.float64()) for side in ("chosen", "rejected")]
    samples = [pa.field(f"{side}_sample_idx", pa.int32()) for side in ("chosen", "rejected")]
    schema = pa.schema([*sides, *scores, _KEY[0], *samples, *extra])
    return schema, (preferences(batch, data, extra, continued) for batch in source.batches())


def _write_jsonl(stream: pa.NativeFile, records: Iterator[Records]) -> int:
    count = 0
    for part in records:
        rows = rows_of(part) if isinstance(part, pa.RecordBatch) else part
        # text as it is (no \u escapes); NaN becomes null, dates ISO 8601
        stream.write(b"".join(orjson.dumps(row, default=_plain, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
        count += len(rows)
    return count


def _plain(value: Any) -> str:
    """What JSON has no form for: bytes as base64, a decimal or a duration as text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _write_csv(stream: pa.NativeFile, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> int:
    """Lists and structs become JSON text, bytes base64; null is an empty field, an empty text is a quoted one."""
    flat = pa.schema([pa.field(column.name, pa.string()) if _needs_text(column) else column for column in schema])
    count = 0
    with pa_csv.CSVWriter(stream, flat) as writer:
        for batch in batches:
            columns = [_as_text(array) if _needs_text(array) else array for array in batch.columns]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=flat))
            count += batch.num_rows
    return count


def _needs_text(column: pa.Field | pa.Array) -> bool:
    kinds = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(is_kind(column.type) for is_kind in kinds)


def _as_text(array: pa.Array) -> pa.Array:
    def text(value: Any) -> str:
        return _plain(value) if isinstance(value, bytes) else orjson.dumps(value, default=_plain).decode()

    return pa.array([None if value is None else text(value) for value in values_of(array)], pa.string())


def _as_batches(schema: pa.Schema, records: Iterator[Records], path: Path) -> Iterator[pa.RecordBatch]:
    for part in records:
        yield part if isinstance(part, pa.RecordBatch) else _typed(schema, part, path)


def _typed(schema: pa.Schema, rows: list[dict[str, Any]], path: Path) -> pa.RecordBatch:
    """`rows` as a batch of `schema`. Raises UserError where a chat says more than its columns can hold."""
    known = {schema.field(0).type.value_type.field(i).name for i in range(schema.field(0).type.value_type.num_fields)}
    chats = (row[schema.field(0).name] for row in rows)
    lost = {key for chat in chats for message in chat for key in message} - known
    try:
        batch = pa.RecordBatch.from_pylist(rows, schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"{_cannot_hold(path)} ({str(error).splitlines()[0]}); write .jsonl") from error
    if lost:
        raise UserError(f"{_cannot_hold(path)} ({', '.join(sorted(lost))} of a message); write .jsonl")
    return batch


def _cannot_hold(path: Path) -> str:
    return f"postprocess.export.file={path.name}: a {path.suffix} file cannot hold these chats"

"""The responses in the form that others read: JSONL, CSV or Parquet; as they are, as chats, or as preference pairs."""

import base64
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv

from rollout.config import DataConfig, ExportConfig, PostprocessConfig
from rollout.data.arrow import is_list, shown, valid_text, values
from rollout.data.json_text import dump_json, holds_json
from rollout.data.tables import write_parquet
from rollout.errors import UserError, did_you_mean
from rollout.files import at_home, replacing
from rollout.postprocess.chats import FORMATS, Records
from rollout.postprocess.source import Source
from rollout.postprocess.step import Plan, Step, Work, log_counts

log = logging.getLogger(__name__)

_COMPRESSION = {"": None, ".gz": "gzip", ".zst": "zstd"}
SUFFIXES = (*(kind + end for kind in (".jsonl", ".csv") for end in _COMPRESSION), ".parquet")
"""File names that `export.file` may end in."""


def export(source: Source, output_dir: Path, config: ExportConfig, data: DataConfig, continued: bool = False) -> int:
    """Write `export.file` and return how many records it has: responses, chats or pairs.

    `messages` and `preference` leave failed samples out, and rows whose prompt is no chat; with `continued`, a last
    message of the assistant and the response are one turn. Raises UserError for a chat that the format of the file
    cannot hold.
    """
    path = output_dir / at_home(config.file)
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
) -> tuple[pa.Schema, Iterator[pa.RecordBatch | Records]]:
    """The schema of the file, and what to write: Arrow batches, or records where chats are made."""
    names, schema = config.columns or [], source.schema
    if config.format == "responses":
        if config.columns is not None:
            names = list(dict.fromkeys(["row_id", "sample_idx", *names]))
            schema = pa.schema([schema.field(name) for name in names])
        return schema, (batch.select(schema.names) for batch in source.batches())
    made = FORMATS[config.format]
    fields = [*made.fields(schema.field(data.prompt_key)), *(schema.field(name) for name in names)]
    return pa.schema(fields), (made.records(batch, data, names, continued) for batch in source.batches())


def _write_jsonl(stream: pa.NativeFile, records: Iterator[pa.RecordBatch | Records]) -> int:
    count = 0
    for part in records:
        if isinstance(part, Records):
            rows = [made | beside for made, beside in zip(part.made, _plain_rows(part.beside), strict=True)]
        else:
            rows = _plain_rows(part)
        # text as it is (no \u escapes); NaN becomes null, dates ISO 8601
        stream.write(b"".join(orjson.dumps(row, default=_plain, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
        count += len(rows)
    return count


def _plain_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """As `rollout.data.json_text.rows`, with JSON as it stands in its column."""
    columns = []
    for column, array in zip(batch.schema, batch.columns, strict=True):
        found = values(array)
        if holds_json(column):
            found = [None if text is None else orjson.Fragment(text) for text in found]
        columns.append(found)
    names = batch.schema.names
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)] or [{}] * batch.num_rows


def _plain(value: Any) -> Any:
    """What JSON has no form for: bytes as base64, a decimal or a duration as text."""
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _write_csv(stream: pa.NativeFile, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> int:
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
    """Whether Arrow's writer of CSV files may refuse values of a type, or write what is no CSV."""
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)
    return not any(test(kind) for test in (*tests, pa.types.is_time, pa.types.is_duration))


def _as_text(array: pa.Array) -> pa.Array:
    if pa.types.is_string(array.type):
        return valid_text(array)
    if pa.types.is_date(array.type) or pa.types.is_timestamp(array.type):
        return shown(array)
    return pa.array([None if value is None else _cell(value) for value in values(array)], pa.string())


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | dict | tuple | bool):
        return orjson.dumps(value, default=_plain).decode()
    return str(_plain(value))


def _as_batches(schema: pa.Schema, records: Iterator[pa.RecordBatch | Records], path: Path) -> Iterator[pa.RecordBatch]:
    for part in records:
        yield _typed(schema, part, path) if isinstance(part, Records) else part


def _typed(schema: pa.Schema, part: Records, path: Path) -> pa.RecordBatch:
    """`part` as a batch of `schema`. Raises UserError where a chat says more than its columns can hold."""
    fields = [schema.field(i) for i in range(len(schema) - part.beside.num_columns)]
    columns = [_column(field, [record[field.name] for record in part.made], path) for field in fields]
    return pa.RecordBatch.from_arrays([*columns, *part.beside.columns], schema=schema)


def _column(field: pa.Field, cells: list[Any], path: Path) -> pa.Array:
    if holds_json(field):
        return pa.array(map(dump_json, cells), field.type)
    if is_list(field.type):
        known = {field.type.value_type.field(i).name for i in range(field.type.value_type.num_fields)}
        said = {key for chat in cells for message in chat for key, value in message.items() if value is not None}
        if lost := said - known:
            raise UserError(f"{_cannot_hold(path)} ({', '.join(sorted(lost))} of a message); write .jsonl")
    try:
        return pa.array(cells, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"{_cannot_hold(path)} ({str(error).splitlines()[0]}); write .jsonl") from error


def _cannot_hold(path: Path) -> str:
    return f"postprocess.export.file={path.name}: a {path.suffix} file cannot hold these chats"


def _outputs(config: PostprocessConfig) -> list[str]:
    return [str(at_home(config.export.file))]


def _needs_scores(config: PostprocessConfig) -> bool:
    return config.export.format in FORMATS and FORMATS[config.export.format].needs_scores


def _problems(plan: Plan) -> Iterator[str]:
    config, data, names = plan.config.export, plan.data, plan.schema.names
    yield from _file_problems(config.file)
    made = FORMATS[config.format].names() if config.format in FORMATS else frozenset[str]()
    for name in config.columns or []:
        if name in made:
            yield f"postprocess.export.columns={name}: format={config.format} writes a field of that name; leave it out"
        elif name not in names:
            yield f"postprocess.export.columns={name}: no such column, {did_you_mean(name, names)}"
    if _needs_scores(plan.config) and not plan.has_scores("export"):
        yield f"postprocess.export.format={config.format}: no scores; put score before export in postprocess.steps"
    if config.format != "responses" and data.prompt_key not in names:
        yield f"data.prompt_key={data.prompt_key}: no such column, {did_you_mean(data.prompt_key, names)}"


def _file_problems(file: str) -> Iterator[str]:
    if not file.endswith(SUFFIXES) or Path(file).name in SUFFIXES:
        yield f"postprocess.export.file={file}: must end in {', '.join(SUFFIXES)}"
    path = at_home(file)
    folder, is_absolute = path.parent, path.is_absolute()
    if is_absolute and not folder.is_dir():
        yield f"postprocess.export.file={file}: there is no folder {folder}; make it first"
    elif not is_absolute and folder != Path():
        yield f"postprocess.export.file={file}: give a plain file name, or an absolute path"


def _run(work: Work) -> Work:
    config = work.config.export
    of_template = {} if work.record is None else work.record.config.model.chat_template_kwargs
    continued = bool(of_template.get("continue_final_message"))
    count = export(work.source, work.output_dir, config, work.data, continued)
    log_counts("export", {config.format: count})
    if not count and config.format == "preference":
        log.warning("export: no row has two responses with different scores, so there are no pairs")
    return work


EXPORT = Step("export", _run, _outputs, _problems, _needs_scores)

"""Responses as a stream, one per row: what every step reads, whichever program wrote the file."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollout.config import ScoreConfig
from rollout.data.arrow import cast, is_list, is_text, stored, valid_text, values
from rollout.data.json_text import load_json
from rollout.data.tables import BATCH_BYTES, Table, open_result
from rollout.errors import UserError
from rollout.postprocess.numbering import PROMPT, Numbering, prompt_of, told_by
from rollout.postprocess.origin import NOT_KNOWN, Origin, origin_of
from rollout.postprocess.whole_rows import ascending, samples_of_one_prompt, whole_rows
from rollout.records import (
    BESIDE_A_SCORE,
    EXTRAS,
    FLAT_FIELDS,
    ROLLOUT_COLUMNS,
    SCORE_FIELDS,
    SCORES,
    extras_of,
    flat_fields,
)

Batches = Iterator[pa.RecordBatch]

_LISTS = {"finish_reason": "finish_reasons", "num_generated_tokens": "num_generated_tokens", "seed": "seeds"}
"""Field of a response -> column of rollouts.parquet that lists it."""

_OF_NOTHING = pa.schema([("prompt", pa.string()), *FLAT_FIELDS, *SCORE_FIELDS])
"""The columns of a file without any."""

_PER_ROW = ("num_prompt_tokens", "truncated_prompt")


@dataclass(frozen=True)
class Source:
    """A stream of responses in the order of (row_id, sample_idx). No row of the input is split over two batches.

    `batches()` starts again from the beginning at every call.
    """

    path: Path
    schema: pa.Schema
    batches: Callable[[], Batches]
    origin: Origin = NOT_KNOWN
    told_by: tuple[str, ...] = ()
    """The columns that tell its rows apart, as of `rollout.postprocess.numbering.told_by`."""
    note: str | None = None
    """What a person who uses it has to know."""

    @property
    def scored_by(self) -> ScoreConfig | None:
        """As of its origin."""
        return self.origin.scored_by

    @property
    def file_schema(self) -> pa.Schema:
        """The schema of a file of these responses, which says its origin too."""
        return self.schema.with_metadata(self.origin.footer())

    def then(self, schema: pa.Schema, change: Callable[[Batches], Batches]) -> "Source":
        """The source after a step that turns batches into batches of `schema`; no row may be split over two batches."""
        return replace(self, schema=schema, batches=lambda: change(self.batches()))


def flat_schema(inputs: Iterable[pa.Field], extras: Collection[str] = ()) -> pa.Schema:
    """The columns of a flat file with the input columns `inputs`; `extras` are the run's `extra_columns`."""
    return pa.schema([*inputs, *flat_fields(extras)])


def open_source(path: Path, key: str = "input", prompts: Sequence[str] = PROMPT) -> Source:
    """Open a file with a column `responses` (lists, or lists as JSON text), or a flat one with a column `response`.

    Columns that are not ours are the input's own; `row_id` and `sample_idx` are made where a flat file lacks them, with
    the first of the columns `prompts` that it has.
    A file without rows has no responses; one without columns too, as an empty JSONL file is, counts as a scored one.
    Raises UserError, naming the config `key`, for any other file.
    """
    source = source_of(open_result(path, key), key, prompts)
    return replace(source, origin=origin_of(path))


def source_of(table: Table, key: str, prompts: Sequence[str] = PROMPT) -> Source:
    """As `open_source`, of a file that is open already."""
    path, names = table.path, table.schema.names
    if not names and not table.num_rows:
        return Source(path, _OF_NOTHING, lambda: iter(()))
    if "responses" in names:
        return _listed(table, key)
    if "response" in names:
        if is_list(kind := table.schema.field("response").type):
            raise UserError(f"{key}={path}: the column response holds {kind}; a column of lists is called responses")
        return _flat(table, key, prompts)
    cure = (
        ""
        if prompt_of(names, prompts) is None
        else f"; if these are prompts, sample first: python -m rollout data.path={path}"
    )
    raise UserError(f"{key}={path}: has no column `responses` or `response`; it has {', '.join(names)}{cure}")


def _flat(table: Table, key: str, prompts: Sequence[str]) -> Source:
    """A flat file; columns of ours that it lacks are null. One with a `score` of its own is a scored one, without
    pass rates if it has none.
    """
    has_scores = "score" in table.schema.names
    if not has_scores:
        _refuse_clash(table, key, SCORE_FIELDS)
    extras = [name for name in extras_of(table.schema) if _may_be_ours(table.schema, EXTRAS[name].of_sample)]
    ours = {column.name: column for column in (*flat_fields(extras), *SCORE_FIELDS)}
    wanted = [*FLAT_FIELDS, *(BESIDE_A_SCORE if has_scores else ())]
    missing = [column for column in wanted if column.name not in table.schema.names]
    present = pa.schema([ours.get(column.name, column) for column in table.schema])
    schema = pa.schema([*present, *missing])
    is_numbered = "row_id" in present.names

    def complete() -> Iterator[pa.RecordBatch]:
        numbering = Numbering(present.names, prompts)
        for batch in table.batches():
            columns = [_typed(array, field, table.path) for array, field in zip(batch.columns, present, strict=True)]
            made = numbering.missing(pa.RecordBatch.from_arrays(columns, schema=present))
            more = [made.get(column.name, pa.nulls(batch.num_rows, column.type)) for column in missing]
            yield pa.RecordBatch.from_arrays([*columns, *more], schema=schema)

    def batches() -> Iterator[pa.RecordBatch]:
        rows = whole_rows(ascending(complete(), table.path, strictly=False))
        return samples_of_one_prompt(rows, table.path, prompt_of(present.names, prompts)) if is_numbered else rows

    return Source(table.path, schema, batches, told_by=told_by(present.names, prompts))


def _may_be_ours(schema: pa.Schema, ours: pa.Field) -> bool:
    """Whether a column may be that one of ours, and no other of its name."""
    if ours.name not in schema.names:
        return False
    kind = schema.field(ours.name).type
    return is_text(kind) or bool(pa.types.is_nested(kind)) == is_list(ours.type)


def _typed(array: pa.Array, field: pa.Field, path: Path) -> pa.Array:
    """`array` as the type of `field`: in a CSV file all is text. Raises UserError for what cannot be that."""
    try:
        typed = _parsed(array, field.type) if is_list(field.type) else cast(array, field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"{path}: column {field.name} holds {array.type}, not {field.type} ({error}); fix it"
        ) from error
    if typed.null_count and not field.nullable:
        raise UserError(f"{path}: column {field.name} has nulls; every response needs one, fix it")
    if field.name == "score":  # NaN is what pandas has for none
        return pc.if_else(pc.is_finite(typed), typed, pa.scalar(None, typed.type))
    return valid_text(typed) if is_text(field.type) else typed


def _parsed(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Lists; in a CSV file they are JSON text."""
    if not is_text(array.type):
        return cast(array, kind)
    try:
        return pa.array([None if text is None else load_json(text) for text in values(array)], kind)
    except (ValueError, TypeError) as error:  # of JSON, and of what it holds
        raise pa.ArrowInvalid(str(error)) from error


def _refuse_clash(table: Table, key: str, ours: Iterable[pa.Field], but: Iterable[str] = ()) -> None:
    clash = [column.name for column in ours if column.name in set(table.schema.names) - set(but)]
    if clash:
        raise UserError(f"{key}={table.path}: column {', '.join(clash)} is a reserved output column; rename it")


def _listed(table: Table, key: str) -> Source:
    _check_columns(table, key)
    is_ours = set(ROLLOUT_COLUMNS) <= set(table.schema.names)
    ours = ROLLOUT_COLUMNS if is_ours else [name for name in ROLLOUT_COLUMNS if name != "row_id"]
    extras = _listed_extras(table.schema) if is_ours else []
    taken = {*ours, *(EXTRAS[name].of_row.name for name in extras), *([SCORES.name] if "stopped" in extras else [])}
    inputs = [column for column in table.schema if column.name not in taken]
    _refuse_clash(table, key, [*FLAT_FIELDS, *SCORE_FIELDS], but=ours)
    schema = flat_schema(inputs, extras)

    def batches() -> Iterator[pa.RecordBatch]:
        row = unreadable = 0
        for batch in ascending(table.batches(), table.path, strictly=True) if is_ours else table.batches():
            row_ids = batch.column("row_id") if is_ours else pa.array(np.arange(row, row + batch.num_rows))
            for start, stop in _pieces(batch):
                part = _explode(
                    batch.slice(start, stop - start), row_ids.slice(start, stop - start), schema, table.path
                )
                unreadable += pc.sum(pc.equal(part.column("error"), _NO_LIST)).as_py() or 0
                yield part
            row += batch.num_rows
        if row and unreadable == row:
            raise UserError(
                f"{key}={table.path}: {_NO_LIST} in any of {row:,} rows; write them with json.dumps, or as lists"
            )

    return Source(table.path, schema, batches)


def _listed_extras(schema: pa.Schema) -> list[str]:
    """Those of the extras whose columns hold lists as deep as ours."""

    def is_as_deep(kind: pa.DataType, ours: pa.DataType) -> bool:
        return not is_list(ours) or (is_list(kind) and is_as_deep(stored(kind).value_type, ours.value_type))

    columns = {name: EXTRAS[name].of_row for name in extras_of(schema)}
    return [name for name, ours in columns.items() if is_as_deep(schema.field(ours.name).type, ours.type)]


def _check_columns(table: Table, key: str) -> None:
    kind = table.schema.field("responses").type
    item = stored(kind).value_type if is_list(kind) else kind
    if not (is_text(item) or (is_list(kind) and pa.types.is_null(item))):
        raise UserError(f"{key}={table.path}: the column responses holds {kind}; it must hold lists of texts, or JSON")
    for name in _LISTS.values():
        if name in table.schema.names and not is_list(table.schema.field(name).type):
            raise UserError(f"{key}={table.path}: the column {name} holds {table.schema.field(name).type}, not lists")


def _explode(batch: pa.RecordBatch, row_ids: pa.Array, schema: pa.Schema, path: Path) -> pa.RecordBatch:
    """One row per response of `batch`."""
    names = set(batch.schema.names)
    responses, unreadable = _as_lists(batch.column("responses"))
    counts = pc.list_value_length(responses).to_numpy(zero_copy_only=False).astype(np.int64)
    row = pa.array(np.repeat(np.arange(batch.num_rows), counts))
    response = valid_text(cast(pc.list_flatten(responses), pa.string()))
    # an error of a row is that of its failed samples
    errors = batch.column("error") if "error" in names else pa.nulls(batch.num_rows, pa.string())
    errors = pc.coalesce(cast(errors, pa.string()), unreadable)
    found = {
        "row_id": row_ids.take(row),
        "sample_idx": pa.array(_positions(counts)),
        "response": response,
        "error": pc.if_else(pc.is_null(response), errors.take(row), None),
    }
    extras = [EXTRAS[name] for name in extras_of(schema)]
    lists = _LISTS | {extra.of_sample.name: extra.of_row.name for extra in extras if extra.is_listed}
    for field, column in lists.items():
        if column in names:
            found[field] = _flattened(batch.column(column), counts, column, path)
    for name in (*_PER_ROW, *(extra.of_sample.name for extra in extras if not extra.is_listed)):
        if name in names:
            found[name] = batch.column(name).take(row)
    columns = []
    for field in schema:
        if field.name in found:
            columns.append(_typed(found[field.name], field, path))
        elif field.name in names and field.name not in ROLLOUT_COLUMNS:
            columns.append(batch.column(field.name).take(row))
        else:
            columns.append(pa.nulls(len(row), field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _positions(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """0, 1, ... counts[0]-1, 0, 1, ... counts[1]-1, ..."""
    ends = np.cumsum(counts)
    return (np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)).astype(np.int32)


def _flattened(lists: pa.Array, counts: npt.NDArray[np.int64], column: str, path: Path) -> pa.Array:
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    if not lengths.all():  # of rows without responses, which count as one failed sample
        lists = pa.array([value or [None] for value in lists.to_pylist()], pa.list_(lists.type.value_type))
    if not np.array_equal(pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False), counts):
        raise UserError(f"{path}: the lists in {column} are not as long as those in responses; write it again")
    return pc.list_flatten(lists)


def _as_lists(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    """`column` as lists of texts, and per row why it could not be read: such a row is one failed sample."""
    if not is_text(column.type):
        if (pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False) > 0).all():
            return column, pa.nulls(len(column), pa.string())
        parsed = [value or _NONE for value in values(column)]
    else:
        parsed = [_parse(text) for text in values(column)]
    lists = pa.array([[None] if isinstance(value, str) else value for value in parsed], pa.list_(pa.string()))
    return lists, pa.array([value if isinstance(value, str) else None for value in parsed], pa.string())


_NONE = "the row has no responses"
_NO_LIST = "responses: not a JSON list of texts"


def _parse(text: str | None) -> list[str | None] | str:
    """The list that a JSON text holds, or what is wrong with it."""
    if text is None:
        return _NONE
    try:
        value: Any = load_json(text)
    except ValueError:
        value = None
    if isinstance(value, list) and all(item is None or isinstance(item, str) for item in value):
        return value or _NONE
    return _NO_LIST


def _pieces(batch: pa.RecordBatch) -> Iterator[tuple[int, int]]:
    """Split a batch, as (first, last + 1), where repeating its rows for every response would make it too large."""
    responses = batch.column("responses")
    most = 1 if is_text(responses.type) else pc.max(pc.list_value_length(responses)).as_py() or 1
    rows = max(1, batch.num_rows * BATCH_BYTES // max(batch.nbytes * most, BATCH_BYTES))
    for start in range(0, batch.num_rows, rows):
        yield start, min(start + rows, batch.num_rows)

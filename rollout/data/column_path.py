"""Dotted paths into columns: `reward_model.ground_truth` is a field of a struct, or of a JSON object kept as text."""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from rollout.data.arrow import NOT_UTF8, is_text, stored, values
from rollout.data.json_text import column_values, holds_json, load_json
from rollout.data.text import as_text
from rollout.errors import did_you_mean

ColumnPath = tuple[str, ...]
"""A column, then the field in it, the field in that field, and so on."""


def find(schema: pa.Schema, path: str, into_text: bool = True) -> ColumnPath | None:
    """Where `path` leads, or None if nowhere; with `into_text` it may lead into any column of text.

    Names of columns and fields may contain dots: the longest name that fits is used.
    """
    if path in (names := [field.name for field in schema]):
        return (path,)
    for name in sorted((name for name in names if path.startswith(f"{name}.")), key=len, reverse=True):
        if (below := _below(schema.field(name), path.removeprefix(f"{name}."), into_text)) is not None:
            return (name, *below)
    return None


def names_in(schema: pa.Schema) -> list[str]:
    """Every path that is known from the types of `schema`."""
    return [*_names(schema)]


def path_problem(schema: pa.Schema, path: str) -> str | None:
    """What is wrong with `path`, as the end of an error line; None for a valid one."""
    if find(schema, path) is not None:
        return None
    owners = [name for name in schema.names if path.startswith(f"{name}.")]
    column = max(owners, key=len, default=None)
    if column is None:
        if ends := [name for name in names_in(schema) if name.endswith(f".{path}")]:
            return f"no such column, did you mean {' or '.join(ends)}?"
        return f"no such column, {did_you_mean(path.partition('.')[0], schema.names)}"
    kind, rest = stored(schema.field(column).type), path.removeprefix(f"{column}.")
    while pa.types.is_struct(kind):
        known = [kind.field(i).name for i in range(kind.num_fields)]
        name = max((name for name in known if rest.startswith(f"{name}.")), key=len, default=None)
        if name is None:
            missing = rest.partition(".")[0]
            return f"{column} has no field {missing}, {did_you_mean(missing, known)}"
        kind, rest = stored(kind.field(name).type), rest.removeprefix(f"{name}.")
    return f"{column} holds {kind}, which has no fields"


def type_at(schema: pa.Schema, path: ColumnPath) -> pa.DataType:
    """The type at the end of `path`; if it leads into JSON, the type of the JSON text."""
    kind = schema.field(path[0]).type
    for name in path[1:]:
        if not pa.types.is_struct(stored(kind)):
            break
        kind = stored(kind).field(name).type
    return kind


def values_at(batch: pa.RecordBatch, path: str) -> list[Any]:
    """The value at `path` for every row of `batch`; None if the row has none."""
    steps = find(batch.schema, path)
    if steps is None:
        return [None] * batch.num_rows
    if len(steps) > 1:
        return values_along(batch, steps)
    found = column_values(batch, path)
    is_json = isinstance(batch.schema.field(path).type, pa.JsonType)
    return [_from_json(value) if isinstance(value, str) else value for value in found] if is_json else found


def texts_at(batch: pa.RecordBatch, path: str) -> list[str]:
    """As `values_at`, each value as a person writes it: `null` where the row has none."""
    return [as_text(value) for value in values_at(batch, path)]


def values_along(batch: pa.RecordBatch, path: ColumnPath, read: Callable[[pa.Array], list[Any]] = values) -> list[Any]:
    """As `values_at`, but a column of JSON is text; `read` is `values` or `cells` of `rollout.data.arrow`."""
    column, *fields = path
    return [_follow(value, fields) for value in read(batch.column(column))]


def _below(field: pa.Field, path: str, into_text: bool) -> ColumnPath | None:
    """Where `path` leads from a column or field."""
    kind = stored(field.type)
    if pa.types.is_struct(kind):
        return find(pa.schema(list(kind)), path, into_text)
    is_json = isinstance(field.type, pa.JsonType) or holds_json(field)
    return tuple(path.split(".")) if is_text(kind) and (into_text or is_json) else None


def _names(fields: Any, prefix: str = "") -> Iterator[str]:
    for field in fields:
        yield prefix + field.name
        if pa.types.is_struct(kind := stored(field.type)):
            yield from _names(kind, f"{prefix}{field.name}.")


def _follow(value: Any, fields: list[str]) -> Any:
    for name in fields:
        if value is NOT_UTF8:
            return value
        if isinstance(value, str):
            value = _from_json(value)
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _from_json(text: str) -> Any:
    try:
        return load_json(text)
    except ValueError:
        return None

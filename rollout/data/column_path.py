"""Dotted paths into columns: `reward_model.ground_truth` is a field of a struct, or of a JSON object kept as text."""

from typing import Any

import pyarrow as pa

from rollout.data.tables import load_json
from rollout.data.text import values_of
from rollout.errors import did_you_mean


def path_problem(schema: pa.Schema, path: str) -> str | None:
    """What is wrong with `path`, as the end of an error line; None for one that leads somewhere."""
    column, fields = _split(schema, path)
    if column not in schema.names:
        return f"no such column, {did_you_mean(column, schema.names)}"
    kind = schema.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    for name in fields:
        if not pa.types.is_struct(kind):
            break  # JSON text, or a type whose values will tell
        known = [kind.field(i).name for i in range(kind.num_fields)]
        if name not in known:
            return f"{column} has no field {name}, {did_you_mean(name, known)}"
        kind = kind.field(name).type
    else:
        return None
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return None if is_text else f"{column} holds {kind}, which has no fields"


def values_at(batch: pa.RecordBatch, path: str) -> list[Any]:
    """The value at `path` for every row of `batch`; None where the row has none."""
    column, fields = _split(batch.schema, path)
    return [_follow(value, fields) for value in values_of(batch.column(column))]


def _split(schema: pa.Schema, path: str) -> tuple[str, list[str]]:
    """A column may have dots in its own name."""
    owners = [name for name in schema.names if path == name or path.startswith(f"{name}.")]
    column = max(owners, key=len, default=path.partition(".")[0])
    fields = path.removeprefix(column).removeprefix(".")
    return column, fields.split(".") if fields else []


def _follow(value: Any, fields: list[str]) -> Any:
    for name in fields:
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

"""JSON as text in columns: reading and writing it, and the columns of a JSONL file that no one type holds.

Such a column (its objects have other keys in other rows, say) is text, marked in the schema, so that what came as an
object leaves as one; `rows_of` and the export to JSONL look at the mark.
"""

import json
from typing import Any

import pyarrow as pa

from rollout.data.arrow import values

_MARK = {b"rollout.json": b"true"}


def load_json(text: str) -> Any:
    """`json.loads` for text that ends up in Arrow. Raises ValueError for whatever is wrong with it.

    Arrow holds UTF-8 only, and a lone surrogate (half of an escaped pair) has no UTF-8 form: it becomes "?".
    """
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value


def dump_json(value: Any) -> str:
    """`value` as JSON that every reader takes: NaN and infinity are null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None), ensure_ascii=False)


def json_field(name: str) -> pa.Field:
    """A column of JSON text that stands for what it encodes."""
    return pa.field(name, pa.string(), metadata=_MARK)


def holds_json(column: pa.Field) -> bool:
    """Whether `column` is a `json_field`. One that a file of others calls JSON is text, as it is there."""
    return (column.metadata or {}).items() >= _MARK.items()


def column_values(batch: pa.RecordBatch, name: str) -> list[Any]:
    """The values of a column, whatever it holds, as `rollout.data.arrow.values` gives them."""
    found = values(batch.column(name))
    if not holds_json(batch.schema.field(name)):
        return found
    return [None if text is None else load_json(text) for text in found]


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of `batch` as plain Python, whatever its columns hold."""
    names = batch.schema.names
    columns = [column_values(batch, name) for name in names]
    return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)] or [{}] * batch.num_rows

"""JSON as text in columns: reading and writing it, and the columns of a JSONL file that no single type can hold.

Such a column (for example with different keys in different rows) is text and marked in the schema, so that what was
read as an object is written as one; `rows_of` and the export to JSONL use the mark.
"""

import json
from typing import Any

import pyarrow as pa

from rollout.data.arrow import values

_MARK = {b"rollout.json": b"true"}


def load_json(text: str) -> Any:
    """`json.loads` for text whose values go to Arrow. Raises ValueError for any mistake in it.

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
    """`value` as JSON that every reader accepts: NaN and infinity are null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None), ensure_ascii=False)


def json_field(name: str) -> pa.Field:
    """A column of JSON text that stands for the values it encodes."""
    return pa.field(name, pa.string(), metadata=_MARK)


def holds_json(column: pa.Field) -> bool:
    """Whether `column` is a `json_field`. A column that another program's file declares as JSON counts as text."""
    return (column.metadata or {}).items() >= _MARK.items()


def column_values(batch: pa.RecordBatch, name: str) -> list[Any]:
    """The values of any column, as `rollout.data.arrow.values` gives them, with a `json_field` decoded."""
    found = values(batch.column(name))
    if not holds_json(batch.schema.field(name)):
        return found
    return [None if text is None else load_json(text) for text in found]


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of `batch` as plain Python values, for columns of any type."""
    names = batch.schema.names
    columns = [column_values(batch, name) for name in names]
    return [dict(zip(names, cells, strict=True)) for cells in zip(*columns, strict=True)] or [{}] * batch.num_rows

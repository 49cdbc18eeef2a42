"""Values as people write them: wherever a value of a table becomes text, it becomes this one."""

import base64
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from rollout.data.prompts import without_nulls

_IS_LIST = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_POSITIONAL = range(-10, 16)  # exponents of ten of numbers that people write without one


def as_text(value: Any) -> str:
    """A value as people write it: text as it is; 42, even where a null in the column has made 42.0 of it; 0.00001.

    Lists, structs, true, false and null are JSON, in which fields that are null are left out of a struct; bytes are the
    text they hold, or base64.
    """
    match value:
        case str():
            return value
        case bool() | np.bool_():
            return json.dumps(bool(value))
        case None | list() | dict():
            return json.dumps(without_nulls(value), ensure_ascii=False, default=as_text)
        case float() | np.floating():
            return _number(value)
        case Decimal():
            return f"{value:f}"
        case bytes():
            return _of_bytes(value)
    return str(value)


def values_of(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The values of a column as Python has them, where a float32 is the number that people write: 0.1, not
    0.10000000149011612.
    """
    return _written(column.to_pylist(), column.type)


def rows_of(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows of a batch, values as of `values_of`."""
    names = batch.schema.names
    columns = [values_of(column) for column in batch.columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _number(value: float | np.floating[Any]) -> str:
    shortest = Decimal(str(value))
    if not shortest.is_finite():
        return str(value)
    if shortest == shortest.to_integral_value() and shortest.adjusted() in _POSITIONAL:
        return str(int(shortest))
    return f"{shortest:f}" if shortest.adjusted() in _POSITIONAL else str(value)


def _of_bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def _written(values: list[Any], kind: pa.DataType) -> list[Any]:
    write = _writer(kind)
    return values if write is None else [None if value is None else write(value) for value in values]


def _writer(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """What makes of a value of this type the one that people write; None where it is that already."""
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        short = np.float32 if pa.types.is_float32(kind) else np.float16
        return lambda value: float(str(short(value)))
    if pa.types.is_dictionary(kind):
        return _writer(kind.value_type)
    if pa.types.is_struct(kind):
        return _writer_of_fields({field.name: _writer(field.type) for field in kind})
    if pa.types.is_map(kind):
        return _writer_of_pairs(_writer(kind.key_type), _writer(kind.item_type))
    if isinstance(kind, pa.BaseExtensionType):
        return _writer(kind.storage_type)
    if any(test(kind) for test in _IS_LIST):
        item = kind.value_type
        return None if _writer(item) is None else lambda values: _written(values, item)
    return None


def _writer_of_fields(writers: dict[str, Callable[[Any], Any] | None]) -> Callable[[Any], Any] | None:
    def write(fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {
            name: writer(fields[name])
            for name, writer in writers.items()
            if writer is not None and fields[name] is not None
        }

    return write if any(writers.values()) else None


def _writer_of_pairs(*writers: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    def write(pairs: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return [
            tuple(
                part if part is None or writer is None else writer(part)
                for part, writer in zip(pair, writers, strict=True)
            )
            for pair in pairs
        ]

    return write if any(writers) else None

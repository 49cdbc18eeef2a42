"""Floats: float32 and float16 as the numbers that people write, 0.1 and not 0.10000000149011612; NaN for none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

_IS_LIST = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


LARGEST_EXACT = 2**53
"""A float holds every integer up to this."""


def is_nan(value: Any) -> bool:
    """Whether `value` is the NaN with which pandas writes a missing value."""
    return isinstance(value, float) and value != value


def written(values: list[Any], kind: pa.DataType) -> list[Any]:
    """`values` as `to_pylist` gives them for a column of type `kind`, with every float32, at any depth, as the number
    that people write: 0.1, not 0.10000000149011612.
    """
    write = _writer(kind)
    return values if write is None else [None if value is None else write(value) for value in values]


def _writer(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """A function that turns a value of this type into the one that people write; None if no change is needed."""
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        short = np.float32 if pa.types.is_float32(kind) else np.float16
        return lambda value: float(str(short(value)))
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _writer(kind.value_type)
    if pa.types.is_struct(kind):
        return _writer_of_fields({field.name: _writer(field.type) for field in kind})
    if pa.types.is_map(kind):
        return _writer_of_pairs(_writer(kind.key_type), _writer(kind.item_type))
    if isinstance(kind, pa.BaseExtensionType):
        return _writer(kind.storage_type)
    if any(test(kind) for test in _IS_LIST):
        item = kind.value_type
        return None if _writer(item) is None else lambda cell: written(cell, item) if isinstance(cell, list) else cell
    return None


def _writer_of_fields(writers: dict[str, Callable[[Any], Any] | None]) -> Callable[[Any], Any] | None:
    def write(cell: Any) -> Any:
        if not isinstance(cell, dict):  # a placeholder for a cell that Python cannot represent
            return cell
        return {
            name: value if value is None or (writer := writers.get(name)) is None else writer(value)
            for name, value in cell.items()
        }

    return write if any(writers.values()) else None


def _writer_of_pairs(*writers: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    def write(cell: Any) -> Any:
        return [tuple(map(part, writers, pair)) for pair in cell] if isinstance(cell, list) else cell

    def part(writer: Callable[[Any], Any] | None, value: Any) -> Any:
        return value if value is None or writer is None else writer(value)

    return write if any(writers) else None

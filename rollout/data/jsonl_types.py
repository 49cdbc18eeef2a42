"""The type of a JSONL column, determined from the whole file before its first row is written."""

from typing import Any

import pyarrow as pa

from rollout.data.floats import LARGEST_EXACT, is_nan
from rollout.data.json_text import dump_json, json_field


class ColumnType:
    """The type of a JSONL column, determined block by block."""

    def __init__(self) -> None:
        self._type: pa.DataType | None = pa.null()  # None: no single type fits
        self._has_large_int = self._has_text = self._has_nan = False
        self._keys: dict[tuple[str | None, ...], frozenset[str]] = {}  # keys of the objects at each place in the values

    def add(self, values: list[Any]) -> None:
        """Take another block's values into account."""
        kinds = {type(value) for value in values}
        self._has_text |= str in kinds
        if self._type is None:
            return
        if float in kinds and any(map(is_nan, values)):  # pandas writes missing values so
            self._has_nan, values = True, [None if is_nan(value) else value for value in values]
        self._has_large_int |= int in kinds and any(type(v) is int and abs(v) > LARGEST_EXACT for v in values)
        self._type = None if self._keys_differ(values) else _common(self._type, values, kinds)

    def _keys_differ(self, values: list[Any]) -> bool:
        """Whether two objects at the same place have different keys: a struct would add the missing ones as nulls."""
        try:
            return not all(self._fits(value, ()) for value in values if isinstance(value, dict | list))
        except RecursionError:
            return True

    def _fits(self, value: Any, place: tuple[str | None, ...]) -> bool:
        if isinstance(value, list):
            return all(self._fits(item, (*place, None)) for item in value if isinstance(item, dict | list))
        if self._keys.setdefault(place, frozenset(value)) != value.keys():
            return False
        return all(self._fits(item, (*place, key)) for key, item in value.items() if isinstance(item, dict | list))

    def field(self, name: str) -> pa.Field:
        """The column called `name`. If no type holds every value unchanged, it is text: JSON, and texts unchanged."""
        if self._type is None or (self._has_large_int and pa.types.is_floating(self._type)):
            return pa.field(name, pa.string()) if self._has_text else json_field(name)
        if pa.types.is_null(self._type):
            return pa.field(name, pa.float64() if self._has_nan else pa.string())
        return pa.field(name, self._type)


def column_array(values: list[Any], column: pa.Field) -> pa.Array:
    """`values` of a JSONL column as an array for its `ColumnType.field`."""
    if not pa.types.is_floating(column.type):
        values = [None if is_nan(value) else value for value in values]
    if pa.types.is_string(column.type):
        values = [value if value is None or isinstance(value, str) else dump_json(value) for value in values]
    return pa.array(values, column.type)


def _common(before: pa.DataType, values: list[Any], kinds: set[type]) -> pa.DataType | None:
    """The type that holds all values so far and `values` unchanged, if there is one."""
    if bool in kinds and kinds & {int, float}:  # Arrow would turn both into numbers
        return None
    try:
        fields = [pa.schema([("x", kind)]) for kind in (before, pa.array(values).type)]
        found = pa.unify_schemas(fields, promote_options="permissive").field("x").type
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None
    return found if _storable(found) else None


def _storable(kind: pa.DataType) -> bool:
    """Whether Parquet can store `kind`: it cannot store a struct without fields."""
    children = [kind.field(i) for i in range(kind.num_fields)]
    return not (pa.types.is_struct(kind) and not children) and all(_storable(child.type) for child in children)

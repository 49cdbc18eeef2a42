"""The type of a JSONL column, settled over the whole file before its first row is written."""

from typing import Any

import pyarrow as pa

_LARGEST_EXACT = 2**53  # the largest integer below which a float holds every one


class ColumnType:
    """The type of a JSONL column, settled block by block."""

    def __init__(self) -> None:
        self._type: pa.DataType | None = pa.null()  # None: there is no common one
        self._has_large_int = False

    def add(self, values: list[Any]) -> None:
        """Take another block's values into account."""
        if self._type is None:
            return
        kinds = {type(value) for value in values}
        if bool in kinds and kinds & {int, float}:  # Arrow would make numbers of both
            self._type = None
            return
        try:
            here = pa.array(values).type
            fields = [pa.schema([("x", kind)]) for kind in (self._type, here)]
            found = pa.unify_schemas(fields, promote_options="permissive").field("x").type
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            self._type = None
            return
        self._has_large_int |= int in kinds and any(type(v) is int and abs(v) > _LARGEST_EXACT for v in values)
        self._type = found if _storable(found) else None

    def is_mixed(self) -> bool:
        """Whether no one type holds every value as it is."""
        return self._type is None or (self._has_large_int and pa.types.is_floating(self._type))

    def type(self) -> pa.DataType:
        """The Arrow type of the column; text for one that is mixed or empty."""
        return pa.string() if self.is_mixed() or pa.types.is_null(self._type) else self._type


def _storable(kind: pa.DataType) -> bool:
    """Parquet has no form for a struct without fields."""
    children = [kind.field(i) for i in range(kind.num_fields)]
    return not (pa.types.is_struct(kind) and not children) and all(_storable(child.type) for child in children)

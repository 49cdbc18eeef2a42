"""Arrow types and arrays of any kind that files hold: functions that are used in more than one place."""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollout.data.floats import LARGEST_EXACT, written

NOT_UTF8 = object()
"""Stands for a cell with text that is not UTF-8; see `cells`."""


_SHOWABLE = re.compile(r"(\d{4,6}-\d\d-\d\d )?\d\d:\d\d:\d\d|\d{4,6}-\d\d-\d\d$|-?\d+$")
"""The text that Arrow writes for a date, time or duration; for dates out of its range Arrow writes other text."""


def row_slices(batch: pa.RecordBatch) -> list[tuple[int, int]]:
    """(first, last + 1) of each input row's responses in `batch`."""
    row_ids = batch.column("row_id").to_numpy(zero_copy_only=False)
    if not len(row_ids):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(row_ids)) + 1).tolist(), len(row_ids)]
    return list(pairwise(cuts))


def row_sums(values: npt.NDArray[Any], slices: list[tuple[int, int]]) -> npt.NDArray[Any]:
    """The sum of the `values` of each row; `slices` are those of `row_slices`."""
    return np.add.reduceat(values, [start for start, _ in slices]) if slices else values[:0]


def joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """One batch with the rows of one or more `batches` of the same schema."""
    if len(batches) == 1:
        return batches[0]
    (batch,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return batch


def sizes(column: pa.Array) -> npt.NDArray[np.int64]:
    """The bytes of each value of a column of texts, of numbers, or of lists of these at any depth; 0 for null."""
    if not is_list(column.type):
        if is_text(column.type):
            return _filled(pc.binary_length(column))
        return np.full(len(column), column.type.bit_width // 8)
    lengths, item = _filled(pc.list_value_length(column)), column.type.value_type
    if pa.types.is_primitive(item):
        return lengths * np.int64(item.bit_width // 8)
    totals, ends = np.concatenate([[0], np.cumsum(sizes(column.flatten()))]), np.cumsum(lengths)
    return np.asarray(totals[ends] - totals[ends - lengths], np.int64)


def _filled(counts: pa.Array) -> npt.NDArray[np.int64]:
    """`counts` with 0 for null. Arrow's own functions for this import pandas."""
    if counts.null_count:
        return np.array([count or 0 for count in counts.to_pylist()], np.int64)
    return np.asarray(np.from_dlpack(counts), np.int64)


def stored(kind: pa.DataType) -> pa.DataType:
    """The type of the values themselves in a dictionary, run-end encoded or extension type `kind`."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def is_text(kind: pa.DataType) -> bool:
    """Whether values of type `kind` are text, for example JSON text."""
    kind = stored(kind)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values of type `kind` are bytes. A UUID is not: it can be written as text."""
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return not isinstance(kind, pa.UuidType) and any(test(stored(kind)) for test in tests)


def is_list(kind: pa.DataType) -> bool:
    """Whether values of type `kind` are lists."""
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    views = (pa.types.is_list_view, pa.types.is_large_list_view)
    return any(test(stored(kind)) for test in (*tests, *views))


def values(column: pa.Array) -> list[Any]:
    """`column.to_pylist()` for any column: a value that Python cannot represent is text instead, if only an error text.

    A float32 is the number that people write: 0.1, not 0.10000000149011612.
    """
    try:
        if not _contains(column.type, _is_nano_time):
            return written(column.to_pylist(), column.type)
    except Exception:  # OverflowError, UnicodeDecodeError, ArrowInvalid, ...: by type, value and version of Arrow
        pass
    return written([_value(cell) for cell in column], column.type)


def plain_values(column: pa.Array) -> list[Any]:
    """As `values`, but a list of numbers is an array: faster to make, and written as JSON with the same digits."""
    kind = column.type
    if not (pa.types.is_list(kind) and kind.value_type in _NUMBERS) or column.flatten().null_count:
        return values(column)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    lists = np.split(column.flatten().to_numpy(), np.cumsum(lengths)[:-1]) if len(column) else []
    is_there = column.is_valid().to_pylist()
    return [numbers if there else None for numbers, there in zip(lists, is_there, strict=True)]


_NUMBERS = {pa.int32(), pa.int64(), pa.float32(), pa.float64()}


def cells(column: pa.Array) -> list[Any]:
    """As `values`, with NOT_UTF8 for a cell that contains, at any depth, text that is not UTF-8."""
    try:
        return written(column.to_pylist(), column.type)
    except Exception:  # as above
        return written([_cell(cell) for cell in column], column.type)


def equal(first: pa.Array, second: pa.Array) -> npt.NDArray[np.bool_]:
    """Whether each value of `first` equals the one at its place in `second`, of the same type and length. Null equals
    null, and so does NaN, with which pandas writes it.
    """
    if isinstance(first, pa.ExtensionArray):
        return equal(first.storage, second.storage)
    if isinstance(first, pa.DictionaryArray):
        return equal(first.dictionary_decode(), second.dictionary_decode())
    missing = [np.asarray(pc.is_null(column, nan_is_null=True)) for column in (first, second)]
    return np.where(missing[0] | missing[1], missing[0] & missing[1], _equal_values(first, second))


def _equal_values(first: pa.Array, second: pa.Array) -> npt.NDArray[np.bool_]:
    """The same where neither is null."""
    if pa.types.is_struct(first.type):
        fields = zip(first.flatten(), second.flatten(), strict=True)
        return np.asarray(np.all([np.ones(len(first), bool), *(equal(*pair) for pair in fields)], axis=0))
    if pa.types.is_list(first.type) or pa.types.is_large_list(first.type):
        return _equal_lists(first, second)
    try:
        return np.asarray(pc.equal(first, second).fill_null(False))
    except pa.ArrowNotImplementedError:
        return np.array([one == other for one, other in zip(values(first), values(second), strict=True)], bool)


def _equal_lists(first: pa.Array, second: pa.Array) -> npt.NDArray[np.bool_]:
    lengths = _filled(pc.list_value_length(first))
    found = lengths == _filled(pc.list_value_length(second))
    if not found.all():
        first, second = first.filter(pa.array(found)), second.filter(pa.array(found))
    differing = np.concatenate([[0], np.cumsum(~equal(first.flatten(), second.flatten()))])
    ends = np.cumsum(lengths[found])
    found[found] = differing[ends] == differing[ends - lengths[found]]
    return np.asarray(found)


def without_nulls(value: Any) -> Any:
    """`value` without its null fields, at every depth.

    Arrow gives every struct of a column the same fields; those that a row did not have are None.
    """
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def shown(column: pa.Array) -> pa.Array:
    """Dates or timestamps as Arrow writes them; if it cannot write one, a text that says so."""
    try:
        texts = column.cast(pa.string()).to_pylist()
    except Exception:  # as above
        texts = [""] * len(column)
    found = [text if text is None or _SHOWABLE.match(text) else None for text in texts]
    lost = [place for place, (text, as_is) in enumerate(zip(texts, found, strict=True)) if text != as_is]
    for place in lost:
        found[place] = _shown(column[place]) if column[place].is_valid else None
    return pa.array(found, pa.string())


def valid_text(column: pa.Array) -> pa.Array:
    """A column of strings, with a replacement character for each byte that is not UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return pa.array(values(column), column.type)
    return column


def _is_nano_time(kind: pa.DataType) -> bool:
    """Whether `to_pylist` loses digits without an error: Python's times end at microseconds."""
    return bool(pa.types.is_time64(kind)) and kind.unit == "ns"


def _is_list_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def _contains(kind: pa.DataType, test: Callable[[pa.DataType], bool]) -> bool:
    """Whether `test` holds for `kind`, or for a type in it at any depth."""
    kind = stored(kind)
    return test(kind) or any(_contains(kind.field(i).type, test) for i in range(kind.num_fields))


def _cell(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return NOT_UTF8
    except Exception:  # as above
        return _value(cell)


def _value(cell: pa.Scalar) -> Any:
    if not cell.is_valid:
        return None
    try:
        if not _contains(cell.type, _is_nano_time) or (_is_nano_time(cell.type) and cell.value % 1000 == 0):
            return cell.as_py()
    except Exception:  # as above
        pass
    if isinstance(cell, pa.StructScalar):
        pairs = [(cell.type.field(i).name, _value(cell[i])) for i in range(cell.type.num_fields)]
        return pairs if len(dict(pairs)) < len(pairs) else dict(pairs)  # two fields may have the same name
    if isinstance(cell, pa.MapScalar):
        return [(_value(item[0]), _value(item[1])) for item in cell.values]
    if isinstance(cell, pa.DictionaryScalar | pa.ExtensionScalar | pa.RunEndEncodedScalar):
        return _value(cell.value)
    return [_value(item) for item in cell.values] if is_list(cell.type) else _shown(cell)


def _shown(cell: pa.Scalar) -> str:
    """The text of a value that Python cannot represent."""
    try:
        if is_text(cell.type):
            return bytes(cell.as_buffer()).decode("utf-8", "replace")
        number, kind = cell.value, cell.type
        if pa.types.is_timestamp(kind) and kind.tz is not None:  # this machine may not know the zone
            cell = cell.cast(pa.timestamp(kind.unit, "UTC"))
        text = str(cell.cast(pa.string()).as_py())
        return text if _SHOWABLE.match(text) else f"{number} ({kind}, cannot be shown)"
    except Exception:  # as above
        return f"a value of type {cell.type}, cannot be shown"


def plain_type(kind: pa.DataType) -> pa.DataType:
    """`kind` without types that few functions of Arrow support, at any depth: views, and run-end encoded ones."""
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, plain_type(kind.value_type), kind.ordered)
    if isinstance(kind, pa.BaseExtensionType):
        return kind if kind.storage_type == (plain := plain_type(kind.storage_type)) else _extension(kind, plain)
    if pa.types.is_struct(kind):
        return pa.struct([plain_field(kind.field(i)) for i in range(kind.num_fields)])
    if pa.types.is_map(kind):
        return pa.map_(plain_field(kind.key_field), plain_field(kind.item_field), kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_field(kind.value_field), kind.list_size)
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(plain_field(kind.value_field))
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(plain_field(kind.value_field))
    return kind


def plain_field(column: pa.Field) -> pa.Field:
    """`column` with its `plain_type`."""
    return column.with_type(plain_type(column.type))


def _extension(kind: pa.BaseExtensionType, storage: pa.DataType) -> pa.DataType:
    """The extension type with another storage type, or the storage type if there is no such extension type."""
    return pa.json_(storage) if isinstance(kind, pa.JsonType) else storage


def cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """`column` as type `kind`, even if Arrow has no such cast. Raises ArrowInvalid for values that do not fit."""
    if column.type == kind:
        return column
    if isinstance(column, pa.RunEndEncodedArray):
        return cast(pc.run_end_decode(column), kind)
    if isinstance(column, pa.ExtensionArray):
        return cast(column.storage, kind)
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, cast(column, kind.storage_type))
    if _contains(column.type, _is_list_view):  # Arrow 26 loses their items in a cast
        return _made_again(column, kind)
    try:
        return column.cast(kind)
    except pa.ArrowNotImplementedError:
        return _made_again(column, kind)
    except pa.ArrowInvalid:
        if not (is_text(column.type) and pa.types.is_integer(kind)):
            raise
        numbers = column.cast(pa.float64())  # a null turns the whole numbers of pandas into 6.0
        if (pc.max(pc.abs(numbers)).as_py() or 0.0) >= LARGEST_EXACT:
            raise
        return numbers.cast(kind)


def _made_again(column: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values(column), kind)
    except (TypeError, ValueError, OverflowError, pa.ArrowNotImplementedError) as error:  # depends on type and value
        raise pa.ArrowInvalid(str(error)) from error

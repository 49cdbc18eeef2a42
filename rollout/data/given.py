"""Prompts that a program gives as values -> an Arrow table, the same as from a file with these values."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rollout.data.jsonl_types import ColumnType, column_array
from rollout.errors import UserError, did_you_mean

_UNSTORABLE = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, pa.ArrowKeyError)
"""Errors of Arrow for values without an Arrow type, and for types that Parquet cannot store."""


def as_table(given: Any, prompt_key: str) -> pa.Table:
    """The table for a run's input: `given` is a pandas or any other Arrow-compatible frame with a column `prompt_key`,
    or a list of texts, of chats, or of rows as dictionaries.

    A frame's index is left out. Raises UserError with every column that cannot be stored.
    """
    table = pa.table(dict(_stored(_columns(given, prompt_key), prompt_key)))
    if prompt_key not in table.column_names:
        raise UserError(f"data.prompt_key={prompt_key}: input has no such column, {_known(table.column_names)}")
    if table.num_rows == 0:
        raise UserError("input: has no rows; give one prompt or more")
    return table


def _columns(given: Any, prompt_key: str) -> list[tuple[str, Any]]:
    """(name, values) of each column: a pandas series, Arrow's column, or a list."""
    if isinstance(given, type):
        raise UserError(f"input: is the class {given.__name__}; give a path, a frame, or a list of texts or chats")
    if _is_of_pandas(given, "DataFrame"):
        return [(str(name), given.iloc[:, position]) for position, name in enumerate(given.columns)]
    if _is_of_pandas(given, "Series"):
        return _of_items(given.tolist(), prompt_key)
    if hasattr(given, "__arrow_c_stream__"):
        table = pa.table(given)
        return [*zip(table.column_names, table.columns, strict=True)]
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping):
        return _of_items(list(given), prompt_key)
    if isinstance(given, Mapping) and type(given) is not dict:  # such as the splits of a data set in `datasets`
        raise UserError(
            f"input: is of type {type(given).__name__} and has {', '.join(map(str, given))}; give one of them"
        )
    raise UserError(f"input: is of type {type(given).__name__}; give a path, a frame, or a list of texts or chats")


def _of_items(items: list[Any], prompt_key: str) -> list[tuple[str, Any]]:
    if not items or not all(isinstance(item, Mapping) for item in items):
        return [(prompt_key, items)]
    names = dict.fromkeys(str(name) for item in items for name in item)
    if "role" in names and prompt_key not in names:
        raise UserError("input: is one chat; give a list of chats, [chat]")
    return [(name, [item.get(name) for item in items]) for name in names]


def _stored(columns: list[tuple[str, Any]], prompt_key: str) -> Iterator[tuple[str, pa.Array | pa.ChunkedArray]]:
    """The columns as Arrow arrays. Raises UserError for columns that Arrow or Parquet cannot store."""
    names, problems = [name for name, _ in columns], list[str]()
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(f"input: more than one column is called {name}; rename one")
    stored = list[tuple[str, pa.Array | pa.ChunkedArray]]()
    for name, values in columns:
        try:
            stored.append((name, _array(values, is_prompt=name == prompt_key)))
        except (*_UNSTORABLE, ValueError, TypeError, OverflowError) as error:
            told = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)  # Arrow adds which
            reason = told.splitlines()[0].rstrip(".")
            problems.append(f"input: column {name} cannot be used ({reason}); make it text, or drop it")
    if problems:
        raise UserError(*problems)
    return iter(stored)


def _array(values: Any, is_prompt: bool) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, list):
        return _array_of_list(values, is_prompt)
    try:
        array = values if isinstance(values, pa.ChunkedArray) else _array_of_series(values)
        _write_none(array)
    except _UNSTORABLE:
        if not is_prompt or isinstance(values, pa.ChunkedArray):
            raise
        return _array_of_list(values.tolist(), is_prompt)  # for example texts and chats
    return array


def _array_of_series(values: Any) -> pa.ChunkedArray:
    table = pa.Table.from_pandas(values.to_frame("x"), preserve_index=False)
    return table.column(0)


def _array_of_list(values: list[Any], is_prompt: bool) -> pa.Array:
    """The same array as from a JSONL file with these values: if no single type fits, JSON text."""
    values, kind = [_plain(value) for value in values], ColumnType()
    if is_prompt:
        _refuse_other_than_prompts(values)
    kind.add(values)
    array = column_array(values, kind.field("x"))
    _write_none(array)
    return array


def _refuse_other_than_prompts(values: list[Any]) -> None:
    """Raise ValueError for values other than text, chats or missing ones: a model would read them as JSON text."""
    for number, value in enumerate(values):
        inner = {type(turn).__name__ for turn in value} - {"dict"} if isinstance(value, list) else set[str]()
        if inner or not (value is None or value != value or isinstance(value, str | list)):
            found = f"a list of {min(inner)}" if inner else type(value).__name__
            raise ValueError(f"prompt {number} is {found}, neither text nor a list of {{role, content}}")


def _plain(value: Any) -> Any:
    """`value` with Python lists and numbers instead of those of NumPy."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _write_none(array: pa.Array | pa.ChunkedArray) -> None:
    """Raise Arrow's error if Parquet cannot store the type."""
    pq.write_table(pa.table({"x": array.slice(0, 0)}), pa.BufferOutputStream())


def _is_of_pandas(given: Any, name: str) -> bool:
    """Does not import pandas: whoever gives a frame has imported it."""
    kind = type(given)
    return any(base.__name__ == name and base.__module__.split(".")[0] == "pandas" for base in kind.__mro__)


def _known(names: list[str]) -> str:
    return did_you_mean("", names) if names else "and no other"

"""Tool definitions for the chat template: `data.tools_key`."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from rollout.data.arrow import NOT_UTF8, is_list, is_text, stored, without_nulls
from rollout.data.json_text import load_json
from rollout.data.tables import Table
from rollout.errors import PromptError

Tools = list[dict[str, Any]]


def read_tools(value: Any, column: str) -> Tools | None:
    """A cell of `column` -> definitions in the form for the template; None for an empty cell.

    Takes a list of objects, each {type, function: {name, ...}} or {name, ...}; the list, or each of them, may
    be JSON text. Raises PromptError for what is none of these.
    """
    if value is NOT_UTF8:
        raise PromptError(f"{column}: not UTF-8")
    if isinstance(value, str) and not value.strip():
        return None
    tools = _of_json(value, column) if isinstance(value, str) else without_nulls(value)
    if tools is None:
        return None
    if not isinstance(tools, list):
        raise PromptError(f"{column} is {_kind(tools)}, not a list of tool definitions")
    tools = [_of_json(tool, column) if isinstance(tool, str) else tool for tool in tools]
    for number, tool in enumerate(tools):
        _check(tool, f"{column}[{number}]")
    return tools


def tools_column_problems(table: Table, column: str) -> Iterator[str]:
    """Why `column`, which is in `table`, cannot hold lists of tools: one line or none."""
    kind = stored(table.schema.field(column).type)
    item = stored(kind.value_type) if is_list(kind) else pa.null()
    if not (is_text(kind) or pa.types.is_struct(item) or is_text(item) or pa.types.is_null(kind)):
        yield f"data.tools_key={column}: the column holds {kind}; it must hold lists of tools, or JSON text of them"


def _check(tool: Any, place: str) -> None:
    """Raise PromptError for anything that is not a tool definition."""
    if not isinstance(tool, dict):
        raise PromptError(f"{place} is {_kind(tool)}, not a tool definition")
    function = tool.get("function", tool)
    if not isinstance(function, dict):
        raise PromptError(f"{place}.function is {_kind(function)}, not an object")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise PromptError(f"{place} has no name")
    if not isinstance(parameters := function.get("parameters", {}), dict):
        raise PromptError(f"{place}: its parameters are {_kind(parameters)}, not an object")


def _of_json(text: str, column: str) -> Any:
    try:
        return load_json(text)
    except ValueError as error:
        raise PromptError(f"{column} is not JSON ({error})") from error


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else type(value).__name__

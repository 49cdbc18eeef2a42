"""A table -> the chat of each row, or why it has none; and the columns to keep beside the chats."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rollout.config import PrepareConfig
from rollout.data.arrow import cells, is_list, stored
from rollout.data.chat import parse_chat, with_system_prompt
from rollout.data.column_path import ColumnPath, values_along
from rollout.data.prompts import prompt_column_problems
from rollout.data.tables import Table
from rollout.errors import PromptError, UserError, did_you_mean
from rollout.prepare.subset import subset_problems
from rollout.prepare.template import Template, parse_template
from rollout.records import RESERVED_COLUMNS, Message

PROMPT = "prompt"
"""The name of the column of chats, which a run expects by default."""

CHATS_AS_JSON = pa.string()
"""The type of that column if not every chat fits one type of messages: a run can read this too."""

_ROLE_AND_CONTENT = (pa.field("role", pa.string()), pa.field("content", pa.string()))
_OURS = RESERVED_COLUMNS | {PROMPT}


@dataclass(frozen=True)
class Plan:
    """How to convert each row of `table`."""

    table: Table
    columns: list[ColumnPath]
    """The columns whose values `chat` gets."""
    chat: Callable[[Sequence[Any]], list[Message]]
    """Makes a chat. Raises PromptError if the values do not form one."""
    chat_type: pa.DataType
    """list<struct<role, content, ...>> or CHATS_AS_JSON."""
    keep: list[str]
    """Columns that stay unchanged."""
    left_out: list[str]
    """Columns that are left out without a request from the user: a run needs their names."""


@dataclass(frozen=True)
class Refusal:
    """Why a row has no chat (the same text for many rows), and which row it is."""

    reason: str
    where: str


def plan_for(table: Table, config: PrepareConfig) -> Plan:
    """The plan for `table`. Raises UserError with everything in `config` that does not fit the table's columns."""
    if problems := [*_prompt_problems(table, config), *_keep_problems(table, config), *subset_problems(config)]:
        raise UserError(*problems)
    keep, left_out = _kept_columns(table.schema.names, config)
    if config.template is None:
        chat, kind = partial(_chat_in_cell, config.system_prompt), table.schema.field(config.prompt_key).type
        return Plan(table, [(config.prompt_key,)], chat, _chat_type(kind), keep, left_out)
    template = parse_template(config.template, table.schema)
    chat = partial(_chat_of_template, template, config.system_prompt)
    return Plan(table, template.columns, chat, pa.list_(pa.struct(_ROLE_AND_CONTENT)), keep, left_out)


def read_chats(plan: Plan, batch: pa.RecordBatch, positions: Sequence[int]) -> Iterator[list[Message] | Refusal]:
    """For each row of `batch`, its chat or why it has none; `positions` are those of its rows in the table."""
    columns = [values_along(batch, path, cells) for path in plan.columns]
    for row, values in zip(positions, zip(*columns, strict=True), strict=True):
        if row in plan.table.bad_rows:
            line, _, reason = plan.table.bad_rows[row].partition(": ")
            yield Refusal(reason.partition(" (")[0], line)
            continue
        try:
            chat = plan.chat(values)
        except PromptError as error:
            yield Refusal(str(error), f"row {row}")
        else:
            yield chat


def _chat_in_cell(system_prompt: str | None, values: Sequence[Any]) -> list[Message]:
    return with_system_prompt(parse_chat(values[0]), system_prompt)


def _chat_of_template(template: Template, system_prompt: str | None, values: Sequence[Any]) -> list[Message]:
    text = template.fill(values)
    if not text.strip():
        raise PromptError("the prompt is empty")
    return with_system_prompt([{"role": "user", "content": text}], system_prompt)


def _chat_type(kind: pa.DataType) -> pa.DataType:
    """The type of chats from a column of type `kind`: role and content are text, other fields keep their types."""
    message = stored(stored(kind).value_type) if is_list(kind) else pa.null()
    if not pa.types.is_struct(message):
        return pa.list_(pa.struct(_ROLE_AND_CONTENT))
    own = {field.name for field in _ROLE_AND_CONTENT}
    others = [field for field in message if field.name not in own and not pa.types.is_null(field.type)]
    chats = pa.list_(pa.struct([*_ROLE_AND_CONTENT, *others]))
    return chats if _storable(chats) else CHATS_AS_JSON


def _storable(kind: pa.DataType) -> bool:
    """Whether Parquet can store `kind`."""
    try:
        pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([("x", kind)])).close()
    except pa.ArrowNotImplementedError:
        return False
    return True


def _kept_columns(names: list[str], config: PrepareConfig) -> tuple[list[str], list[str]]:
    """The columns to keep, and those that are left out because a run needs their names."""
    if config.keep is not None:
        return [name for name in dict.fromkeys(config.keep) if name != PROMPT], []
    others = [name for name in names if config.template is not None or name != config.prompt_key]
    return [name for name in others if name not in _OURS], [name for name in others if name in _OURS]


def _prompt_problems(table: Table, config: PrepareConfig) -> Iterator[str]:
    if config.template is None:
        for problem in prompt_column_problems(table, config.prompt_key, "prompt_key"):
            cure = ", or make prompts of columns: template='{NAME} ...'"
            yield problem + (cure if config.prompt_key == PROMPT and table.schema.names else "")
        return
    if config.prompt_key != PROMPT:
        yield f"prompt_key={config.prompt_key}: has no use beside a template; leave one of them out"
    try:
        parse_template(config.template, table.schema)
    except UserError as error:
        yield from error.problems


def _keep_problems(table: Table, config: PrepareConfig) -> Iterator[str]:
    names = table.schema.names
    for name in config.keep or ():
        if name not in names:
            yield f"keep={name}: {table.path} has no such column, {did_you_mean(name, names)}"
        elif name in _OURS and not (name == config.prompt_key and config.template is None):
            yield f"keep={name}: a run needs that name for a column of its own; rename it, or leave it out of keep"
    kept = [name for name in _kept_columns(names, config)[0] if name in names]
    for name in kept:
        if not _storable(kind := table.schema.field(name).type):
            others = ",".join(other for other in kept if other != name)
            yield f"keep={name}: the column holds {kind}, for which Parquet has no form; set keep=[{others}]"

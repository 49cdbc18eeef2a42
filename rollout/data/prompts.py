"""The input: a table with a column of chats -> Prompt, one per row, streamed, bad rows included."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from rollout.config import DataConfig
from rollout.data.arrow import NOT_UTF8, cells, is_list, is_text, stored, without_nulls
from rollout.data.chat import message_text
from rollout.data.json_text import load_json
from rollout.data.row_sampling import read_row_sampling, sampling_column_problems
from rollout.data.tables import Table, open_table, select
from rollout.data.tools import Tools, read_tools, tools_column_problems
from rollout.errors import PromptError, UserError, did_you_mean
from rollout.files import user_path
from rollout.records import RESERVED_COLUMNS, Message, Prompt, ScoredWith

_BUILT_IN = "builtin_prompts.jsonl"
_IN_PYTHON = re.compile(
    r"""\s*(?:array\()?[\[(]\s*\{\s*'\w+'\s*:.*'(?:role|content|from|value)'\s*:|"""
    r"""\s*(?:array\()?[\[(]?\s*\{\s*'(?:role|content|from|value)'\s*:""",
    re.DOTALL,
)
"""How a chat begins that was written as `str(chat)`, for one by pandas to a CSV file."""

_IN_JSON = re.compile(r'\s*[\[{]\s*(?:\{\s*)?"(?:role|content|messages|conversations)"\s*:')
"""How a chat begins that was written as JSON."""

_ANSWERS = ("tool_calls", "reasoning", "reasoning_content", "function_call")
"""Fields with which a message says something without a content."""

_TEXT_PARTS = {"text", "input_text", "output_text", "refusal", "thinking"}
"""Types of the parts of a content that vLLM reads as text."""

KNOWN_ROLES = ("system", "user", "assistant", "tool", "developer")


def open_input(data: DataConfig) -> Table:
    """The rows and columns a run works on. Raises UserError when the file or its columns cannot be used."""
    if data.path == "":
        raise UserError("data.path=: names no file; give one, or leave it out for the built-in prompts")
    path = Path(str(files("rollout.data") / _BUILT_IN)) if data.path is None else user_path(data.path)
    table = open_table(path, "data.path")
    try:
        chosen = select(table, data.drop_columns, data.limit, max(1, data.num_shards), data.shard_index)
    except KeyError as error:
        raise UserError(
            f"data.drop_columns={error.args[0]}: {path} has no such column; it has {', '.join(table.schema.names)}"
        ) from error
    problems = [*prompt_column_problems(chosen, data.prompt_key, "data.prompt_key")]
    problems += _steering_problems(chosen, data)
    problems += taken_names(chosen, RESERVED_COLUMNS)
    problems += _shard_problems(table.num_rows, data)
    if problems:
        raise UserError(*problems)
    return chosen


ReadScoredWith: TypeAlias = Callable[[pa.RecordBatch], Sequence[ScoredWith | None]]
"""Gives `Prompt.scored_with` for each row of a batch."""


def with_nothing(batch: pa.RecordBatch) -> Sequence[None]:
    """For a run that does not score while it samples."""
    return [None] * batch.num_rows


def read_prompts(table: Table, data: DataConfig, scored_with: ReadScoredWith = with_nothing) -> Iterator[Prompt]:
    """Every row of `table` as a Prompt, in order; a row that cannot be used says why in `error`."""
    row_id = table.first_row
    for batch in table.batches():
        columns = (_cells(batch, column) for column in (data.prompt_key, data.sampling_key, data.tools_key))
        for chat, sampling, tools, beside in zip(*columns, scored_with(batch), strict=True):
            try:
                if row_id in table.bad_rows:
                    raise PromptError(table.bad_rows[row_id])
                own = _sampling(sampling, data), _tools(tools, data)
                yield Prompt(row_id, _chat(chat, data), None, *own, scored_with=beside)
            except PromptError as error:
                yield Prompt(row_id, [], str(error))
            row_id += 1


def _cells(batch: pa.RecordBatch, column: str | None) -> list[Any]:
    return [None] * batch.num_rows if column is None else cells(batch.column(column))


def _chat(value: Any, data: DataConfig) -> list[Message]:
    chat = with_system_prompt(parse_chat(value), data.system_prompt)
    for number, message in enumerate(chat):
        _refuse_other_than_text(message, number)
    return chat


def _sampling(value: Any, data: DataConfig) -> dict[str, Any] | None:
    if data.sampling_key is None:
        return None
    found = read_row_sampling(value, data.sampling_key)
    if found.problems:
        raise PromptError("; ".join(found.problems))
    return found.values


def _tools(value: Any, data: DataConfig) -> Tools | None:
    return None if data.tools_key is None else read_tools(value, data.tools_key)


def shard_in_words(table: Table, data: DataConfig) -> str:
    """Which rows of the input the run of a shard works on."""
    last_row = table.first_row + table.num_rows - 1
    return f"shard_index {data.shard_index} of num_shards {data.num_shards}: rows {table.first_row:,} to {last_row:,}"


def parse_chat(value: Any) -> list[Message]:
    """A cell of the prompt column -> messages.

    Takes a list of {role, content}, the same as a JSON string, or plain text, which becomes one user message. Raises
    PromptError for a cell that is none of these or that says nothing.
    """
    if value is None or (not isinstance(value, str | list | dict) and value != value):  # NaN and NaT, of pandas
        raise PromptError("the prompt is null")
    if value is NOT_UTF8:
        raise PromptError("the prompt is not UTF-8")
    value = _of_text(value) if isinstance(value, str) else without_nulls(value)
    if isinstance(value, dict):
        raise PromptError(_no_list(value))
    if not isinstance(value, list):
        raise PromptError(f"the prompt is a {type(value).__name__}, neither text nor a list of messages")
    messages = [_message(turn, number) for number, turn in enumerate(value)]
    if all(_is_blank(message) for message in messages):
        raise PromptError("the prompt is empty")
    return messages


def watch_roles(prompts: Iterable[Prompt], warn: Callable[[str], None]) -> Iterator[Prompt]:
    """The same prompts, with one warning for each role that no model is trained with: most templates print any."""
    seen = set(KNOWN_ROLES)
    for prompt in prompts:
        for message in prompt.messages:
            if (role := message["role"]) not in seen:
                seen.add(role)
                warn(
                    f"row {prompt.row_id} has a message with the role {role}, which most chat templates print as it "
                    f"is; models know {', '.join(KNOWN_ROLES)}"
                )
        yield prompt


def last_message(value: Any) -> str:
    """A cell of the prompt column as a reader knows it: what its chat's last message says, or the cell itself."""
    try:
        return message_text(parse_chat(value)[-1])
    except PromptError:
        return "" if value is NOT_UTF8 else str(value)


def with_system_prompt(messages: list[Message], system_prompt: str | None) -> list[Message]:
    """`messages` behind a system message, unless they begin with one."""
    if system_prompt is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def _refuse_other_than_text(message: Message, number: int) -> None:
    """Raise PromptError for a content, or a part of one, that is no text: tokens are all that the engine is given."""
    content = message.get("content")
    if content is not None and not isinstance(content, str | list):
        raise PromptError(f"message {number} has a content that is {type(content).__name__}, not text")
    for part in content if isinstance(content, list) else ():
        kind = part.get("type", "no text") if isinstance(part, dict) else type(part).__name__
        if not isinstance(part, str) and kind not in _TEXT_PARTS:
            raise PromptError(f"message {number} has a part that is {kind}; only text can be sampled")


def _of_text(text: str) -> Any:
    """What `text` encodes where it is a chat in JSON; else the chat in which a user says it.

    Raises PromptError for a chat in another notation, which a model would be shown as the user's words.
    """
    if _IN_PYTHON.match(text):
        raise PromptError("the prompt is a chat in Python's notation; write it with json.dumps, or as a list")
    value: Any = None
    if text.lstrip()[:1] in ("[", "{"):
        try:
            value = load_json(text)
        except ValueError as error:  # a text may well begin with a bracket
            if _IN_JSON.match(text):
                raise PromptError(f"the prompt begins as a chat in JSON, but is not JSON ({error})") from error
    if value == [] or _is_chat(value):
        return value
    return [{"role": "user", "content": text}]


def _is_chat(value: Any) -> bool:
    """Whether JSON is meant as a chat: messages, or what is hardly ever anything else."""
    if isinstance(value, dict):
        roles = value.get("role") in KNOWN_ROLES, value.get("from") in (*KNOWN_ROLES, "human", "gpt")
        return any(roles) or {"role", "content"} <= value.keys() or _chat_in(value) is not None
    if not isinstance(value, list) or not value:
        return False
    inner = value[0] if isinstance(value[0], list) else value
    return _has_message(inner) or all(turn is None or turn == [] or isinstance(turn, dict) for turn in value)


def _chat_in(value: dict[str, Any]) -> str | None:
    """The field that holds a chat in a row of a data set written as JSON."""
    for name, item in value.items():
        if isinstance(item, list) and (_has_message(item) or (not item and name in ("messages", "conversations"))):
            return name
    return None


def _has_message(turns: list[Any]) -> bool:
    return any(isinstance(turn, dict) and {"role", "from"} & turn.keys() for turn in turns)


def _no_list(value: dict[str, Any]) -> str:
    """What is wrong with a prompt that is one object."""
    if (name := _chat_in(value)) is not None:
        return f"the prompt is an object with the messages in its field {name}; give that list alone"
    return "the prompt is one message, not a list of them; put [ ] around it"


def _message(turn: Any, number: int) -> Message:
    if isinstance(turn, list) and turn and all(isinstance(pair, tuple) for pair in turn):
        turn = dict(turn)  # a map
    if not isinstance(turn, dict):
        raise PromptError(f"message {number} is not {{role, content}} but {type(turn).__name__}")
    message: Message = dict(turn)
    if not isinstance(message.get("role"), str):
        named = " but from and value; rename them to role and content" if {"from", "value"} <= turn.keys() else ""
        raise PromptError(f"message {number} has no role{named}")
    if message.setdefault("content", None) is None and not any(message.get(name) for name in _ANSWERS):
        raise PromptError(f"message {number} has no content")
    return message


def _is_blank(message: Message) -> bool:
    return not message_text(message).strip()


def prompt_column_problems(table: Table, column: str, key: str) -> Iterator[str]:
    """Why `column`, the value of the config `key`, cannot hold the prompts of `table`: one line or none."""
    if column not in table.schema.names:
        yield _missing(table, column, key)
        return
    kind = stored(table.schema.field(column).type)
    item = stored(kind.value_type) if is_list(kind) else pa.null()
    if not (is_text(kind) or pa.types.is_struct(item) or pa.types.is_map(item)):
        yield f"{key}={column}: the column holds {kind}; it must hold text or lists of {{role, content}}"


def _missing(table: Table, column: str, key: str) -> str:
    names = table.schema.names
    first = next(iter(table.bad_rows.values()), None)
    empty = f"has no columns{'' if first is None else f' ({first})'}; check what wrote it"
    return f"{key}={column}: {table.path} {f'has no such column, {did_you_mean(column, names)}' if names else empty}"


def _steering_problems(table: Table, data: DataConfig) -> Iterator[str]:
    """Why the columns that say how a row is sampled, and its tools, cannot be used: a line for each."""
    used = {data.prompt_key: "data.prompt_key"}
    checks = (
        ("data.sampling_key", data.sampling_key, sampling_column_problems),
        ("data.tools_key", data.tools_key, tools_column_problems),
    )
    for key, column, problems in checks:
        if column is None:
            continue
        if column in used:
            yield f"{key}={column}: the column of {used[column]}; name another, or leave it out"
        elif column not in table.schema.names:
            yield _missing(table, column, key)
        else:
            yield from problems(table, column)
        used.setdefault(column, key)


def _shard_problems(num_rows: int, data: DataConfig) -> Iterator[str]:
    """Every shard is refused when one of them would have no rows, for the job array cannot come to its end."""
    num_rows = num_rows if data.limit is None else min(data.limit, num_rows)
    if 1 <= num_rows < data.num_shards:
        yield f"data.num_shards={data.num_shards}: there are {num_rows} rows to split; lower it to at most {num_rows}"


def taken_names(table: Table, reserved: Collection[str]) -> Iterator[str]:
    """Why `table` cannot be an input beside output columns of these names: one line for all that it has."""
    if clash := [name for name in table.schema.names if name in reserved]:
        names = ",".join(clash)
        yield (
            f"data.path={table.path}: column {names} is a reserved output column; rename it or set "
            f"data.drop_columns=[{names}]"
        )

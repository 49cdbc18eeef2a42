"""The input: a table with a column of chats -> Prompt, one per row, streamed, bad rows included."""

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa

from rollout.config import DataConfig
from rollout.data.tables import Table, load_json, open_table, select
from rollout.errors import PromptError, UserError, did_you_mean
from rollout.records import RESERVED_COLUMNS, Message, Prompt

_BUILT_IN = "builtin_prompts.jsonl"
_IN_PYTHON = re.compile(r"""\s*\[\s*\{\s*'(?:role|content)'\s*:""")
"""How a chat begins that was written as `str(chat)`, for one by pandas to a CSV file."""


def open_input(data: DataConfig) -> Table:
    """The rows and columns a run works on. Raises UserError when the file or its columns cannot be used."""
    path = Path(str(files("rollout.data") / _BUILT_IN)) if data.path is None else Path(data.path).expanduser()
    table = open_table(path, "data.path")
    try:
        chosen = select(table, data.drop_columns, data.limit, max(1, data.num_shards), data.shard_index)
    except KeyError as error:
        raise UserError(
            f"data.drop_columns={error.args[0]}: {path} has no such column; it has {', '.join(table.schema.names)}"
        ) from error
    problems = [*prompt_column_problems(chosen, data.prompt_key, "data.prompt_key"), *_clash_problems(chosen)]
    problems += _shard_problems(table.num_rows, data)
    if problems:
        raise UserError(*problems)
    return chosen


def read_prompts(table: Table, data: DataConfig) -> Iterator[Prompt]:
    """Every row of `table` as a Prompt, in order; a row without a usable chat says why in `error`."""
    row_id = table.first_row
    for batch in table.batches():
        for value in batch.column(data.prompt_key).to_pylist():
            try:
                if row_id in table.bad_rows:
                    raise PromptError(table.bad_rows[row_id])
                chat = with_system_prompt(parse_chat(value), data.system_prompt)
                yield Prompt(row_id, [_only_text(message, number) for number, message in enumerate(chat)])
            except PromptError as error:
                yield Prompt(row_id, [], str(error))
            row_id += 1


def shard_in_words(table: Table, data: DataConfig) -> str:
    """Which rows of the input the run of a shard works on."""
    last_row = table.first_row + table.num_rows - 1
    return f"shard_index {data.shard_index} of num_shards {data.num_shards}: rows {table.first_row:,} to {last_row:,}"


def parse_chat(value: Any) -> list[Message]:
    """A cell of the prompt column -> messages.

    Takes a list of {role, content}, the same as a JSON string, or plain text, which becomes one user message. Raises
    PromptError for a cell that is none of these or that says nothing.
    """
    if value is None:
        raise PromptError("the prompt is null")
    if isinstance(value, str):
        if _IN_PYTHON.match(value):
            raise PromptError("the prompt is a chat in Python's notation; write it with json.dumps, or as a list")
        value = _chat_in_json(value) or [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise PromptError(f"the prompt is a {type(value).__name__}, neither text nor a list of messages")
    messages = [_message(turn, number) for number, turn in enumerate(value)]
    if all(_is_blank(message["content"]) for message in messages):
        raise PromptError("the prompt is empty")
    return messages


def with_system_prompt(messages: list[Message], system_prompt: str | None) -> list[Message]:
    """`messages` behind a system message, unless they begin with one."""
    if system_prompt is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def _only_text(message: Message, number: int) -> Message:
    """`message` with a content in parts put together, as vLLM does for templates that read text.

    Raises PromptError for a part that is no text: tokens are all that the engine is given.
    """
    if not isinstance(parts := message["content"], list):
        return message
    for part in parts:
        if not (isinstance(part, str) or (isinstance(part, dict) and isinstance(part.get("text"), str))):
            kind = part.get("type", "no text") if isinstance(part, dict) else type(part).__name__
            raise PromptError(f"message {number} has a part that is {kind}; only text can be sampled")
    return message | {"content": "\n".join(part if isinstance(part, str) else part["text"] for part in parts)}


def _chat_in_json(text: str) -> list[Any] | None:
    """The chat that `text` encodes, or None where `text` is simply a text (which may well begin with a bracket)."""
    if not text.lstrip().startswith("["):
        return None
    try:
        chat = load_json(text)
    except ValueError:
        return None
    return chat if chat and all(isinstance(turn, dict) for turn in chat) else None


def _message(turn: Any, number: int) -> Message:
    if not isinstance(turn, dict):
        raise PromptError(f"message {number} is not {{role, content}} but {type(turn).__name__}")
    message: Message = without_nulls(turn)
    if not isinstance(message.get("role"), str):
        raise PromptError(f"message {number} has no role")
    if "content" not in message:
        if "tool_calls" not in message:
            raise PromptError(f"message {number} has no content")
        message["content"] = ""  # templates read the key even where a turn only calls tools
    return message


def without_nulls(value: Any) -> Any:
    """`value` without its null fields, at every depth.

    Arrow gives every struct of a column the same fields; the ones a row did not have come back as None.
    """
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _is_blank(content: Any) -> bool:
    return not (content.strip() if isinstance(content, str) else content)


def prompt_column_problems(table: Table, column: str, key: str) -> Iterator[str]:
    """Why `column`, the value of the config `key`, cannot hold the prompts of `table`: one line or none."""
    if column not in table.schema.names:
        names = table.schema.names
        cure = f"has no such column, {did_you_mean(column, names)}" if names else "has no columns; check what wrote it"
        yield f"{key}={column}: {table.path} {cure}"
        return
    kind = table.schema.field(column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (is_text or (is_list and pa.types.is_struct(kind.value_type))):
        yield f"{key}={column}: the column holds {kind}; it must hold text or lists of {{role, content}}"


def _shard_problems(num_rows: int, data: DataConfig) -> Iterator[str]:
    """Every shard is refused when one of them would have no rows, for the job array cannot come to its end."""
    num_rows = num_rows if data.limit is None else min(data.limit, num_rows)
    if 1 <= num_rows < data.num_shards:
        yield f"data.num_shards={data.num_shards}: there are {num_rows} rows to split; lower it to at most {num_rows}"


def _clash_problems(table: Table) -> Iterator[str]:
    clash = [name for name in table.schema.names if name in RESERVED_COLUMNS]
    if clash:
        names = ",".join(clash)
        yield (
            f"data.path={table.path}: column {names} is a reserved output column; rename it or set "
            f"data.drop_columns=[{names}]"
        )

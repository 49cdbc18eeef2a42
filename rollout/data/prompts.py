"""The input: a table with a column of chats -> a stream of Prompts, one per row, including bad rows."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa

from rollout.config import DataConfig
from rollout.data.arrow import cells, is_list, is_text, stored
from rollout.data.chat import KNOWN_ROLES, parse_chat, with_system_prompt
from rollout.data.row_sampling import read_row_sampling, sampling_column_problems
from rollout.data.tables import Table, open_table, select
from rollout.data.text import are, counted
from rollout.data.tools import Tools, read_tools, tools_column_problems
from rollout.errors import PromptError, UserError, did_you_mean
from rollout.files import user_path
from rollout.records import RESERVED_COLUMNS, Message, Prompt, ScoredWith

_BUILT_IN = "builtin_prompts.jsonl"
_TEXT_PARTS = {"text", "input_text", "output_text", "refusal", "thinking"}
"""The types of content parts that vLLM reads as text."""

_FOLLOWED = (
    "ends in a message of the assistant, and the response is another one behind it; to have it continued, set "
    "model.chat_template_kwargs.continue_final_message=true"
)

_CONTINUED = (
    "does not end in a message of the assistant, so another's is continued; rows that are to be answered want a run of "
    "their own, without model.chat_template_kwargs.continue_final_message"
)


def open_input(data: DataConfig) -> Table:
    """The rows and columns that a run uses. Raises UserError if the file or its columns cannot be used."""
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
    """A `ReadScoredWith` for a run that does not score while it samples."""
    return [None] * batch.num_rows


def read_prompts(table: Table, data: DataConfig, scored_with: ReadScoredWith = with_nothing) -> Iterator[Prompt]:
    """Every row of `table` as a Prompt, in order; for a row that cannot be used, `error` says why."""
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
    """Which rows of the input belong to the run's shard, in words."""
    last_row = table.first_row + table.num_rows - 1
    return f"shard_index {data.shard_index} of num_shards {data.num_shards}: rows {table.first_row:,} to {last_row:,}"


def watch_chats(
    prompts: Iterable[Prompt], template: Mapping[str, Any], warn: Callable[[str], None]
) -> Iterator[Prompt]:
    """The same prompts, with one warning for each role that no model is trained with (most templates print any role).
    Also warns of the first chat whose last message is continued but is not the assistant's, or the other way round.

    `template` are the variables of the chat template.
    """
    seen = set(KNOWN_ROLES)
    continues = bool(template.get("continue_final_message"))
    is_odd = "add_generation_prompt" in template  # whoever sets it knows
    for prompt in prompts:
        if not is_odd and prompt.messages and (prompt.messages[-1]["role"] == "assistant") != continues:
            is_odd = True
            warn(f"row {prompt.row_id} {_CONTINUED if continues else _FOLLOWED}")
        for message in prompt.messages:
            if (role := message["role"]) not in seen:
                seen.add(role)
                warn(
                    f"row {prompt.row_id} has a message with the role {role}, which most chat templates print as it "
                    f"is; models know {', '.join(KNOWN_ROLES)}"
                )
        yield prompt


def _refuse_other_than_text(message: Message, number: int) -> None:
    """Raise PromptError for content, or a part of it, that is not text: the engine only gets tokens."""
    content = message.get("content")
    if content is not None and not isinstance(content, str | list):
        raise PromptError(f"message {number} has a content that is {type(content).__name__}, not text")
    for part in content if isinstance(content, list) else ():
        kind = str(part.get("type", "no text")) if isinstance(part, dict) else type(part).__name__
        if not isinstance(part, str) and kind not in _TEXT_PARTS:
            raise PromptError(f"message {number} has a part that is {kind}; only text can be sampled")


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
    """Why the columns with each row's sampling and tools cannot be used: one line each."""
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
    """Refuse every shard if one of them would have no rows: the job array could never be merged."""
    num_rows = num_rows if data.limit is None else min(data.limit, num_rows)
    if 1 <= num_rows < data.num_shards:
        rows = f"there {are(num_rows)} {counted(num_rows, 'row')} to split"
        yield f"data.num_shards={data.num_shards}: {rows}; lower it to at most {num_rows}"


def taken_names(table: Table, reserved: Collection[str]) -> Iterator[str]:
    """One line about all columns of `table` whose names are reserved for output columns, if there are any."""
    if clash := [name for name in table.schema.names if name in reserved]:
        names = ",".join(clash)
        yield (
            f"data.path={table.path}: column {names} is a reserved output column; rename it or set "
            f"data.drop_columns=[{names}]"
        )

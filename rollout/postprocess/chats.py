"""Responses put back into their chats: for fine-tuning (`messages`) and for preference learning (`preference`)."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from rollout.config import DataConfig
from rollout.data.arrow import row_slices
from rollout.data.prompts import parse_chat, with_system_prompt
from rollout.data.text import rows_of
from rollout.errors import PromptError
from rollout.records import Message

Records = pa.RecordBatch | list[dict[str, Any]]
"""A part of what is exported: a batch, or plain records."""


def chat_type(prompt: pa.DataType) -> pa.DataType:
    """The type of a column of chats made from a column of `prompt`s: with the same fields, where it has any."""
    is_list = pa.types.is_list(prompt) or pa.types.is_large_list(prompt)
    if is_list and pa.types.is_struct(prompt.value_type):
        return pa.list_(prompt.value_type)
    return pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))


MADE = {
    "responses": frozenset[str](),
    "messages": frozenset({"messages", "row_id", "sample_idx"}),
    "preference": frozenset(
        {"prompt", "chosen", "rejected", "chosen_score", "rejected_score", "row_id"}
        | {"chosen_sample_idx", "rejected_sample_idx"}
    ),
}
"""What a record has of itself in each `export.format`: no input column can have these names there."""


def messages(
    batch: pa.RecordBatch, data: DataConfig, extra: list[pa.Field], continued: bool = False
) -> list[dict[str, Any]]:
    """One record per response: `messages` is the chat with the response as the assistant's turn.

    Where the responses have `continued` a last message of the assistant, that message and the response are one turn.
    """
    return [
        {"messages": [*chat, _turn(row)], "row_id": row["row_id"], "sample_idx": row["sample_idx"]} | _extra(row, extra)
        for chat, rows in _chats(batch, data, extra, continued)
        for row in rows
    ]


def preferences(
    batch: pa.RecordBatch, data: DataConfig, extra: list[pa.Field], continued: bool = False
) -> list[dict[str, Any]]:
    """One record per row whose scores differ: its best response is `chosen`, its worst `rejected`; of equals the first.

    The conversational form with an explicit prompt that TRL's DPOTrainer documents, with scores and sample numbers
    beside it.
    """
    records = []
    for chat, rows in _chats(batch, data, extra, continued):
        scored = [row for row in rows if row["score"] is not None]
        if not scored:
            continue
        best, worst = max(scored, key=lambda row: row["score"]), min(scored, key=lambda row: row["score"])
        if best["score"] == worst["score"]:
            continue
        record: dict[str, Any] = {"prompt": chat, "chosen": [_turn(best)], "rejected": [_turn(worst)]}
        record |= {"chosen_score": best["score"], "rejected_score": worst["score"], "row_id": best["row_id"]}
        record |= {"chosen_sample_idx": best["sample_idx"], "rejected_sample_idx": worst["sample_idx"]}
        records.append(record | _extra(best, extra))
    return records


def _turn(row: dict[str, Any]) -> Message:
    return {"role": "assistant", "content": row["response"]}


def _extra(row: dict[str, Any], extra: list[pa.Field]) -> dict[str, Any]:
    return {column.name: row[column.name] for column in extra}


def _chats(
    batch: pa.RecordBatch, data: DataConfig, extra: list[pa.Field], continued: bool
) -> Iterator[tuple[list[Message], list[dict[str, Any]]]]:
    """For every input row in `batch` its chat and its responses; rows whose prompt is no chat are left out."""
    wanted = ["row_id", "sample_idx", "response", *(column.name for column in extra)]
    wanted += [name for name in ("score",) if name in batch.schema.names]
    answered = batch.filter(batch.column("response").is_valid())
    prompts = answered.column(data.prompt_key)
    rows = rows_of(answered.select(list(dict.fromkeys(wanted))))
    for start, stop in row_slices(answered):
        try:
            chat = parse_chat(prompts[start].as_py())
        except PromptError:
            continue
        chat, answers = with_system_prompt(chat, data.system_prompt), rows[start:stop]
        if continued and chat[-1]["role"] == "assistant" and isinstance(begun := chat[-1]["content"], str):
            chat, answers = chat[:-1], [row | {"response": begun + row["response"]} for row in answers]
        yield chat, answers

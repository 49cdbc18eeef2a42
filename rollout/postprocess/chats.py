"""Responses put back into their chats: for fine-tuning (`messages`) and for preference learning (`preference`); and the
chats alone: for those who sample responses themselves (`prompts`), and with the answer that has the most votes
(`answers`).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from rollout.config import DataConfig, ExportFormat
from rollout.data.arrow import cells, is_list, stored
from rollout.data.chat import parse_chat, with_system_prompt
from rollout.data.json_text import holds_json, json_field
from rollout.errors import PromptError
from rollout.postprocess.pairs import FEW, NO_CHAT, Candidate, Pair, pairs_of, why_none
from rollout.records import THINKING, Message, has_thinking

LeftOut: TypeAlias = Counter[tuple[str, str]]
"""How much is left out, by what it is (`row`, `response`, `sample`) and the reason, in words that follow a number."""

FAILED = "that failed"
UNANSWERED = "without a response"


@dataclass(frozen=True)
class Records:
    """A part of what is exported with chats: what is made for each record, and the input's columns beside it."""

    made: list[dict[str, Any]]
    beside: pa.RecordBatch
    left_out: LeftOut = field(default_factory=LeftOut)
    """What gave no record."""


@dataclass(frozen=True)
class Recipe:
    """How records are made of a batch of responses."""

    data: DataConfig
    """Which column has the prompts, and the system prompt that their chats begin with."""
    beside: list[str]
    """The input's columns beside the records."""
    continued: bool = False
    """Whether a response continues a last message of the assistant: then the two are one turn."""
    export: ExportFormat = field(default_factory=ExportFormat)
    """Says what becomes of the thinking, and which responses make pairs."""


@dataclass(frozen=True)
class _Answer:
    """A response, with what a record needs of it; `position` is where it stands in the batch."""

    position: int
    row_id: int
    sample_idx: int
    response: str
    score: float | None
    extracted: str | None
    is_split: bool = False
    """Whether its thinking was told from it; then the two that follow say what it was."""
    reasoning: str = ""
    closed: bool = True
    is_empty: bool = False
    """Whether the model has answered nothing but white space, whatever its turn says besides."""


def chat_field(name: str, prompt: pa.Field, thinks: bool = False) -> pa.Field:
    """A column of chats called `name`, for chats of the column `prompt`: messages have the same fields, and one for the
    thinking if a message of it `thinks`.

    Where the prompts are JSON text, because messages have other fields in other rows of a JSONL file, so is this one.
    """
    if holds_json(prompt):
        return json_field(name)
    item = pa.struct([("role", pa.string()), ("content", pa.string())])
    if is_list(prompt.type) and pa.types.is_struct(of_prompt := stored(stored(prompt.type).value_type)):
        item = of_prompt
    if thinks and item.get_field_index(REASONING) < 0:
        item = pa.struct([*item, pa.field(REASONING, pa.string())])
    return pa.field(name, pa.list_(item))


def messages(batch: pa.RecordBatch, recipe: Recipe) -> Records:
    """One record per response: `messages` is the chat with the response as the assistant's turn."""
    made, positions = list[dict[str, Any]](), list[int]()
    for chat, answers in _chats(batch, recipe):
        for answer in answers:
            ids = {"row_id": answer.row_id, "sample_idx": answer.sample_idx}
            made.append({"messages": [*chat, _turn(answer, recipe.export)], **ids})
            positions.append(answer.position)
    num_answered = batch.num_rows - batch.column("response").null_count
    left_out = {("sample", FAILED): batch.num_rows - num_answered, ("response", NO_CHAT): num_answered - len(made)}
    return _records(made, batch, recipe, positions, left_out)


def preferences(batch: pa.RecordBatch, recipe: Recipe) -> Records:
    """One record per pair of a response that is `chosen` and one that is `rejected`, see `pairs_of`.

    The conversational form with an explicit prompt that TRL's DPOTrainer documents, with scores and sample numbers
    beside it.
    """
    made, positions, num_chats = list[dict[str, Any]](), list[int](), 0
    left_out = LeftOut()
    for chat, answers in _chats(batch, recipe):
        num_chats += 1
        row = list(_candidates(answers, recipe.export))
        pairs = pairs_of(row, recipe.export)
        made += [_preference(chat, answers[0].row_id, pair) for pair in pairs]
        positions += [chosen.position for chosen, _ in pairs]
        if not pairs:
            left_out["row", why_none(row, recipe.export)] += 1
    num_rows, num_answered = _num_rows(batch)
    left_out += Counter({("row", FEW): num_rows - num_answered, ("row", NO_CHAT): num_answered - num_chats})
    return _records(made, batch, recipe, positions, left_out)


def _candidates(answers: list[_Answer], export: ExportFormat) -> Iterator[Candidate]:
    for answer in answers:
        if answer.score is not None:
            turn = _turn(answer, export)
            text = tuple(turn.values())
            yield Candidate(answer.position, answer.sample_idx, answer.score, turn, text, answer.is_empty)


def _preference(chat: list[Message], row_id: int, pair: Pair) -> dict[str, Any]:
    chosen, rejected = pair
    turns = {"prompt": chat, "chosen": [chosen.turn], "rejected": [rejected.turn]}
    scores = {"chosen_score": chosen.score, "rejected_score": rejected.score, "row_id": row_id}
    return turns | scores | {"chosen_sample_idx": chosen.sample_idx, "rejected_sample_idx": rejected.sample_idx}


def _num_rows(batch: pa.RecordBatch) -> tuple[int, int]:
    """The number of input rows in `batch`, and of those that have a response."""
    row_ids = batch.column("row_id")
    answered = row_ids.filter(pc.is_valid(batch.column("response")))
    return pc.count_distinct(row_ids).as_py(), pc.count_distinct(answered).as_py()


def prompts(batch: pa.RecordBatch, recipe: Recipe) -> Records:
    """One record per row that has a response: `prompt` is its chat, with a last message of the assistant."""
    return _of_rows(batch, recipe, lambda _row: {})


def answers(batch: pa.RecordBatch, recipe: Recipe) -> Records:
    """As `prompts`, with the answer that has the most votes (of equals the first one given), its votes and its score.

    A response in which the scorer found no answer does not vote.
    """
    return _of_rows(batch, recipe, _majority)


def _majority(row: list[_Answer]) -> dict[str, Any]:
    votes = Counter(answer.extracted for answer in row if answer.extracted is not None)
    elected, count = max(votes.items(), key=itemgetter(1), default=(None, 0))
    score = next((answer.score for answer in row if answer.extracted == elected), None) if votes else None
    found = {"majority_answer": elected, "majority_votes": count}
    return found | {"num_responses": len(row), "majority_score": score}


def _of_rows(batch: pa.RecordBatch, recipe: Recipe, found: Callable[[list[_Answer]], dict[str, Any]]) -> Records:
    """A record for each row that has a response: its whole chat, and what is `found` in its responses."""
    made, positions = list[dict[str, Any]](), list[int]()
    for chat, row in _chats(batch, Recipe(recipe.data, recipe.beside)):
        made.append({"prompt": chat, **found(row), "row_id": row[0].row_id})
        positions.append(row[0].position)
    num_rows, num_answered = _num_rows(batch)
    left_out = {("row", UNANSWERED): num_rows - num_answered, ("row", NO_CHAT): num_answered - len(made)}
    return _records(made, batch, recipe, positions, left_out)


def _records(
    made: list[dict[str, Any]],
    batch: pa.RecordBatch,
    recipe: Recipe,
    positions: list[int],
    left_out: Mapping[tuple[str, str], int],
) -> Records:
    """`positions` are those of the responses that the records are made of; what is `left_out` may count as 0."""
    beside = batch.select(recipe.beside).take(pa.array(positions, pa.int64()))
    return Records(made, beside, +LeftOut(left_out))


REASONING = "reasoning_content"
"""The field of a message that the chat templates of Qwen3, GLM, Kimi and others read."""


def _turn(answer: _Answer, export: ExportFormat) -> Message:
    turn = {"role": "assistant", "content": answer.response}
    return turn | {REASONING: answer.reasoning} if export.reasoning == "field" and answer.reasoning else turn


def _as_written(answer: _Answer, marks: list[str], is_open: bool = False) -> str:
    """The response with its thinking between the marks; `is_open`: the turn that it continues has the first one."""
    start, end = marks
    if not (answer.reasoning or is_open):
        return answer.response
    opening, closing = "" if is_open else start, end if answer.closed else ""
    return f"{opening}{answer.reasoning}{closing}{answer.response}"


def _as_one(begun: str, answer: _Answer, export: ExportFormat) -> _Answer:
    """The turn that was `begun` in the prompt, with the response as its end; its thinking is part of the response's."""
    said, opened = begun, None
    if answer.is_split:
        said, opened = _opened(begun, *export.reasoning_marks)
    if export.reasoning == "keep":
        text = _as_written(answer, export.reasoning_marks, opened is not None)
        return replace(answer, response=begun + text)
    return replace(answer, response=said + answer.response, reasoning=(opened or "") + answer.reasoning)


def _opened(begun: str, start: str, end: str) -> tuple[str, str | None]:
    """Split `begun` before thinking that it leaves open: the text, and the thinking (None if none is open)."""
    said, mark, thought = begun.rpartition(start)
    return (said, thought) if mark and end not in thought else (begun, None)


def _chats(batch: pa.RecordBatch, recipe: Recipe) -> Iterator[tuple[list[Message], list[_Answer]]]:
    """For every input row in `batch` its chat and its responses; rows whose prompt is no chat are left out."""
    data, export = recipe.data, recipe.export
    prompts, answers = batch.column(data.prompt_key), _answers(batch)
    for _, group in groupby(answers, key=attrgetter("row_id")):
        row = list(group)
        try:
            chat = parse_chat(*cells(prompts.slice(row[0].position, 1)))
        except PromptError:
            continue
        chat = with_system_prompt(chat, data.system_prompt)
        begun = chat[-1]["content"] if recipe.continued and chat[-1]["role"] == "assistant" else None
        if isinstance(begun, str):
            chat, row = chat[:-1], [_as_one(begun, answer, export) for answer in row]
        elif export.reasoning == "keep":
            row = [replace(answer, response=_as_written(answer, export.reasoning_marks)) for answer in row]
        yield chat, row


def _answers(batch: pa.RecordBatch) -> Iterator[_Answer]:
    """The responses in `batch`; samples that failed have none."""
    names = ["row_id", "sample_idx", "response"]
    names += [name for name in ("score", "extracted_answer") if name in batch.schema.names]
    is_split = has_thinking(batch.schema)
    names += THINKING if is_split else ()
    for position, row in enumerate(batch.select(names).to_pylist()):
        if row["response"] is not None:
            thought = row.get("reasoning") or "", bool(row.get("reasoning_closed", True))
            scored = row.get("score"), row.get("extracted_answer")
            ids, is_empty = (position, row["row_id"], row["sample_idx"]), not row["response"].strip()
            yield _Answer(*ids, row["response"], *scored, is_split, *thought, is_empty)


def _messages_fields(prompt: pa.Field, thinks: bool) -> list[pa.Field]:
    return [chat_field("messages", prompt, thinks), pa.field("row_id", pa.int64()), pa.field("sample_idx", pa.int32())]


def _preference_fields(prompt: pa.Field, thinks: bool) -> list[pa.Field]:
    sides = [chat_field("prompt", prompt), *(chat_field(name, prompt, thinks) for name in ("chosen", "rejected"))]
    scores = [pa.field(f"{side}_score", pa.float64()) for side in ("chosen", "rejected")]
    samples = [pa.field(f"{side}_sample_idx", pa.int32()) for side in ("chosen", "rejected")]
    return [*sides, *scores, pa.field("row_id", pa.int64()), *samples]


def _prompts_fields(prompt: pa.Field, _thinks: bool) -> list[pa.Field]:
    return [chat_field("prompt", prompt), pa.field("row_id", pa.int64())]


def _answers_fields(prompt: pa.Field, _thinks: bool) -> list[pa.Field]:
    counts = [pa.field("majority_votes", pa.int32()), pa.field("num_responses", pa.int32())]
    found = [pa.field("majority_answer", pa.string()), *counts, pa.field("majority_score", pa.float64())]
    return [chat_field("prompt", prompt), *found, pa.field("row_id", pa.int64())]


@dataclass(frozen=True)
class Format:
    """What `export.format` makes of responses and their chats."""

    fields: Callable[[pa.Field, bool], list[pa.Field]]
    """The format's own columns, from the column of the prompts and whether messages have their thinking in a field."""
    records: Callable[[pa.RecordBatch, Recipe], Records]
    """The records of a batch of responses."""
    needs_scores: bool = False
    keeps_input: bool = False
    """Whether the input's other columns stand beside the records if nobody names columns."""

    def names(self) -> frozenset[str]:
        """The names of its own columns: no input column can have one of them beside the records."""
        return frozenset(own.name for own in self.fields(pa.field("prompt", pa.string()), False))


FORMATS = {
    "messages": Format(_messages_fields, messages),
    "preference": Format(_preference_fields, preferences, needs_scores=True),
    "prompts": Format(_prompts_fields, prompts, keeps_input=True),
    "answers": Format(_answers_fields, answers, needs_scores=True, keeps_input=True),
}
"""The words that `export.format` takes for records with chats."""

"""Some rows with all their responses, as the pages show them."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rollout.config import DataConfig
from rollout.data.arrow import cells, row_slices
from rollout.data.chat import message_text, parse_chat, with_system_prompt
from rollout.data.json_text import rows_of
from rollout.data.text import as_text
from rollout.engine.vocabulary import TokenText
from rollout.errors import PromptError
from rollout.pages.report_content import Message, Response, Row, Token
from rollout.postprocess.repetition import is_looping
from rollout.postprocess.source import Source
from rollout.records import FLAT_FIELDS, SCORE_FIELDS, THINKING, extras_of, has_thinking
from rollout.scoring.inputs import truths_at

PAGE_BYTES = 30 << 20
"""Of all rows of a page that a browser opens at once."""

_MAX_CHARACTERS = 20_000  # of one text
_MOST_UNLIKELY = 3  # tokens of a response
_OURS = {column.name for column in (*FLAT_FIELDS, *SCORE_FIELDS)}


def sample_rows(
    source: Source,
    positions: Sequence[int],
    data: DataConfig,
    ground_truth: str | None,
    most_bytes: int = PAGE_BYTES,
    text: TokenText | None = None,
) -> list[Row]:
    """The rows of `source` at these ascending positions, as many as `most_bytes` of JSON hold.

    `ground_truth` is the path to their right answers, `text` tells what a token says. Reads no further than the last
    position.
    """
    found: list[Row] = []
    wanted, first, size = np.array(positions, np.int64), 0, 0
    for batch in source.batches() if len(wanted) else ():
        slices = row_slices(batch)
        for position in wanted[(wanted >= first) & (wanted < first + len(slices))] - first:
            start, stop = slices[position]
            row = _row(batch.slice(start, stop - start), data, ground_truth, text)
            size += len(json.dumps(row))
            if size > most_bytes:
                return found
            found.append(row)
        first += len(slices)
        if first > wanted[-1]:
            break
    return found


def _row(samples: pa.RecordBatch, data: DataConfig, ground_truth: str | None, text: TokenText | None) -> Row:
    """One input row, from the batch of its responses."""
    truth = None if ground_truth is None else truths_at(samples.slice(0, 1), ground_truth)[0]
    thinking = THINKING if has_thinking(samples.schema) else ()
    ours = [name for name in samples.schema.names if name in {*_OURS, *thinking}]
    others = [name for name in samples.schema.names if name not in {*_OURS, *extras_of(samples.schema)}]
    (first,) = rows_of(samples.slice(0, 1).select(["row_id", *others]))
    shown = {name: value for name, value in first.items() if name not in ("row_id", data.prompt_key)}
    return {
        "row_id": first["row_id"],
        "prompt": _prompt(samples, data),
        "ground_truth": None if truth is None else _short(as_text(truth)),
        "fields": {name: _short(as_text(value)) for name, value in shown.items()},
        "responses": list(map(_response, rows_of(samples.select(ours)), _unlikely_tokens(samples, text))),
    }


def _prompt(samples: pa.RecordBatch, data: DataConfig) -> list[Message]:
    (value,) = cells(samples.column(data.prompt_key).slice(0, 1)) if data.prompt_key in samples.schema.names else [None]
    try:
        chat = with_system_prompt(parse_chat(value), data.system_prompt)
    except PromptError as error:
        return [{"role": "error", "content": str(error)}]
    return [{"role": turn["role"], "content": _short(message_text(turn))} for turn in chat]


def _response(sample: dict[str, Any], unlikely: list[Token] | None) -> Response:
    text = sample["response"]
    response: Response = {
        "sample_idx": sample["sample_idx"],
        "text": None if text is None else _short(text),
        "finish_reason": sample["finish_reason"] or "unknown",
        "tokens": sample["num_generated_tokens"],
        "score": sample.get("score"),
        "answer": sample.get("extracted_answer"),
        "error": sample["error"] or sample.get("score_error"),
        "looping": text is not None and is_looping(text or sample.get("reasoning") or ""),
    }
    if sample.get("reasoning"):
        tokens, closed = sample["num_reasoning_tokens"], bool(sample["reasoning_closed"])
        response["thinking"] = {"text": _short(sample["reasoning"]), "tokens": tokens, "closed": closed}
    return response if unlikely is None else {**response, "unlikely": unlikely}


def _unlikely_tokens(samples: pa.RecordBatch, text: TokenText | None) -> Iterator[list[Token] | None]:
    """For each response its least likely tokens; None where no log-probabilities were kept."""
    names = ("response_token_ids", "response_logprobs")
    if not set(names) <= set(extras_of(samples.schema)):
        yield from [None] * samples.num_rows
        return
    columns = (samples.column(name) for name in names)
    for ids, logprobs in zip(*columns, strict=True):
        yield _least_likely(ids.as_py() or [], logprobs.as_py() or [], text)


def _least_likely(ids: list[int], logprobs: list[float | None], text: TokenText | None) -> list[Token]:
    known = [] if len(ids) != len(logprobs) else logprobs  # else none can be told to be of a token
    numbers = {place: value for place, value in enumerate(known) if value is not None and not math.isnan(value)}
    found = sorted(numbers, key=numbers.__getitem__)[:_MOST_UNLIKELY]
    return [
        {
            "position": position + 1,
            "id": ids[position],
            "text": None if text is None else text(ids, position),
            "probability": math.exp(numbers[position]),
        }
        for position in found
    ]


def _short(text: str) -> str:
    more = len(text) - _MAX_CHARACTERS
    return text if more <= 0 else f"{text[:_MAX_CHARACTERS]} ... ({more:,} more characters)"

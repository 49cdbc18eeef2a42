"""What is compared of each row of one side: read once as a stream, kept as a few numbers per row and no text."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollout.data.arrow import NOT_UTF8, cells
from rollout.data.chat import message_text
from rollout.data.column_path import values_at
from rollout.data.prompts import parse_chat
from rollout.data.text import as_text
from rollout.errors import PromptError
from rollout.postprocess.source import Source
from rollout.scoring.pass_at_k import majorities_at_k, pass_at_k, reported_ks

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]

UNREADABLE = np.uint64(0)
"""The hash of a prompt that is none; such rows match no other."""

_MAX_CELLS = 1 << 22  # votes that are compared at a time, each with each other of its row

FEWEST_VOTES = 3
"""Responses from which on a majority says something that pass@k does not."""


@dataclass(frozen=True)
class Columns:
    """Where a side has what rows are matched and grouped by."""

    prompt: str
    truth: str | None = None
    """A dotted path, as `by`."""
    by: str | None = None


@dataclass(frozen=True)
class RowValues:
    """One entry per row, in the order of the side. Sums are over the responses of the row that are there."""

    row_ids: Integers
    prompts: Hashes
    """Of what the prompt says, in whatever form the file has it."""
    truths: Hashes | None
    groups: Hashes | None
    samples: Integers
    responses: Integers
    scored: Integers
    passed: Integers
    score_sum: Floats
    tokens: Floats
    """NaN where the file does not tell, as `truncated`."""
    characters: Floats
    truncated: Floats
    majorities: dict[int, Floats]
    """k -> majority@k; NaN for rows with fewer scored responses. Empty where the scorer names no answers."""

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def has_scores(self) -> bool:
        """Whether any response has one."""
        return bool(self.scored.any())

    def of(self, metric: str) -> Floats:
        """The value of `metric` for every row; NaN where a row has none.

        Metrics are `score` and, per response, `tokens`, `characters` and `truncated`; pass@k for any k; majority@k.
        """
        name, _, k = metric.partition("@")
        if name == "pass":
            return self._pass_at(int(k))
        if name == "majority":
            return self.majorities.get(int(k), np.full(len(self), np.nan))
        sums, counts = self.sums(metric)
        return np.divide(sums, counts, out=np.full(len(self), np.nan), where=counts > 0)

    def sums(self, metric: str) -> tuple[Floats, Integers]:
        """Of a mean over responses: what those of each row add up to, and how many they are."""
        if metric == "score":
            return self.score_sum, self.scored
        sums: Floats = getattr(self, metric)
        return np.nan_to_num(sums), np.where(np.isnan(sums), 0, self.responses)

    def _pass_at(self, k: int) -> Floats:
        pairs, which = np.unique(np.stack([self.scored, self.passed], axis=1), axis=0, return_inverse=True)
        values = [pass_at_k(n, c, k) if n >= k else np.nan for n, c in pairs.tolist()]
        return np.array(values, np.float64)[which.reshape(-1)]


def row_values(source: Source, columns: Columns, pass_score: float) -> RowValues:
    """The numbers of every row of `source`, which is read once. Some 150 bytes of memory per row."""
    parts = _Parts()
    for batch in source.batches():
        parts.add(batch, columns, pass_score)
    return parts.joined()


@dataclass
class _Parts:
    """The numbers of the batches read so far."""

    arrays: dict[str, list[npt.NDArray[Any]]] = field(default_factory=dict)
    majorities: dict[int, list[tuple[Integers, Floats]]] = field(default_factory=dict)
    """k -> rows and their majority@k."""
    has_answers: bool = False
    rows: int = 0

    def add(self, batch: pa.RecordBatch, columns: Columns, pass_score: float) -> None:
        if not batch.num_rows:
            return
        row_ids = batch.column("row_id").to_numpy()
        starts = np.concatenate([[0], np.flatnonzero(np.diff(row_ids)) + 1])
        first = batch.take(pa.array(starts))
        found: dict[str, npt.NDArray[Any] | None] = {
            "row_ids": row_ids[starts],
            "prompts": _prompt_hashes(first, columns.prompt),
            "truths": None if columns.truth is None else _hashes(first, columns.truth),
            "groups": None if columns.by is None else _hashes(first, columns.by),
            **_sums(batch, starts, pass_score),
        }
        for name, values in found.items():
            if values is not None:
                self.arrays.setdefault(name, []).append(values)
        if "extracted_answer" in batch.schema.names:
            self._vote(batch, starts, pass_score)
        self.rows += len(starts)

    def _vote(self, batch: pa.RecordBatch, starts: Integers, pass_score: float) -> None:
        """Note the majorities among the first k scored responses of the rows that have as many."""
        scores = _score_column(batch)
        is_scored = ~np.isnan(scores)
        answers = _numbered(batch.column("extracted_answer"))[is_scored]
        passed = scores[is_scored] >= pass_score
        counts = np.add.reduceat(is_scored.astype(np.int64), starts)
        firsts = np.cumsum(counts) - counts
        self.has_answers |= bool((answers >= 0).any())
        for k in reported_ks([int(counts.max())]):
            rows = np.flatnonzero(counts >= k) if k >= FEWEST_VOTES else np.zeros(0, np.int64)
            for some in np.array_split(rows, 1 + len(rows) * k * k // _MAX_CELLS) if len(rows) else ():
                places = firsts[some, None] + np.arange(k)
                values = majorities_at_k(answers[places], passed[places])
                self.majorities.setdefault(k, []).append((some + self.rows, values))

    def joined(self) -> RowValues:
        arrays = {name: np.concatenate(parts) for name, parts in self.arrays.items()}
        names = (*("row_ids", "prompts", "samples", "responses", "scored", "passed"), *_FLOATS)
        nothing = {name: np.zeros(0, _type(name)) for name in names}
        votes = {k: self._votes(of) for k, of in sorted(self.majorities.items())} if self.has_answers else {}
        return RowValues(**{"truths": None, "groups": None, **nothing, **arrays, "majorities": votes})  # type: ignore[arg-type]

    def _votes(self, parts: list[tuple[Integers, Floats]]) -> Floats:
        values = np.full(self.rows, np.nan)
        for rows, some in parts:
            values[rows] = some
        return values


_FLOATS = ("score_sum", "tokens", "characters", "truncated")


def _type(name: str) -> type:
    return np.float64 if name in _FLOATS else np.uint64 if name == "prompts" else np.int64


def _sums(batch: pa.RecordBatch, starts: Integers, pass_score: float) -> dict[str, npt.NDArray[Any]]:
    """What the responses of each row add up to."""
    response = batch.column("response")
    is_there = response.is_valid().to_numpy(zero_copy_only=False)
    scores = _score_column(batch)
    is_scored = ~np.isnan(scores) & is_there

    def total(values: npt.NDArray[Any], kind: type = np.int64) -> npt.NDArray[Any]:
        return np.add.reduceat(values.astype(kind), starts)

    def told(values: Floats) -> Floats:
        return total(np.where(is_there, values, 0.0), np.float64)

    return {
        "samples": total(np.ones(len(scores))),
        "responses": total(is_there),
        "scored": total(is_scored),
        "passed": total(is_scored & (scores >= pass_score)),
        "score_sum": total(np.where(is_scored, scores, 0.0), np.float64),
        "tokens": told(_numbers(batch.column("num_generated_tokens"))),
        "characters": told(_numbers(pc.utf8_length(response))),
        "truncated": told(_numbers(pc.equal(batch.column("finish_reason"), "length"))),
    }


def _score_column(batch: pa.RecordBatch) -> Floats:
    return _numbers(batch.column("score")) if "score" in batch.schema.names else np.full(batch.num_rows, np.nan)


def _numbers(column: pa.Array) -> Floats:
    """NaN for null."""
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _numbered(texts: pa.Array) -> Integers:
    """Equal texts as equal numbers; -1 for null."""
    encoded = pc.dictionary_encode(texts)
    return np.asarray(pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False), np.int64)


def _prompt_hashes(rows: pa.RecordBatch, name: str) -> Hashes:
    values = cells(rows.column(name)) if name in rows.schema.names else [None] * rows.num_rows
    return np.fromiter(map(_prompt_hash, values), np.uint64, len(values))


def _prompt_hash(value: Any) -> int:
    """A chat, the same as JSON, and a text that is its one message of the user have one hash."""
    try:
        chat = parse_chat(value)
    except PromptError:
        return int(UNREADABLE)
    said = [{**message, "content": message_text(message)} for message in chat]
    return _hash(json.dumps(said, sort_keys=True, default=as_text).encode())


def _hashes(rows: pa.RecordBatch, path: str) -> Hashes:
    values = values_at(rows, path)
    return np.fromiter(map(_value_hash, values), np.uint64, len(values))


def _value_hash(value: Any) -> int:
    """As people write it: 42, 42.0 and "42" have one hash."""
    return _hash(repr(value).encode() if value is NOT_UTF8 else as_text(value).strip().encode("utf-8", "replace"))


def _hash(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little") or 1


def metrics_of(sides: Sequence[RowValues]) -> Iterator[str]:
    """The metrics that all of the sides have, those of scores first."""
    if all(side.has_scores for side in sides):
        yield "score"
        yield from (f"pass@{k}" for k in reported_ks([min(int(side.scored.max()) for side in sides)]))
        shared = set.intersection(*(set(side.majorities) for side in sides))
        rows = {k: min(int((~np.isnan(side.majorities[k])).sum()) for side in sides) for k in shared}
        yield from (f"majority@{k}" for k in sorted(shared, key=lambda k: (rows[k], k))[-1:])
    for name in ("tokens", "characters", "truncated"):
        if not any(np.isnan(getattr(side, name)).all() for side in sides):
            yield name

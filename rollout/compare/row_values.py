"""The values of each row of one side that are compared, read once as a stream: a few numbers per row and no text."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollout.data.arrow import NOT_UTF8, cells, row_slices, without_nulls
from rollout.data.chat import message_text, parse_chat
from rollout.data.text import as_text
from rollout.errors import PromptError
from rollout.postprocess.source import Source
from rollout.scoring.inputs import truths_at
from rollout.scoring.pass_at_k import pass_at_k, reported_ks
from rollout.scoring.rows import row_scores, scored_responses
from rollout.scoring.stopped_early import Estimator, early_rows, has_stopped

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint64]

UNREADABLE = np.uint64(0)
"""The hash of a missing prompt; such rows match no other."""

FEWEST_VOTES = 3
"""With at least this many responses, a majority says something that pass@k does not."""


SCORES = ("score", "pass", "majority")
"""The metrics that are made from scores, without their k."""


@dataclass(frozen=True)
class Columns:
    """The columns by which rows of a side are matched and grouped."""

    prompt: str
    truth: str | None = None
    """A dotted path, like `group`."""
    group: str | None = None


@dataclass(frozen=True)
class RowValues:
    """One entry per row, in the order of the side. Sums are over the responses that the row has."""

    row_ids: Integers
    prompts: Hashes
    """Hash of the prompt's content, in whatever form the file has it."""
    truths: Hashes | None
    groups: Hashes | None
    samples: Integers
    responses: Integers
    scored: Integers
    passed: Integers
    score_sum: Floats
    tokens: Floats
    """NaN if the file does not say, like `truncated`."""
    characters: Floats
    truncated: Floats
    is_binary: bool
    """Whether every score is 0 or 1: then their mean is a share."""
    majorities: dict[int, Floats]
    """k -> majority@k; NaN for rows with fewer scored responses. Empty if the scorer names no answers."""
    early_n: Integers
    """For rows that a rule has stopped, as in `EarlyRows`, with NaN or 0 if nothing is known; else all 0."""
    early_c: Integers
    early_mean: Floats
    early: Estimator | None = None
    """An estimator for such rows; None if no rule has stopped any, or one with other scores."""
    is_plain: bool = False
    """Whether a rule has stopped some rows and `early` is None."""

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def has_scores(self) -> bool:
        """Whether any response has a score."""
        return bool(self.scored.any())

    def of(self, metric: str) -> Floats:
        """The value of `metric` for every row; NaN for a row without one.

        Metrics are `score` and, per response, `tokens`, `characters` and `truncated`; pass@k for any k; majority@k.
        """
        name, _, k = metric.partition("@")
        if name == "pass":
            return self._pass_at(int(k))
        if name == "majority":
            return self.majorities.get(int(k), np.full(len(self), np.nan))
        sums, counts = self.sums(metric)
        values = np.full(len(self), np.nan)
        np.divide(sums, counts, out=values, where=counts > 0)
        return values

    def sums(self, metric: str) -> tuple[Floats, Integers]:
        """The sum over the responses of each row and their number, from which a mean over responses is made."""
        if metric == "score" and self.early is not None:
            is_known = ~np.isnan(self.early_mean) & (self.early_n > 0)
            return np.where(is_known, self.early_mean, 0.0), is_known.astype(np.int64)
        if metric == "score":
            return self.score_sum, self.scored
        sums: Floats = getattr(self, metric)
        return np.nan_to_num(sums), np.where(np.isnan(sums), 0, self.responses)

    @property
    def largest_k(self) -> int:
        """The largest k of a pass@k."""
        return int(self.scored.max()) if self.early is None else self.early.largest_k

    def _pass_at(self, k: int) -> Floats:
        if self.early is not None:
            of_rows = self.early.pass_at_ks(self.early_n, self.early_c, [k])[:, 0]
            return np.where(self.early_n > 0, of_rows, np.nan)
        pairs, which = np.unique(np.stack([self.scored, self.passed], axis=1), axis=0, return_inverse=True)
        values = [pass_at_k(n, c, k) if n >= k else np.nan for n, c in pairs.tolist()]
        return np.array(values, np.float64)[which.reshape(-1)]


def row_values(source: Source, columns: Columns, pass_score: float, early: Estimator | None = None) -> RowValues:
    """The numbers of every row of `source`, which is read once. Memory: about 150 bytes per row.

    `early` is for rows that a rule has stopped.
    """
    parts = _Parts(early)
    for batch in source.batches():
        parts.add(batch, columns, pass_score)
    return parts.joined()


@dataclass
class _Parts:
    """The numbers of the batches read so far."""

    early: Estimator | None = None
    arrays: dict[str, list[npt.NDArray[Any]]] = field(default_factory=dict)
    majorities: dict[int, list[tuple[Integers, Floats]]] = field(default_factory=dict)
    """k -> rows and their majority@k."""
    has_answers: bool = False
    is_binary: bool = True
    is_plain: bool = False
    rows: int = 0

    def add(self, batch: pa.RecordBatch, columns: Columns, pass_score: float) -> None:
        if not batch.num_rows:
            return
        starts = np.array([start for start, _ in row_slices(batch)])
        first = batch.take(pa.array(starts))
        found: dict[str, npt.NDArray[Any] | None] = {
            "row_ids": first.column("row_id").to_numpy(),
            "prompts": _prompt_hashes(first, columns.prompt),
            "truths": None if columns.truth is None else _hashes(first, columns.truth),
            "groups": None if columns.group is None else _hashes(first, columns.group),
            **_sums(batch, starts),
            **self._scores(batch, first.column("row_id").to_numpy(), pass_score),
        }
        for name, values in found.items():
            if values is not None:
                self.arrays.setdefault(name, []).append(values)
        self.rows += len(starts)

    def _scores(self, batch: pa.RecordBatch, row_ids: Integers, pass_score: float) -> dict[str, npt.NDArray[Any]]:
        """The scores of the rows in the batch, with 0 for rows without a score."""
        names = {"scored": "sizes", "passed": "passed", "score_sum": "sums"}
        of_early = {"early_n": "n", "early_c": "c", "early_mean": "mean"}
        made: dict[str, npt.NDArray[Any]] = {name: np.zeros(len(row_ids), _type(name)) for name in (*names, *of_early)}
        if "score" not in batch.schema.names:
            return made
        scored = scored_responses(batch)
        if scored.num_rows:
            of_rows = row_scores(scored, pass_score)
            places = np.searchsorted(row_ids, of_rows.row_ids)
            for name, theirs in names.items():
                made[name][places] = getattr(of_rows, theirs)
            majority = of_rows.majority
            if self.early is not None:
                stopped = early_rows(batch, scored, of_rows, pass_score, self.early)
                for name, theirs in of_early.items():
                    made[name][places] = getattr(stopped, theirs)
                majority = stopped.majority
            for k, values in majority.items():
                self.majorities.setdefault(k, []).append((places + self.rows, values))
            self.is_plain |= self.early is None and has_stopped(batch)
            self.has_answers |= of_rows.has_answers
            self.is_binary &= bool(np.isin(scored.column("score").to_numpy(), (0.0, 1.0)).all())
        return made

    def joined(self) -> RowValues:
        """The numbers of all batches."""
        nothing: dict[str, npt.NDArray[Any]] = {name: np.zeros(0, _type(name)) for name in _ALWAYS}
        arrays = {name: np.concatenate(parts) for name, parts in self.arrays.items()}
        votes = {k: self._votes(of) for k, of in sorted(self.majorities.items())} if self.has_answers else {}
        every: dict[str, Any] = {"truths": None, "groups": None, **nothing, **arrays}
        return RowValues(**every, majorities=votes, is_binary=self.is_binary, early=self.early, is_plain=self.is_plain)

    def _votes(self, parts: list[tuple[Integers, Floats]]) -> Floats:
        values = np.full(self.rows, np.nan)
        for rows, some in parts:
            values[rows] = some
        return values


_FLOATS = ("score_sum", "tokens", "characters", "truncated", "early_mean")
_ALWAYS = ("row_ids", "prompts", "samples", "responses", "scored", "passed", "early_n", "early_c", *_FLOATS)


def _type(name: str) -> type:
    return np.float64 if name in _FLOATS else np.uint64 if name == "prompts" else np.int64


def _sums(batch: pa.RecordBatch, starts: Integers) -> dict[str, npt.NDArray[Any]]:
    """Sums over the responses of each row."""
    response = batch.column("response")
    is_there = response.is_valid().to_numpy(zero_copy_only=False)

    def told(values: Floats) -> Floats:
        return np.add.reduceat(np.where(is_there, values, 0.0), starts)

    return {
        "samples": np.diff([*starts, batch.num_rows]),
        "responses": np.add.reduceat(is_there.astype(np.int64), starts),
        "tokens": told(_numbers(batch.column("num_generated_tokens"))),
        "characters": told(_numbers(pc.utf8_length(response))),
        "truncated": told(_numbers(pc.equal(batch.column("finish_reason"), "length"))),
    }


def _numbers(column: pa.Array) -> Floats:
    """The column's numbers, with NaN for null."""
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _prompt_hashes(rows: pa.RecordBatch, name: str) -> Hashes:
    values = cells(rows.column(name)) if name in rows.schema.names else [None] * rows.num_rows
    return np.fromiter(map(_prompt_hash, values), np.uint64, len(values))


def _prompt_hash(value: Any) -> int:
    """The hash of a prompt: equal for a chat, its JSON, and a text that is the chat's only message, from the user."""
    try:
        chat = parse_chat(value)
    except PromptError:
        return int(UNREADABLE)
    said = [without_nulls({**message, "content": message_text(message)}) for message in chat]
    return _hash(json.dumps(said, sort_keys=True, default=as_text).encode())


def _hashes(rows: pa.RecordBatch, path: str) -> Hashes:
    values = truths_at(rows, path)
    return np.fromiter(map(_value_hash, values), np.uint64, len(values))


def _value_hash(value: Any) -> int:
    """The hash of a value as people write it: 42, 42.0 and "42" have the same."""
    return _hash(repr(value).encode() if value is NOT_UTF8 else as_text(value).strip().encode("utf-8", "replace"))


def _hash(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little") or 1


def is_score(metric: str) -> bool:
    """Whether a metric is made from scores."""
    return metric.partition("@")[0] in SCORES


def metrics_of(sides: Sequence[RowValues]) -> Iterator[str]:
    """The metrics that all sides have, the scores first."""
    if all(side.has_scores for side in sides):
        yield "score"
        yield from (f"pass@{k}" for k in reported_ks([min(side.largest_k for side in sides)]))
        shared = set.intersection(*(set(side.majorities) for side in sides))
        rows = {k: min(int((~np.isnan(side.majorities[k])).sum()) for side in sides) for k in shared}
        ks = sorted((k for k in shared if k >= FEWEST_VOTES), key=lambda k: (rows[k], k))
        yield from (f"majority@{k}" for k in ks[-1:])
    for name in ("tokens", "characters", "truncated"):
        if not any(np.isnan(getattr(side, name)).all() for side in sides):
            yield name

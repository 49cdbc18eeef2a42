"""Scores that a file of responses has: in a column of any name, one per response or a list per prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rollout.config import SCORE_KEYS
from rollout.data.arrow import cast, is_list, is_text, stored, values
from rollout.data.json_text import load_json
from rollout.data.tables import Table, open_result
from rollout.data.text import counted
from rollout.errors import UserError, did_you_mean
from rollout.postprocess.numbering import PROMPT
from rollout.postprocess.origin import Origin, origin_of, scoring_in_digest
from rollout.postprocess.source import Batches, Source, source_of
from rollout.records import BESIDE_A_SCORE, SCORE_FIELDS, SCORES, extras_of

_LISTED = "scores of the responses"
"""The column of a file with a row per prompt, while its responses are told apart: no name that it has already."""

_LEFT_ASIDE = (
    f"the column {SCORES.name} is left as it is; if it holds the scores of the responses, add score_key={SCORES.name}"
)

_NUMBERS = pa.list_(pa.float64())

_OF_OTHER_SCORES = {"score", "pass_rate", "score_error"}
"""Columns that say something of scores: where others are chosen, they are left out."""


def open_with_scores(
    path: Path,
    key: str,
    names: Sequence[str] | None = None,
    prompts: Sequence[str] = PROMPT,
) -> Source:
    """As `open_source`; the first of the columns `names` that the file has becomes the column `score`.

    With None for `names` it is one of SCORE_KEYS that can be nothing else. Where a row has a list of responses, it has
    a list of as many scores, or one score for one response. Raises UserError for a file that is none of responses, or
    that has none of `names`; reading does for scores that are no numbers, or not as many as the responses.
    """
    table = open_result(path, key)
    name = _column(table, names)
    if name is None and names:
        near = did_you_mean(names[0], table.schema.names)
        raise UserError(f"score_key={','.join(names)}: {path} has no such column, {near}")
    origin = origin_of(path)
    is_listed = "responses" in table.schema.names
    if name is None or (name == "score" and not is_listed):
        note = _LEFT_ASIDE if names is None and name is None and _may_be_scores(table) else None
        return replace(source_of(table, key, prompts), origin=origin, note=note)
    origin, where = _with_scoring_of(origin, table, name), f"{path}: column {name}"
    if not is_listed:
        scored = _renamed(_with_numbers(table, name, where), name, "score")
        return replace(source_of(scored, key, prompts), origin=origin)
    source = replace(source_of(_renamed(table, name, _LISTED), key), origin=origin)
    scores = [pa.field("score", pa.float64()), *BESIDE_A_SCORE]
    schema = pa.schema([*(column for column in source.schema if column.name != _LISTED), *scores])
    return source.then(schema, lambda batches: _told_apart(batches, schema, where))


def without_scores(source: Source) -> Source:
    """The source without the columns that `score` adds, if it has them."""
    scores = {column.name for column in SCORE_FIELDS}
    schema = pa.schema([column for column in source.schema if column.name not in scores])
    bare = source.then(schema, lambda batches: (batch.select(schema.names) for batch in batches))
    return replace(bare, origin=replace(source.origin, scoring=None))


def _column(table: Table, names: Sequence[str] | None) -> str | None:
    if names is not None:
        return next((name for name in names if name in table.schema.names), None)
    return next((name for name in SCORE_KEYS if name in table.schema.names and _is_clear(table, name)), None)


def _is_clear(table: Table, name: str) -> bool:
    """Whether a column of SCORE_KEYS holds the scores of the responses, although the user has not said so. No column of
    a run's input has the name `score`, but one may have the other.
    """
    if name == "score":
        return True
    names = table.schema.names
    if _is_of_input(table, name):
        return False
    is_listed = "responses" in names
    if not is_listed and {"row_id", "sample_idx"} <= set(names):  # a file of ours, where scores are called `score`
        return False
    if is_text(table.schema.field(name).type):  # as all is in a CSV file
        return is_text(table.schema.field("responses").type) if is_listed else ".csv" in table.path.suffixes
    return _is_number(_of_response(table, name))


def _may_be_scores(table: Table) -> bool:
    """Whether a column `scores` that nobody has named can be read as scores, although it may be something else."""
    name = SCORES.name
    if name not in table.schema.names or _is_of_input(table, name):
        return False
    kind = _of_response(table, name)
    return is_text(kind) or _is_number(kind)


def _is_of_input(table: Table, name: str) -> bool:
    """Whether a column comes from the input of the run that made the file: these stand before its numbers."""
    names = table.schema.names
    return "row_id" in names and names.index(name) < names.index("row_id")


def _of_response(table: Table, name: str) -> pa.DataType:
    """The type of what a column says of each response, in a list if its row has a list of responses."""
    kind = stored(table.schema.field(name).type)
    return stored(kind.value_type) if is_list(kind) and "responses" in table.schema.names else kind


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
    return any(test(kind) for test in tests)


def _with_scoring_of(origin: Origin, table: Table, name: str) -> Origin:
    """What is known of the scores in the column `name`: those of a run are made with what its digest says."""
    if name == "score":
        return origin
    is_ours = name == SCORES.name and "stopped" in extras_of(table.schema)
    return replace(origin, scoring=scoring_in_digest(table.path) if is_ours else None)


def _renamed(table: Table, name: str, wanted: str) -> Table:
    """`table` with its column `name` as `wanted`, without what it says of other scores."""
    kept = [column for column in table.schema.names if column == name or column not in _OF_OTHER_SCORES]
    fields = [table.schema.field(column) for column in kept]
    schema = pa.schema([field.with_name(wanted) if field.name == name else field for field in fields])

    def batches() -> Batches:
        for batch in table.batches():
            yield pa.RecordBatch.from_arrays([batch.column(column) for column in kept], schema=schema)

    return replace(table, schema=schema, batches=batches, from_row=None)


def _with_numbers(table: Table, name: str, where: str) -> Table:
    """`table` with numbers in the column `name`."""
    at = table.schema.names.index(name)
    field = pa.field(name, pa.float64())

    def batches() -> Batches:
        for batch in table.batches():
            yield batch.set_column(at, field, _as_numbers(batch.column(at), where))

    return replace(table, schema=table.schema.set(at, field), batches=batches, from_row=None)


def _as_numbers(column: pa.Array, where: str) -> pa.Array:
    try:
        return cast(column, pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _no_scores(column, where, error) from error


def _no_scores(column: pa.Array, where: str, error: Exception) -> UserError:
    return UserError(f"{where} holds {column.type}, not a score for each response ({error}); fix it, or set score_key")


def _told_apart(batches: Batches, schema: pa.Schema, where: str) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        scores = _scores(_as_lists(batch.column(_LISTED), where), batch, where)
        others = [batch.column(column.name) for column in schema if column.name in batch.schema.names]
        no_more = [pa.nulls(batch.num_rows, column.type) for column in BESIDE_A_SCORE]
        yield pa.RecordBatch.from_arrays([*others, scores, *no_more], schema=schema)


def _as_lists(column: pa.Array, where: str) -> pa.Array:
    """The scores of its row beside each response. A number is a list of one; a text is JSON."""
    try:
        if is_text(column.type):
            column = pa.array([None if text is None else _parsed(text) for text in values(column)], _NUMBERS)
        elif not is_list(column.type):
            numbers = cast(column, pa.float64())
            column = pa.ListArray.from_arrays(pa.array(np.arange(len(numbers) + 1), pa.int32()), numbers)
        return cast(column, _NUMBERS)
    except (ValueError, TypeError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _no_scores(column, where, error) from error


def _parsed(text: str) -> list[float | None]:
    found = load_json(text)
    return found if isinstance(found, list) else [found]


def _scores(lists: pa.Array, batch: pa.RecordBatch, where: str) -> pa.Array:
    """Of each response the score at its place in the list; none where there is no list, or the score is no number."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    places = batch.column("sample_idx").to_numpy()
    _, row, responses = np.unique(batch.column("row_id").to_numpy(), return_inverse=True, return_counts=True)
    is_wrong = (lengths != responses[row]) & (lengths > 0)
    if is_wrong.any():
        at = int(is_wrong.argmax())
        count = f"{counted(responses[row[at]], 'response')} and {counted(lengths[at], 'score')}"
        raise UserError(f"{where}: row {batch.column('row_id')[at]} has {count}; there must be one for each")
    starts = lists.offsets.to_numpy()[:-1]
    found = lists.values.take(pa.array(np.where(lengths > 0, starts + places, 0), mask=lengths == 0))
    return pc.if_else(pc.is_finite(found), found, pa.scalar(None, pa.float64()))

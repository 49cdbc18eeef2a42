"""Scores in a file that another program wrote: in any column, one per response or a list per prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rollout.data.arrow import cast, is_list, is_text, values
from rollout.data.json_text import load_json
from rollout.data.tables import Table, open_result
from rollout.data.text import counted
from rollout.errors import UserError
from rollout.postprocess.origin import origin_of
from rollout.postprocess.source import Batches, Source, source_of
from rollout.records import SCORE_FIELDS

_LISTED = "scores of the responses"
"""The column of a file with a row per prompt, while its responses are told apart: no name that it has already."""

_NUMBERS = pa.list_(pa.float64())


def open_with_scores(path: Path, key: str, names: Sequence[str]) -> Source:
    """As `open_source`; the first of the columns `names` that the file has holds the scores of its responses.

    Where a row has a list of responses, it has a list of as many scores, or one score for one response. Reading raises
    UserError for scores that are no numbers, or not as many as the responses.
    """
    table = open_result(path, key)
    name = next((name for name in names if name in table.schema.names), None)
    origin = origin_of(path)
    if name is None:
        return replace(source_of(table, key), origin=origin)
    if name != "score":  # nobody knows what these were made with
        origin = replace(origin, scoring=None)
    if "responses" not in table.schema.names:
        return replace(source_of(_renamed(table, name, "score"), key), origin=origin)
    source = replace(source_of(_renamed(table, name, _LISTED), key), origin=origin)
    schema = pa.schema([*(column for column in source.schema if column.name != _LISTED), *SCORE_FIELDS])
    return source.then(schema, lambda batches: _told_apart(batches, schema, f"{path}: column {name}"))


def _renamed(table: Table, name: str, wanted: str) -> Table:
    """`table` with its column `name` as `wanted`, in the place of one that is called so already."""
    kept = [column for column in table.schema.names if column == name or column != wanted]
    fields = [table.schema.field(column) for column in kept]
    schema = pa.schema([field.with_name(wanted) if field.name == name else field for field in fields])

    def batches() -> Batches:
        for batch in table.batches():
            yield pa.RecordBatch.from_arrays([batch.column(column) for column in kept], schema=schema)

    return replace(table, schema=schema, batches=batches, from_row=None)


def _told_apart(batches: Batches, schema: pa.Schema, where: str) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        scores = _scores(_as_lists(batch.column(_LISTED), where), batch, where)
        others = [batch.column(column.name) for column in schema if column.name in batch.schema.names]
        no_more = [pa.nulls(batch.num_rows, column.type) for column in SCORE_FIELDS[1:]]
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
        raise UserError(f"{where} holds {column.type}, not a score for each response ({error}); fix it") from error


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

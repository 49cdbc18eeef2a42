"""Responses as the tokens that were read and sampled: for trainers that take ids and log-probabilities, not text."""

import logging
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from rollout.data.column_path import values_at
from rollout.data.text import as_text
from rollout.postprocess.source import Source
from rollout.records import EXTRAS, extras_of

log = logging.getLogger(__name__)

_IDS = ("prompt_token_ids", "response_token_ids")

FIELDS = (
    pa.field("row_id", pa.int64()),
    pa.field("sample_idx", pa.int32()),
    *(EXTRAS[name].of_sample for name in (*_IDS, "response_logprobs")),
    pa.field("reward", pa.float64()),
    pa.field("finish_reason", pa.string()),
)
"""A record of `export.format=tokens`: the sample, its tokens and their log-probabilities (null where none are kept),
its score, and how it ended."""

FORMATS = {"tokens": FIELDS, "slime": (*FIELDS, pa.field("response", pa.string()), pa.field("label", pa.string()))}
"""The words that `export.format` takes for records of tokens. For slime they have the text and the right answer too."""


def lacks_ids(schema: pa.Schema) -> bool:
    """Whether responses of this schema have no token ids."""
    return not set(_IDS) <= set(extras_of(schema))


def token_records(
    source: Source, fields: Sequence[pa.Field], extra: list[str], label: str | None
) -> Iterator[pa.RecordBatch]:
    """Records of `fields`, one of FORMATS, with the columns `extra` beside them; `label` is the path to right answers.

    Failed samples are left out, and so is a response whose token ids nobody has kept: a warning counts these.
    """
    without_ids = 0
    for batch in source.batches():
        has_response = pc.is_valid(batch.column("response"))
        has_ids = pc.and_(*(pc.is_valid(batch.column(name)) for name in _IDS))
        without_ids += pc.sum(pc.and_not(has_response, has_ids)).as_py() or 0
        kept = batch.filter(pc.and_(has_response, has_ids))
        made = [_column(kept, field, label) for field in fields]
        schema = pa.schema([*fields, *(kept.schema.field(name) for name in extra)])
        yield pa.RecordBatch.from_arrays([*made, *(kept.column(name) for name in extra)], schema=schema)
    if without_ids:
        log.warning("export: %s responses have no token ids and are left out", f"{without_ids:,}")


def _column(batch: pa.RecordBatch, field: pa.Field, label: str | None) -> pa.Array:
    name = {"reward": "score"}.get(field.name, field.name)
    if name == "label":
        found = [None] * batch.num_rows if label is None else values_at(batch, label)
        return pa.array([None if value is None else as_text(value) for value in found], field.type)
    is_there = name in (extras_of(batch.schema) if name in EXTRAS else batch.schema.names)
    return batch.column(name) if is_there else pa.nulls(batch.num_rows, field.type)

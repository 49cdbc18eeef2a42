"""Responses as the tokens that were read and sampled: for trainers that take ids and log-probabilities, not text."""

import logging
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from rollout.data.text import are, as_text, counted, have
from rollout.postprocess.source import Source
from rollout.records import EXTRAS, extras_of
from rollout.scoring.inputs import truths_at

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

_REWARD = [field.name for field in FIELDS].index("reward")

FORMATS = {"tokens": FIELDS, "slime": (*FIELDS, pa.field("response", pa.string()), pa.field("label", pa.string()))}
"""The words that `export.format` takes for records of tokens. For slime they have the text and the right answer too."""


def lacks_ids(schema: pa.Schema) -> bool:
    """Whether responses of this schema have no token ids."""
    return not set(_IDS) <= set(extras_of(schema))


def token_records(
    source: Source, fields: Sequence[pa.Field], extra: list[str], label: str | None
) -> Iterator[pa.RecordBatch]:
    """Records of `fields`, one of FORMATS, with the columns `extra` beside them; `label` is the path to right answers.

    Failed samples are left out, and so is a response whose token ids nobody has kept, or which has not one
    log-probability for each: warnings count these, and the samples without a score.
    """
    without_ids = uneven = unscored = 0
    schema = pa.schema([*fields, *(source.schema.field(name) for name in extra)])
    for batch in source.batches():
        answered = batch.filter(pc.is_valid(batch.column("response")))
        known = answered.filter(pc.and_(*(pc.is_valid(answered.column(name)) for name in _IDS)))
        kept = known.filter(_is_even(known))
        made = [_column(kept, field, label) for field in fields]
        without_ids += answered.num_rows - known.num_rows
        uneven += known.num_rows - kept.num_rows
        unscored += made[_REWARD].null_count
        yield pa.RecordBatch.from_arrays([*made, *(kept.column(name) for name in extra)], schema=schema)
    _warn(without_ids, uneven, unscored)


def _is_even(batch: pa.RecordBatch) -> pa.Array:
    """Whether each response has a log-probability for every token, or none are kept: in a trainer's arrays the others
    would stand beside wrong tokens.
    """
    ids, logprobs = (_own(batch, EXTRAS[name].of_sample) for name in ("response_token_ids", "response_logprobs"))
    return pc.fill_null(pc.equal(pc.list_value_length(ids), pc.list_value_length(logprobs)), True)


def _warn(without_ids: int, uneven: int, unscored: int) -> None:
    if without_ids:
        responses = f"{counted(without_ids, 'response')} {have(without_ids)}"
        log.warning("export: %s no token ids and %s left out", responses, are(without_ids))
    if uneven:
        responses = f"{counted(uneven, 'response')} {have(uneven)}"
        log.warning("export: %s not one log-probability for each token and %s left out", responses, are(uneven))
    if unscored:
        samples = f"{counted(unscored, 'sample')} {have(unscored)}"
        log.warning("export: %s no score, so the reward is null; score the responses", samples)


def _column(batch: pa.RecordBatch, field: pa.Field, label: str | None) -> pa.Array:
    name = {"reward": "score"}.get(field.name, field.name)
    if name == "label":
        found = [None] * batch.num_rows if label is None else truths_at(batch, label)
        return pa.array([None if value is None else as_text(value) for value in found], field.type)
    return _own(batch, pa.field(name, field.type))


def _own(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    """A column of ours; nulls where there is none, also beside a column of the input's that has its name."""
    is_there = field.name in (extras_of(batch.schema) if field.name in EXTRAS else batch.schema.names)
    return batch.column(field.name) if is_there else pa.nulls(batch.num_rows, field.type)

"""What a response is scored with: the ground truth and the row of the input."""

from typing import Any

import pyarrow as pa

from rollout.config import ScoreConfig
from rollout.data.column_path import values_at
from rollout.data.floats import is_nan
from rollout.data.json_text import rows_of
from rollout.records import FLAT_FIELDS, SCORE_FIELDS, extras_of
from rollout.scoring.scorers import BUILT_IN

_OURS = {column.name for column in (*FLAT_FIELDS, *SCORE_FIELDS)}


def truths_of(batch: pa.RecordBatch, score: ScoreConfig) -> list[Any]:
    """The ground truth for every row of `batch`, where a row may be one response; see `truths_at`."""
    return [None] * batch.num_rows if score.ground_truth is None else truths_at(batch, score.ground_truth)


def truths_at(batch: pa.RecordBatch, path: str) -> list[Any]:
    """The ground truth at `path` for every row of `batch`; None for null, and for NaN."""
    return [None if is_nan(value) else value for value in values_at(batch, path)]


def lacks_truth(truth: Any, score: ScoreConfig) -> bool:
    """Whether a response to a row with this ground truth gets no score but the error `ScoreConfig.no_truth`."""
    return truth is None and score.no_truth is not None


def inputs_of(batch: pa.RecordBatch, score: ScoreConfig) -> list[dict[str, Any]]:
    """The input's columns for every row of `batch`; only a user's function reads them."""
    if score.scorer == "regex" or score.scorer in BUILT_IN:
        return [{}] * batch.num_rows
    ours = {*_OURS, *extras_of(batch.schema)}
    return rows_of(batch.select([name for name in batch.schema.names if name not in ours]))

"""The numbers that say whether a run is worth using: lengths, how responses ended, empty and repeated ones, errors."""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollout.files import write_json
from rollout.postprocess.flatten import flat_batches

ANALYSIS = "analysis.json"


@dataclass(frozen=True)
class Distribution:
    """Of all responses. `std` is the population's; quantiles are exact, interpolated linearly between neighbours."""

    mean: float
    std: float
    min: int
    p50: float
    p90: float
    p99: float
    max: int

    @classmethod
    def of(cls, values: npt.NDArray[np.int32]) -> "Distribution":
        p50, p90, p99 = (float(q) for q in np.quantile(values, (0.5, 0.9, 0.99)))
        return cls(float(values.mean()), float(values.std()), int(values.min()), p50, p90, p99, int(values.max()))


@dataclass(frozen=True)
class Analysis:
    """Counts are of samples unless they say rows. Distributions leave failed samples out; None where all failed."""

    rows: int
    rows_with_errors: int
    samples: int
    failed: int
    finish_reasons: dict[str, int]
    truncated_fraction: float
    """Share of the responses cut off by max_tokens (finish reason `length`)."""
    empty: int
    """Responses of nothing but white space."""
    duplicates: int
    """Responses equal to an earlier one of the same row."""
    characters: Distribution | None
    tokens: Distribution | None
    errors: dict[str, int]
    """The ten most frequent errors."""


def analyze(rollouts: Path, output_dir: Path) -> Analysis:
    """Read `rollouts` once and write `analysis.json`. Holds 8 bytes per response, for the quantiles."""
    reasons, errors = Counter[str](), Counter[str]()
    rows_with_errors = empty = duplicates = rows = 0
    characters: list[npt.NDArray[np.int32]] = []
    tokens: list[npt.NDArray[np.int32]] = []
    for batch in flat_batches(rollouts):
        reasons.update(_counts(batch.column("finish_reason")))
        errors.update(_counts(batch.column("error").drop_null()))
        rows += len(batch.column("row_id").unique())
        rows_with_errors += len(batch.filter(batch.column("error").is_valid()).column("row_id").unique())
        answered = batch.filter(batch.column("response").is_valid())
        response = answered.column("response")
        empty += pc.sum(pc.equal(pc.utf8_trim_whitespace(response), "")).as_py() or 0
        duplicates += _duplicates(answered)
        characters.append(pc.utf8_length(response).to_numpy())
        tokens.append(answered.column("num_generated_tokens").to_numpy())
    failed = reasons.pop("error", 0)
    responses = reasons.total()
    analysis = Analysis(
        rows=rows,
        rows_with_errors=rows_with_errors,
        samples=responses + failed,
        failed=failed,
        finish_reasons=dict(reasons.most_common()),
        truncated_fraction=reasons["length"] / responses if responses else 0.0,
        empty=empty,
        duplicates=duplicates,
        characters=Distribution.of(np.concatenate(characters)) if responses else None,
        tokens=Distribution.of(np.concatenate(tokens)) if responses else None,
        errors=dict(errors.most_common(10)),
    )
    write_json(output_dir / ANALYSIS, dataclasses.asdict(analysis))
    return analysis


def _counts(column: pa.Array) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in column.value_counts().to_pylist()}


def _duplicates(answered: pa.RecordBatch) -> int:
    """A batch holds whole rows, so no pair is split over two."""
    pairs = pa.Table.from_batches([answered.select(["row_id", "response"])])
    return int(pairs.num_rows - pairs.group_by(["row_id", "response"]).aggregate([]).num_rows)

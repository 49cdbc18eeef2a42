"""Tables of responses of every shape, and what plain Python makes of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from rollout.postprocess.source import Source, open_source
from rollout.records import ROLLOUT_FIELDS
from tests.conftest import chat

INPUT_FIELDS = (
    pa.field("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    pa.field("answer", pa.string()),
)


@dataclass(frozen=True)
class Row:
    """An input row and its samples: (response, finish reason, tokens), or None for one that failed."""

    samples: list[tuple[str, str, int] | None]
    answer: str | None = None
    error: str | None = None


def answered(*responses: str | None, error: str | None = None) -> Row:
    samples = [None if text is None else (text, "stop", len(text.split())) for text in responses]
    return Row(samples, error="refused" if None in responses and error is None else error)


def write_rollouts(folder: Path, rows: list[Row]) -> Path:
    written = [
        {
            "prompt": chat(f"question {row_id}"),
            "answer": row.answer,
            "row_id": row_id,
            "responses": [sample and sample[0] for sample in row.samples],
            "finish_reasons": [sample[1] if sample else "error" for sample in row.samples],
            "num_prompt_tokens": 5 if any(row.samples) else None,
            "num_generated_tokens": [sample[2] if sample else 0 for sample in row.samples],
            "seeds": [100 * row_id + index for index in range(len(row.samples))],
            "error": row.error,
            "truncated_prompt": row.answer,
        }
        for row_id, row in enumerate(rows)
    ]
    path = folder / "rollouts.parquet"
    pq.write_table(pa.Table.from_pylist(written, pa.schema([*INPUT_FIELDS, *ROLLOUT_FIELDS])), path)
    return path


def source_of(folder: Path, rows: list[Row]) -> Source:
    return open_source(write_rollouts(folder, rows))


def flat_rows(rows: list[Row]) -> list[dict[str, Any]]:
    """What flat.parquet has to hold."""
    return [
        {
            "prompt": chat(f"question {row_id}"),
            "answer": row.answer,
            "row_id": row_id,
            "sample_idx": index,
            "response": sample[0] if sample else None,
            "finish_reason": sample[1] if sample else "error",
            "num_prompt_tokens": 5 if any(row.samples) else None,
            "num_generated_tokens": sample[2] if sample else 0,
            "seed": 100 * row_id + index,
            "error": None if sample else row.error,
            "truncated_prompt": row.answer,
        }
        for row_id, row in enumerate(rows)
        for index, sample in enumerate(row.samples)
    ]


ODD_TEXTS = ["", " ", "\n\t", "\u3000", "\x1f", "same", "Same", "é", "e\u0301", "👩‍👩‍👧", "a\x00b", "中文"]
TEXTS = st.sampled_from(ODD_TEXTS) | st.text(max_size=20)
SAMPLES = st.none() | st.tuples(TEXTS, st.sampled_from(["stop", "length"]), st.integers(0, 5000))


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """A few different rows, repeated in some tables until they fill several batches."""
    n_samples = draw(st.integers(1, 4))
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        samples = draw(st.lists(SAMPLES, min_size=n_samples, max_size=n_samples))
        error = draw(st.sampled_from(["too long", "no role; no content", "é"])) if None in samples else None
        rows.append(Row(samples, draw(st.none() | TEXTS), error))
    return rows * draw(st.sampled_from([1, 1, 1, 1, 600]))


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows

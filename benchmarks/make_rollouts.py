"""Write a rollouts.parquet as large as a day's work: 125,000 rows x 8 responses, 0.8 GB of text.

python -m benchmarks.make_rollouts big.parquet [rows] [samples]
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from rollout.data.parquet_output import write_parquet
from rollout.records import ROLLOUT_FIELDS

INPUTS = [
    pa.field("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    pa.field("source", pa.string()),
    pa.field("answer", pa.string()),
]
SCHEMA = pa.schema([*INPUTS, *ROLLOUT_FIELDS])

_BATCH = 1000
_WORDS = np.array([f"word{number}" for number in range(5000)])
_MEAN_WORDS = 95  # about 800 characters


def make(path: Path, num_rows: int, n_samples: int) -> None:
    """Random words in lengths drawn from a lognormal; one response in twenty ends in a loop, some are duplicates."""
    random = np.random.default_rng(0)

    def text() -> str:
        length = max(1, int(random.lognormal(np.log(_MEAN_WORDS) - 0.32, 0.8)))
        words = " ".join(_WORDS[random.integers(0, len(_WORDS), length)])
        return words + " again and again" * 10 if random.random() < 0.05 else words

    def row(row_id: int) -> dict[str, object]:
        responses = [text() for _ in range(n_samples)]
        if random.random() < 0.1 * n_samples:
            responses[-1] = responses[0]
        return {
            "prompt": [{"role": "user", "content": text()[:300]}],
            "source": f"source {row_id % 5}",
            "answer": str(row_id),
            "row_id": row_id,
            "responses": responses,
            "finish_reasons": ["stop"] * n_samples,
            "num_prompt_tokens": 60,
            "num_generated_tokens": [len(response) // 5 for response in responses],
            "seeds": [row_id * n_samples + index for index in range(n_samples)],
            "error": None,
            "truncated_prompt": None,
        }

    batches = (
        pa.RecordBatch.from_pylist([row(row_id) for row_id in range(start, min(start + _BATCH, num_rows))], SCHEMA)
        for start in range(0, num_rows, _BATCH)
    )
    write_parquet(path, SCHEMA, batches)


if __name__ == "__main__":
    target, *sizes = sys.argv[1:]
    rows, samples = (int(size) for size in (sizes or (125_000, 8)))
    make(Path(target), rows, samples)

"""What a rule that stops rows has saved."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rollout.data.row_sampling import SampleCounts
from rollout.store.judged import Selection
from rollout.store.run_record import Saving


def saving(rollouts: Path, budget: SampleCounts, found: Selection) -> Saving:
    """The saving of a finished rollouts.parquet, of which `found` was selected; `budget` is the most of each row."""
    tokens, full_tokens, row = 0, 0.0, 0
    counts, most = np.diff(found.counts.places), np.diff(budget.places)
    with pq.ParquetFile(rollouts) as file:
        for batch in file.iter_batches(columns=["num_generated_tokens"]):
            lists = batch.column("num_generated_tokens")
            of_rows = np.add.reduceat(
                pc.list_flatten(lists).to_numpy(), lists.offsets.to_numpy()[:-1] - lists.offsets[0].as_py()
            )
            rows = slice(row, row + batch.num_rows)
            tokens += int(of_rows.sum())
            full_tokens += float((of_rows / counts[rows] * most[rows]).sum())
            row += batch.num_rows
    return Saving(
        samples=found.counts.total,
        full_samples=budget.total,
        generated_tokens=tokens,
        full_tokens=round(full_tokens),
        saved=round(1 - tokens / full_tokens, 4) if full_tokens else 0.0,
        saved_samples=round(1 - found.counts.total / budget.total, 4),
        stopped=dict(Counter(found.stopped).most_common()),
        rows_without_truth=found.without_truth,
    )

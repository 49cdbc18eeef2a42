"""How long the samples in the journal are, for `sampling.order=longest_first` in a run that is continued."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from rollout.data.row_sampling import SampleCounts
from rollout.records import Lengths
from rollout.store.journal import parts, read_part


def row_lengths(run_dir: Path, counts: SampleCounts) -> Callable[[int], Lengths]:
    """For each row_id the samples that have finished, of those that `counts` asks for, and their tokens.

    Takes 12 bytes for each row. Raises UserError for a part that cannot be read.
    """
    samples, tokens = np.zeros(counts.num_rows, np.int32), np.zeros(counts.num_rows, np.int64)
    for path in parts(run_dir):
        part = read_part(path, ["row_id", "sample_idx", "num_generated_tokens", "error"])
        part = part.filter(counts.asks_for(part))
        part = part.filter(part.column("error").is_null())
        rows = part.column("row_id").to_numpy() - counts.first_row
        np.add.at(samples, rows, 1)
        np.add.at(tokens, rows, part.column("num_generated_tokens").to_numpy())

    def of(row_id: int) -> Lengths:
        row = row_id - counts.first_row
        return Lengths(int(samples[row]), int(tokens[row]))

    return of

"""What Arrow arrays are asked for in more than one place."""

from itertools import pairwise

import numpy as np
import pyarrow as pa


def row_slices(batch: pa.RecordBatch) -> list[tuple[int, int]]:
    """(first, last + 1) of each input row's responses in `batch`."""
    row_ids = batch.column("row_id").to_numpy(zero_copy_only=False)
    if not len(row_ids):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(row_ids)) + 1).tolist(), len(row_ids)]
    return list(pairwise(cuts))

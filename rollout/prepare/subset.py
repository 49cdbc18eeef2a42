"""The rows of the input that are used: all, the first, or some at random."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from rollout.config import PrepareConfig
from rollout.data.tables import Table, select


def used_rows(table: Table, config: PrepareConfig) -> Iterator[tuple[pa.RecordBatch, Sequence[int]]]:
    """Batches of these rows in the order of the input, with the position of each row in it."""
    if config.limit is None or config.seed is None:
        return _with_positions(select(table, limit=config.limit))
    return _chosen(table, _at_random(table.num_rows, config.limit, config.seed))


def subset_problems(config: PrepareConfig) -> Iterator[str]:
    """A seed that nothing is drawn with."""
    if config.seed is not None and config.limit is None:
        yield f"seed={config.seed}: has no use without limit, the number of rows to take; give both, or none"


def _with_positions(table: Table) -> Iterator[tuple[pa.RecordBatch, range]]:
    first = table.first_row
    for batch in table.batches():
        yield batch, range(first, first + batch.num_rows)
        first += batch.num_rows


def _chosen(table: Table, is_chosen: np.ndarray) -> Iterator[tuple[pa.RecordBatch, Sequence[int]]]:
    for batch, positions in _with_positions(table):
        places = np.flatnonzero(is_chosen[positions.start : positions.stop])
        if len(places):
            yield batch.take(pa.array(places)), [positions[place] for place in places]


def _at_random(num_rows: int, limit: int, seed: int) -> np.ndarray:
    """Whether each row is one of `limit`: those with the lowest numbers of a PCG64 stream, which NumPy promises not to
    change (unlike `Generator.choice`), and of which a higher limit has all of a lower one.
    """
    numbers = np.random.PCG64(seed).random_raw(num_rows)
    last = min(limit, num_rows) - 1
    return np.asarray(numbers <= np.partition(numbers, last)[last])

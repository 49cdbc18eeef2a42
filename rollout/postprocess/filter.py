"""Keep the responses that every rule of `postprocess.filter` lets through; write the others beside them."""

from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rollout.config import FilterConfig
from rollout.files import replacing
from rollout.postprocess.flatten import flat_batches

KEPT = "filtered.parquet"
DROPPED = "filtered.dropped.parquet"


def filter_responses(rollouts: Path, output_dir: Path, rules: FilterConfig) -> tuple[int, int]:
    """Write `filtered.parquet` and `filtered.dropped.parquet`, flat like `flat.parquet`. Returns (kept, dropped).

    A failed sample has no response and is dropped.
    """
    counts = [0, 0]
    with ExitStack() as stack:
        partials = [stack.enter_context(replacing(output_dir / name)) for name in (KEPT, DROPPED)]
        writers: list[pq.ParquetWriter] = []
        for batch in flat_batches(rollouts):
            if not writers:
                writers = [stack.enter_context(pq.ParquetWriter(path, batch.schema)) for path in partials]
            keep = _passes(batch.column("response"), rules)
            for position, mask in enumerate((keep, pc.invert(keep))):
                part = batch.filter(mask)
                writers[position].write_batch(part)
                counts[position] += part.num_rows
    return counts[0], counts[1]


def _passes(response: pa.Array, rules: FilterConfig) -> pa.BooleanArray:
    length = pc.utf8_length(response)
    keep = pc.is_valid(response)
    if rules.min_length is not None:
        keep = pc.and_(keep, pc.greater_equal(length, rules.min_length))
    if rules.max_length is not None:
        keep = pc.and_(keep, pc.less_equal(length, rules.max_length))
    return pc.fill_null(keep, False)

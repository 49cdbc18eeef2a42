"""The journal of finished samples: `samples/part-*.parquet` in the run directory.

Every file under its final name is complete and is never changed again. What a crash can cost is what has finished since
the last flush: at most `store.flush_seconds` or `store.flush_samples` of work.
"""

import time
from operator import attrgetter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rollout.config import StoreConfig
from rollout.files import replacing
from rollout.records import SAMPLE_SCHEMA, Sample

JOURNAL = "samples"


class Journal:
    """Collects finished samples and writes them out, a shard at a time."""

    def __init__(self, run_dir: Path, store: StoreConfig) -> None:
        self._folder = run_dir / JOURNAL
        self._folder.mkdir(exist_ok=True)
        self._store = store
        self._pending: list[Sample] = []
        self._next_shard = len(shards(run_dir))
        self._oldest = 0.0  # when the first of the pending samples came

    def add(self, sample: Sample) -> None:
        """Take a finished sample; it is durable after the next flush, which happens here once enough are waiting."""
        if not self._pending:
            self._oldest = time.monotonic()
        self._pending.append(sample)
        if len(self._pending) >= self._store.flush_samples:
            self.flush()

    def flush_if_old(self) -> None:
        """Flush when the oldest sample that is not durable has waited long enough."""
        if self._pending and time.monotonic() - self._oldest >= self._store.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Make every sample added so far durable."""
        if not self._pending:
            return
        self._pending.sort(key=attrgetter("row_id", "sample_idx"))
        columns = [
            pa.array(map(attrgetter(column.name), self._pending), column.type, size=len(self._pending))
            for column in SAMPLE_SCHEMA
        ]
        table = pa.Table.from_arrays(columns, schema=SAMPLE_SCHEMA)
        with replacing(self._folder / f"part-{self._next_shard:06d}.parquet") as partial:
            pq.write_table(table, partial, compression="zstd")
        self._next_shard += 1
        self._pending.clear()


def shards(run_dir: Path) -> list[Path]:
    """The journal's files, oldest first."""
    return sorted((run_dir / JOURNAL).glob("part-*.parquet"))

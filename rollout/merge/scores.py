"""The scores.parquet of all runs, one after the other: without them the merged responses would have no scores."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rollout.data.tables import Table, conform, open_table, write_parquet
from rollout.errors import UserError
from rollout.merge.shards import Shard, named
from rollout.store.layout import SCORES


def why_left_out(shards: list[Shard]) -> str | None:
    """What keeps the scores that some of `shards` have from being merged; None where nothing does, or none has any."""
    without = [shard for shard in shards if not _path(shard).exists()]
    if without:
        return None if len(without) == len(shards) else f"there are none in {named(without)}"
    made = [_made(shard) for shard in shards]
    if damaged := [shard for shard, found in zip(shards, made, strict=True) if found is None]:
        return f"not those of all responses in {named(damaged)}"
    odd = [shard for shard, found in zip(shards, made, strict=True) if found != made[0]]
    return f"made otherwise in {named(odd)}" if odd else None


def open_scores(shards: list[Shard]) -> list[Table]:
    """The scores of each, in order; of none where they are left out."""
    is_whole = why_left_out(shards) is None
    return [open_table(path, SCORES) for shard in shards if is_whole and (path := _path(shard)).exists()]


def write_scores(path: Path, tables: list[Table]) -> None:
    """Write the rows of `tables`, as the first one says they were made, to `path`, complete or not at all."""
    schema = pq.read_schema(tables[0].path)
    write_parquet(path, schema, _batches(tables, schema))


def _batches(tables: list[Table], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for table in tables:
        for batch in table.batches():
            yield conform(batch, schema)


def _path(shard: Shard) -> Path:
    return shard.run_dir / SCORES


def _made(shard: Shard) -> tuple[Any, ...] | None:
    """Equal for scores that were made alike; None where they are not of all responses of the shard."""
    try:
        table = open_table(_path(shard), SCORES)
    except UserError:
        return None
    if table.num_rows != shard.totals.samples:
        return None
    schema = pq.read_schema(table.path)
    return schema.names, schema.metadata, shard.record.config.postprocess.score.pass_score

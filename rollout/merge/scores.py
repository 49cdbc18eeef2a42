"""Concatenate the scores.parquet of all runs, or say why they are left out."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rollout.data.parquet_output import write_parquet
from rollout.data.tables import Table, conform, open_table
from rollout.errors import UserError
from rollout.merge.shards import Shard, named
from rollout.store.layout import SCORES


@dataclass(frozen=True)
class ShardScores:
    """The scores of all shards, by number, or why they are not merged."""

    tables: list[Table] = field(default_factory=list)
    """Empty if the scores are not merged."""
    left_out: str | None = None
    """Why scores that some shards have are left out; None if nothing is left out."""


def open_scores(shards: list[Shard]) -> ShardScores:
    """The scores of `shards`: of all of them, if they were made alike, or of none."""
    without = [shard for shard in shards if not _path(shard).exists()]
    if without:
        return ShardScores(left_out=None if len(without) == len(shards) else f"there are none in {named(without)}")
    tables = {shard.run_dir: table for shard in shards if (table := _complete(shard)) is not None}
    if damaged := [shard for shard in shards if shard.run_dir not in tables]:
        return ShardScores(left_out=f"not those of all responses in {named(damaged)}")
    made = [_made_with(shard) for shard in shards]
    if odd := [shard for shard, found in zip(shards, made, strict=True) if found != made[0]]:
        return ShardScores(left_out=f"made otherwise in {named(odd)}")
    return ShardScores([tables[shard.run_dir] for shard in shards])


def write_scores(path: Path, tables: list[Table]) -> None:
    """Write the rows of `tables` to `path`, completely or not at all, with the first one's footer."""
    schema = pq.read_schema(tables[0].path)
    write_parquet(path, schema, _batches(tables, schema))


def _batches(tables: list[Table], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for table in tables:
        for batch in table.batches():
            yield conform(batch, schema)


def _path(shard: Shard) -> Path:
    return shard.run_dir / SCORES


def _complete(shard: Shard) -> Table | None:
    """The scores of a shard; None if they cannot be read, or do not cover all its responses."""
    try:
        table = open_table(_path(shard), SCORES)
    except UserError:
        return None
    return table if table.num_rows == shard.totals.samples else None


def _made_with(shard: Shard) -> tuple[Any, ...]:
    """Equal for scores that were made alike: their columns, their footer, and the least score that passes."""
    schema = pq.read_schema(_path(shard))
    return schema.names, schema.metadata, shard.record.config.postprocess.score.pass_score

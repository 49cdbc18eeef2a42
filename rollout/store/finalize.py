"""Merge the journal into `rollouts.parquet`: one row per input row, in input order, in bounded memory.

Parts are sorted by (row_id, sample_idx) and overlap only where samples were generated at the same time. So the merge
reads the input once, a few thousand samples at a time, and holds only the row groups of parts that overlap these rows.
The same samples give the same bytes, in whatever order they came into the journal.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollout.data.arrow import is_list, joined, sizes
from rollout.data.parquet_output import parquet_writer
from rollout.data.row_sampling import SampleCounts
from rollout.data.tables import BATCH_BYTES, Table
from rollout.files import replacing
from rollout.records import EXTRAS, Totals, extras_of, rollout_fields, sample_schema
from rollout.store.journal import parts
from rollout.store.journal_reader import JournalReader, positions
from rollout.store.layout import OUTPUT


def finalize(
    run_dir: Path,
    table: Table,
    counts: SampleCounts,
    metadata: dict[str, str],
    extras: Collection[str] = (),
    stopped: Sequence[str] = (),
) -> Totals:
    """Write `rollouts.parquet` from the journal and the input, with as many samples of each row as `counts` says.

    `metadata` goes to its footer, `extras` are the run's `extra_columns`, and `stopped` are the values of that column,
    if the run has it. Returns the totals. Raises RuntimeError if a sample is missing from the journal.
    """
    schema = pa.schema([*table.schema, *rollout_fields(extras)], metadata=metadata)
    journal = JournalReader(parts(run_dir), sample_schema(extras))
    row_id, totals = table.first_row, Totals()
    with replacing(run_dir / OUTPUT) as partial, parquet_writer(partial, schema) as writer:
        for batch in table.batches():
            row = row_id - table.first_row
            reasons = stopped[row : row + batch.num_rows]
            for group in row_groups(_answered(batch, row_id, journal, counts, schema, reasons)):
                writer.write_batch(group)
                totals += _totals(group)
            row_id += batch.num_rows
    return totals


def _answered(
    batch: pa.RecordBatch,
    first_row: int,
    journal: JournalReader,
    counts: SampleCounts,
    schema: pa.Schema,
    stopped: Sequence[str],
) -> Iterator[pa.RecordBatch]:
    """The rows of `batch` with their samples, a few rows at a time; `first_row` is the row_id of the first."""
    row_id, end = first_row, first_row + batch.num_rows
    while row_id < end:
        rows = batch.slice(row_id - first_row, counts.rows_within(row_id, journal.step))
        asked = counts.of_rows(row_id, rows.num_rows)
        samples, prompts = _without_prompts(journal.rows_below(row_id + rows.num_rows), row_id, rows.num_rows)
        samples = samples.filter(asked.asks_for(samples))
        chosen_from = positions(samples, asked)
        narrow, samples = samples.schema, samples.cast(wide(samples.schema))
        num_bytes = _num_bytes(samples, chosen_from) + (0 if prompts is None else int(sizes(prompts).sum()))
        for start, stop in _pieces(rows.num_rows, num_bytes):
            chosen = samples.take(chosen_from[asked.places[start] : asked.places[stop]]).cast(narrow)
            about = None if prompts is None else prompts.slice(start, stop - start)
            columns = _rollout_columns(chosen, about, asked.of_rows(row_id + start, stop - start))
            if stopped:
                columns.append(pa.array(stopped[row_id - first_row + start : row_id - first_row + stop], pa.string()))
            yield pa.RecordBatch.from_arrays([*rows.slice(start, stop - start).columns, *columns], schema=schema)
        row_id += rows.num_rows


def wide(schema: pa.Schema) -> pa.Schema:
    """`schema` with types for more than 2 GiB, for tables to `take` from: Arrow first joins the chunks of a column, and
    a `string` array ends at 2 GiB.
    """
    wide = {pa.string(): pa.large_string(), **{kind: pa.large_list(kind.value_type) for kind in _LISTS}}
    return pa.schema([column.with_type(wide.get(column.type, column.type)) for column in schema])


_LISTS = {extra.of_sample.type for extra in EXTRAS.values() if is_list(extra.of_sample.type)}


def _without_prompts(samples: pa.Table, first_row: int, num_rows: int) -> tuple[pa.Table, pa.Array | None]:
    """`samples` without the tokens of the prompts, and these tokens for each row, if the run has kept them."""
    if PROMPT not in samples.schema.names:
        return samples, None
    prompts = prompts_of(samples, np.arange(first_row, first_row + num_rows)).combine_chunks()
    return samples.drop_columns(PROMPT), prompts


PROMPT = "prompt_token_ids"


def prompts_of(samples: pa.Table, row_ids: npt.NDArray[np.int64]) -> pa.ChunkedArray:
    """The tokens of the prompt of each of these rows, which ascend and are all that `samples` are of.

    In each part they stand beside one sample of a row; see `journal`.
    """
    first = row_ids[0] if len(row_ids) else 0
    told = np.flatnonzero(samples.column(PROMPT).is_valid().to_numpy())
    place = np.full(row_ids[-1] - first + 1 if len(row_ids) else 0, -1, dtype=np.int64)
    place[samples.column("row_id").to_numpy()[told] - first] = told
    place = place[row_ids - first]
    return samples.column(PROMPT).take(pa.array(place, mask=place < 0))


def _num_bytes(samples: pa.Table, positions: npt.NDArray[np.int64]) -> int:
    """The bytes of all values that may be long, of the samples at these positions."""
    counted = [name for name in samples.schema.names if name == "response" or name in EXTRAS]
    return sum(int(sizes(samples.column(name).combine_chunks())[positions].sum()) for name in counted)


def row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows of `batches` in as few batches as possible, each with at most BATCH_BYTES of responses, or a single row.

    The cuts depend only on the responses (with their tokens and log-probabilities), not on how the rows were batched
    before.
    """
    held, held_bytes = list[pa.RecordBatch](), 0
    for batch in batches:
        start = 0
        for row, num_bytes in enumerate(_bytes_of_rows(batch)):
            if held_bytes and held_bytes + num_bytes > BATCH_BYTES:
                yield joined([*held, batch.slice(start, row - start)])
                held, held_bytes, start = [], 0, row
            held_bytes += num_bytes
        held.append(batch.slice(start))
    if held:
        yield joined(held)


def _bytes_of_rows(batch: pa.RecordBatch) -> list[int]:
    counted = ["responses", *(EXTRAS[name].of_row.name for name in extras_of(batch.schema))]
    found: list[int] = np.sum([sizes(batch.column(name)) for name in counted], axis=0).tolist()
    return found


def _totals(written: pa.RecordBatch) -> Totals:
    return Totals(
        rows=written.num_rows,
        samples=len(written.column("responses").values),
        failed=written.column("responses").values.null_count,
        prompt_tokens=pc.sum(written.column("num_prompt_tokens")).as_py() or 0,
        generated_tokens=pc.sum(written.column("num_generated_tokens").values).as_py() or 0,
    )


def _pieces(num_rows: int, num_bytes: int) -> Iterator[tuple[int, int]]:
    """Split rows with `num_bytes` of responses into (first, last + 1), with not much more than BATCH_BYTES each."""
    rows = max(1, num_rows * BATCH_BYTES // max(num_bytes, BATCH_BYTES))
    for start in range(0, num_rows, rows):
        yield start, min(start + rows, num_rows)


def _rollout_columns(samples: pa.Table, prompts: pa.Array | None, counts: SampleCounts) -> list[pa.Array]:
    """Our columns of rollouts.parquet for the rows of `counts`, from their samples in output order."""
    offsets = pa.array(counts.places, pa.int32())

    def lists(name: str) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, samples.column(name).combine_chunks())

    return [
        pa.array(np.arange(counts.first_row, counts.first_row + counts.num_rows, dtype=np.int64)),
        lists("response"),
        lists("finish_reason"),
        _num_prompt_tokens(samples.column("num_prompt_tokens"), counts),
        lists("num_generated_tokens"),
        lists("seed"),
        _texts(samples.column("error"), counts),
        _texts(samples.column("truncated_prompt"), counts),
        *([] if prompts is None else [prompts]),
        *(lists(name) for name, extra in EXTRAS.items() if extra.is_listed and name in samples.schema.names),
        *([lists("score")] if "score" in samples.schema.names else []),
    ]


def _num_prompt_tokens(column: pa.ChunkedArray, counts: SampleCounts) -> pa.Array:
    """One count per row; null if no sample of the row was tokenised."""
    tokens = np.maximum.reduceat(column.fill_null(-1).to_numpy(), counts.places[:-1])
    return pa.array(tokens, pa.int32(), mask=tokens < 0)


def _texts(column: pa.ChunkedArray, counts: SampleCounts) -> pa.Array:
    """One text per row: the different texts of its samples, or null."""
    texts: list[dict[str, None]] = [{} for _ in range(counts.num_rows)]
    places = np.flatnonzero(column.is_valid().to_numpy())
    rows = np.searchsorted(counts.places, places, "right") - 1
    for row, position in zip(rows, places, strict=True):
        texts[row][column[position].as_py()] = None
    return pa.array(["; ".join(found) if found else None for found in texts], pa.string())

"""The journal of finished samples: `samples/part-*.parquet` in the run directory.

Every file under its final name is complete and never changes. A crash costs what has finished since the last flush: at
most `store.flush_seconds` or `store.flush_samples` of work. In a run with several engines each has a writer of its own,
with its own file names: part-WRITER-NUMBER.parquet.
"""

import errno
import os
import re
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from rollout.config import StoreConfig
from rollout.data.arrow import is_list
from rollout.data.row_sampling import SampleCounts
from rollout.errors import UserError
from rollout.files import partial_of, replacing
from rollout.records import JUDGED_FIELDS, SAMPLE_SCHEMA, Sample, SampleKey, TokenIds, sample_schema
from rollout.store import run_record
from rollout.store.layout import JOURNAL

_ORIGIN = b"rollout.run"
"""In the metadata of a part: the `origin` of the run whose samples it holds. Parts of older versions have none."""
_PART = re.compile(r"part-(?:[0-9a-f]{11}-\d{3,}-)?\d{6,}\.parquet")
_ROW_GROUP = 256  # samples that the merge reads at a time: with many writers it has a row group of each one in memory
_SCHEMA = pa.schema([*SAMPLE_SCHEMA, *JUDGED_FIELDS])
_FLUSH_BYTES = 64 << 20  # keeps a part of very long responses small enough to be merged in memory


class Journal:
    """Collects finished samples and writes them out, a part at a time."""

    def __init__(
        self, run_dir: Path, store: StoreConfig, writer: str | None = None, extras: Collection[str] = ()
    ) -> None:
        """`writer` is a name that no other journal of the run has, from `writer_name`; None for the only one.

        `extras` are the run's `extra_columns`.
        """
        self._folder = run_dir / JOURNAL
        self._folder.mkdir(exist_ok=True)
        self._store = store
        self._schema = sample_schema(extras)
        if (origin := run_record.origin(run_dir)) is not None:
            self._schema = self._schema.with_metadata({_ORIGIN: origin})
        self._pending: list[Sample] = []
        self._held: dict[SampleKey, tuple[Sample, float]] = {}
        """Samples without their scores, and when each was taken."""
        self._prefix = "part-" if writer is None else f"part-{writer}-"
        numbers = (path.stem.removeprefix(self._prefix) for path in parts(run_dir))
        self._next_part = max((int(number) for number in numbers if number.isdigit()), default=-1) + 1
        self.num_durable = 0
        """How many samples that were added here are durable. A held sample counts once it is added too."""
        self._bytes = 0
        self._oldest = 0.0  # when the first of the pending samples was taken

    def add(self, sample: Sample) -> None:
        """Take a finished sample; it is durable after the next flush, which happens here once enough are waiting.

        A sample that was held is added when it has its score.
        """
        if self._held and sample.key in self._held:
            del self._held[sample.key]
        else:
            self._bytes += _size(sample)
        if not self._pending:
            self._oldest = time.monotonic()
        self._pending.append(sample)
        if len(self._pending) + len(self._held) >= self._store.flush_samples or self._bytes >= _FLUSH_BYTES:
            self._flush_many()

    def hold(self, sample: Sample) -> None:
        """Take a finished sample that has no score yet; `add` must be called with it once it has.

        If a flush is due before, it is written without its score: durability does not wait for a scorer.
        """
        self._held[sample.key] = sample, time.monotonic()
        self._bytes += _size(sample)
        if len(self._pending) + len(self._held) >= self._store.flush_samples or self._bytes >= _FLUSH_BYTES:
            self._flush_many()

    def flush_if_old(self) -> None:
        """Flush if the oldest sample that is not durable has waited `store.flush_seconds`."""
        if not (self._pending or self._held):
            return
        begins = [self._oldest] if self._pending else []
        begins += [since for _, since in islice(self._held.values(), 1)]
        if time.monotonic() - min(begins) >= self._store.flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Make every sample taken so far durable."""
        self._write([sample for sample, _ in self._held.values()])

    def _flush_many(self) -> None:
        """Flush; samples that are held are left out if that is enough, because most get their scores soon."""
        num_bytes = sum(_size(sample) for sample, _ in self._held.values())
        if 2 * len(self._held) >= self._store.flush_samples or 2 * num_bytes >= _FLUSH_BYTES:
            self.flush()
        else:
            self._write([])

    def _write(self, held: list[Sample]) -> None:
        """Write a part of all that was added since the last one, and of `held`: everything that is held, or nothing."""
        samples = [*self._pending, *held]
        if not samples:
            return
        samples.sort(key=attrgetter("row_id", "sample_idx"))
        table = pa.Table.from_arrays([_column(samples, column) for column in self._schema], schema=self._schema)
        with replacing(self._folder / f"{self._prefix}{self._next_part:06d}.parquet") as partial:
            pq.write_table(
                table,
                partial,
                compression="zstd",
                row_group_size=_ROW_GROUP,
                write_page_checksum=True,
                use_dictionary=SAMPLE_SCHEMA.names,
                # smaller, faster and, for `finalize`, of a size that is known: 4 bytes a number, as in memory
                use_byte_stream_split=[f"{item.name}.list.element" for item in self._schema if is_list(item.type)],
            )
        self._next_part += 1
        self.num_durable += len(self._pending)
        self._pending.clear()
        if held:
            self._held.clear()
        self._bytes = sum(_size(sample) for sample, _ in self._held.values())


def _size(sample: Sample) -> int:
    """What a sample adds to a part, in bytes, one for each character. A prompt's tokens count for each sample, though
    written once.
    """
    num_bytes = len(sample.response or "") + len(sample.reasoning or "")
    for array in (sample.prompt_token_ids, sample.response_token_ids, sample.response_logprobs):
        if array is not None:
            num_bytes += array.nbytes
    return num_bytes


def _column(samples: list[Sample], column: pa.Field) -> pa.Array:
    """One field of `samples`, which are in the order of their rows."""
    values = list(map(attrgetter(column.name), samples))
    if column.name == "prompt_token_ids":
        return _lists(_once_per_row(samples), column.type)
    return _lists(values, column.type) if is_list(column.type) else pa.array(values, column.type)


def _once_per_row(samples: list[Sample]) -> list[TokenIds | None]:
    """The tokens of each prompt beside the first of its samples, so that every part with samples of a row has them."""
    told, found = set[int](), list[TokenIds | None]()
    for sample in samples:
        found.append(None if sample.row_id in told else sample.prompt_token_ids)
        if sample.prompt_token_ids is not None:
            told.add(sample.row_id)
    return found


def _lists(arrays: Sequence[npt.NDArray[Any] | None], kind: pa.DataType) -> pa.Array:
    """A column of lists from an array for each list."""
    lengths = [0 if array is None else len(array) for array in arrays]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    found = [array for array in arrays if array is not None]
    items = pa.array(np.concatenate(found) if found else [], kind.value_type)
    missing = pa.array([array is None for array in arrays])
    return pa.ListArray.from_arrays(offsets, items, type=kind, mask=missing)


@dataclass(frozen=True)
class Finished:
    """Which samples the journal holds; a failed sample is not finished."""

    mask: npt.NDArray[np.bool_]
    """One for every place of `counts`."""
    counts: SampleCounts

    @property
    def num_done(self) -> int:
        """Samples that the journal holds."""
        return int(self.mask.sum())

    @property
    def num_owed(self) -> int:
        """Samples still to be generated."""
        return int(self.mask.size) - self.num_done

    @property
    def num_open(self) -> int:
        """Samples of rows that may stop early: none, because there is no rule."""
        return 0

    @property
    def is_complete(self) -> bool:
        """Whether nothing is owed."""
        return not self.num_owed

    def owed(self, row_id: int) -> list[int]:
        """The sample indices of one row still to be generated."""
        row = row_id - self.counts.first_row
        first, end = self.counts.places[row : row + 2].tolist()
        indices: list[int] = np.flatnonzero(~self.mask[first:end]).tolist()
        return indices


def finished(run_dir: Path, counts: SampleCounts, failed_too: bool = False) -> Finished:
    """Read from the journal which of the samples that `counts` asks for are finished; a byte for each.

    With `failed_too`, samples that failed count as finished. Raises UserError for a part that cannot be read.
    """
    mask = np.zeros(counts.total, dtype=np.bool_)
    for path in parts(run_dir):
        part = read_part(path, ["row_id", "sample_idx", "error"])
        part = part.filter(counts.asks_for(part))
        is_done = part.column("error").is_null().to_numpy() | failed_too
        mask[counts.places_of(part)[is_done]] = True
    return Finished(mask, counts)


def extent(run_dir: Path) -> tuple[int, int]:
    """The numbers of samples per row and of rows that the journal reaches: its largest `sample_idx` and `row_id`, plus
    1. Raises UserError for a part that cannot be read.
    """
    reached = [0, 0]
    for path in parts(run_dir):
        part = read_part(path, ["sample_idx", "row_id"])
        if part.num_rows:
            here = (part.column(name).to_numpy().max() + 1 for name in ("sample_idx", "row_id"))
            reached = [max(before, int(now)) for before, now in zip(reached, here, strict=True)]
    return reached[0], reached[1]


def remove_partial_files(run_dir: Path, names: Iterable[str]) -> None:
    """Delete partial files that a killed process has left in `run_dir`: of the journal, and of files with `names`."""
    inside = (run_dir / name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts)
    for path in (*(run_dir / JOURNAL).glob(".*.partial"), *map(partial_of, inside)):
        path.unlink(missing_ok=True)


def parts(run_dir: Path) -> list[Path]:
    """The journal's files, oldest first; those of several writers ordered by when the writers began."""
    return sorted(path for path in (run_dir / JOURNAL).glob("part-*.parquet") if _PART.fullmatch(path.name))


def writer_name(index: int) -> str:
    """A name for the journal of engine `index` that begins now: milliseconds since 1970 in hex, and the index.

    A new one for every start, so that an engine given up for dead that is still writing cannot overwrite its successor.
    """
    return f"{time.time_ns() // 1_000_000:011x}-{index:03d}"


def read_part(path: Path, columns: list[str] | None = None, group: int | None = None) -> pa.Table:
    """The samples of a part, or of one of its row groups; of a row group, only columns that the part has.

    Raises UserError for one that cannot be read, or is none.
    """
    try:
        if group is None:
            return _checked(path, columns)
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read_row_group(group, columns=columns)
    except (OSError, pa.ArrowException, ValueError) as error:
        if (number := _of_the_machine(error)) is not None:
            raise UserError(f"{path}: cannot be read ({os.strerror(number)}); make it readable") from error
        raise UserError(
            f"{path}: damaged ({str(error).splitlines()[0]}); delete it, and its samples will be generated again"
        ) from error


def _of_the_machine(error: Exception) -> int | None:
    """The number of an error that says nothing about what is in a file: its samples may all be there."""
    if isinstance(error, FileNotFoundError):  # Arrow's has no number
        return errno.ENOENT
    return error.errno if isinstance(error, OSError) else None


def _checked(path: Path, columns: list[str] | None) -> pa.Table:
    """The whole part, with nulls in columns that it is older than. Raises UserError for what somebody else has put
    there.
    """
    if path.is_dir():  # of which Arrow would read the files that are in it
        raise _no_part(path)
    check_origin(path, pq.read_metadata(path))
    part = pq.read_table(path, columns=columns, schema=_SCHEMA, page_checksum_verification=True)
    if any(part.column(field.name).null_count for field in part.schema if not field.nullable):
        raise _no_part(path)
    return part


def check_origin(path: Path, metadata: pq.FileMetaData) -> None:
    """Raise UserError for a part that holds samples of another run."""
    there, here = (metadata.metadata or {}).get(_ORIGIN), run_record.origin(path.parent.parent)
    if there is not None and here is not None and there.decode() != here:
        raise UserError(
            f"{path}: a part of a run that began at {there.decode()}, and this run began at {here}; move it elsewhere"
        )


def _no_part(path: Path) -> UserError:
    return UserError(f"{path}: no part of a run's samples; move it elsewhere")

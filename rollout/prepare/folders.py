"""Several files as one table: a folder of Parquet files, or a folder that `datasets` wrote with `save_to_disk`.

The formats are those of a Hugging Face dataset repository (`data/train-00000-of-00002.parquet`, ...) and of
`datasets.Dataset.save_to_disk` (Arrow IPC streams listed in `state.json`). The files may differ: a column that a file
lacks is null there, and a type is widened only if every value stays the same.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from glob import has_magic
from pathlib import Path
from typing import TypeVar

import msgspec
import pyarrow as pa

from rollout.data.missing import no_such_file
from rollout.data.tables import (
    BATCH_ROWS,
    Table,
    conform,
    not_empty,
    open_parquet,
    open_table,
    opened,
    plain_schema,
)
from rollout.errors import UserError
from rollout.files import matching

T = TypeVar("T")


def open_source(path: Path, key: str) -> Table:
    """Open a file (as `open_table` does), a folder, or a pattern for Parquet files of one folder.

    Raises UserError, naming the config `key`, if this is impossible.
    """
    if path.is_dir():
        return _open_folder(path, key)
    if has_magic(path.name) and not path.exists() and path.suffix == ".parquet":
        return _together(path, matching(path), open_parquet, key)
    return open_table(path, key)


def _open_folder(folder: Path, key: str) -> Table:
    if (splits_file := folder / "dataset_dict.json").is_file():
        splits = _read(splits_file, _Splits, key).splits
        raise UserError(f"{key}={folder}: holds the splits {', '.join(splits)}; choose one, {key}={folder / splits[0]}")
    if (state_file := folder / "state.json").is_file():
        files = [folder / file.filename for file in _read(state_file, _State, key).files]
        return _together(folder, files, _open_arrow, key)
    return _together(folder, _parquet_files(folder, key), open_parquet, key)


class _Splits(msgspec.Struct):
    """A `dataset_dict.json` of `datasets`."""

    splits: list[str]


class _DataFile(msgspec.Struct):
    filename: str


class _State(msgspec.Struct):
    """A `state.json` of `datasets`."""

    files: list[_DataFile] = msgspec.field(name="_data_files")


def _read(path: Path, kind: type[T], key: str) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.MsgspecError as error:
        raise UserError(f"{key}={path.parent}: {path.name} is damaged; save the dataset again") from error


def _parquet_files(folder: Path, key: str) -> list[Path]:
    """The Parquet files of one split. Raises UserError if there are files of several splits, or none."""
    for place in (folder, folder / "data"):
        files = [path for path in sorted(place.glob("*.parquet")) if not path.name.startswith((".", "_"))]
        names = (re.fullmatch(r"(.+)-\d+-of-\d+.*", path.stem) for path in files)
        splits = sorted({name[1] for name in names if name})
        if len(splits) > 1:
            example = place / f"{splits[-1]}-*.parquet"
            raise UserError(f"{key}={folder}: holds the splits {', '.join(splits)}; choose one, '{key}={example}'")
        if files:
            return files
    below = sorted({path.parent.name for path in folder.glob("*/*.parquet")})
    cure = f"choose one of its folders {', '.join(below)}" if below else "give a folder of .parquet files, or a file"
    raise UserError(f"{key}={folder}: holds no .parquet files; {cure}")


def _together(path: Path, files: list[Path], opener: Callable[[Path], Table], key: str) -> Table:
    """The rows of all `files`, one file after the other, as a table called `path`."""
    if not files:
        raise no_such_file(path, key)
    tables = [opened(file, opener, key) for file in files]
    schema = _common_schema(tables, key)
    return not_empty(Table(path, schema, sum(t.num_rows for t in tables), partial(_all_batches, tables, schema)), key)


def _all_batches(tables: list[Table], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for table in tables:
        for batch in table.batches():
            columns = [
                batch.column(name) if name in table.schema.names else pa.nulls(batch.num_rows, kind)
                for name, kind in zip(schema.names, schema.types, strict=True)
            ]
            yield conform(pa.RecordBatch.from_arrays(columns, schema.names), schema)


def _common_schema(tables: list[Table], key: str) -> pa.Schema:
    types, origin = dict[str, pa.DataType](), dict[str, Path]()
    for table in tables:
        for column in table.schema:
            before = types.get(column.name, pa.null())
            if (common := _common_type(before, column.type)) is None:
                raise UserError(
                    f"{key}={table.path}: column {column.name} holds {column.type}, but {before} in "
                    f"{origin[column.name]}; write one of them again, or give one file at a time"
                )
            types[column.name] = common
            origin.setdefault(column.name, table.path)
    return pa.schema(types.items())


def _common_type(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """The type that holds every value of both types unchanged, if there is one."""
    if first == second or pa.types.is_null(second):
        return first
    if pa.types.is_null(first):
        return second
    if pa.types.is_struct(first) and pa.types.is_struct(second):
        return _common_struct(first, second)
    if pa.types.is_list(first) and pa.types.is_list(second):
        item = _common_type(first.value_type, second.value_type)
        return None if item is None else pa.list_(item)
    for alike in (pa.types.is_signed_integer, pa.types.is_unsigned_integer, pa.types.is_floating):
        if alike(first) and alike(second):
            return max(first, second, key=lambda kind: kind.bit_width)
    return pa.large_string() if {first, second} == {pa.string(), pa.large_string()} else None


def _common_struct(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    fields = {field.name: field.type for field in first}
    for field in second:
        common = _common_type(fields.get(field.name, pa.null()), field.type)
        if common is None:
            return None
        fields[field.name] = common
    return pa.struct(fields.items())


def _open_arrow(path: Path) -> Table:
    # with a memory map no data is read here, only the position and the number of rows of each batch
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
        schema, num_rows = plain_schema(reader.schema), sum(batch.num_rows for batch in reader)
    return Table(path, schema, num_rows, partial(_arrow_batches, path, schema))


def _arrow_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield conform(batch.slice(start, BATCH_ROWS), schema)

"""Columns of every type that files of DuckDB, Polars, Spark and pandas hold, with values that Python or CSV cannot."""

import datetime
import decimal
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

UUID = uuid.UUID("f34409cc-aa6d-4db2-972e-8203c445f77e")
OUT_OF_RANGE = 2**31 - 1


def raw_text(*raws: bytes) -> pa.Array:
    """Text that is not UTF-8, as Spark and old converters have written it."""
    return pa.Array.from_buffers(pa.string(), len(raws), pa.array(raws, pa.binary()).buffers())


def typed(kind: Any, values: list[Any]) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))


def infinity() -> pa.Array:
    """DuckDB's 'infinity'::DATE."""
    return pa.array([OUT_OF_RANGE], pa.int32()).cast(pa.date32())


def in_list(items: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays([0, len(items)], items)


def in_struct(field: pa.Array) -> pa.Array:
    return pa.StructArray.from_arrays([field], names=["a"])


COLUMNS: dict[str, tuple[pa.Array, Any]] = {
    "null": (pa.nulls(1), None),
    "half": (pa.array([np.float16(1.5)], pa.float16()), 1.5),
    "uint64": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
    "decimal": (pa.array([decimal.Decimal("1.50")], pa.decimal128(5, 2)), "1.50"),
    "decimal256": (pa.array([decimal.Decimal("1.50")], pa.decimal256(60, 2)), "1.50"),
    "decimal32": (pa.array([decimal.Decimal("1.50")], pa.decimal32(5, 2)), "1.50"),
    "bytes": (pa.array([b"\x00\xff"]), "AP8="),
    "fixed bytes": (pa.array([b"ab"], pa.binary(2)), "YWI="),
    "bytes view": (pa.array([b"ab"], pa.binary_view()), "YWI="),
    "text view": (pa.array(["x"], pa.string_view()), "x"),
    "large text": (pa.array(["x"], pa.large_string()), "x"),
    "latin-1": (raw_text(b"caf\xe9"), "caf\ufffd"),
    "latin-1 in a list": (in_list(raw_text(b"caf\xe9", b"a")), ["caf\ufffd", "a"]),
    "latin-1 in a struct": (in_struct(raw_text(b"caf\xe9")), {"a": "caf\ufffd"}),
    "latin-1 in a map": (pa.MapArray.from_arrays([0, 1], pa.array(["k"]), raw_text(b"\xe9")), [["k", "\ufffd"]]),
    "date": (pa.array([datetime.date(2026, 1, 2)]), "2026-01-02"),
    "infinite date": (infinity(), f"{OUT_OF_RANGE} (date32[day], cannot be shown)"),
    "infinite date in a struct": (in_struct(infinity()), {"a": f"{OUT_OF_RANGE} (date32[day], cannot be shown)"}),
    "far timestamp": (pa.array([2**62], pa.timestamp("us")), f"{2**62} (timestamp[us], cannot be shown)"),
    "far timestamp in UTC": (pa.array([2**62], pa.timestamp("us", "UTC")), "17036-07-06 14:00:27.387904Z"),
    "farther in a zone": (
        pa.array([-(2**62)], pa.timestamp("ms", "America/New_York")),
        f"-{2**62} (timestamp[ms, tz=America/New_York], cannot be shown)",
    ),
    "two fields of one name": (
        pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]),
        [["a", 1], ["a", 2]],
    ),
    "nanoseconds": (pa.array([1], pa.timestamp("ns")), "1970-01-01 00:00:00.000000001"),
    "another zone": (pa.array([0], pa.timestamp("us", "UTC+8")), "1970-01-01 00:00:00.000000Z"),
    "another zone in a list": (in_list(pa.array([0], pa.timestamp("us", "UTC+8"))), ["1970-01-01 00:00:00.000000Z"]),
    "time": (pa.array([1001], pa.time64("ns")), "00:00:00.000001001"),
    "time in a struct": (in_struct(pa.array([1001], pa.time64("ns"))), {"a": "00:00:00.000001001"}),
    "duration": (pa.array([1_500_000], pa.duration("us")), "0:00:01.500000"),
    "nano duration": (pa.array([1], pa.duration("ns")), "0 days 00:00:00.000000001"),
    "categories": (pa.array(["x"]).dictionary_encode(), "x"),
    "categories of numbers": (pa.array([5]).dictionary_encode(), 5),
    "map": (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), [["a", 1]]),
    "map view": (pa.array([[("a", "b")]], pa.map_(pa.string_view(), pa.string_view())), [["a", "b"]]),
    "list view": (pa.array([["x", "y"]], pa.list_view(pa.string_view())), ["x", "y"]),
    "large list": (pa.array([["x"]], pa.large_list(pa.string())), ["x"]),
    "fixed list": (pa.array([["x", None]], pa.list_(pa.string_view(), 2)), ["x", None]),
    "struct": (pa.array([{"a": {"b": [1, None]}, "c": None}]), {"a": {"b": [1, None]}, "c": None}),
    "json": (typed(pa.json_(), ['{"a": 1}']), '{"a": 1}'),
    "json in a list": (in_list(typed(pa.json_(), ['{"a": 1}'])), ['{"a": 1}']),
    "uuid": (typed(pa.uuid(), [UUID.bytes]), str(UUID)),
    "uuid in a struct": (in_struct(typed(pa.uuid(), [UUID.bytes])), {"a": str(UUID)}),
    "bool8": (typed(pa.bool8(), [1]), True),
    "opaque": (typed(pa.opaque(pa.int64(), "t", "v"), [1]), 1),
    "tensor": (pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((1, 1, 2))), [1.0, 1.0]),
    "nan": (pa.array([float("nan")]), None),
}
"""Name -> a column of one value, and what the export to JSONL makes of it."""


def write_odd(path: Path, *, rows: int = 3) -> Path:
    """A Parquet file with all of them, `rows` times."""
    columns = {name: pa.concat_arrays([column] * rows) for name, (column, _) in COLUMNS.items()}
    prompts = pa.array([f"question {number}" for number in range(rows)])
    pq.write_table(pa.table({"prompt": prompts, **columns}), path)
    return path

"""Every value has one text, the one that people write, wherever it becomes text."""

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.config import AnalyzeConfig, DataConfig, ExportConfig, ScoreConfig
from rollout.data.arrow import values as values_of
from rollout.data.json_text import rows_of
from rollout.data.text import are, as_text, counted, have
from rollout.postprocess.analyze import analyze
from rollout.postprocess.export import export
from rollout.postprocess.sample_rows import sample_rows
from rollout.postprocess.source import open_source


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" é\n", " é\n"),
        (7, "7"),
        (0.1, "0.1"),
        (42.0, "42"),
        (-0.5, "-0.5"),
        (1e-05, "0.00001"),
        (2.5e-06, "0.0000025"),
        (123456789.125, "123456789.125"),
        (1e15, "1000000000000000"),
        (1e22, "1e+22"),
        (1e-30, "1e-30"),
        (0.0, "0"),
        (float("nan"), "nan"),
        (np.float32(0.1), "0.1"),
        (np.float64(3.0), "3"),
        (np.int64(3), "3"),
        (np.bool_(True), "true"),
        (True, "true"),
        (None, "null"),
        (b"abc", "abc"),
        (b"\xff\x00", "/wA="),
        (Decimal("1.50"), "1.50"),
        (Decimal("1E+2"), "100"),
        (Decimal("1E-7"), "0.0000001"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (["é", datetime.date(2026, 1, 2)], '["é", "2026-01-02"]'),
        ({"a": None, "b": "{q}"}, '{"b": "{q}"}'),
    ],
)
def test_every_value_has_one_text(value: Any, text: str) -> None:
    assert as_text(value) == text


FLOAT32 = pa.float32()
SHORT_FLOATS = [
    (pa.array([0.1, None, 3.14], FLOAT32), [0.1, None, 3.14]),
    (pa.array([0.1], FLOAT32).dictionary_encode(), [0.1]),
    (pa.array(np.array([0.1], np.float16)), [0.1]),
    (pa.array([[0.1, None], None, []], pa.list_(FLOAT32)), [[0.1, None], None, []]),
    (pa.array([[0.1]], pa.large_list(FLOAT32)), [[0.1]]),
    (pa.array([[0.1, 0.2]], pa.list_(FLOAT32, 2)), [[0.1, 0.2]]),
    (pa.array([{"x": 0.1, "n": 1}, {"x": None, "n": 2}], pa.struct([("x", FLOAT32), ("n", pa.int8())])), None),
    (pa.array([[("a", 0.1)], None], pa.map_(pa.string(), FLOAT32)), [[("a", 0.1)], None]),
    (pa.array([float("nan"), 1e38, -0.0], FLOAT32), None),
]


@pytest.mark.parametrize(("column", "values"), SHORT_FLOATS, ids=lambda value: str(getattr(value, "type", "")))
def test_a_short_float_is_the_number_that_people_write_at_any_depth(column: pa.Array, values: list[Any] | None) -> None:
    if values is None:  # equal as far as the type tells, and short
        assert all(len(as_text(value)) < 40 for value in values_of(column))
        assert pa.array(values_of(column), column.type).to_pylist().__repr__() == repr(column.to_pylist())
    else:
        assert values_of(column) == values


def test_whatever_reads_a_column_gets_what_people_write(tmp_path: Path) -> None:
    columns = {
        "prompt": ["a", "b"],
        "price": pa.array([0.1, 2.0], FLOAT32),
        "parts": pa.array([[0.1], [2.5]], pa.list_(FLOAT32)),
        "responses": [["x"], ["y"]],
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    source = open_source(tmp_path / "in.parquet")
    assert list(analyze(source, tmp_path, AnalyzeConfig(by="price"), ScoreConfig()).groups) == ["0.1", "2"]
    first, _ = sample_rows(source, [0, 1], DataConfig(), "price")
    assert (first["ground_truth"], first["fields"]) == ("0.1", {"price": "0.1", "parts": "[0.1]"})
    for format_ in ("responses", "messages"):
        config = ExportConfig("out.jsonl", format_, columns=["price", "parts"])
        export(source, tmp_path, config, DataConfig())
        line = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
        assert (line["price"], line["parts"]) == (0.1, [0.1])
    export(source, tmp_path, ExportConfig("out.csv", columns=["price", "parts"]), DataConfig())
    assert (tmp_path / "out.csv").read_text().splitlines()[1] == '0,0,0.1,"[0.1]"'


def test_rows_have_the_columns_of_their_batch() -> None:
    batch = pa.record_batch({"a": [1, 2], "b": pa.array([0.1, 0.2], FLOAT32)})
    assert rows_of(batch) == [{"a": 1, "b": 0.1}, {"a": 2, "b": 0.2}]


def test_one_is_not_plural() -> None:
    assert [counted(number, "row") for number in (0, 1, 2, 1234)] == ["0 rows", "1 row", "2 rows", "1,234 rows"]


def test_a_count_agrees_with_its_verb() -> None:
    lines = [f"{counted(number, 'row')} {have(number)}, {counted(number, 'row')} {are(number)}" for number in (0, 1, 2)]
    assert lines == ["0 rows have, 0 rows are", "1 row has, 1 row is", "2 rows have, 2 rows are"]

"""Files as streams of Arrow batches: every row is read as the file says it, and an odd file is refused in one line."""

import gzip
import json
import math
import random
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.data.json_text import rows_of
from rollout.data.tables import BATCH_ROWS, Table, open_table, select
from rollout.errors import UserError
from tests.conftest import chat, write_input


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    return write(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def rows_in(table: Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.Table.from_batches(table.batches(), table.schema).to_pylist()
    return rows


def read(path: Path) -> list[dict[str, Any]]:
    return rows_in(open_table(path, "data.path"))


def column(path: Path, name: str = "a") -> list[Any]:
    return [row[name] for row in read(path)]


def numbered(path: Path, rows: int) -> Table:
    return open_table(write_input(path, [{"a": number, "b": str(number)} for number in range(rows)]), "data.path")


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    return tmp_path / "input.jsonl"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "input.csv"


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_every_format_streams_the_same_rows_again_and_again(suffix: str, tmp_path: Path) -> None:
    rows = [{"a": f"text {number}", "b": None if number % 3 else "x"} for number in range(2 * BATCH_ROWS + 5)]
    path = tmp_path / f"input.{suffix}"
    if suffix == "parquet":
        write_input(path, rows)
    elif suffix == "jsonl":
        write_lines(path, rows)
    else:
        write(path, "a,b\n" + "".join(f"{row['a']},{row['b'] or ''}\n" for row in rows))
    table = open_table(path, "data.path")
    assert table.num_rows == len(rows)
    assert rows_in(table) == rows_in(table) == rows
    assert max(batch.num_rows for batch in table.batches()) <= BATCH_ROWS


def test_a_large_row_group_is_never_held_whole(tmp_path: Path) -> None:
    random_bytes = random.Random(0).randbytes
    texts = [random_bytes(4000).hex() for _ in range(6 * BATCH_ROWS)]
    path = tmp_path / "input.parquet"
    pq.write_table(pa.table({"a": texts}), path, compression="none", use_dictionary=False, row_group_size=len(texts))
    del texts
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in open_table(path, "data.path").batches()]
    assert len(held) == 6
    assert max(held) < path.stat().st_size / 2


def test_row_groups_of_any_size_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "input.parquet"
    pq.write_table(pa.table({"a": range(3000)}), path, row_group_size=700)
    assert column(path) == list(range(3000))


def test_a_far_date_of_sparks_stays_the_date_it_is(tmp_path: Path) -> None:
    table = pa.table({"a": [datetime(9999, 12, 31, 23, 59)]})
    pq.write_table(table, tmp_path / "input.parquet", use_deprecated_int96_timestamps=True, store_schema=False)
    assert column(tmp_path / "input.parquet") == [datetime(9999, 12, 31, 23, 59)]


def test_the_metadata_of_pandas_is_left_behind(tmp_path: Path) -> None:
    pd.DataFrame({"a": ["x"]}, index=pd.Index([7], name="key")).to_parquet(tmp_path / "input.parquet")
    table = open_table(tmp_path / "input.parquet", "data.path")
    assert pq.read_schema(table.path).metadata
    assert table.schema.metadata is None


@pytest.mark.parametrize("earlier_lines", [1, BATCH_ROWS], ids=["same block", "another block"])
@pytest.mark.parametrize(
    ("first", "last", "texts"),
    [
        (1, "x", ("1", "x")),
        (True, 2, ("true", "2")),
        (2**70, 1, ("1180591620717411303424", "1")),
        (2**63 + 5, -1, ("9223372036854775813", "-1")),
        ("plain", [{"role": "user", "content": "é"}], ("plain", '[{"role": "user", "content": "é"}]')),
        ({"x": 1}, [2], ('{"x": 1}', "[2]")),
        ([1], ["x"], ("[1]", '["x"]')),
        ({"x": {"y": 1}}, {"x": {"y": "z"}}, ('{"x": {"y": 1}}', '{"x": {"y": "z"}}')),
    ],
)
def test_a_column_without_one_type_becomes_text_holding_json(
    first: Any, last: Any, texts: tuple[str, str], earlier_lines: int, jsonl: Path
) -> None:
    write_lines(jsonl, [*[{"a": first}] * earlier_lines, {"a": None}, {"a": last}])
    assert column(jsonl) == [*[texts[0]] * earlier_lines, None, texts[1]]


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (None, "x"),
        (None, {"x": [1]}),
        ([], [{"role": "user"}]),
        ({"x": None}, {"x": {"y": "z"}}),
        ([{"role": "user", "content": None}], [{"role": "user", "content": "x"}]),
        ({"x": [None]}, {"x": [[1.5]]}),
        (1, 0.5),
        ([1], [0.5]),
    ],
)
def test_a_type_first_seen_after_many_lines_holds_for_all_of_them(first: Any, last: Any, jsonl: Path) -> None:
    write_lines(jsonl, [*[{"a": first}] * BATCH_ROWS, {"a": last}])
    assert column(jsonl) == [*[first] * BATCH_ROWS, last]


def test_a_column_first_seen_late_is_null_before(jsonl: Path) -> None:
    write_lines(jsonl, [*[{"a": 1}] * BATCH_ROWS, {"a": 2, "b": "new"}])
    first, *_, last = read(jsonl)
    assert (first, last) == ({"a": 1, "b": None}, {"a": 2, "b": "new"})


@pytest.mark.parametrize("earlier_lines", [1, BATCH_ROWS], ids=["same block", "another block"])
@pytest.mark.parametrize(
    ("first", "last"),
    [
        ({"x": 1}, {"y": 2}),
        ({"x": 1}, {"x": 1, "y": None}),
        ({"x": 1}, {}),
        ([{"x": 1}], [{"x": 1}, {"y": 2}]),
        ({"x": {"y": 1}}, {"x": {"z": 1}}),
        ({"x": {"y": None}}, {"x": {"y": {"z": 1}, "u": 1}}),
        (chat("hi"), [*chat("1+1?"), {"role": "assistant", "content": None, "tool_calls": []}]),
    ],
)
def test_objects_with_other_keys_are_json_so_that_none_gets_keys_it_did_not_have(
    first: Any, last: Any, earlier_lines: int, jsonl: Path
) -> None:
    table = open_table(write_lines(jsonl, [*[{"a": first}] * earlier_lines, {"a": None}, {"a": last}]), "data.path")
    found = [row["a"] for batch in table.batches() for row in rows_of(batch)]
    assert found == [*[first] * earlier_lines, None, last]
    assert [json.loads(text) for text in column(jsonl) if text is not None] == [
        value for value in found if value is not None
    ]


def test_many_objects_with_a_key_each_take_no_longer_than_others(jsonl: Path) -> None:
    write_lines(jsonl, [{"a": {f"key {number}": number}} for number in range(8000)])
    begin = time.monotonic()
    assert len(column(jsonl)) == 8000
    assert time.monotonic() - begin < 5


def test_nan_is_a_null_unless_the_column_holds_numbers(jsonl: Path) -> None:
    write(jsonl, '{"a": "x", "b": 1, "c": NaN, "d": {"x": NaN}}\n{"a": NaN, "b": NaN, "c": NaN, "d": {"y": 1}}\n')
    first, last = read(jsonl)
    assert (first["a"], last["a"]) == ("x", None)
    assert (first["b"], last["b"]) == (1, None)
    assert math.isnan(last["c"])
    assert first["d"] == '{"x": null}'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[{"a": 1}, {"a": 2}]', "holds one JSON array; write an object a line, as `jq -c '.[]'` does"),
        ('\n[\n{"a": 1},\n{"a": 2}\n]\n', "holds one JSON array; write an object a line, as `jq -c '.[]'` does"),
        ('[{"a": 1},\n{"a": 2}]\n', "holds one JSON array; write an object a line, as `jq -c '.[]'` does"),
        ('{\n  "a": 1\n}\n', "holds JSON over several lines; write an object a line, as `jq -c .` does"),
        ('{"a": 1,\n "b": 2}\n{"a": 1}\n', "holds JSON over several lines; write an object a line, as `jq -c .` does"),
    ],
)
def test_json_that_is_no_object_a_line_is_named(content: str, reason: str, jsonl: Path) -> None:
    with pytest.raises(UserError) as refused:
        open_table(write(jsonl, content), "data.path")
    assert refused.value.problems == (f"data.path={jsonl}: {reason}",)


@pytest.mark.parametrize(
    ("cell", "text"), [({}, "{}"), ([{"x": {}}], '[{"x": {}}]'), ({"x": {"y": {}}}, '{"x": {"y": {}}}')]
)
def test_a_struct_without_fields_which_parquet_cannot_hold_becomes_text(cell: Any, text: str, jsonl: Path) -> None:
    assert column(write_lines(jsonl, [{"a": cell}])) == [text]


def test_a_column_of_nulls_is_text(jsonl: Path) -> None:
    table = open_table(write_lines(jsonl, [{"a": None}, {"a": None}]), "data.path")
    assert table.schema.field("a").type == pa.string()
    assert rows_in(table) == [{"a": None}, {"a": None}]


def without_nulls(value: Any) -> Any:
    """Arrow gives every struct of a column the same fields."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


EXACT_IN_FLOATS = st.integers(-(2**53), 2**53)
SCALARS = st.none() | st.booleans() | EXACT_IN_FLOATS | st.floats(allow_nan=False, allow_infinity=False) | st.text()
KEYS = st.text("xyzé", min_size=1, max_size=2)
CELLS = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


@given(cells=st.lists(CELLS, min_size=1, max_size=6))
@settings(max_examples=150, deadline=None)
def test_any_json_comes_back_from_parquet_as_it_was_or_as_text(
    cells: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("random")
    table = open_table(write_lines(folder / "input.jsonl", [{"a": cell} for cell in cells]), "data.path")
    pq.write_table(pa.Table.from_batches(table.batches(), table.schema), folder / "output.parquet")
    for cell, stored in zip(cells, column(folder / "output.parquet"), strict=True):
        value = stored if isinstance(cell, str) or not isinstance(stored, str) else json.loads(stored)
        assert without_nulls(value) == without_nulls(cell)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nope", "not JSON"),
        ('{"a": ', "not JSON"),
        ('{"a": 2} {"a": 3}', "not JSON"),
        ("[2]", "not a JSON object but list"),
        ("null", "not a JSON object but NoneType"),
    ],
)
@pytest.mark.parametrize("earlier_lines", [1, BATCH_ROWS, BATCH_ROWS + 1])
def test_a_bad_line_is_a_row_of_nulls_with_its_reason(line: str, reason: str, earlier_lines: int, jsonl: Path) -> None:
    table = open_table(write(jsonl, '{"a": 1}\n' * earlier_lines + f'{line}\n{{"a": 3}}\n'), "data.path")
    assert [row["a"] for row in rows_in(table)] == [*[1] * earlier_lines, None, 3]
    assert list(table.bad_rows) == [earlier_lines]
    assert table.bad_rows[earlier_lines].startswith(f"line {earlier_lines + 1}: {reason}")


def test_blank_lines_are_no_rows(jsonl: Path) -> None:
    assert column(write(jsonl, '\n{"a": 1}\n\n \t\n{"a": 2}\n\n')) == [1, 2]


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"x\ud800y", "x?y"),
        (r"\uDFFF", "?"),
        (r"\ud83d\ude00", "😀"),
        (r"\ude00\ud83d", "??"),
        (r"\\ud800", r"\ud800"),
        (r"\ud800 \"quoted\" é", '? "quoted" é'),
    ],
)
def test_half_a_surrogate_pair_becomes_a_question_mark(escaped: str, text: str, jsonl: Path) -> None:
    assert read(write(jsonl, f'{{"a": "{escaped}", "b": [{{"{escaped}": 1}}]}}')) == [{"a": text, "b": [{text: 1}]}]


@pytest.mark.parametrize("line", ['{"a": "x\u2028y"}', '{"a": "x\u2029y"}', '{"a": "x\x85y"}', '{"a":\r"x"}\r'])
def test_only_a_newline_ends_a_line(line: str, jsonl: Path) -> None:
    assert read(write(jsonl, f"{line}\n{line}\n")) == [json.loads(line)] * 2


@pytest.mark.parametrize(("suffix", "content"), [("jsonl", '{"a": "x"}\n'), ("csv", "a\nx\n")])
def test_a_byte_order_mark_is_not_part_of_the_first_name(suffix: str, content: str, tmp_path: Path) -> None:
    assert read(write(tmp_path / f"input.{suffix}", f"\ufeff{content}")) == [{"a": "x"}]


@pytest.mark.parametrize(
    ("written", "cell"),
    [
        ("007", "007"),
        ("NA", "NA"),
        ("null", "null"),
        ("1e5", "1e5"),
        ("true", "true"),
        ("2026-01-01", "2026-01-01"),
        (" x ", " x "),
        ("", None),
        ('""', ""),
        ('"x\ny"', "x\ny"),
        ('"x, ""y"""', 'x, "y"'),
        ('"[{""role"": ""user""}]"', '[{"role": "user"}]'),
    ],
)
def test_a_csv_cell_is_the_text_that_is_written(written: str, cell: str | None, csv: Path) -> None:
    assert read(write(csv, f"a,b\n{written},end\nnext,end\n")) == [{"a": cell, "b": "end"}, {"a": "next", "b": "end"}]


def test_quoted_newlines_survive_the_blocks_of_a_large_csv(csv: Path) -> None:
    texts = [f"line {number}\n{'x' * 100}\n" for number in range(30_000)]
    write(csv, "a,b\n" + "".join(f'"{text}",{number}\n' for number, text in enumerate(texts)))
    assert csv.stat().st_size > 3 << 20
    assert read(csv) == [{"a": text, "b": str(number)} for number, text in enumerate(texts)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_text_file_is_one_prompt_a_line(end: str, tmp_path: Path) -> None:
    path = write(tmp_path / "input.txt", "\ufeff" + end.join(["one", "", " two\u2028 ", '"three", {x}', "last"]))
    assert read(path) == [{"prompt": text} for text in ("one", " two\u2028 ", '"three", {x}', "last")]


def column_twice(path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), path)


def no_rows(path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), path)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("input.parquet", lambda path: None, "no such file"),
        ("input.parquet", Path.mkdir, "is a folder; give a file, or make one of its files"),
        ("input.xlsx", lambda path: write(path, "x"), "give a file that ends in .parquet, .jsonl, .csv"),
        ("input.parquet.gz", lambda path: write(path, "x"), "give a file that ends in .parquet, .jsonl, .csv"),
        ("input.gz", lambda path: write(path, "x"), "give a file that ends in .parquet, .jsonl, .csv"),
        ("input.jsonl.gz", lambda path: path.write_bytes(gzip.compress(b'{"prompt": "hi"}')[:-9]), "cannot be read"),
        ("input.csv.zst", lambda path: write(path, "x"), "cannot be read"),
        ("input.parquet", lambda path: write(path, "not Parquet at all"), "not a readable .parquet file"),
        ("input.parquet", lambda path: write(path, b""), "not a readable .parquet file"),
        ("input.jsonl", lambda path: write(path, b'{"a": "\xff"}'), "the text is not UTF-8; save it as UTF-8"),
        (
            "input.csv",
            lambda path: write(path, b"a\n\xff\n"),
            "the text is not UTF-8; save it as UTF-8 (in Excel: CSV UTF-8)",
        ),
        ("input.csv", lambda path: write(path, "a,b\n1,2\n3\n"), "not a readable .csv file"),
        ("input.csv", lambda path: write(path, b""), "has no rows"),
        ("input.txt", lambda path: write(path, b"\xff\n"), "the text is not UTF-8; save it as UTF-8"),
        ("input.txt", lambda path: write(path, "\n \n"), "has no rows"),
        ("input.jsonl", lambda path: write(path, "\n \n"), "has no rows"),
        ("input.csv", lambda path: write(path, "a,b\n"), "has no rows"),
        ("input.parquet", no_rows, "has no rows"),
        ("input.csv", lambda path: write(path, "a,b,a\n1,2,3\n"), "more than one column is called a"),
        ("input.parquet", column_twice, "more than one column is called a"),
    ],
)
def test_a_file_that_cannot_serve_is_refused_in_one_line(name: str, make: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(UserError) as refused:
        open_table(path, "data.path")
    (problem,) = refused.value.problems
    assert problem.startswith(f"data.path={path}: {reason}")
    assert "\n" not in problem


@pytest.mark.parametrize("limit", [1, BATCH_ROWS - 1, BATCH_ROWS, BATCH_ROWS + 1, 2500, 9999, None])
def test_select_keeps_the_first_rows(limit: int | None, tmp_path: Path) -> None:
    everything = numbered(tmp_path / "input.parquet", 2500)
    selected = select(everything, limit=limit)
    assert rows_in(selected) == rows_in(everything)[:limit]
    assert selected.num_rows == len(rows_in(selected))


def test_select_reads_no_further_than_its_limit(tmp_path: Path) -> None:
    table, read_rows = numbered(tmp_path / "input.parquet", 5 * BATCH_ROWS), 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal read_rows
        for batch in table.batches():
            read_rows += batch.num_rows
            yield batch

    list(select(Table(table.path, table.schema, table.num_rows, batches), limit=BATCH_ROWS).batches())
    assert read_rows == BATCH_ROWS


def test_select_leaves_columns_out_and_keeps_bad_rows(jsonl: Path) -> None:
    table = select(open_table(write(jsonl, '{"a": 1, "b": 2, "c": 3}\nnope\n'), "data.path"), ["b"])
    assert table.schema.names == ["a", "c"]
    assert rows_in(table) == [{"a": 1, "c": 3}, {"a": None, "c": None}]
    assert list(table.bad_rows) == [1]


def test_select_names_the_columns_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError) as refused:
        select(numbered(tmp_path / "input.parquet", 1), ["y", "a", "x"])
    assert refused.value.args == ("x, y",)


def test_a_line_nested_too_deeply_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_text('{"a": 1}\n\n{"a": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    table = open_table(path, "input")
    assert table.num_rows == 2
    assert table.bad_rows == {1: "line 3: not JSON (nested too deeply)"}


def test_a_large_integer_is_not_rounded_because_of_a_later_fraction(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    path.write_text('{"a": 1152921504606846977}\n' * 1024 + '{"a": 0.5}\n')
    values = [value for batch in open_table(path, "input").batches() for value in batch.column("a").to_pylist()]
    assert values == ["1152921504606846977"] * 1024 + ["0.5"]


def test_true_does_not_become_a_number(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_text('{"a": 1.5}\n{"a": true}\n')
    (batch,) = open_table(path, "input").batches()
    assert batch.column("a").to_pylist() == ["1.5", "true"]


@pytest.mark.parametrize("header", ['"a\nx",b', "\n\na,b"], ids=["line break in a name", "blank lines before"])
def test_a_csv_header_may_span_lines_and_cells_may_be_long(header: str, tmp_path: Path) -> None:
    path = tmp_path / "input.csv"
    path.write_text(f"{header}\n{'x' * 3_000_000},2\n")
    table = open_table(path, "input")
    assert len(table.schema.names) == 2
    (batch,) = table.batches()
    assert batch.column(0).to_pylist() == ["x" * 3_000_000]


def test_a_view_type_reads_as_the_plain_type(tmp_path: Path) -> None:
    path = tmp_path / "view.parquet"
    pq.write_table(pa.table({"a": pa.array(["x", None], pa.string_view())}), path)
    table = open_table(path, "input")
    assert table.schema.field("a").type == pa.string()
    assert [batch.column("a").to_pylist() for batch in table.batches()] == [["x", None]]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt"])
@pytest.mark.parametrize("end", [".gz", ".zst"])
def test_a_compressed_file_holds_what_the_plain_one_does(suffix: str, end: str, tmp_path: Path) -> None:
    lines = [f"question {number} é中" for number in range(3000)]
    texts = {".jsonl": [json.dumps({"prompt": line, "n": [1]}, ensure_ascii=False) for line in lines], ".txt": lines}
    text = "\n".join(texts.get(suffix, ["prompt", *lines])) + "\n"
    (tmp_path / f"plain{suffix}").write_text(text, encoding="utf-8-sig")
    with pa.output_stream(str(tmp_path / f"packed{suffix}{end}")) as stream:  # which sees the suffix
        stream.write((tmp_path / f"plain{suffix}").read_bytes())
    plain, packed = (open_table(tmp_path / name, "x") for name in (f"plain{suffix}", f"packed{suffix}{end}"))
    assert (packed.schema, packed.num_rows) == (plain.schema, 3000)
    assert list(packed.batches()) == list(plain.batches())

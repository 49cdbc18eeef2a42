"""Several files as one table: in the order of their names, without a value changed, or refused in one line."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.data.tables import BATCH_ROWS, Table
from rollout.errors import UserError
from rollout.prepare.folders import open_source
from tests.conftest import write_input
from tests.data.test_tables import rows_in

ROWS = [{"q": f"question {number}", "meta": {"x": number, "y": None}} for number in range(2 * BATCH_ROWS + 7)]


def shard(path: Path, **columns: pa.Array) -> Path:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def write_stream(folder: Path, table: pa.Table) -> Path:
    """`table` in the form of `save_to_disk`, as a single batch of any size."""
    folder.mkdir()
    with pa.ipc.new_stream(str(folder / "data.arrow"), table.schema) as stream:
        stream.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return folder


def problem_of(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        open_source(path, "input")
    (problem,) = refused.value.problems
    return problem


def opened_twice(path: Path) -> tuple[Table, list[dict[str, Any]]]:
    table = open_source(path, "input")
    rows = rows_in(table)
    assert rows == rows_in(table), "the second time differs"
    assert table.num_rows == len(rows)
    assert max(batch.num_rows for batch in table.batches()) <= BATCH_ROWS
    return table, rows


@pytest.mark.parametrize("place", ["", "data"])
def test_parquet_files_are_read_in_the_order_of_their_names(place: str, tmp_path: Path) -> None:
    (tmp_path / place).mkdir(exist_ok=True)
    for name, rows in (("b", ROWS[1500:]), ("a", ROWS[:1500])):
        write_input(tmp_path / place / f"{name}.parquet", rows)
    (tmp_path / place / ".c.parquet.partial").write_text("not yet")
    (tmp_path / place / "_d.parquet").write_text("hidden")
    assert opened_twice(tmp_path)[1] == ROWS
    assert opened_twice(tmp_path / place / "[ab]*.parquet")[1] == ROWS


def test_a_file_is_opened_as_before(tmp_path: Path) -> None:
    assert opened_twice(write_input(tmp_path / "a.parquet", ROWS))[1] == ROWS


@pytest.mark.parametrize("num_shards", [1, 3])
def test_what_save_to_disk_wrote_is_read(num_shards: int, tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved", num_shards=num_shards)
    assert opened_twice(tmp_path / "saved")[1] == ROWS


def test_a_large_batch_of_an_arrow_file_comes_in_pieces(tmp_path: Path) -> None:
    assert opened_twice(write_stream(tmp_path / "saved", pa.Table.from_pylist(ROWS)))[1] == ROWS


def test_rows_selected_before_save_to_disk_stay_selected(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).select([5, 3]).save_to_disk(tmp_path / "saved")
    assert opened_twice(tmp_path / "saved")[1] == [ROWS[5], ROWS[3]]


def test_a_column_or_field_that_one_file_lacks_is_null_there(tmp_path: Path) -> None:
    shard(tmp_path / "1.parquet", a=pa.array([1]), s=pa.array([[{"x": "one"}]]))
    shard(tmp_path / "2.parquet", new=pa.array([{"z": 1}]), s=pa.array([[{"y": 2, "x": "two"}]]), a=pa.array([2]))
    shard(tmp_path / "3.parquet", a=pa.array([None]), s=pa.array([None]))
    assert opened_twice(tmp_path)[1] == [
        {"a": 1, "s": [{"x": "one", "y": None}], "new": None},
        {"a": 2, "s": [{"x": "two", "y": 2}], "new": {"z": 1}},
        {"a": None, "s": None, "new": None},
    ]


@pytest.mark.parametrize(
    ("first", "second", "common"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.uint16(), pa.uint8(), pa.uint16()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.null(), pa.string(), pa.string()),
        (pa.list_(pa.int8()), pa.list_(pa.int16()), pa.list_(pa.int16())),
        (pa.int64(), pa.float64(), None),
        (pa.int64(), pa.string(), None),
        (pa.int32(), pa.uint32(), None),
        (pa.bool_(), pa.int8(), None),
        (pa.list_(pa.string()), pa.string(), None),
        (pa.struct([("x", pa.int64())]), pa.struct([("x", pa.string())]), None),
    ],
    ids=str,
)
def test_types_are_widened_only_where_no_value_changes(
    first: pa.DataType, second: pa.DataType, common: pa.DataType | None, tmp_path: Path
) -> None:
    one = shard(tmp_path / "1.parquet", a=pa.nulls(2, first))
    two = shard(tmp_path / "2.parquet", a=pa.nulls(2, second))
    if common is None:
        assert problem_of(tmp_path) == (
            f"input={two}: column a holds {pq.read_schema(two).field('a').type}, but "
            f"{pq.read_schema(one).field('a').type} in {one}; write one of them again, or give one file at a time"
        )
    else:
        table, rows = opened_twice(tmp_path)
        assert table.schema == pa.schema([("a", common)])
        assert rows == [{"a": None}] * 4


def test_several_splits_are_not_mixed(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number in range(2):
            shard(tmp_path / "data" / f"{split}-0000{number}-of-00002.parquet", a=pa.array([split]))
    example = tmp_path / "data" / "train-*.parquet"
    assert problem_of(tmp_path) == f"input={tmp_path}: holds the splits test, train; choose one, 'input={example}'"
    assert opened_twice(example)[1] == [{"a": "train"}] * 2


def test_a_dataset_dict_names_its_splits(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    rows = datasets.Dataset.from_list(ROWS[:2])
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(folder)
    assert problem_of(folder) == f"input={folder}: holds the splits train, test; choose one, input={folder}/train"
    assert opened_twice(folder / "train")[1] == ROWS[:2]


def test_a_folder_without_data_says_where_some_is(tmp_path: Path) -> None:
    reason = f"input={tmp_path}: holds no .parquet files; "
    assert problem_of(tmp_path) == f"{reason}give a folder of .parquet files, or a file"
    shard(tmp_path / "main" / "a.parquet", a=pa.array([1]))
    shard(tmp_path / "extra" / "a.parquet", a=pa.array([1]))
    assert problem_of(tmp_path) == f"{reason}choose one of its folders extra, main"


def test_a_pattern_that_matches_nothing_usable_is_refused(tmp_path: Path) -> None:
    assert problem_of(tmp_path / "a*.parquet").startswith(f"input={tmp_path}/a*.parquet: no such file; check the path")
    (tmp_path / "a.jsonl.gz").touch()
    assert problem_of(tmp_path / "?.jsonl.gz") == (
        f"input={tmp_path}/?.jsonl.gz: is a pattern; give a file, or make one of those that fit: "
        f"cat {tmp_path}/?.jsonl.gz > input.jsonl.gz"
    )
    (tmp_path / "a.csv").touch()
    assert problem_of(tmp_path / "[ab].csv") == f"input={tmp_path}/[ab].csv: is a pattern; give a file"


def test_two_stars_in_a_pattern_are_one(tmp_path: Path) -> None:
    """Whatever pathlib's `glob` makes of them, and in every version of Python."""
    shard(tmp_path / "a.parquet", a=pa.array([1]))
    assert open_source(tmp_path / "**.parquet", "input").num_rows == 1
    (tmp_path / "a.jsonl").touch()
    assert problem_of(tmp_path / "**.jsonl").startswith(f"input={tmp_path}/**.jsonl: is a pattern; give a file, or")


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"_data_files": ["a"]}', '{"_data_files": 3}'])
def test_a_damaged_dataset_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(content)
    assert problem_of(tmp_path) == f"input={tmp_path}: state.json is damaged; save the dataset again"


@pytest.mark.parametrize("kept_bytes", [0, 100, 1500])
def test_a_cut_off_arrow_file_is_refused(kept_bytes: int, tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path)
    (file,) = tmp_path.glob("*.arrow")
    file.write_bytes(file.read_bytes()[:kept_bytes])
    assert problem_of(tmp_path).startswith(f"input={file}: ")


def test_a_listed_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}))
    assert problem_of(tmp_path).startswith(f"input={tmp_path}/data-0.arrow: cannot be read")


def test_files_without_rows_are_no_hindrance_unless_all_are(tmp_path: Path) -> None:
    shard(tmp_path / "1.parquet", a=pa.array([], pa.string()))
    assert problem_of(tmp_path) == f"input={tmp_path}: has no rows; check what wrote it"
    shard(tmp_path / "2.parquet", a=pa.array(["x"]))
    assert rows_in(open_source(tmp_path, "input")) == [{"a": "x"}]

"""Shards of the input: every row in exactly one of them, and a run of one is a run like any other."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.config import DataConfig
from rollout.data.prompts import open_input, read_prompts
from rollout.data.tables import BATCH_ROWS, Table, select
from rollout.errors import UserError
from rollout.preflight import preflight
from rollout.records import Prompt
from tests.commands import ECHO, resume, run_command, verify
from tests.conftest import chat, composed, run_in, write_input

pytestmark = pytest.mark.long

ROWS: list[dict[str, Any]] = [{"prompt": chat(f"question {number}"), "number": number} for number in range(50)]


def numbers(num_rows: int, batch_rows: int) -> Table:
    """A table of the numbers 0, 1, ... in batches of `batch_rows`."""
    schema = pa.schema([("n", pa.int64())])
    cells = [[*range(start, min(start + batch_rows, num_rows))] for start in range(0, num_rows, batch_rows)]
    return Table(Path("numbers"), schema, num_rows, lambda: (pa.record_batch([pa.array(c)], schema) for c in cells))


@given(num_rows=st.integers(1, 60), batch_rows=st.integers(1, 20), limit=st.none() | st.integers(1, 70), data=st.data())
def test_every_row_is_in_one_shard_in_order(num_rows: int, batch_rows: int, limit: int | None, data: Any) -> None:
    used = num_rows if limit is None else min(limit, num_rows)
    num_shards = data.draw(st.integers(1, used), "num_shards")
    table, seen = numbers(num_rows, batch_rows), list[int]()
    for index in range(num_shards):
        shard = select(table, limit=limit, num_shards=num_shards, shard_index=index)
        rows = [row for batch in shard.batches() for row in batch.column("n").to_pylist()]
        assert (shard.first_row, shard.num_rows) == (len(seen), len(rows))
        assert len(rows) in (used // num_shards, -(-used // num_shards))
        seen += rows
    assert seen == [*range(used)]


def cells(num_rows: int) -> list[str | None]:
    return [None if row % 7 == 3 else f"question {row}" for row in range(num_rows)]


def write_parquet(path: Path, num_rows: int) -> Path:
    """With row groups that end neither with a batch nor with a shard."""
    pq.write_table(pa.table({"prompt": pa.array(cells(num_rows), pa.string())}), path, row_group_size=700)
    return path


def write_jsonl(path: Path, num_rows: int) -> Path:
    """With lines that are not JSON, and blank ones, which are no rows."""
    lines = ["nope" if cell is None else json.dumps({"prompt": cell}) for cell in cells(num_rows)]
    path.write_text("\n\n".join(lines) + "\n")
    return path


def write_lines(path: Path, num_rows: int) -> Path:
    header = ["prompt"] if path.suffix == ".csv" else []
    path.write_text("\n".join([*header, *(f"question {row}" for row in range(num_rows))]) + "\n")
    return path


WRITERS = {"parquet": write_parquet, "jsonl": write_jsonl, "csv": write_lines, "txt": write_lines}


@pytest.mark.parametrize("num_shards", [1, 2, 7])
@pytest.mark.parametrize("kind", WRITERS)
def test_shards_have_the_prompts_of_the_whole_with_their_row_ids(kind: str, num_shards: int, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / f"input.{kind}", 3 * BATCH_ROWS + 10)

    def prompts(count: int, index: int) -> list[Prompt]:
        data = DataConfig(path=str(path), limit=3 * BATCH_ROWS, num_shards=count, shard_index=index)
        table = open_input(data)
        once, again = list(read_prompts(table, data)), list(read_prompts(table, data))
        assert once == again
        return once

    whole = prompts(1, 0)
    assert [prompt.row_id for prompt in whole] == [*range(3 * BATCH_ROWS)]
    shards = [prompts(num_shards, index) for index in range(num_shards)]
    assert [prompt for shard in shards for prompt in shard] == whole


def test_row_groups_before_a_shard_are_not_read(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "input.parquet", 1500)
    second = pq.read_metadata(path).row_group(1).column(0).dictionary_page_offset
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\xff" * (second - 4) + content[second:])
    data = DataConfig(path=str(path), num_shards=2, shard_index=1)
    assert [prompt.row_id for prompt in read_prompts(open_input(data), data)] == [*range(750, 1500)]
    with pytest.raises(UserError, match="damaged"):
        list(read_prompts(open_input(DataConfig(path=str(path), num_shards=2)), data))


@pytest.mark.parametrize(
    ("overrides", "problems"),
    [
        (
            ["data.num_shards=4", "data.shard_index=4"],
            ["data.shard_index=4: data.num_shards=4 has shards 0 to 3; choose one of them, or raise data.num_shards"],
        ),
        (
            ["data.shard_index=1"],
            ["data.shard_index=1: data.num_shards=1 has shards 0 to 0; choose one of them, or raise data.num_shards"],
        ),
        (["data.num_shards=51"], ["data.num_shards=51: there are 50 rows to split; lower it to at most 50"]),
        (
            ["data.num_shards=2", "data.limit=1"],
            ["data.num_shards=2: there is 1 row to split; lower it to at most 1"],
        ),
        (
            ["data.num_shards=4", "data.shard_index=3", "data.limit=3"],
            ["data.num_shards=4: there are 3 rows to split; lower it to at most 3"],
        ),
        (["data.num_shards=0"], ["data.num_shards=0: must be at least 1"]),
        (["data.num_shards=2", "data.shard_index=-1"], ["data.shard_index=-1: must be at least 0"]),
    ],
)
def test_a_shard_that_cannot_be_is_refused(overrides: list[str], problems: list[str], tmp_path: Path) -> None:
    write_input(tmp_path / "input.parquet", ROWS)
    with pytest.raises(UserError) as refused:
        preflight(composed(*ECHO, f"data.path={tmp_path}/input.parquet", *overrides))
    assert list(refused.value.problems) == problems


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_input(tmp_path / "input.parquet", ROWS)
    return tmp_path


def shard_run(folder: Path, *overrides: str, index: int = 2) -> Path:
    """The run of rows 25 to 36, unless `index` is another."""
    shard = ("data.num_shards=4", f"data.shard_index={index}", "sampling.n_samples=3")
    return run_in(folder / "run", f"data.path={folder}/input.parquet", *shard, *overrides)


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(run_dir / "rollouts.parquet").to_pylist()
    return rows


def test_a_shard_gives_the_rows_that_the_whole_run_gives(folder: Path) -> None:
    whole = run_in(folder / "whole", f"data.path={folder}/input.parquet", "sampling.n_samples=3")
    assert rows_of(shard_run(folder)) == rows_of(whole)[25:37]


@pytest.mark.long
def test_a_shard_that_stopped_half_way_goes_on(folder: Path) -> None:
    with pytest.raises(UserError, match="the engine died once more"):
        shard_run(folder, "engine.max_restarts=0", "engine.echo.die_after=10", "engine.echo.max_steps=20")
    journal = pq.read_table(folder / "run/samples")
    assert 0 < journal.num_rows < 36
    assert set(journal["row_id"].to_pylist()) <= set(range(25, 37))
    result = resume("run", "engine.echo.die_after=null", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "run/run.json").read_text())["throughput"]["samples"] == 36 - journal.num_rows
    assert pq.read_table(folder / "run/samples").num_rows == 36
    assert resume("run", cwd=folder).stdout == "run: nothing to do, the run is complete\n"
    whole = run_in(folder / "whole", f"data.path={folder}/input.parquet", "sampling.n_samples=3")
    assert rows_of(folder / "run") == rows_of(whole)[25:37]


def test_a_shard_does_not_go_on_as_another(folder: Path) -> None:
    shard_run(folder, "data.limit=49")
    before = (folder / "run/run.json").read_bytes()
    for override, line in (
        ("data.shard_index=1", "data.shard_index=1: this run was made with 2"),
        ("data.num_shards=3", "data.num_shards=3: this run was made with 4"),
        ("data.limit=null", "data.limit=None: it decides which rows are this shard's, and was 49"),
        ("data.limit=50", "data.limit=50: it decides which rows are this shard's, and was 49"),
    ):
        result = resume("run", override, cwd=folder)
        assert result.returncode == 1
        assert [text.partition(";")[0] for text in result.stderr.splitlines()] == [f"error: {line}"]
    assert (folder / "run/run.json").read_bytes() == before


def test_a_run_older_than_shards_goes_on_as_a_whole(folder: Path) -> None:
    run_in(folder / "run", f"data.path={folder}/input.parquet")
    manifest = json.loads((folder / "run/run.json").read_text())
    for key in ("num_shards", "shard_index"):
        del manifest["digest"][f"data.{key}"], manifest["config"]["data"][key]
    (folder / "run/run.json").write_text(json.dumps(manifest))
    assert resume("run", cwd=folder).stdout == "run: nothing to do, the run is complete\n"
    assert "data.num_shards=2: this run was made with 1" in resume("run", "data.num_shards=2", cwd=folder).stderr


def test_bad_rows_are_counted_against_the_shard(folder: Path) -> None:
    write_input(folder / "input.parquet", [*ROWS[:48], {"prompt": None}, {"prompt": None}])
    run_in(folder / "whole", f"data.path={folder}/input.parquet")
    with pytest.raises(
        UserError, match=r"data\.max_error_fraction=0\.1: 2 of 13 rows cannot be sampled so far, the last is"
    ):
        shard_run(folder, index=3)


def test_a_dry_run_counts_the_rows_of_the_shard(folder: Path) -> None:
    arguments = ("data.path=input.parquet", "data.num_shards=4", "data.shard_index=3", "data.limit=40")
    result = run_command(*ECHO, *arguments, "dry_run=true", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "input     input.parquet: 10 rows, columns prompt, number\n" in result.stdout
    assert "shard     shard_index 3 of num_shards 4: rows 30 to 39\n" in result.stdout
    assert "samples   80 (8 per row)" in result.stdout


def test_verify_generates_the_rows_of_the_shard(folder: Path) -> None:
    path = shard_run(folder) / "rollouts.parquet"
    result = verify("run", "rows=5", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "verifying run: 5 of 12 rows\n" in result.stdout
    assert "15 of 15 samples match" in result.stdout
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["responses"][1] = "something else"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    assert "row 25, sample 1: differs at character 0\n" in verify("run", "rows=all", cwd=folder).stdout

"""Flat files whose row_id is no row: of several files put together, or with lines that are there twice."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.errors import UserError
from rollout.postprocess.flatten import flatten
from rollout.postprocess.source import open_source
from tests.conftest import chat
from tests.in_process import run_here
from tests.postprocess.tables import answered, source_of


def read(folder: Path, columns: dict[str, Any], **keys: Any) -> list[tuple[int, int, str]]:
    """(row_id, sample_idx, response) of every response of a file with these columns."""
    pq.write_table(pa.table(columns), folder / "flat.parquet", row_group_size=2)
    rows = [row for batch in open_source(folder / "flat.parquet", **keys).batches() for row in batch.to_pylist()]
    return [(row["row_id"], row["sample_idx"], row["response"]) for row in rows]


def flat_table(folder: Path) -> pa.Table:
    return pq.read_table(flatten(source_of(folder, [answered("a", "b"), answered("c", "d")]), folder))


def test_rows_out_of_order_are_sorted_or_numbered_anew(tmp_path: Path) -> None:
    pq.write_table(flat_table(tmp_path).take([0, 2, 1, 3]), tmp_path / "shuffled.parquet")
    cure = "sort the file by row_id if each stands for one prompt, else drop row_id and sample_idx"
    with pytest.raises(UserError, match=f"row_id does not ascend, so rows cannot be told apart; {cure}$"):
        list(open_source(tmp_path / "shuffled.parquet").batches())


IDS = {"row_id": [3, 3, 5, 5], "sample_idx": [0, 1, 0, 1], "response": ["w", "x", "y", "z"]}


@pytest.mark.parametrize(
    "prompts",
    [["a", "a", "b", "c"], ["a", "a", "b", None], [chat("a"), chat("a"), chat("b"), chat("c")]],
    ids=["texts", "a null", "chats"],
)
def test_a_row_id_that_stands_for_two_prompts_is_refused(prompts: list[Any], tmp_path: Path) -> None:
    said = "row_id 5 stands for two prompts; number the rows of each file anew, or drop row_id and sample_idx"
    with pytest.raises(UserError, match=re.escape(said)):
        read(tmp_path, IDS | {"prompt": prompts})
    assert len(read(tmp_path, {"response": IDS["response"], "prompt": prompts})) == 4, "the cure is one"


def test_the_prompt_is_looked_for_where_the_user_says(tmp_path: Path) -> None:
    columns = IDS | {"question": ["a", "a", "b", "c"]}
    assert len(read(tmp_path, columns)) == 4
    with pytest.raises(UserError, match="row_id 5 stands for two prompts"):
        read(tmp_path, columns, prompts=["question"])


def test_a_response_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    said = (
        "row_id 5 has sample_idx 1 twice; drop responses that are there twice or, if they are different ones, the "
        "column sample_idx"
    )
    with pytest.raises(UserError, match=re.escape(said)):
        read(tmp_path, IDS | {"sample_idx": [0, 1, 1, 1]})
    assert [row[1] for row in read(tmp_path, {name: IDS[name] for name in ("row_id", "response")})] == [0, 1, 0, 1]


def test_the_samples_of_a_row_may_stand_in_any_order(tmp_path: Path) -> None:
    found = read(tmp_path, IDS | {"sample_idx": [7, 2, 1, 0], "prompt": ["a", "a", None, None]})
    assert found == [(3, 7, "w"), (3, 2, "x"), (5, 1, "y"), (5, 0, "z")]


def test_a_row_may_lie_in_several_batches(tmp_path: Path) -> None:
    columns = {"row_id": [number // 3000 for number in range(9000)], "response": ["a"] * 9000}
    numbers = {"sample_idx": [number % 3000 for number in range(8999)] + [0]}
    with pytest.raises(UserError, match="row_id 2 has sample_idx 0 twice"):
        read(tmp_path, columns | numbers)
    prompts = {"prompt": [str(number // 3000) for number in range(8999)] + ["3"]}
    with pytest.raises(UserError, match="row_id 2 stands for two prompts"):
        read(tmp_path, columns | prompts)


def test_two_runs_put_together_give_no_training_data_until_their_rows_are_told_apart(tmp_path: Path) -> None:
    table = flat_table(tmp_path)
    other = table.set_column(0, "prompt", pa.array([chat("other")] * 4, table.schema.field("prompt").type))
    both = pa.concat_tables([table, other])
    words = ("export", "both.parquet", "out.jsonl", "format=messages")
    for order, said in (
        (both, "row_id does not ascend"),
        (both.sort_by([("row_id", "ascending"), ("sample_idx", "ascending")]), "row_id 0 stands for two prompts"),
        (pa.concat_tables([table, table]).sort_by("row_id"), "row_id 0 has sample_idx 0 twice"),
    ):
        pq.write_table(order, tmp_path / "both.parquet")
        result = run_here(*words, cwd=tmp_path)
        assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
        assert said in result.stderr
        assert not (tmp_path / "out.jsonl").exists()
    pq.write_table(both.drop_columns(["row_id", "sample_idx"]), tmp_path / "both.parquet")
    assert run_here(*words, cwd=tmp_path).returncode == 0

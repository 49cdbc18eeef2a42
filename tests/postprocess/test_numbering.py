"""Flat files that others wrote: which responses belong to one row."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.errors import UserError
from rollout.postprocess.source import open_source
from rollout.postprocess.their_scores import open_with_scores
from tests.conftest import chat


def numbers(folder: Path, columns: dict[str, Any]) -> list[tuple[int, int]]:
    """(row_id, sample_idx) of every response of a file with these columns."""
    pq.write_table(pa.table(columns), folder / "flat.parquet", row_group_size=2)
    batches = open_source(folder / "flat.parquet").batches()
    rows = [row for batch in batches for row in batch.to_pylist()]
    return [(row["row_id"], row["sample_idx"]) for row in rows]


FOUR = ["w", "x", "y", "z"]
CASES: dict[str, tuple[dict[str, Any], list[tuple[int, int]]]] = {
    "equal prompts that follow one another": ({"prompt": ["a", "a", "b", "a"]}, [(0, 0), (0, 1), (1, 0), (2, 0)]),
    "chats": ({"prompt": [chat("a"), chat("a"), chat("a"), chat("b")]}, [(0, 0), (0, 1), (0, 2), (1, 0)]),
    "no prompt": ({"question": ["a", "a", "a", "a"]}, [(0, 0), (1, 0), (2, 0), (3, 0)]),
    "nothing but responses": ({}, [(0, 0), (1, 0), (2, 0), (3, 0)]),
    "prompts that are null": ({"prompt": [None, None, "a", "a"]}, [(0, 0), (1, 0), (2, 0), (2, 1)]),
    "samples that begin again": (
        {"prompt": ["a", "a", "a", "a"], "sample_idx": [0, 1, 0, 1]},
        [(0, 0), (0, 1), (1, 0), (1, 1)],
    ),
    "samples without a prompt": ({"sample_idx": [0, 2, 1, 0]}, [(0, 0), (0, 2), (1, 1), (2, 0)]),
    "rows without samples": (
        {"row_id": [3, 3, 5, 5], "prompt": ["a", "a", "b", "b"]},
        [(3, 0), (3, 1), (5, 0), (5, 1)],
    ),
    "both": ({"row_id": [3, 3, 5, 5], "sample_idx": [1, 2, 0, 7]}, [(3, 1), (3, 2), (5, 0), (5, 7)]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_response_belongs_to_the_row_of_the_one_before_it_where_the_file_says_so(name: str, tmp_path: Path) -> None:
    columns, expected = CASES[name]
    assert numbers(tmp_path, {**columns, "response": FOUR}) == expected


def test_a_row_may_lie_in_several_batches(tmp_path: Path) -> None:
    prompts = [f"question {number // 3}" for number in range(5000)]
    expected = [(number // 3, number % 3) for number in range(5000)]
    assert numbers(tmp_path, {"prompt": prompts, "response": prompts}) == expected


def test_rows_are_made_from_the_beginning_at_every_reading(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a", "b"], "response": ["x", "y"]}), tmp_path / "flat.parquet")
    source = open_source(tmp_path / "flat.parquet")
    once, again = ([batch.to_pylist() for batch in source.batches()] for _ in range(2))
    assert once == again


def test_a_file_without_responses_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": ["a"], "completion": ["x"]}), tmp_path / "flat.parquet")
    with pytest.raises(UserError, match="has no column `responses` or `response`; it has prompt, completion"):
        open_source(tmp_path / "flat.parquet")


def test_the_prompt_may_be_in_another_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["a", "a", "b"], "response": ["x", "y", "z"]}), tmp_path / "flat.parquet")
    source = open_source(tmp_path / "flat.parquet", prompts=["problem", "question"])
    rows = [row for batch in source.batches() for row in batch.to_pylist()]
    assert [(row["row_id"], row["sample_idx"]) for row in rows] == [(0, 0), (0, 1), (1, 0)]


@pytest.mark.parametrize(("numbers", "is_scored"), [({}, True), ({"row_id": [0, 1], "sample_idx": [0, 0]}, False)])
def test_scores_beside_our_own_numbers_are_a_column_of_the_input(
    numbers: dict[str, list[int]], is_scored: bool, tmp_path: Path
) -> None:
    """In a flat file of ours scores are called `score`; an export may put an input's `scores` behind the numbers."""
    pq.write_table(pa.table({**numbers, "response": ["a", "b"], "scores": [10, 20]}), tmp_path / "flat.parquet")
    assert ("score" in open_with_scores(tmp_path / "flat.parquet", "input").schema.names) is is_scored

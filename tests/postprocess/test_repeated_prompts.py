"""Samples of one prompt that do not stand together, in a file that does not number its rows: analyze says so."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import chat
from tests.in_process import run_here

TWICE = ["a", "b", "c", "a", "b", "b"]
NOTE = "note: 2 of 5 rows repeat the {} of an earlier one; sort the file by {}, so that they are samples of one row"
ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "texts": ({"prompt": TWICE}, NOTE.format("prompt", "prompt")),
    "chats": ({"prompt": list(map(chat, TWICE))}, NOTE.format("prompt", "prompt")),
    "another column": ({"question": TWICE}, NOTE.format("question", "question")),
    "numbered samples": (
        {"prompt": TWICE, "sample_idx": [0, 0, 0, 1, 1, 2]},
        NOTE.format("prompt", "prompt and drop sample_idx"),
    ),
    "sorted": ({"prompt": sorted(TWICE)}, ""),
    "no prompts": ({"prompt": pa.nulls(6, pa.string())}, ""),
    "no column of prompts": ({}, ""),
    "numbered rows": ({"prompt": TWICE, "row_id": [0, 1, 2, 3, 4, 4]}, ""),
}


@pytest.mark.parametrize("name", ROWS)
def test_analyze_notes_rows_that_repeat_an_earlier_prompt_where_nothing_numbers_them(name: str, tmp_path: Path) -> None:
    columns, note = ROWS[name]
    pq.write_table(pa.table({**columns, "response": list("uvwxyz")}), tmp_path / "flat.parquet")
    keys = ["prompt_key=question"] if "question" in columns else []
    result = run_here("analyze", "flat.parquet", *keys, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert [line for line in result.stdout.splitlines() if line.startswith("note")] == ([note] if note else [])


def test_the_cure_makes_them_samples_of_one_row(tmp_path: Path) -> None:
    table = pa.table({"prompt": TWICE, "response": list("uvwxyz"), "score": [1.0, 0.0] * 3})
    pq.write_table(table, tmp_path / "flat.parquet")
    pq.write_table(table.sort_by("prompt"), tmp_path / "sorted.parquet")
    before, after = (run_here("analyze", f"{name}.parquet", cwd=tmp_path).stdout for name in ("flat", "sorted"))
    assert ("note: " in before, "note: " in after) == (True, False)
    assert ("pass@2" in before, "pass@2" in after) == (True, True)


def test_the_step_warns_too_and_so_it_does_of_scores_that_were_just_made(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": TWICE, "response": list("uvwxyz")}), tmp_path / "flat.parquet")
    steps = ("steps=[score,analyze]", "score.scorer=regex", "score.pattern=u")
    result = run_here("input=flat.parquet", *steps, cwd=tmp_path, module="rollout.postprocess")
    assert NOTE.format("prompt", "prompt").replace("note", "warning: analyze") in result.stdout

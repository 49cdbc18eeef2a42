"""Rows with sampling of their own, n_samples among it, through every stage, on the echo engine."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rollout.cli import saved_config
from rollout.cli.dry_run import show_plan
from rollout.errors import UserError
from rollout.generation.requests import sample_seed
from rollout.lifecycle import resume
from rollout.merge.__main__ import merge
from rollout.preflight import preflight
from rollout.scoring.pass_at_k import pass_at_k
from rollout.store import run_record
from rollout.store.journal import parts
from rollout.verify.__main__ import verify
from tests.commands import ECHO
from tests.conftest import Rollout, chat, composed, run_in, write_input

pytestmark = pytest.mark.long

KEY = "data.sampling_key=own"
COUNTS = [3, 1, 5, 2, 9, 4, 1, 2]
ROWS: list[dict[str, Any]] = [
    {"prompt": chat(f"question {row}"), "own": {"n_samples": count, "max_tokens": 4 + row, "top_p": None}}
    for row, count in enumerate(COUNTS)
]
UNEQUAL = (KEY, "engine.echo.max_steps=5", "store.flush_samples=4")


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(run_dir / "rollouts.parquet").to_pylist()
    return rows


def test_each_row_has_its_own_number_of_samples_of_its_own_length(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, *UNEQUAL)
    rows = rows_of(run_dir)
    assert [len(row["responses"]) for row in rows] == COUNTS
    for row in rows:
        assert row["seeds"] == [sample_seed(42, row["row_id"], index) for index in range(COUNTS[row["row_id"]])]
        assert all(tokens <= 4 + row["row_id"] for tokens in row["num_generated_tokens"])
        assert len(row["finish_reasons"]) == len(row["num_generated_tokens"]) == COUNTS[row["row_id"]]
    totals = run_record.read(run_dir).totals
    assert totals is not None
    assert (totals.rows, totals.samples) == (len(COUNTS), sum(COUNTS))
    assert pq.read_metadata(run_dir / "flat.parquet").num_rows == sum(COUNTS)
    last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["samples_done"], last["samples_total"]) == (sum(COUNTS), sum(COUNTS))


def test_a_row_is_sampled_as_in_a_run_of_its_own(rollout: Rollout) -> None:
    rows = rows_of(rollout(ROWS, *UNEQUAL))
    for row, count in enumerate(COUNTS):
        asked = (f"sampling.n_samples={count}", f"sampling.max_tokens={4 + row}")
        alone = rows_of(rollout(ROWS, *asked, name=f"alone-{row}"))[row]
        assert rows[row] == alone


def test_an_interrupted_run_continues_where_each_row_stopped_to_the_same_bytes(rollout: Rollout) -> None:
    whole = rollout(ROWS, *UNEQUAL, name="whole")
    run_dir = rollout(ROWS, *UNEQUAL, name="part")
    for path in parts(run_dir)[1::2]:
        path.unlink()
    (run_dir / "rollouts.parquet").unlink()
    path = whole.with_name("whole.parquet")
    assert resume(saved_config.load(run_dir, [f"data.path={path}"]), run_dir) is not None
    assert (run_dir / "rollouts.parquet").read_bytes() == (whole / "rollouts.parquet").read_bytes()
    assert resume(saved_config.load(run_dir, [f"data.path={path}"]), run_dir) is None


def test_more_samples_go_to_the_rows_that_do_not_say_how_many(rollout: Rollout) -> None:
    rows = [row | {"own": row["own"] | ({"n_samples": None} if number % 2 else {})} for number, row in enumerate(ROWS)]
    run_dir = rollout(rows, *UNEQUAL, "sampling.n_samples=2")
    before = rows_of(run_dir)
    resume(saved_config.load(run_dir, ["sampling.n_samples=6"]), run_dir)
    after = rows_of(run_dir)
    assert [len(row["responses"]) for row in after] == [6 if n % 2 else count for n, count in enumerate(COUNTS)]
    assert all(
        new["responses"][: len(old["responses"])] == old["responses"] for old, new in zip(before, after, strict=True)
    )


BAD = ["x", {"max_tokens": 0}, {"temprature": 1}, {"temperature": 0}, {"n_samples": 3, "seed": 1}, None, {"top_k": 2}]
BAD_ROWS = [{"prompt": chat("hi"), "own": own if isinstance(own, str | None) else json.dumps(own)} for own in BAD]


def test_a_bad_value_is_a_bad_row_that_names_it_and_the_others_go_on(rollout: Rollout) -> None:
    rows = rows_of(rollout(BAD_ROWS, KEY, "sampling.n_samples=2", "data.max_error_fraction=1"))
    assert [row["error"] and row["error"].split(":")[0] for row in rows] == [
        "own=x",
        "own.max_tokens=0",
        "own.temprature",
        "own.n_samples=2",
        "own.seed=1",
        None,
        None,
    ]
    assert [row["finish_reasons"].count("error") for row in rows] == [2, 2, 2, 2, 3, 0, 0]


def test_the_dry_run_counts_what_each_row_asks_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_input(tmp_path / "input.parquet", [*ROWS, {"prompt": chat("hi"), "own": {"n_samples": 0}}])
    run = composed(*ECHO, f"data.path={path}", KEY, "data.max_error_fraction=1", "dry_run=true")
    show_plan(run, preflight(run))
    printed = capsys.readouterr().out
    tokens = sum(count * (4 + row) for row, count in enumerate(COUNTS))
    assert "prompts   8 usable, 1 not\n          row 8: own.n_samples=0: must be at least 1" in printed
    assert f"samples   {sum(COUNTS)} (8 per row where column own says nothing else), at most {tokens} tokens" in printed


def test_shards_are_merged_to_the_run_of_the_whole(rollout: Rollout, tmp_path: Path) -> None:
    whole = rollout(ROWS, *UNEQUAL, name="whole")
    for shard in range(3):
        cut = (f"data.path={tmp_path / 'whole.parquet'}", "data.num_shards=3", f"data.shard_index={shard}")
        run_in(tmp_path / "shards" / str(shard), *UNEQUAL, *cut)
    merge([tmp_path / "shards"], tmp_path / "merged")
    assert pq.read_table(tmp_path / "merged" / "rollouts.parquet").equals(pq.read_table(whole / "rollouts.parquet"))


def test_pass_at_k_is_the_mean_over_the_rows_with_that_many_samples(rollout: Rollout) -> None:
    score = (
        "postprocess.score.scorer=regex",
        "postprocess.score.pattern=[0-4] ?w",
        "postprocess.steps=[score,analyze]",
    )
    run_dir = rollout(ROWS, *UNEQUAL, *score)
    passed = [sum(bool(re.search("[0-4] ?w", text)) for text in row["responses"]) for row in rows_of(run_dir)]
    found = json.loads((run_dir / "analysis.json").read_text())["scores"]
    assert 0 < sum(passed) < sum(COUNTS)
    assert found["pass_rate"] == pytest.approx(sum(passed) / sum(COUNTS))
    for k in (1, 2, 4, 8, 9):
        of_rows = [pass_at_k(n, c, k) for n, c in zip(COUNTS, passed, strict=True) if n >= k]
        assert found["pass_at_k"][str(k)] == pytest.approx(sum(of_rows) / len(of_rows))


def test_verify_generates_as_many_samples_as_each_row_has(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, *UNEQUAL)
    found = verify(run_dir, ["rows=all"])
    assert (found.samples, found.matches) == (sum(COUNTS), sum(COUNTS))


@pytest.mark.parametrize(
    ("before", "now", "line"),
    [
        (KEY, "data.sampling_key=null", "data.sampling_key=None: this run was made with own"),
        ("data.sampling_key=null", KEY, "data.sampling_key=own: this run was made with None"),
        (KEY, "data.tools_key=tools", "data.tools_key=tools: this run was made with None"),
        (
            KEY,
            "sampling.structured_outputs.regex=a",
            "sampling.structured_outputs.regex=a: this run was made with None",
        ),
        (
            KEY,
            "sampling.repetition_detection={max_pattern_size:3,min_count:4}",
            "sampling.repetition_detection.max_pattern_size=3: this run was made with 0",
        ),
    ],
)
def test_a_resume_that_samples_otherwise_is_refused_with_both_values(
    before: str, now: str, line: str, rollout: Rollout
) -> None:
    run_dir = rollout([row | {"tools": None} for row in ROWS], before)
    with pytest.raises(UserError) as refused:
        resume(saved_config.load(run_dir, [now, "sampling.n_samples=9"]), run_dir)
    assert any(problem.startswith(line) for problem in refused.value.problems)


def test_a_schema_is_the_same_inline_and_as_a_file_but_for_what_it_says(rollout: Rollout, tmp_path: Path) -> None:
    key, path = "sampling.structured_outputs.json", tmp_path / "schema.json"
    path.write_text('{"type": "object", "properties": {}}')
    run_dir = rollout(ROWS, f"{key}={path}")
    resume(saved_config.load(run_dir, [f"{key}={{type:object,properties:{{}}}}", "sampling.n_samples=9"]), run_dir)
    path.write_text('{"type": "array"}')
    shutil.copytree(run_dir, tmp_path / "copy")
    with pytest.raises(UserError, match=r"structured_outputs.json=.*array.*: this run was made with .*object"):
        resume(saved_config.load(run_dir, [f"{key}={path}"]), run_dir)


def test_tools_are_part_of_the_prompt_and_bad_ones_a_bad_row(rollout: Rollout) -> None:
    tool = {"type": "function", "function": {"name": "add"}}
    cells = [None, json.dumps([tool]), json.dumps([tool | {"x": 1}]), '{"name": "add"}', json.dumps([tool])]
    rows = rows_of(
        rollout(
            [{"prompt": chat("hi"), "tools": cell} for cell in cells],
            "data.tools_key=tools",
            "data.max_error_fraction=1",
            "sampling.n_samples=1",
        )
    )
    said = [(row["responses"][0] or "")[:13] for row in rows]  # the echo's checksum of the prompt
    assert said[1] == said[4]
    assert len({*said}) == 4
    assert rows[3]["error"] == "tools is dict, not a list of tool definitions"

"""The commands on files, given a run that has no result yet: they take what is durable, if they are told to."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rollout.errors import UserError
from rollout.resume import resume
from tests.conftest import chat, run_in, write_input
from tests.in_process import run_here

pytestmark = pytest.mark.long

ROWS = [{"prompt": chat(f"question {number}"), "answer": str(number)} for number in range(5)]
WARNING = (
    "warning: run: is not finished; {} of 100 samples are there, and long responses are rarer among them than in the "
    "end\n"
)


@pytest.fixture(scope="module")
def died(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose engine died when some of its 100 samples were done."""
    here = tmp_path_factory.mktemp("died")
    write_input(here / "input.parquet", ROWS)
    dies = ("engine.echo.die_after=30", "engine.max_restarts=0", "store.flush_samples=5", "hardware.max_num_seqs=4")
    with pytest.raises(UserError, match="the engine died"):
        run_in(here / "run", f"data.path={here / 'input.parquet'}", "sampling.n_samples=20", *dies)
    return here


def durable(here: Path) -> dict[tuple[int, int], str]:
    """(row_id, sample_idx) -> response of each sample in the journal."""
    rows = [row for part in (here / "run/samples").glob("part-*.parquet") for row in pq.read_table(part).to_pylist()]
    return {(row["row_id"], row["sample_idx"]): row["response"] for row in rows}


def test_without_being_told_they_say_how_to_have_a_result_and_what_else_there_is(died: Path) -> None:
    result = run_here("export", "run", "o.jsonl", cwd=died)
    assert result.returncode == 1
    assert result.stderr == (
        "error: input=run: has no rollouts.parquet yet; finish the run with `python -m rollout resume run`, or take "
        "what is there: unfinished=true\n"
    )
    compared = run_here("compare", "run", "input.parquet", cwd=died).stderr
    assert "inputs=run: has no rollouts.parquet yet; finish the run with `python -m rollout resume run`\n" in compared


def test_what_is_durable_is_taken_with_the_columns_of_the_input_and_the_run_is_left_as_it_is(died: Path) -> None:
    before = {path: path.read_bytes() for path in died.rglob("*") if path.is_file()}
    there = durable(died)
    result = run_here("export", "run", "o.jsonl", "unfinished=true", cwd=died)
    assert (result.returncode, result.stderr) == (0, WARNING.format(len(there)))
    rows = [json.loads(line) for line in (died / "o.jsonl").read_text().splitlines()]
    assert {(row["row_id"], row["sample_idx"]): row["response"] for row in rows} == there
    assert all(row["answer"] == str(row["row_id"]) and row["prompt"] == ROWS[row["row_id"]]["prompt"] for row in rows)
    (died / "o.jsonl").unlink()
    assert {path: path.read_bytes() for path in died.rglob("*") if path.is_file()} == before


def test_it_can_be_scored_filtered_and_analysed(died: Path, tmp_path: Path) -> None:
    shutil.copytree(died, tmp_path, dirs_exist_ok=True)
    number = len(durable(died))
    scorer = ("scorer=numeric_match", "ground_truth=answer")
    scored = run_here("score", "run", "scored.parquet", "unfinished=true", *scorer, cwd=tmp_path)
    assert f"scored {number} of {number} responses" in scored.stdout
    kept = run_here("filter", "run", "kept.parquet", "unfinished=true", "min_length=1", cwd=tmp_path)
    assert f"kept {number} of {number} responses" in kept.stdout
    assert "Response length" in run_here("analyze", "run", "unfinished=true", cwd=tmp_path).stdout


def test_an_input_that_is_gone_costs_its_columns_only(died: Path, tmp_path: Path) -> None:
    shutil.copytree(died / "run", tmp_path / "run")
    config = tmp_path / "run/.hydra/config.yaml"
    config.write_text(config.read_text().replace(str(died / "input.parquet"), str(tmp_path / "gone.parquet")))
    result = run_here("export", "run", "o.jsonl", "unfinished=true", cwd=tmp_path)
    assert result.returncode == 0
    assert result.stderr.startswith(f"warning: run: is not finished; {len(durable(died))} samples are there")
    assert "gone.parquet: no such file" in result.stderr
    assert "the columns of the input are left out" in result.stderr
    first = json.loads((tmp_path / "o.jsonl").read_text().splitlines()[0])
    assert "response" in first
    assert "prompt" not in first


def test_a_run_with_a_result_is_read_as_ever(died: Path, tmp_path: Path) -> None:
    shutil.copytree(died / "run", tmp_path / "run")
    resume(tmp_path / "run", ["engine.echo.die_after=null"])
    result = run_here("export", "run", "o.jsonl", "unfinished=true", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 100


def test_every_response_has_the_tokens_of_its_prompt_though_the_journal_has_them_once(tmp_path: Path) -> None:
    write_input(tmp_path / "input.parquet", ROWS)
    dies = ("engine.echo.die_after=30", "engine.max_restarts=0", "store.flush_samples=5", "hardware.max_num_seqs=4")
    kept = ("store.token_ids=true", "sampling.n_samples=8")
    with pytest.raises(UserError, match="the engine died"):
        run_in(tmp_path / "run", f"data.path={tmp_path / 'input.parquet'}", *kept, *dies)
    assert run_here("export", "run", "so_far.jsonl", "unfinished=true", "format=tokens", cwd=tmp_path).returncode == 0
    so_far = [json.loads(line) for line in (tmp_path / "so_far.jsonl").read_text().splitlines()]
    assert len(so_far) == len(durable(tmp_path))
    resume(tmp_path / "run", ["engine.echo.die_after=null"])
    assert run_here("export", "run", "all.jsonl", "format=tokens", cwd=tmp_path).returncode == 0
    finished = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert all(row in finished for row in so_far)

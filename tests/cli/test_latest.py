"""`latest` is the run that started last under outputs/, wherever a run is expected."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from rollout.cli.latest import latest_run
from tests.conftest import chat, run_in, write_input
from tests.in_process import run_here


def made(folder: Path, started: str, **more: Any) -> Path:
    """A folder with the run.json of a run that started then."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "done", "started": started, **more}, indent=2))
    return folder


def day(number: int) -> str:
    return f"2026-11-{number:02d}T10:00:00.000+00:00"


def test_it_is_the_one_that_started_last_not_the_one_written_last(tmp_path: Path) -> None:
    newest = made(tmp_path / "2026/b", day(3))
    made(tmp_path / "2026/a", day(1), sessions=[{"started": day(9)}], replay_of={"started": day(8)})
    made(tmp_path / "z", day(2))
    assert latest_run(tmp_path) == newest


def test_jobs_of_sweeps_and_runs_far_down_count(tmp_path: Path) -> None:
    made(tmp_path / "a", day(1))
    job = made(tmp_path / "sweep/lr=1,b=2/0", day(2))
    (tmp_path / "sweep/multirun.yaml").write_text("x")
    assert latest_run(tmp_path) == job


def test_what_is_no_run_is_passed_over(tmp_path: Path) -> None:
    whole = made(tmp_path / "whole", day(1))
    cut_off = made(tmp_path / "cut off", day(5))
    (cut_off / "run.json").write_bytes((cut_off / "run.json").read_bytes()[:-3])
    made(tmp_path / "no time", "yesterday")
    made(tmp_path / "no time at all", "").joinpath("run.json").write_text("[]")
    made(tmp_path / ".hidden", day(7))
    made(tmp_path / "whole/samples/inner", day(8))
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a folder/run.json").mkdir(parents=True)
    assert latest_run(tmp_path) == whole


def test_times_are_compared_not_their_texts(tmp_path: Path) -> None:
    later = made(tmp_path / "a", "2026-11-01T10:00:00-05:00")
    made(tmp_path / "b", "2026-11-01T14:00:00Z")
    made(tmp_path / "c", "2026-11-01T14:30:00")
    assert latest_run(tmp_path) == later


def test_a_record_whose_keys_are_in_another_order_is_read_whole(tmp_path: Path) -> None:
    folder = made(tmp_path / "a", day(2))
    (folder / "run.json").write_text(json.dumps({"more": "x" * 10_000, "started": day(3)}))
    made(tmp_path / "b", day(2))
    assert latest_run(tmp_path) == folder


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    assert latest_run(tmp_path) is None
    assert latest_run(tmp_path / "nowhere") is None


def test_among_a_thousand_runs_it_is_found_at_once(tmp_path: Path) -> None:
    large = {"config": {f"key{number}": number for number in range(2000)}}
    for number in range(1000):
        made(tmp_path / f"{number % 40}/{number}", f"2026-11-01T10:{number // 60:02d}:{number % 60:02d}+00:00", **large)
    began = time.process_time()
    assert latest_run(tmp_path) == tmp_path / "39/999"
    assert time.process_time() - began < 0.5


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where two runs were made."""
    here = tmp_path_factory.mktemp("here")
    source = write_input(here / "input.parquet", [{"prompt": chat("hi")}])
    for name in ("first", "second"):
        run_in(here / "outputs" / name, f"data.path={source}", "sampling.n_samples=2", "sampling.max_tokens=4")
    return here


COMMANDS = [
    (["resume", "latest"], "outputs/second: nothing to do, the run is complete\n"),
    (["replay", "latest", "dry_run=true"], "1 usable, 0 not"),
    (["flatten", "latest", "flat.csv"], "wrote 2 responses: flat.csv"),
    (["analyze", "latest"], "Response length"),
    (["export", "latest", "sft.jsonl", "format=messages"], "wrote 2 messages"),
]


@pytest.mark.parametrize(("arguments", "said"), COMMANDS, ids=lambda value: value[0])
def test_every_command_that_takes_a_run_knows_it_and_says_which_it_is(
    arguments: list[str], said: str, outputs: Path, tmp_path: Path
) -> None:
    here = shutil.copytree(outputs, tmp_path / "here")
    result = run_here(*arguments, cwd=here)
    assert (result.returncode, result.stderr) == (0, "latest: outputs/second\n")
    assert said in result.stdout


def test_the_second_stage_knows_it_too(outputs: Path, tmp_path: Path) -> None:
    here = shutil.copytree(outputs, tmp_path / "here")
    result = run_here("run_dir=latest", "steps=[flatten]", cwd=here, module="rollout.postprocess")
    assert (result.returncode, result.stderr) == (0, "latest: outputs/second\n")
    assert "wrote outputs/second/flat.parquet" in result.stdout


def test_a_path_of_that_name_wins(outputs: Path, tmp_path: Path) -> None:
    here = shutil.copytree(outputs, tmp_path / "here")
    (here / "outputs/first").rename(here / "latest")
    assert run_here("resume", "latest", cwd=here).stdout.startswith("latest: nothing to do")


@pytest.mark.parametrize("arguments", [["flatten", "latest", "x.csv"], ["resume", "latest"], ["verify", "latest"]])
def test_without_a_run_it_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    result = run_here(*arguments, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"error: latest: there is no run under outputs/ here; give the folder of one\n", result.stderr)


def test_a_forgotten_run_is_one_line(tmp_path: Path) -> None:
    for command in ("resume", "replay", "verify"):
        assert run_here(command, "sampling.n_samples=4", cwd=tmp_path).stderr == (
            "error: sampling.n_samples=4: the run's folder comes first; write it before this, or `latest`\n"
        )

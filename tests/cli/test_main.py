"""The command line as a user meets it: real processes, their exit codes and what they print."""

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from rollout.cli.dry_run import show_plan
from rollout.preflight import preflight
from tests.commands import ECHO, command, run_command
from tests.conftest import chat, composed, write_input
from tests.in_process import run_here

pytestmark = pytest.mark.long


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["flaten", "run", "flat.csv"], "flaten: no such command, did you mean flatten?"),
        (["resum", "latest"], "resum: no such command, did you mean resume?"),
        (
            ["postprocess", "latest", "steps=[filter]"],
            "postprocess: no such command; write python -m rollout.postprocess run_dir=latest 'steps=[filter]'",
        ),
        (
            ["postprocess", "there.jsonl", "filter.min_score=1"],
            "postprocess: no such command; write python -m rollout.postprocess input=there.jsonl filter.min_score=1",
        ),
        (
            ["postprocess"],
            "postprocess: no such command; write python -m rollout.postprocess run_dir=RUN_DIR",
        ),
        (
            ["nonsense"],
            "nonsense: neither a command nor key=value; see --help, and put quotes around a value with spaces",
        ),
    ],
)
def test_a_slip_in_the_name_of_a_command_is_one_line(words: list[str], line: str, tmp_path: Path) -> None:
    (tmp_path / "there.jsonl").touch()
    result = run_here(*words, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, f"error: {line}\n")


def test_a_run_from_any_folder_writes_below_that_folder(tmp_path: Path) -> None:
    result = run_command(*ECHO, "sampling.n_samples=2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (run_dir,) = (tmp_path / "outputs").glob("*/*")
    table = pd.read_parquet(run_dir / "rollouts.parquet")
    assert len(table) == 12
    assert table["responses"].map(len).eq(2).all()
    assert f"results: {run_dir.relative_to(tmp_path) / 'rollouts.parquet'}" in result.stdout
    assert sorted(path.name for path in (run_dir / ".hydra").iterdir()) == [
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    ]


@pytest.mark.long
def test_two_runs_in_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    commands = [subprocess.Popen([sys.executable, "-m", "rollout", *ECHO], cwd=tmp_path) for _ in range(3)]
    assert [command.wait(timeout=120) for command in commands] == [0, 0, 0]
    assert len(list(tmp_path.glob("outputs/*/*/rollouts.parquet"))) == 3


def test_a_used_folder_is_refused_and_nothing_in_it_changes(tmp_path: Path) -> None:
    assert run_command(*ECHO, "hydra.run.dir=used", cwd=tmp_path).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "used").rglob("*") if path.is_file()}
    again = run_command(*ECHO, "hydra.run.dir=used", "sampling.n_samples=3", cwd=tmp_path)
    assert again.returncode == 1
    assert "hydra.run.dir=" in again.stderr
    assert "holds a run already" in again.stderr
    assert before == {path: path.read_bytes() for path in (tmp_path / "used").rglob("*") if path.is_file()}


def test_dry_run_tells_the_plan_and_the_bad_rows_and_writes_nothing(tmp_path: Path) -> None:
    write_input(tmp_path / "input.parquet", [{"prompt": chat("a")}, {"prompt": None}, {"prompt": chat(" ")}])
    plan = ("dry_run=true", "dry_run_tokens=false", "data.path=input.parquet", "sampling.n_samples=4", "hardware=cpu")
    result = run_command(*plan, "data.max_error_fraction=0.7", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "1 usable, 2 not" in result.stdout
    assert "row 1: the prompt is null\n" in result.stdout
    assert "4 (4 per row)" in result.stdout
    too_many = run_command(*plan, cwd=tmp_path)
    assert too_many.returncode == 1
    assert too_many.stderr.startswith("error: data.max_error_fraction=0.1: 1 of 3 rows cannot be sampled so far")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["input.parquet"]


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (["hardware=cpu"], "cpu, tensor_parallel_size 1"),
        (["hardware=cpu", "hardware.replicas=3"], "cpu, tensor_parallel_size 1, replicas 3"),
        (
            ["hardware=ray_cluster", "hardware.replicas_per_gpu=2"],
            "cuda, tensor_parallel_size 1, replicas null (as many as there are GPUs for), replicas_per_gpu 2, "
            "ray_address auto",
        ),
    ],
)
def test_a_dry_run_shows_the_keys_for_several_engines_where_they_are_not_the_defaults(
    asked: list[str], shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_input(tmp_path / "input.parquet", [{"prompt": chat("a")}])
    run = composed("engine.kind=echo", f"data.path={source}", *asked)
    show_plan(run, preflight(run))
    assert f"hardware  {shown}\n" in capsys.readouterr().out


def test_a_dry_run_needs_no_gpu_and_says_what_the_hardware_must_have(tmp_path: Path) -> None:
    words = ("dry_run=true", "dry_run_tokens=false", "hardware=dual_gpu", "hardware.replicas=2")
    result = run_here(*words, "model.path=Qwen/Qwen3-8B", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"hardware  cuda, .*, needs 4 GPUs \(this machine shows \d+\)\n", result.stdout)


def test_too_many_bad_rows_fail_the_run_and_say_which(tmp_path: Path) -> None:
    write_input(tmp_path / "input.parquet", [{"prompt": chat("a")}] * 5 + [{"prompt": None}])
    result = run_command(*ECHO, "data.path=input.parquet", "hydra.run.dir=run", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr == (
        "error: data.max_error_fraction=0.1: 1 of 6 rows cannot be sampled so far, the last is row 5 (the prompt is "
        "null); fix the input or raise the limit\n"
    )
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"


def test_a_bug_keeps_its_traceback_and_the_manifest_says_failed(tmp_path: Path) -> None:
    broken = "import rollout.lifecycle; rollout.lifecycle.finalize = None; from rollout.cli.main import main; main()"
    command = [sys.executable, "-c", broken, *ECHO, "hydra.run.dir=run"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "'NoneType' object is not callable" in result.stderr
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"


def test_a_sweep_runs_every_combination_in_folders_of_their_own(tmp_path: Path) -> None:
    arguments = ["-m", *ECHO, "sampling.temperature=0.3,0.7", "sampling.n_samples=1,2", "hydra.sweep.dir=sweep"]
    result = run_command(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = []
    for job in sorted((tmp_path / "sweep").glob("[0-9]")):
        manifest = json.loads((job / "run.json").read_text())
        found.append((manifest["config"]["sampling"]["temperature"], len(pd.read_parquet(job / "flat.parquet")) // 12))
        assert manifest["engine"]["reused"] is (job.name != "0")
    assert found == [(0.3, 1), (0.3, 2), (0.7, 1), (0.7, 2)]


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path: Path) -> None:
    line = shlex.join(command(*ECHO, "hydra.run.dir=run")) + " | head -1"
    subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while json.loads((tmp_path / "run/run.json").read_text())["status"] != "done":
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("output", [">&-", ">/dev/full"])
def test_a_run_needs_no_screen(output: str, tmp_path: Path) -> None:
    line = f"{shlex.join(command(*ECHO, 'hydra.run.dir=run'))} {output}"
    assert subprocess.run(["bash", "-c", line], cwd=tmp_path, check=False).returncode == 0
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "done"


def test_a_linked_folder_serves_and_a_mistake_leaves_a_users_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "mine").mkdir()
    time.sleep(0.05)
    assert run_command(*ECHO, "hydra.run.dir=link", cwd=tmp_path).returncode == 0
    assert (tmp_path / "real/rollouts.parquet").exists()
    assert run_command(*ECHO, "hydra.run.dir=mine", "sampling.top_p=7", cwd=tmp_path).returncode == 1
    assert (tmp_path / "mine").is_dir()


@pytest.mark.parametrize(("run_dir", "message"), [("file", "File exists"), ("/dev/null/x", "Not a directory")])
def test_a_run_folder_that_cannot_be_made_is_one_line(run_dir: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run_command(*ECHO, f"hydra.run.dir={run_dir}", cwd=tmp_path)
    assert result.returncode == 1
    cure = "choose another path, or change its permissions or free space"
    assert result.stderr == f"error: hydra.run.dir={run_dir}: {message}; {cure}\n"


def test_a_folder_with_results_in_it_is_not_written_to(tmp_path: Path) -> None:
    write_input(tmp_path / "rollouts.parquet", [{"prompt": "a"}])
    result = run_command(*ECHO, "data.path=rollouts.parquet", "hydra.run.dir=.", cwd=tmp_path)
    assert result.returncode == 1
    assert "rollouts.parquet already exists there" in result.stderr
    assert pd.read_parquet(tmp_path / "rollouts.parquet").columns.tolist() == ["prompt"]

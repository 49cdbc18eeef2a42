"""Sweeps with Hydra's less common settings end as others do: paths stay, failures are counted, nothing hides."""

import json
from pathlib import Path

import pytest

from rollout.sweep.notes import jobs_in
from tests.commands import ECHO, run_command, run_fresh
from tests.conftest import chat, write_input
from tests.in_process import run_here

pytestmark = pytest.mark.long

QUICK = (*ECHO, "sampling.n_samples=1", "sampling.max_tokens=8")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    write_input(tmp_path / "a.parquet", [{"prompt": chat("hi")}])
    return tmp_path


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_folder_of_each_jobs_own_changes_no_path(launcher: str, here: Path) -> None:
    words = ("data.path=a.parquet", "sampling.seed=1,2", "hydra.job.chdir=true", "hydra.sweep.dir=s")
    run = run_command if launcher == "basic" else run_fresh  # joblib wants to start its processes by itself
    result = run("-m", *QUICK, *words, f"hydra/launcher={launcher}", cwd=here)
    assert result.returncode == 0, result.stderr
    assert {"jobs", "sweep.csv", "sweep.html", "0", "1"} <= {path.name for path in (here / "s").iterdir()}
    assert [job.status for job in jobs_in(here / "s")] == ["done", "done"]
    assert not list((here / "s/0").glob("s"))


def test_a_sweep_whose_jobs_all_fail_exits_with_1(here: Path) -> None:
    words = ("data.path=nowhere.parquet", "sampling.seed=1,2", "hydra.job.chdir=true")
    result = run_command("-m", *QUICK, *words, "hydra.sweep.dir=s", cwd=here)
    assert result.returncode == 1
    assert "sweep: 0 of 2 jobs done" in result.stdout
    assert "Traceback" not in result.stderr


def test_a_sweep_can_be_asked_for_by_its_mode(here: Path) -> None:
    assert run_here(*QUICK, "hydra.mode=MULTIRUN", "sampling.seed=1,2", "dry_run=true", cwd=here).returncode == 0
    refused = run_here(*QUICK, "hydra.mode=MULTIRUN", "sampling.seed=1,2", "hydra.run.dir=x", cwd=here)
    assert refused.stderr == "error: hydra.run.dir=x: a sweep does not use it; set hydra.sweep.dir\n"


def test_a_dry_sweep_leaves_nothing(here: Path) -> None:
    words = ("-m", *QUICK, "data.path=a.parquet", "sampling.seed=1,2", "dry_run=true", "hydra.sweep.dir=s")
    result = run_here(*words, cwd=here)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("1 usable, 0 not") == 2
    assert [path.name for path in here.iterdir()] == ["a.parquet"]


def test_the_greedy_job_of_a_sweep_is_sampled_once_and_says_so(here: Path) -> None:
    words = ("-m", *ECHO, "sampling.max_tokens=8", "data.path=a.parquet", "sampling.temperature=0,0.7")
    result = run_command(*words, "hydra.sweep.dir=s", cwd=here)
    assert result.returncode == 0, result.stderr
    assert "job 0: temperature=0 is greedy: 1 sample per prompt, not 8" in result.stdout
    sampled = [json.loads((here / f"s/{num}/run.json").read_text())["config"]["sampling"] for num in (0, 1)]
    assert [(sampling["temperature"], sampling["n_samples"]) for sampling in sampled] == [(0.0, 1), (0.7, 8)]


@pytest.mark.parametrize("folder", ["/proc/none", "a.parquet/x", "/dev/null/x"])
@pytest.mark.parametrize("sweep", [[], ["-m", "sampling.seed=1,2"]])
def test_a_folder_that_cannot_be_made_is_one_line(folder: str, sweep: list[str], here: Path) -> None:
    key = "hydra.sweep.dir" if sweep else "hydra.run.dir"
    result = run_here(*sweep, *QUICK, f"{key}={folder}", cwd=here)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: {key}={folder}: ")
    assert "choose another path" in result.stderr


def test_a_launcher_that_is_not_installed_names_its_package(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.cli.hydra_errors._PLUGINS", {("hydra/launcher", "nope"): "hydra-nope-launcher"})
    result = run_here("-m", *QUICK, "sampling.seed=1,2", "hydra/launcher=nope", cwd=here)
    assert result.stderr.endswith("(or `pip install hydra-nope-launcher`, which brings it)\n")

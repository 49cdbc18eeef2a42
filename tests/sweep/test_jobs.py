"""Sweeps through the real command line: one engine, jobs that fail, the same command again, Hydra's own plugins."""

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from rollout.config import SweepConfig
from rollout.errors import UserError
from rollout.sweep import jobs as sweep_jobs
from rollout.sweep import objective as sweep_objective
from rollout.sweep.comparison import write_comparison
from rollout.sweep.jobs import do_job
from rollout.sweep.notes import jobs_in
from tests.commands import ECHO, resume, run_command, run_fresh
from tests.engine.test_checkpoints import write_checkpoint

pytestmark = pytest.mark.long

SIX = ("-m", *ECHO, "data.limit=3", "sampling.temperature=0.3,0.7,1.0", "sampling.n_samples=1,2")


def table(sweep_dir: Path) -> list[dict[str, str]]:
    with (sweep_dir / "sweep.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def manifest(run_dir: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run_dir / "run.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def sweep_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    result = run_command(*SIX, "hydra.sweep.dir=sweep", cwd=folder)
    assert result.returncode == 0, result.stderr
    *_, last = result.stdout.splitlines()
    assert last == "sweep: 6 of 6 jobs done: sweep/sweep.html, sweep.csv"
    table = result.stdout.partition("\nJobs ")[2].splitlines()
    assert table[1].split() == ["job", "temperature", "n_samples", "cut", "off", "tok/s", "tokens"]
    assert [line.split()[:3] for line in table[2:8]] == [
        [str(number), temperature, n_samples]
        for number, (temperature, n_samples) in enumerate((t, n) for t in ("0.3", "0.7", "1.0") for n in ("1", "2"))
    ]
    return folder / "sweep"


def test_the_engine_is_loaded_once_and_run_json_says_so(sweep_dir: Path) -> None:
    assert [manifest(sweep_dir / str(job))["engine"]["reused"] for job in range(6)] == [False, *[True] * 5]
    assert [row["engine"] for row in table(sweep_dir)] == ["loaded", *["reused"] * 5]


def test_the_table_has_a_line_per_job_with_what_was_swept_and_what_came_of_it(sweep_dir: Path) -> None:
    rows = table(sweep_dir)
    swept = [(row["num"], row["sampling.temperature"], row["sampling.n_samples"]) for row in rows]
    pairs = [(t, n) for t in ("0.3", "0.7", "1.0") for n in ("1", "2")]
    assert swept == [(str(num), *pair) for num, pair in enumerate(pairs)]
    assert not {"engine.kind", "data.limit"} & rows[0].keys()
    for row in rows:
        run = manifest(sweep_dir / row["run_dir"])
        assert float(row["output_tok_s"]) == run["throughput"]["output_tok_s"]
        assert int(row["samples"]) == 3 * int(row["sampling.n_samples"])
        assert row["status"] == "done"


def test_the_page_shows_what_the_jobs_answered_and_values_as_they_are_meant(tmp_path: Path) -> None:
    prompts = "data.system_prompt='Be brief, please.','Be \\'long\\'.'"
    result = run_command(
        "-m", *ECHO, "data.limit=2", "sampling.n_samples=1", prompts, "hydra.sweep.dir=s", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert [row["data.system_prompt"] for row in table(tmp_path / "s")] == ["Be brief, please.", "Be 'long'."]
    page = (tmp_path / "s" / "sweep.html").read_text(encoding="utf-8")
    content = json.loads(page.split('id="content">', 1)[1].split("</script>", 1)[0])
    assert content["parameters"] == ["data.system_prompt"]
    flat = pq.read_table(tmp_path / "s" / "1" / "flat.parquet").to_pylist()
    shown = {row["row_id"]: row["responses"]["1"] for row in content["rows"] if "1" in row["responses"]}
    assert {row["row_id"]: [row["response"]] for row in flat} == {
        row_id: [response["text"] for response in responses] for row_id, responses in shown.items()
    }


def test_a_job_that_fails_stops_no_other_and_is_all_that_is_done_when_the_command_is_repeated(tmp_path: Path) -> None:
    paths = [f"{name}.jsonl" for name in "abcdef"]
    for path in paths:
        (tmp_path / path).write_text(json.dumps({"prompt": path}) + "\n")
    (tmp_path / "c.jsonl").rename(tmp_path / "elsewhere.jsonl")
    command = ("-m", *ECHO, "sampling.n_samples=2", f"data.path={','.join(paths)}", "hydra.sweep.dir=s")
    first = run_command(*command, cwd=tmp_path)
    assert first.returncode == 1
    assert [row["status"] for row in table(tmp_path / "s")] == ["done", "done", "failed", "done", "done", "done"]
    assert table(tmp_path / "s")[2]["error"].startswith("data.path=c.jsonl: no such file")
    when, *_, at_the_end = [line for line in first.stderr.splitlines() if line.startswith("error: job 2 (")]
    assert "data.path=c.jsonl: no such file" in when
    assert "failed: data.path=c.jsonl: no such file" in at_the_end
    assert "Traceback" not in first.stderr

    (tmp_path / "elsewhere.jsonl").rename(tmp_path / "c.jsonl")
    before = {job: (tmp_path / "s" / job / "run.json").stat().st_mtime_ns for job in "01345"}
    again = run_command(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert [row["status"] for row in table(tmp_path / "s")] == ["done"] * 6
    assert again.stdout.count("done already") == 5
    assert before == {job: (tmp_path / "s" / job / "run.json").stat().st_mtime_ns for job in "01345"}


def test_a_job_of_which_nothing_could_be_scored_is_named_at_the_end_and_has_its_reason_in_the_table(
    tmp_path: Path,
) -> None:
    (tmp_path / "raises.py").write_text("def score(response, ground_truth, row):\n    raise ValueError('a bug')\n")
    scored = ("postprocess=score", "postprocess.score.ground_truth=null", "postprocess.score.pattern=a")
    jobs = (*ECHO, "data.limit=3", "sampling.n_samples=1", *scored, "postprocess.score.scorer=raises:score,regex")
    result = run_command("-m", *jobs, "hydra.sweep.dir=s", cwd=tmp_path)
    assert result.returncode == 0  # as that of a run whose samples are there
    assert result.stdout.splitlines()[-1] == "sweep: 2 of 2 jobs done: s/sweep.html, sweep.csv"
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: job 0 (")
    assert "no response could be scored, 3 of them because: ValueError: a bug; fix that; then do what" in line
    assert [bool(row["error"]) for row in table(tmp_path / "s")] == [True, False]


@pytest.mark.parametrize("notes_before_it_is_full", [0, 1])
def test_a_disk_that_is_full_ends_a_sweep_in_one_line_that_says_how_it_goes_on(
    notes_before_it_is_full: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    about = SimpleNamespace(
        sweep=SimpleNamespace(dir=str(tmp_path)),
        overrides=SimpleNamespace(task=["a=1"]),
        job=SimpleNamespace(num=0),
    )
    done, written = list[int](), list[Path]()

    def write(path: Path, _: object) -> None:
        if len(written) == notes_before_it_is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(path)

    monkeypatch.setattr(sweep_jobs, "HydraConfig", SimpleNamespace(get=lambda: about))
    monkeypatch.setattr(sweep_jobs, "write_json", write)
    with pytest.raises(SystemExit) as end:
        do_job(tmp_path / "0", SweepConfig(), lambda: done.append(1), [])
    assert end.value.code == 1
    assert len(done) == notes_before_it_is_full
    line = f"error: {tmp_path}: the disk is full (No space left on device); free some space, then give the sweep's own"
    assert capsys.readouterr().err == f"{line} command and hydra.sweep.dir={tmp_path}\n"


def test_a_sweep_over_checkpoints_keeps_the_engine_and_a_broken_one_costs_only_itself(tmp_path: Path) -> None:
    folders = [write_checkpoint(tmp_path / f"ckpt-{step}", step).name for step in (100, 200, 300, 400)]
    shutil.copy(tmp_path / "ckpt-300/model-1.safetensors", tmp_path / "ckpt-300/model-2.safetensors")
    swept = f"model.path={','.join(folders)}"
    result = run_command("-m", *ECHO, "data.limit=1", swept, "hydra.sweep.dir=s", cwd=tmp_path)
    assert result.returncode == 1
    assert [(row["status"], row["engine"]) for row in table(tmp_path / "s")] == [
        ("done", "loaded"),
        ("done", "reloaded"),
        ("failed", "loaded"),
        ("done", "reloaded"),
    ]
    assert "error: job 2 (" in result.stderr
    assert "model.path=ckpt-300: model-2.safetensors has no tensor model.norm.weight" in result.stderr
    assert "Traceback" not in result.stderr
    assert "engine reused, its weights replaced in " in result.stdout
    page = (tmp_path / "s/sweep.html").read_text(encoding="utf-8")
    content = json.loads(page.split('id="content">', 1)[1].split("</script>", 1)[0])
    assert [job["steps"]["model.path"] for job in content["jobs"]] == [
        {"step": step, "of": "ckpt-*"} for step in (100, 200, 300, 400)
    ]


def test_a_job_that_was_cut_short_goes_on_with_the_samples_it_has(tmp_path: Path) -> None:
    command = ("-m", *ECHO, "sampling.n_samples=3", "sampling.temperature=0.5,0.6", "hydra.sweep.dir=s")
    slow = ("engine.max_restarts=0", "engine.echo.max_steps=50")
    dying = run_command(*command, "engine.echo.die_after=4", *slow, cwd=tmp_path)
    assert dying.returncode == 1
    again = run_command(*command, *slow, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    totals = [manifest(tmp_path / "s" / job) for job in "01"]
    assert [run["totals"]["samples"] for run in totals] == [36, 36]
    assert all(0 < run["throughput"]["samples"] <= 32 for run in totals)


def test_a_folder_with_other_jobs_is_refused_job_by_job(tmp_path: Path) -> None:
    other = ("-m", *ECHO, "data.limit=3", "sampling.temperature=0.4,0.7", "sampling.n_samples=2")
    first = run_command("-m", *ECHO, "data.limit=3", "sampling.temperature=0.3,0.7", "hydra.sweep.dir=s", cwd=tmp_path)
    assert first.returncode == 0
    result = run_command(*other, "hydra.sweep.dir=s", cwd=tmp_path)
    assert result.returncode == 1
    assert "sampling.temperature=0.4: this run was made with 0.3" in result.stderr
    assert "sampling.n_samples=2: this run has 8; give that many or more" in result.stderr
    assert "error: job 0 (" in result.stderr
    assert "temperature=0.3" not in result.stderr  # but what was asked for now
    assert "run the same command" not in result.stderr


def test_a_job_that_was_done_and_fails_while_it_goes_on_is_not_done(tmp_path: Path) -> None:
    command = ("-m", *ECHO, "data.limit=3", "hydra.sweep.dir=s")
    assert run_command(*command, "sampling.n_samples=1,2", cwd=tmp_path).returncode == 0
    dies = ("engine.echo.die_after=4", "engine.max_restarts=0")
    result = run_command(*command, "sampling.n_samples=3,4", *dies, cwd=tmp_path)
    assert result.returncode == 1
    assert [(row["status"], row["sampling.n_samples"]) for row in table(tmp_path / "s")] == [
        ("failed", "3"),
        ("failed", "4"),
    ]
    assert ": failed: engine.max_restarts=0" in result.stderr
    assert "run the same command with the same hydra.sweep.dir to do what is not done" in result.stderr


@pytest.mark.parametrize("put", [shutil.move, shutil.copytree])
def test_the_jobs_of_a_sweep_that_was_moved_or_copied_keep_their_figures(put: Any, tmp_path: Path) -> None:
    command = ("-m", *ECHO, "data.limit=3")
    first = run_command(*command, "sampling.n_samples=1,2,3", "hydra.sweep.dir=s", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    put(tmp_path / "s", tmp_path / "there")
    before = {row["num"]: row for row in table(tmp_path / "there")}
    again = run_command(*command, "sampling.n_samples=1", "hydra.sweep.dir=there", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert {row["num"]: row for row in table(tmp_path / "there")} == before
    assert [row["run_dir"] for row in before.values()] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("hydra.sweep.dir=run", "hydra.sweep.dir=run: the folder of a run; choose another one"),
        ("hydra.run.dir=there", "hydra.run.dir=there: a sweep does not use it; set hydra.sweep.dir"),
    ],
)
def test_a_sweep_does_not_write_into_a_run(override: str, line: str, tmp_path: Path) -> None:
    assert run_command(*ECHO, "data.limit=2", "hydra.run.dir=run", cwd=tmp_path).returncode == 0
    before = sorted(tmp_path.rglob("*"))
    result = run_command("-m", *ECHO, "data.limit=2", "sampling.seed=1,2", override, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, f"error: {line}\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_resume_of_a_sweep_says_how_a_sweep_goes_on(sweep_dir: Path) -> None:
    result = resume(str(sweep_dir), cwd=sweep_dir.parent)
    assert result.returncode == 1
    assert f"a sweep's folder; give the sweep's command again with hydra.sweep.dir={sweep_dir}" in result.stderr


def test_what_nobody_foresaw_keeps_its_traceback_and_stops_no_other_job(tmp_path: Path) -> None:
    (tmp_path / "s" / "0" / ".run.json.partial").mkdir(parents=True)
    command = ("-m", *ECHO, "data.limit=2", "sampling.temperature=0.5,0.6", "hydra.sweep.dir=s")
    result = run_command(*command, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert [row["status"] for row in table(tmp_path / "s")] == ["failed", "done"]
    assert table(tmp_path / "s")[0]["error"].startswith("IsADirectoryError")


@pytest.mark.long
@pytest.mark.parametrize(
    ("objective", "way"),
    [("truncated_fraction", "lowest"), ("score.mean", "highest")],
)
def test_optuna_gets_the_objective_and_which_way_it_is_better(objective: str, way: str, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    scoring = ("postprocess=score", "postprocess.score.scorer=regex", "postprocess.score.pattern=1")
    command = (
        *("-m", *ECHO, *scoring, "data.limit=3", f"sweep.objective={objective}", "hydra/sweeper=optuna"),
        *("hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1", "sampling.temperature=interval(0.1,1.5)"),
    )
    result = run_command(*command, "hydra.sweep.dir=s", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"sweep: looks for the {way} {objective}" in result.stdout
    best = yaml.safe_load((tmp_path / "s" / "optimization_results.yaml").read_text())
    column = {"score.mean": "mean_score"}.get(objective, objective)
    values = [float(row[column]) for row in table(tmp_path / "s")]
    assert len(values) == 3
    assert best["best_value"] == (max if way == "highest" else min)(values)


@pytest.mark.parametrize(
    ("objective", "problem"),
    [
        ("totals.nothing", "no such number, "),
        ("seconds.generat", "no such number, did you mean generate?"),
        ("status", "no such number, "),
        ("score.mean", "comes from the step score; add it to postprocess.steps"),
        ("tokens.mean", "comes from the step analyze; add it to postprocess.steps"),
    ],
)
def test_an_objective_is_a_number_that_the_steps_of_a_job_make(objective: str, problem: str) -> None:
    with pytest.raises(UserError) as error:
        sweep_objective.check(objective, ["flatten"])
    assert str(error.value).startswith(f"sweep.objective={objective}: {problem}")


@pytest.mark.parametrize(("objective", "cure"), [("score.meen", "did you mean mean?"), ("nonsense", "choose from ")])
def test_an_objective_that_no_job_can_have_is_refused_before_anything_runs(
    objective: str, cure: str, tmp_path: Path
) -> None:
    command = ("-m", *ECHO, "data.limit=2", "sampling.seed=1,2", f"sweep.objective={objective}", "hydra.sweep.dir=s")
    result = run_command(*command, cwd=tmp_path)
    assert result.returncode == 1
    assert f"sweep.objective={objective}: no such number, {cure}" in result.stderr
    assert not list((tmp_path / "s").glob("*/run.json"))


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_in_processes_of_their_own_end_in_the_same_table(launcher: str, tmp_path: Path) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.removesuffix('_local')}_launcher")
    command = ("-m", *ECHO, "data.limit=3", "sampling.temperature=0.3,5,0.7", f"hydra/launcher={launcher}")
    result = run_fresh(*command, "hydra.sweep.dir=s", cwd=tmp_path)
    assert result.returncode == 1
    assert [row["status"] for row in table(tmp_path / "s")] == ["done", "failed", "done"]
    assert "error: job 1 (" in result.stderr


def test_a_dry_run_of_a_sweep_shows_every_plan_and_writes_no_table(tmp_path: Path) -> None:
    result = run_command(*SIX, "dry_run=true", "hydra.sweep.dir=s", cwd=tmp_path)
    assert result.returncode == 0
    assert result.stdout.count("sampling  temperature") == 6
    assert not (tmp_path / "s" / "sweep.csv").exists()


@pytest.mark.parametrize(("more", "code"), [((), 0), (("data.path=none.jsonl",), 1)])
def test_a_dry_run_leaves_a_sweep_as_it_is(more: tuple[str, ...], code: int, tmp_path: Path) -> None:
    command = ("-m", *ECHO, "data.limit=3", "hydra.sweep.dir=s")
    assert run_command(*command, "sampling.seed=1,2", cwd=tmp_path).returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()}
    assert run_command(*command, "sampling.seed=1,2,3", "dry_run=true", *more, cwd=tmp_path).returncode == code
    assert {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()} == before


def test_a_result_that_is_gone_is_made_again_and_blames_no_other_job(tmp_path: Path) -> None:
    command = ("-m", *ECHO, "data.limit=3", "sampling.seed=1,2", "hydra.sweep.dir=s")
    assert run_command(*command, cwd=tmp_path).returncode == 0
    (tmp_path / "s/1/rollouts.parquet").unlink()
    again = run_command(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "s/0: done already" in again.stdout
    assert (tmp_path / "s/1/rollouts.parquet").exists()


@pytest.mark.long
def test_jobs_that_end_together_may_all_write_the_comparison(sweep_dir: Path) -> None:
    """Each writes files of its own before it replaces the common ones."""
    program = (
        "import sys; from pathlib import Path; from rollout.sweep.notes import jobs_in; "
        "from rollout.sweep.comparison import write_comparison; folder = Path(sys.argv[1]); "
        "[write_comparison(folder, jobs_in(folder), 2, sys.orig_argv) for _ in range(20)]"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(sweep_dir)]) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(table(sweep_dir)) == 6
    assert not list(sweep_dir.glob(".comparison-*"))


def test_the_page_stays_small_however_many_jobs_there_are(sweep_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.sweep.comparison.PAGE_BYTES", 6 * 400)
    write_comparison(sweep_dir, jobs_in(sweep_dir), 3, sys.orig_argv)
    page = (sweep_dir / "sweep.html").read_text(encoding="utf-8")
    shown = json.loads(page.partition('<script type="application/json" id="content">')[2].partition("</script>")[0])
    assert len(shown["rows"]) < 3
    assert len(shown["jobs"]) == 6


def test_a_comparison_that_cannot_be_written_fails_no_job(tmp_path: Path) -> None:
    (tmp_path / "s/jobs").mkdir(parents=True)
    (tmp_path / "s/sweep.csv").mkdir()
    result = run_command("-m", *ECHO, "data.limit=3", "sampling.seed=1,2", "hydra.sweep.dir=s", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "warning: sweep.csv and sweep.html are not up to date: " in result.stderr

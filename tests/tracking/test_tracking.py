"""What W&B gets from a run, read back with W&B's own tools."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rollout.config import RunConfig
from rollout.process.signals import Interrupted
from rollout.store.run_record import begun
from rollout.store.samples import ShownSample, samples_of
from rollout.tracking.tracker import tracked
from rollout.tracking.wandb_run import identity
from tests.commands import run_command, run_fresh
from tests.wandb_server import WandbServer, wandb_server

pytestmark = pytest.mark.long

ECHO = ("engine.kind=echo", "hardware=cpu", "sampling.n_samples=6")


def wandb_tool(*arguments: str | Path) -> str:
    """What `wandb ARGUMENTS` prints."""
    command = [sys.executable, "-m", "wandb", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout


def offline_runs(run_dir: Path) -> list[Path]:
    return sorted((run_dir / "wandb").glob("offline-run-*"))


def inspected(offline_run: Path) -> dict[str, Any]:
    """State, config and summary of an offline run."""
    content: dict[str, Any] = json.loads(wandb_tool("leet", "inspect", "--summary", "--json", offline_run))
    return content


def records(offline_run: Path, kind: str) -> list[dict[str, Any]]:
    """What an offline run holds of one kind: history, metric, artifact, ..."""
    lines = map(json.loads, wandb_tool("leet", "inspect", "--json", offline_run).splitlines())
    return [line[kind] for line in lines if line["type"] == kind]


def manifest(run_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_dir / "run.json").read_text())
    return content


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 prompts x 6 samples, in the environment of somebody who uses W&B for other things too."""
    folder = tmp_path_factory.mktemp("offline")
    tracking = ("tracking.artifact=true", "tracking.tags=[night,first]", "tracking.sample_rows=10")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WANDB_MODE", "disabled")
        environment.setenv("WANDB_DIR", str(folder / "elsewhere"))
        environment.setenv("WANDB_SERVICE", "3-1-unix-/nowhere")
        environment.setenv("WANDB_RUN_ID", "theirs")
        result = run_fresh(*ECHO, *tracking, "hydra.run.dir=run", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "W&B" not in result.stdout
    assert "wandb" not in result.stdout + result.stderr
    return folder / "run"


def test_a_run_has_its_config_totals_name_and_tags(run_dir: Path) -> None:
    about = manifest(run_dir)
    (offline_run,) = offline_runs(run_dir)
    content = inspected(offline_run)
    assert (content["run_id"], content["name"]) == (about["wandb"]["id"], "run")
    assert (content["state"], content["exit_code"]) == ("finished", 0)
    for group in ("data", "engine", "postprocess", "tracking"):
        assert content["config"][group] == about["config"][group]
    assert content["config"]["sampling"]["n_samples"] == 6
    assert content["tags"] == ["night", "first"]
    assert content["summary"]["totals"] == about["totals"]
    assert content["summary"]["throughput"]["output_tok_s"] == about["throughput"]["output_tok_s"]
    cut_off = json.loads((run_dir / "analysis.json").read_text())["estimates"]["truncated_fraction"]
    low, high = cut_off["interval"]
    shown = {"value": cut_off["value"], "se": cut_off["se"], "low": low, "high": high}
    assert content["summary"]["analysis"]["truncated_fraction"] == pytest.approx(shown)


def test_the_series_are_drawn_against_the_samples_done(run_dir: Path) -> None:
    (offline_run,) = offline_runs(run_dir)
    axes = {metric.get("glob_name"): metric.get("step_metric") for metric in records(offline_run, "metric")}
    assert axes["throughput/*"] == axes["progress/*"] == "progress/samples_done"
    points = [point["item"] for point in records(offline_run, "history")]
    last = [point for point in points if "progress/samples_done" in point][-1]
    assert last["progress/samples_done"] == 72
    assert last["throughput/output_tok_s"] > 0


def test_the_table_holds_the_first_four_samples_of_a_prompt(run_dir: Path) -> None:
    (table,) = run_dir.glob("wandb/offline-run-*/files/media/table/samples_*.table.json")
    content = json.loads(table.read_text())
    assert content["columns"] == list(ShownSample._fields)
    assert [row[:2] for row in content["data"]] == [[row, idx] for row in (0, 1, 2) for idx in range(4)][:10]
    rollouts = pd.read_parquet(run_dir / "rollouts.parquet")
    for row_id, sample_idx, prompt, response, _, _, num_tokens, seed, error in content["data"]:
        row = rollouts.loc[row_id]
        assert (prompt, response) == (row["prompt"][-1]["content"], row["responses"][sample_idx])
        assert (num_tokens, seed, error) == (row["num_generated_tokens"][sample_idx], row["seeds"][sample_idx], None)


def test_a_sample_that_failed_is_in_the_table_with_its_error(tmp_path: Path) -> None:
    lines = [{"prompt": "fine"}, {"prompt": "forbidden"}]
    (tmp_path / "input.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    bad = ("engine.echo.refuse_word=forbidden", "data.max_error_fraction=1", "tracking=disabled")
    result = run_fresh(*ECHO, *bad, "data.path=input.jsonl", "hydra.run.dir=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = [sample._asdict() for sample in samples_of(tmp_path / "run/rollouts.parquet", "prompt", 4)]
    assert [row["error"] is None for row in rows] == [True] * 4 + [False] * 4
    assert all((row["response"] is None) == (row["row_id"] == 1) for row in rows)


def test_an_artifact_refers_to_the_outputs_and_copies_none(run_dir: Path) -> None:
    (offline_run,) = offline_runs(run_dir)
    (artifact,) = (artifact for artifact in records(offline_run, "artifact") if artifact["type"] == "rollouts")
    assert artifact["name"] == f"rollouts-{manifest(run_dir)['wandb']['id']}"
    references = {entry["path"]: entry["ref"] for entry in artifact["manifest"]["contents"]}
    names = ("rollouts.parquet", "flat.parquet", "analysis.json", "report.html")
    assert references == {name: (run_dir / name).absolute().as_uri() for name in names}
    assert not list((run_dir / "wandb").rglob("*.parquet"))


def test_disabled_means_that_wandb_is_not_even_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rollout.config import RunConfig, TrackingConfig; "
        "from rollout.store.run_record import begun; from rollout.tracking.tracker import tracked\n"
        "record = begun(RunConfig(tracking=TrackingConfig(mode='disabled')), {})\n"
        "with tracked(Path('.'), record) as tracker: tracker.summarise([])\n"
        "assert 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert not list(tmp_path.iterdir())


def test_the_jobs_of_a_sweep_are_runs_of_one_group_named_by_what_differs(tmp_path: Path) -> None:
    sweep = ("-m", "sampling.temperature=0.3,0.7", "hydra.sweep.dir=outputs/sweep")
    assert run_fresh(*sweep, *ECHO, cwd=tmp_path).returncode == 0
    jobs = [tmp_path / "outputs/sweep" / number for number in "01"]
    about = [manifest(job)["wandb"] for job in jobs]
    assert [job["name"] for job in about] == ["0 sampling.temperature=0.3", "1 sampling.temperature=0.7"]
    assert about[0]["id"] != about[1]["id"]
    for job, expected in zip(jobs, about, strict=True):
        (offline_run,) = offline_runs(job)
        (run,) = (run for run in records(offline_run, "run") if "run_group" in run)
        assert (run["run_id"], run["display_name"]) == (expected["id"], expected["name"])
        assert run["run_group"] == "outputs/sweep"


@pytest.mark.parametrize("error", [KeyError("a bug"), Interrupted(2)])
def test_a_run_that_does_not_end_well_is_marked_failed(tmp_path: Path, error: BaseException) -> None:
    record = begun(RunConfig(), {}, identity(tmp_path, None))
    with pytest.raises(type(error)), tracked(tmp_path, record):
        raise error
    (offline_run,) = offline_runs(tmp_path)
    assert (inspected(offline_run)["state"], inspected(offline_run)["exit_code"]) == ("failed", 1)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield server


@pytest.mark.parametrize("mode", ["offline", "wandb"])
def test_a_resumed_run_goes_on_in_the_same_wandb_run(mode: str, tmp_path: Path, server: WandbServer) -> None:
    slow = ("engine.echo.max_steps=10", "engine.echo.step_seconds=0.02", "tracking.interval_seconds=0.001")
    dying = (*slow, "engine.echo.die_after=30", "engine.max_restarts=0", "tracking.sample_rows=0")
    assert run_fresh(*ECHO, *dying, f"tracking={mode}", "hydra.run.dir=run", cwd=tmp_path).returncode == 1
    run_id = manifest(tmp_path / "run")["wandb"]["id"]
    resumed = run_fresh("run", "engine.echo.die_after=null", "trust=true", cwd=tmp_path, module="rollout.resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "W&B" not in resumed.stdout
    if mode == "offline":
        sessions = offline_runs(tmp_path / "run")
        assert [inspected(session)["state"] for session in sessions] == ["failed", "finished"]
        wandb_tool("sync", *sessions)
    assert set(server.history) == {run_id}
    assert server.resumed == [run_id]
    points = server.history[run_id]
    assert [point["_step"] for point in points] == list(range(len(points)))
    done = [point["progress/samples_done"] for point in points if "progress/samples_done" in point]
    assert done == sorted(done)
    assert done[0] < 30 < done[-1] == 72


@pytest.mark.parametrize("run_id", ["chosen", None])
def test_the_id_that_an_agent_of_wandb_chose_is_recorded(
    run_id: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    if run_id is not None:
        monkeypatch.setenv("WANDB_RUN_ID", run_id)
    words = ("sampling.n_samples=1", "data.limit=1", "postprocess=none", "hydra.run.dir=run")
    assert run_command(*ECHO, *words, cwd=tmp_path).returncode == 0
    (offline,) = offline_runs(tmp_path / "run")
    used = manifest(tmp_path / "run")["wandb"]["id"]
    assert offline.name.endswith(f"-{used}")
    assert run_id in (None, used)

"""W&B cannot hurt a run: whatever its server or its service does, the run finishes, soon, with one warning."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from rollout.process.watchdog import children_named
from tests.commands import command, run_fresh
from tests.tracking.test_tracking import inspected
from tests.wandb_server import refusing_server, silent_server, wandb_server

pytestmark = pytest.mark.long

SHORT = ("tracking.init_timeout=2", "tracking.finish_timeout=2")
SLOW = ("engine.echo.max_steps=20", "engine.echo.step_seconds=0.05")  # about four seconds of 12 x 32 samples
RUN = (
    "engine.kind=echo",
    "hardware=cpu",
    "hydra.run.dir=run",
    "sampling.n_samples=32",
    "tracking.interval_seconds=0.1",
)


def started(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    arguments = command(*RUN, *SHORT, *overrides)
    return subprocess.Popen(arguments, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def only_warning(process: subprocess.Popen[str], folder: Path) -> str:
    """Wait for the run's end; it must have finished, and said nothing of W&B but one warning."""
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert not errors
    assert json.loads((folder / "run/run.json").read_text())["status"] == "done"
    assert json.loads((folder / "run/metrics.jsonl").read_text().splitlines()[-1])["samples_done"] == 384
    (warning,) = (line for line in output.splitlines() if "wandb" in line or "W&B" in line)
    assert " warning: " in warning
    return warning


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)


def test_a_server_that_refuses_means_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", refusing_server())
    began = time.monotonic()
    warning = only_warning(started(tmp_path, "tracking=wandb"), tmp_path)
    assert time.monotonic() - began < 30
    assert "W&B cannot be reached" in warning
    assert "wandb sync run/wandb/offline-run-*" in warning
    assert list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))


def test_a_server_that_never_answers_means_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_server() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        began = time.monotonic()
        assert "W&B cannot be reached" in only_warning(started(tmp_path, "tracking=wandb"), tmp_path)
        assert time.monotonic() - began < 30
    assert list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))


def test_a_server_that_dies_half_way_leaves_the_rest_for_a_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with wandb_server(dies=True) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        began = time.monotonic()
        warning = only_warning(started(tmp_path, "tracking=wandb", *SLOW), tmp_path)
        assert time.monotonic() - began < 30
    assert "W&B failed to summarise (TimeoutError: the server does not answer)" in warning
    assert "`wandb sync run/wandb/*run-*` uploads what W&B had kept" in warning
    (online_run,) = (tmp_path / "run/wandb").glob("run-*")
    summary = inspected(online_run)["summary"]
    assert summary["progress/samples_done"] == 384
    assert summary["totals"]["samples"] == 384


def test_online_without_a_login_means_offline_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))  # where `wandb login` keeps the key
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    warning = only_warning(started(tmp_path, "tracking=wandb", "tracking.init_timeout=100"), tmp_path)
    assert "run `wandb login` or set WANDB_API_KEY" in warning
    assert list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))


@pytest.mark.parametrize(
    ("blow", "says"), [(signal.SIGKILL, "W&B failed to "), (signal.SIGSTOP, "W&B does not come to an end")]
)
def test_a_service_that_dies_or_hangs_does_not_hold_the_run(blow: signal.Signals, says: str, tmp_path: Path) -> None:
    process = started(tmp_path, "tracking=offline", *SLOW)
    deadline = time.monotonic() + 30
    while not list((tmp_path / "run/wandb").glob("offline-run-*/files/requirements.txt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (service,) = children_named("wandb-core", process.pid)
    os.kill(service, blow)
    began = time.monotonic()
    assert says in only_warning(process, tmp_path)
    assert time.monotonic() - began < 30
    assert not children_named("wandb-core", process.pid)


def test_a_place_where_wandb_cannot_write_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/wandb").write_text("a file")
    process = started(tmp_path, "tracking=offline")
    assert "W&B failed to start" in only_warning(process, tmp_path)
    shutil.rmtree(tmp_path / "run")


def test_a_failure_in_one_job_of_a_sweep_leaves_the_next_one_its_own_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with wandb_server(dies=True) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        sweep = ("-m", "sampling.temperature=0.3,0.7", "hydra.sweep.dir=sweep", "tracking=wandb")
        result = run_fresh(*sweep, "engine.kind=echo", "hardware=cpu", *SHORT, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    warnings = [line for line in result.stdout.splitlines() if "warning: W&B" in line]
    assert [("failed to summarise" in line, "cannot be reached" in line) for line in warnings] == [
        (True, False),
        (False, True),
    ]
    assert list((tmp_path / "sweep/1/wandb").glob("offline-run-*/*.wandb"))

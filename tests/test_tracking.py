"""W&B beside a run: what it gets, and that nothing it does can harm."""

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import wandb

from rollout.config import TrackingConfig
from rollout.progress import Snapshot
from rollout.tracking import WandbRun, wandb_run
from tests.commands import run_command

NOW = Snapshot(1.0, 5, 10, 5, 0, 7, 50, 50.0, 60.0, 1.0, 3, 2)


def offline_summary(run_dir: Path) -> dict[str, Any]:
    """What W&B's own reader finds in the offline run."""
    (folder,) = (run_dir / "wandb").glob("offline-run-*")
    inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(folder)]
    output = subprocess.run(inspect, capture_output=True, text=True, check=True).stdout
    content: dict[str, Any] = json.loads(output)
    return content


def test_an_offline_run_holds_totals_and_series(tmp_path: Path) -> None:
    result = run_command("engine.kind=echo", "hardware=cpu", "hydra.run.dir=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    text = json.dumps(offline_summary(tmp_path / "run"))
    manifest = json.loads((tmp_path / "run/run.json").read_text())
    assert "throughput/output_tok_s" in text
    assert "progress/samples_done" in text
    assert str(manifest["totals"]["generated_tokens"]) in text


def test_disabled_means_that_wandb_is_not_even_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rollout.config import TrackingConfig; "
        "from rollout.tracking import wandb_run\n"
        "with wandb_run(Path('.'), TrackingConfig(mode='disabled'), {}, None) as run: run.summarise({}, [])\n"
        "assert 'wandb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def silent_server() -> Any:
    """A server on this machine that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for connection in held:
            connection.close()


def test_a_server_that_never_answers_costs_the_timeout_and_one_warning(
    tmp_path: Path, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", silent_server)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    began = time.monotonic()
    arguments = ["engine.kind=echo", "hardware=cpu", "tracking=wandb", "tracking.init_timeout=3", "hydra.run.dir=run"]
    result = run_command(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - began < 33
    assert result.stdout.count("warning: W&B") == 1
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "done"
    assert list((tmp_path / "run/wandb").glob("offline-run-*"))


def test_a_failure_of_wandb_is_one_warning_and_then_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("no space in the cloud")

    run = WandbRun(tmp_path, TrackingConfig(mode="disabled"), {}, None)
    run._run = Broken()
    with caplog.at_level(logging.WARNING, logger="rollout"):
        run.log(NOW)
        run.log(NOW)
        run.summarise({}, [])
        run.finish(0)
    assert [record.getMessage() for record in caplog.records] == [
        "W&B failed to log, going on without it: RuntimeError: no space in the cloud"
    ]


def test_a_run_that_fails_closes_its_wandb_run(tmp_path: Path) -> None:
    def fail() -> None:
        with wandb_run(tmp_path, TrackingConfig(mode="offline"), {}, None) as run:
            assert run._run is wandb.run is not None
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert wandb.run is None  # otherwise the next job of a sweep would go on writing to it

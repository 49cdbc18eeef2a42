"""Real vLLM on two replicas: the bytes of one, also when a replica is killed while it works."""

import json
import os
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.commands import command, run_fresh
from tests.conftest import chat, write_input
from tests.processes import REPLICA, alive, family, wait_until
from tests.tiny_model import KILLABLE_RUN, write_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")]

ROWS, N_SAMPLES = 80, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, an input, and what one engine makes of it."""
    folder = tmp_path_factory.mktemp("replicas_vllm")
    write_tiny_model(folder / "model")
    write_input(folder / "input.parquet", [{"prompt": chat(f"question {number % 9}")} for number in range(ROWS)])
    one = run_fresh(*KILLABLE_RUN, "hydra.run.dir=one", cwd=folder)
    assert one.returncode == 0, one.stderr
    return folder


def assert_as_one_engine(run_dir: Path) -> None:
    for output in ("rollouts.parquet", "flat.parquet", "analysis.json"):
        assert (run_dir / output).read_bytes() == (run_dir.parent / "one" / output).read_bytes()
    assert sum(pq.read_metadata(path).num_rows for path in run_dir.glob("samples/part-*")) == ROWS * N_SAMPLES


def test_two_replicas_write_the_bytes_of_one_engine(folder: Path) -> None:
    result = run_fresh(*KILLABLE_RUN, "hardware.replicas=2", "hydra.run.dir=two", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert_as_one_engine(folder / "two")
    replicas = json.loads((folder / "two/run.json").read_text())["engine"]["replicas"]
    assert all(replica["samples"] > 0 and replica["load_seconds"] > 0 for replica in replicas)
    assert all("vllm" in path.read_text().lower() for path in (folder / "two/logs").iterdir())


def test_a_replica_that_is_killed_is_started_again_and_the_bytes_are_the_same(folder: Path) -> None:
    process = subprocess.Popen(
        command(*KILLABLE_RUN, "hardware.replicas=2", "hydra.run.dir=killed"),
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: process.poll() is not None or list(folder.glob("killed/samples/part-*")), 180)
    assert process.poll() is None, process.communicate()
    members = family(process.pid)
    os.kill(min(family(process.pid, REPLICA)), signal.SIGKILL)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "starting it again" in output
    assert json.loads((folder / "killed/run.json").read_text())["engine"]["restarts"] == 1
    assert_as_one_engine(folder / "killed")
    wait_until(lambda: not alive(members), 15)

"""Real vLLM, killed while it works and resumed: the bytes of a run that nothing disturbed."""

import json
import os
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.commands import command
from tests.conftest import chat, write_input
from tests.one_process import do_all
from tests.processes import REPLICA, alive, family, wait_until
from tests.tiny_model import KILLABLE_RUN, write_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.chaos]

ROWS, N_SAMPLES = 48, 4


def parts(run_dir: Path) -> set[Path]:
    return set(run_dir.glob("samples/part-*"))


def num_durable(run_dir: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in parts(run_dir))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, an input, and a run on one engine that was `killed` while it worked.

    And what a process with one engine makes of them: in `one` of the input, in `on_one` of a copy of `killed`.
    """
    folder = tmp_path_factory.mktemp("killed_vllm")
    write_tiny_model(folder / "model")
    write_input(folder / "input.parquet", [{"prompt": chat(f"question {number % 9}")} for number in range(ROWS)])
    kill_half_way(folder)
    shutil.copytree(folder / "killed", folder / "on_one")
    do_all([(folder, [*KILLABLE_RUN, "hydra.run.dir=one"]), (folder, ["resume", "on_one"])])
    return folder


def kill_half_way(folder: Path) -> None:
    process = subprocess.Popen(
        command(*KILLABLE_RUN, "hydra.run.dir=killed"),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: process.poll() is not None or len(parts(folder / "killed")) >= 2, 180)
    assert process.poll() is None
    process.kill()
    process.wait()
    assert 0 < num_durable(folder / "killed") < ROWS * N_SAMPLES


def assert_as_undisturbed(run_dir: Path) -> None:
    """The same files to the byte, and no sample was generated twice."""
    for output in ("rollouts.parquet", "flat.parquet", "analysis.json"):
        assert (run_dir / output).read_bytes() == (run_dir.parent / "one" / output).read_bytes()
    assert num_durable(run_dir) == ROWS * N_SAMPLES


def test_one_engine_goes_on(folder: Path) -> None:
    assert_as_undisturbed(folder / "on_one")


@pytest.mark.ray
@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
def test_two_replicas_go_on_and_one_that_is_killed_is_started_again(folder: Path) -> None:
    run_dir = Path(shutil.copytree(folder / "killed", folder / "on_two"))
    before = parts(run_dir)
    process = subprocess.Popen(
        command("on_two", "hardware.replicas=2", module="rollout.resume"),
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: process.poll() is not None or parts(run_dir) > before, 180)
    assert process.poll() is None, process.communicate()
    members = family(process.pid)
    os.kill(min(family(process.pid, REPLICA)), signal.SIGKILL)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "starting it again" in output
    engine = json.loads((run_dir / "run.json").read_text())["engine"]
    assert engine["restarts"] == 1
    undisturbed, _ = sorted(engine["replicas"], key=lambda replica: int(replica["restarts"]))
    # the other one may be ready again only when everything is done
    assert undisturbed["samples"] > 0
    assert undisturbed["load_seconds"] > 0
    assert all("vllm" in path.read_text().lower() for path in (run_dir / "logs").iterdir())
    assert_as_undisturbed(run_dir)
    wait_until(lambda: not alive(members), 15)

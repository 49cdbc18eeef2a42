"""SIGKILL at random moments, then resume until done: every sample exactly once, and the bytes of an undisturbed run."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.commands import ECHO, command, run_command
from tests.conftest import chat, write_input, write_mixed_input
from tests.tiny_model import KILLABLE_RUN, write_tiny_model

ROWS, N_SAMPLES, FLUSH_SECONDS = 1000, 4, 0.4
OUTPUTS = ("rollouts.parquet", "flat.parquet", "analysis.json")
RUN = (
    *ECHO,
    "data.path=input.parquet",
    f"sampling.n_samples={N_SAMPLES}",
    "data.max_error_fraction=1",
    "engine.echo.refuse_word=refuseme",
    "engine.echo.step_seconds=0.01",  # with these, a run takes two to three seconds
    "engine.echo.max_steps=15",
    f"store.flush_seconds={FLUSH_SECONDS}",
    "store.flush_samples=500",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An input with equal prompts, bad rows and refused rows, and a run of it that nothing disturbed."""
    folder = tmp_path_factory.mktemp("chaos")
    write_mixed_input(folder / "input.parquet", ROWS)
    undisturbed = run_command(*RUN, "hydra.run.dir=undisturbed", cwd=folder)
    assert undisturbed.returncode == 0, undisturbed.stderr
    return folder


def start_or_resume(folder: Path, name: str) -> subprocess.Popen[bytes]:
    """What a person would type: resume if there is a run, else the command again."""
    there = (folder / name / "run.json").exists()
    arguments = command(name, module="rollout.resume") if there else command(*RUN, f"hydra.run.dir={name}")
    return subprocess.Popen(arguments, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def kill_after(process: subprocess.Popen[bytes], seconds: float) -> None:
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()


def kill_while_finalizing(process: subprocess.Popen[bytes], run_dir: Path) -> None:
    """Kill once rollouts.parquet is being written (or right after, when this process is too slow to see it)."""
    while process.poll() is None:
        if (run_dir / ".rollouts.parquet.partial").exists() or (run_dir / "rollouts.parquet").exists():
            process.send_signal(signal.SIGKILL)
            process.wait()
        time.sleep(0.0005)


def finish(folder: Path, name: str) -> None:
    process = start_or_resume(folder, name)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


def assert_as_undisturbed(folder: Path, name: str) -> None:
    for output in OUTPUTS:
        assert (folder / name / output).read_bytes() == (folder / "undisturbed" / output).read_bytes()
    flat = pd.read_parquet(folder / name / "flat.parquet", columns=["row_id", "sample_idx"])
    assert len(flat) == ROWS * N_SAMPLES
    assert not flat.duplicated().any()
    assert not list((folder / name).rglob(".*.partial"))


@pytest.mark.parametrize("seed", range(25))
def test_killed_at_random_and_resumed_until_done(seed: int, folder: Path) -> None:
    rng, name = random.Random(seed), f"random-{seed}"
    for _ in range(rng.choice([1, 1, 2, 3])):  # the second and third kill hit the resuming process
        process = start_or_resume(folder, name)
        kill_after(process, rng.uniform(0.3, 3.0))
    finish(folder, name)
    assert_as_undisturbed(folder, name)


@pytest.mark.parametrize("number", range(6))
def test_killed_while_finalizing(number: int, folder: Path) -> None:
    name = f"finalizing-{number}"
    process = start_or_resume(folder, name)
    if number % 2:
        kill_after(process, 1.5)
        process = start_or_resume(folder, name)
    kill_while_finalizing(process, folder / name)
    finish(folder, name)
    assert_as_undisturbed(folder, name)


def test_a_kill_costs_at_most_the_flush_interval(folder: Path) -> None:
    """Samples finish all the time here, so what is lost is what came after the newest part was written."""
    name, lost = "interval", []
    samples = folder / name / "samples"
    for pause in (0.1, 0.25, 0.4):  # from the first part on: how long a start takes is the machine's affair
        process, before = start_or_resume(folder, name), set(samples.glob("part-*"))
        while set(samples.glob("part-*")) <= before:
            assert process.poll() is None
            time.sleep(0.005)
        kill_after(process, pause)
        lost.append(time.time() - max(path.stat().st_mtime for path in samples.glob("part-*")))
    finish(folder, name)
    assert max(lost) <= FLUSH_SECONDS + 0.25  # and what a step, a write and this test take


@pytest.mark.slow
def test_real_vllm_killed_and_resumed_writes_the_same_bytes(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "model")
    write_input(tmp_path / "input.parquet", [{"prompt": chat(f"question {number % 9}")} for number in range(40)])
    process = subprocess.Popen(
        command(*KILLABLE_RUN, "hydra.run.dir=killed"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(list(tmp_path.glob("killed/samples/part-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    durable = sum(pq.read_metadata(path).num_rows for path in tmp_path.glob("killed/samples/part-*"))
    assert 0 < durable < 160
    resumed = run_command("killed", cwd=tmp_path, module="rollout.resume")
    assert resumed.returncode == 0, resumed.stderr
    assert run_command(*KILLABLE_RUN, "hydra.run.dir=undisturbed", cwd=tmp_path).returncode == 0
    for output in OUTPUTS:
        assert (tmp_path / "killed" / output).read_bytes() == (tmp_path / "undisturbed" / output).read_bytes()

"""SIGKILL at random moments, then resume until done: every sample exactly once, and the bytes of an undisturbed run.

`rollout watch` looks on all the time: it has no error, counts right what is durable, and leaves the run alone.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.watch import check, untouched, watch_until_killed
from tests.commands import ECHO, Running, run_command, start_command
from tests.conftest import write_mixed_input

pytestmark = pytest.mark.chaos

ROWS, N_SAMPLES, FLUSH_SECONDS = 1000, 4, 0.4
OUTPUTS = ("rollouts.parquet", "flat.parquet", "analysis.json")
RUN = (
    *ECHO,
    "data.path=input.parquet",
    f"sampling.n_samples={N_SAMPLES}",
    "sampling.logprobs=raw",
    "model.reasoning_parser=qwen3",
    "engine.echo.think_tokens=5",
    "data.max_error_fraction=1",
    "engine.echo.refuse_word=refuseme",
    "engine.echo.step_seconds=0.005",  # with these, it samples for a second or two
    "engine.echo.max_steps=15",
    f"store.flush_seconds={FLUSH_SECONDS}",
    "store.flush_samples=500",
)


@dataclass(frozen=True)
class Undisturbed:
    """A run that nothing disturbed, and the folder of the other runs of the same input."""

    folder: Path
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Its input has equal prompts, bad rows and refused rows."""
    folder = tmp_path_factory.mktemp("chaos")
    write_mixed_input(folder / "input.parquet", ROWS)
    run_command("--version", cwd=folder)  # the first command waits for what the others share
    began = time.monotonic()
    result = run_command(*RUN, "hydra.run.dir=undisturbed", cwd=folder)
    assert result.returncode == 0, result.stderr
    return Undisturbed(folder, time.monotonic() - began)


def start_or_resume(folder: Path, name: str, *overrides: str) -> Running:
    """What a person would type: resume if there is a run, else the command again."""
    if (folder / name / "run.json").exists():
        return start_command(name, cwd=folder, module="rollout.resume")
    return start_command(*RUN, f"hydra.run.dir={name}", *overrides, cwd=folder)


def kill_after(process: Running, seconds: float) -> None:
    time.sleep(seconds)
    process.kill()
    process.wait()


def kill_while_finalizing(process: Running, run_dir: Path) -> None:
    """Kill once rollouts.parquet is being written (or right after, when this process is too slow to see it)."""
    while process.poll() is None:
        if (run_dir / ".rollouts.parquet.partial").exists() or (run_dir / "rollouts.parquet").exists():
            process.kill()
            process.wait()
        time.sleep(0.0005)


def finish(folder: Path, name: str) -> None:
    process = start_or_resume(folder, name)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module", autouse=True)
def _watching_leaves_the_runs_alone(undisturbed: Undisturbed) -> Iterator[None]:
    with untouched(undisturbed.folder):
        yield


def assert_as_undisturbed(folder: Path, name: str) -> None:
    for output in OUTPUTS:
        assert (folder / name / output).read_bytes() == (folder / "undisturbed" / output).read_bytes()
    flat = pd.read_parquet(folder / name / "flat.parquet", columns=["row_id", "sample_idx"])
    assert len(flat) == ROWS * N_SAMPLES
    assert not flat.duplicated().any()
    assert not list((folder / name).rglob(".*.partial"))


@pytest.mark.parametrize("seed", [1, 3, 4, 6])
def test_killed_at_random_and_while_finalizing_and_resumed_until_done(seed: int, undisturbed: Undisturbed) -> None:
    """Two to seven kills at random moments; the second and later ones hit the resuming process."""
    folder, name, rng = undisturbed.folder, f"killed-{seed}", random.Random(seed)
    for kill in range(1 + seed % 7):
        moment = rng.uniform(0.05, 1.0) * undisturbed.seconds
        watch_until_killed(start_or_resume(folder, name), folder / name, moment, pause=0.02)
        check(folder / name, folder / f"{name}.html" if kill == 0 else None)
    if seed % 2:
        kill_while_finalizing(start_or_resume(folder, name), folder / name)
    finish(folder, name)
    assert_as_undisturbed(folder, name)


@pytest.mark.parametrize("number", range(2))
def test_killed_while_finalizing_alone(number: int, undisturbed: Undisturbed) -> None:
    folder, name = undisturbed.folder, f"finalizing-{number}"
    kill_while_finalizing(start_or_resume(folder, name), folder / name)
    finish(folder, name)
    assert_as_undisturbed(folder, name)


def test_a_kill_costs_at_most_the_flush_interval(undisturbed: Undisturbed) -> None:
    """Samples finish all the time here, so what is lost is what came after the newest part was written."""
    folder, name, lost = undisturbed.folder, "interval", []
    samples = folder / name / "samples"
    for pause in (0.1, 0.25, 0.4):  # from the first part on: how long a start takes is the machine's affair
        before = set(samples.glob("part-*"))
        process = start_or_resume(folder, name, "engine.echo.step_seconds=0.02")
        while set(samples.glob("part-*")) <= before:
            assert process.poll() is None
            time.sleep(0.005)
        kill_after(process, pause)
        lost.append(time.time() - max(path.stat().st_mtime for path in samples.glob("part-*")))
    finish(folder, name)
    assert max(lost) <= FLUSH_SECONDS + 0.25  # and what a step, a write and this test take

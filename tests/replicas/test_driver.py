"""The driver of several engines, on engines that die at the worst moments and whose process this one is."""

import io
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from rollout.config import RunConfig
from rollout.engine.protocol import EngineStats
from rollout.errors import EngineDied, UserError
from rollout.generation.session import Session
from rollout.preflight import preflight
from rollout.process.signals import StopRequest
from rollout.records import Outcome, Sample
from rollout.replicas.dispatcher import Task
from rollout.replicas.driver import Driver
from rollout.replicas.messages import Job, Ready, ReplicaLost, Report
from rollout.store.journal import Journal, finished
from rollout.store.lock import locked
from rollout.store.run_record import ReplicaRecord, begun
from rollout.tracking.tracker import tracked
from tests.commands import ECHO
from tests.conftest import chat, composed, write_input

READY = Ready(4, 8, 0.0, False, "", None, "here", "", None)
NOTHING = EngineStats(0, 0, 0)


class Scripted:
    """Replicas that do all they are given at once; the first life of replica 0 ends as `death` says."""

    count = num_connected = 2

    def __init__(self, run: RunConfig, death: str) -> None:
        self._run, self._death = run, death
        self._jobs: dict[int, Job] = {}
        self._asked: list[tuple[int, list[Task]]] = []
        self._journals: dict[int, Journal] = {}
        self.replaced = 0

    def start(self, index: int, job: Job) -> None:
        self._jobs[index], self._journals[index] = job, Journal(job.run_dir, self._run.store, job.writer)

    def ask(self, index: int, tasks: list[Task], flush: bool, seconds: float) -> None:
        self._asked.append((index, tasks))

    def answers(self, seconds: float) -> Iterator[tuple[int, Report | ReplicaLost]]:
        asked, self._asked = self._asked, []
        for index, tasks in asked:
            if self._death.startswith("refused: "):
                yield index, Report(None, [], 0, NOTHING, UserError(self._death.removeprefix("refused: ")))
                continue
            samples = [done(task.prompt.row_id, sample) for task in tasks for sample in task.sample_indices]
            outcomes = [Outcome(each.row_id, each.sample_idx, 3, 5, None) for each in samples]
            dies = bool(samples) and index == 0 and self.replaced == 0
            if self._death == "stored elsewhere":
                dies = False
            elif not dies or self._death == "stored, not told":
                for sample in samples:
                    self._journals[index].add(sample)
                self._journals[index].flush()
            durable = 0 if dies else len(samples)
            if dies and self._death == "stored, not told":
                yield index, ReplicaLost("its process ended")
            else:
                error = EngineDied("its engine died") if dies else None
                yield index, Report(READY, outcomes, durable, NOTHING, error)

    def replace(self, index: int) -> None:
        self.replaced += 1

    def stop(self) -> None: ...

    def shutdown(self) -> None: ...


def done(row_id: int, sample_idx: int) -> Sample:
    return Sample(row_id, sample_idx, 1, "text", "stop", 3, 5)


def driven(folder: Path, death: str, *overrides: str) -> tuple[Scripted, list[ReplicaRecord], pd.DataFrame]:
    """A run on such replicas: the replicas, what run.json would say of them, the journal."""
    source = write_input(folder / "input.parquet", [{"prompt": chat(str(row))} for row in range(30)])
    run = composed(*ECHO, f"data.path={source}", "sampling.n_samples=2", *overrides)
    table, run_dir = preflight(run), folder / "run"
    record = begun(run, {})
    replicas = Scripted(run, death)
    with locked(run_dir), tracked(run_dir, record) as tracker:
        session = Session(record, table, run_dir, Console(file=io.StringIO()), tracker, StopRequest())
        driver = Driver(session, replicas, finished(run_dir, session.counts))
        final = driver.run()
    assert (final.samples_done, final.generated_tokens) == (60, 300)
    journal = pd.concat(pd.read_parquet(path) for path in run_dir.glob("samples/*.parquet"))
    return replicas, driver.about(), journal


@pytest.mark.parametrize("death", ["stored, not told", "told, not stored"])
def test_what_a_replica_takes_with_it_is_generated_again_and_what_it_left_is_not(death: str, tmp_path: Path) -> None:
    replicas, about, journal = driven(tmp_path, death)
    assert replicas.replaced == sum(replica.restarts for replica in about) == 1
    assert len(journal) == 60
    assert not journal.duplicated(["row_id", "sample_idx"]).any()
    assert sum(replica.samples for replica in about) == 60
    assert sum(replica.generated_tokens for replica in about) == 300


def test_a_run_does_not_end_well_before_what_other_machines_wrote_is_seen_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.replicas.driver._SHARED_SECONDS", 0.5)
    with pytest.raises(UserError, match="what other machines wrote does not appear here"):
        driven(tmp_path, "stored elsewhere")


def test_a_replica_that_may_not_be_started_again_ends_the_run_with_the_command_that_continues_it(
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError) as refusal:
        driven(tmp_path, "told, not stored", "engine.max_restarts=0")
    (line,) = refusal.value.problems
    assert line.startswith("engine.max_restarts=0: replica 0 died once more (its engine died); see ")
    assert "python -m rollout resume " in line


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            "hardware.gpu_memory_utilization=0.45: the weights of m leave no memory for samples; raise it",
            "hardware.replicas_per_gpu=2: each engine has that part of the memory; lower it, or: "
            "hardware.gpu_memory_utilization=0.45: the weights of m leave no memory for samples; raise it",
        ),
        (
            "sampling.max_tokens=9000: the context holds 8192 tokens; lower it",
            "sampling.max_tokens=9000: the context holds 8192 tokens; lower it",
        ),
    ],
)
def test_memory_that_does_not_suffice_on_a_shared_gpu_is_explained_by_the_sharing(
    line: str, shown: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refusal:
        driven(tmp_path, f"refused: {line}", "hardware.device=cuda", "hardware.replicas_per_gpu=2")
    assert refusal.value.problems == (shown,)

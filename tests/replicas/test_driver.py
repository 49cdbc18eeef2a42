"""The driver of several engines, on engines that die at the worst moments and whose process this one is."""

import io
import json
import signal
import time
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
from rollout.process.signals import Interrupted, StopRequest
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

READY = Ready(4, 8, 0.0, False, "", "user: 0", "here", "", None)
NOTHING = EngineStats(0, 0, 0)
DEATHS = ("stored, not told", "told, not stored")
FAILS_TOO = "replica 1 fails at the end"


class Scripted:
    """Replicas that do all they are given at once; the first life of replica 0 ends as `death` says."""

    count = num_connected = 2

    def __init__(self, run: RunConfig, death: str) -> None:
        """`late: N` is of a replica that is never ready."""
        self._run, self._death = run, death
        self._late = int(death.removeprefix("late: ")) if death.startswith("late: ") else None
        self._jobs: dict[int, Job] = {}
        self._asked: list[tuple[int, list[Task]]] = []
        self._begun, self._hung = time.monotonic(), False
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
            if index == self._late:
                yield index, Report(None, [], 0, NOTHING, None)
                continue
            if self._death == "hangs a while" and index == 0 and tasks and not self._hung:
                self._asked.append((index, tasks))
                self._hung = time.monotonic() > self._begun + 0.3
                yield index, Report(READY, [], 0, NOTHING, None)
                continue
            samples = [done(task.prompt.row_id, sample) for task in tasks for sample in task.sample_indices]
            outcomes = [Outcome(each.row_id, each.sample_idx, 3, 5, None) for each in samples]
            dies = bool(samples) and index == 0 and self.replaced == 0 and self._death in DEATHS
            if self._death != "stored elsewhere" and (not dies or self._death == DEATHS[0]):
                for sample in samples:
                    self._journals[index].add(sample)
                self._journals[index].flush()
            durable = 0 if dies else len(samples)
            if dies and self._death == DEATHS[0]:
                yield index, ReplicaLost("its process ended")
            else:
                error = EngineDied("its engine died") if dies else None
                self._late = 0 if dies else self._late  # its next engine takes long
                yield index, Report(READY, outcomes, durable, NOTHING, error)

    def replace(self, index: int) -> None:
        self.replaced += 1

    def stop(self) -> list[tuple[int, Exception]]:
        return [(1, OSError("no space left"))] if self._death == FAILS_TOO else []

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
    assert not driver.reused(otherwise=True)  # the replicas were there, and loaded their engines anew
    journal = pd.concat(pd.read_parquet(path) for path in run_dir.glob("samples/*.parquet"))
    return replicas, driver.about(), journal


@pytest.mark.parametrize("death", DEATHS)
def test_what_a_replica_takes_with_it_is_generated_again_and_what_it_left_is_not(death: str, tmp_path: Path) -> None:
    replicas, about, journal = driven(tmp_path, death)
    assert replicas.replaced == sum(replica.restarts for replica in about) == 1
    assert len(journal) == 60
    assert not journal.duplicated(["row_id", "sample_idx"]).any()
    assert sum(replica.samples for replica in about) == 60
    assert sum(replica.generated_tokens for replica in about) == 300


def test_a_replica_that_died_and_was_not_ready_again_still_has_what_it_did_in_the_record(tmp_path: Path) -> None:
    _, about, _ = driven(tmp_path, "told, not stored")
    assert [replica.host for replica in about] == ["here", "here"]
    assert about[0].samples == 0


def test_what_fails_in_a_replica_at_the_end_and_was_in_no_report_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    driven(tmp_path, FAILS_TOO)
    assert "replica 1 has failed: no space left" in caplog.messages


@pytest.mark.parametrize("late", [0, 1])
def test_the_others_do_the_work_of_a_replica_that_is_never_ready_and_the_log_says_so(
    late: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Also what the model reads, which the first that is ready tells."""
    caplog.set_level("INFO", "rollout")
    _, about, _ = driven(tmp_path, f"late: {late}")
    assert [replica.samples for replica in about] == [60 * late, 60 * (1 - late)]
    assert about[late].host is None
    assert f"replica {late} was not ready when all was done" in caplog.messages
    assert "first prompt, rendered (row 0): 'user: 0'" in caplog.messages
    assert sum(message.startswith("sampling: ") for message in caplog.messages) == 1


def test_a_replica_that_has_samples_to_make_and_makes_no_token_is_named_with_the_process_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rollout.replicas.state._QUIET_SECONDS", 0.1)
    driven(tmp_path, "hangs a while")
    (told,) = [message for message in caplog.messages if "no token" in message]
    assert told.startswith(
        "replica 0 has made no token for two minutes, with 8 samples to make; if it hangs, `kill -9 "
    )
    assert told.endswith(" on here ends it, and it is started again")


def test_replicas_that_ray_has_no_room_for_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rollout.replicas.log._PLACE_SECONDS", -1.0)
    monkeypatch.setattr(Scripted, "num_connected", 1)
    driven(tmp_path, "late: 1")
    told = "Ray has found a place for 1 of 2 replicas; the others wait for CPUs or GPUs that others hold"
    assert caplog.messages.count(told) == 1


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


def test_what_replicas_make_durable_after_a_signal_is_in_the_last_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stores one sample more while it stops, which no report has told."""
    stop = StopRequest()

    def answers(self: Scripted, seconds: float) -> Iterator[tuple[int, Report | ReplicaLost]]:
        yield from whole_answers(self, seconds)
        if self._journals[0].num_durable:
            stop.handle(signal.SIGINT, None)

    def store(self: Scripted) -> list[tuple[int, Exception]]:
        for index, journal in self._journals.items():
            journal.add(done(29, index))
            journal.flush()
        return []

    whole_answers = Scripted.answers
    monkeypatch.setattr(Scripted, "answers", answers)
    monkeypatch.setattr(Scripted, "stop", store)
    monkeypatch.setattr("tests.replicas.test_driver.StopRequest", lambda: stop)
    with pytest.raises(Interrupted):
        driven(tmp_path, "")
    journal = pd.concat(pd.read_parquet(path) for path in tmp_path.glob("run/samples/*.parquet"))
    last = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert 2 < len(journal) < 60
    assert (last["samples_done"], last["samples_total"]) == (len(journal), 60)

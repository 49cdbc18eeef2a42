"""Rows that a rule stops, on several engines that die at any moment: what is durable is what the rule asks for."""

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rollout.config import AdaptiveConfig, DataConfig, RunConfig, SamplingConfig, ScoreConfig, StoreConfig
from rollout.data.prompts import open_input
from rollout.data.row_sampling import SampleCounts
from rollout.records import Outcome, Sample, failed_sample
from rollout.replicas.rounds import Rounds
from rollout.store.journal import Journal
from rollout.store.judged import Survey, Telling, judged
from tests.conftest import chat, write_input

ROWS, BUDGET, REPLICAS = 40, 9, 3


def run_of(folder: Path) -> RunConfig:
    rows = [{"prompt": None if row % 11 == 3 else chat(f"{row}"), "rate": row / ROWS} for row in range(ROWS)]
    run = RunConfig(data=DataConfig(path=str(write_input(folder / "input.parquet", rows))))
    run.sampling = SamplingConfig(n_samples=BUDGET)
    run.adaptive = AdaptiveConfig(until="passes", rounds=[2, 1, 3])
    run.postprocess.score = ScoreConfig(scorer="regex", pattern="x")
    return run


def sample_of(row_id: int, index: int, luck: int) -> Sample:
    """Always the same text; `luck` says what else a sample is, as kernels do whose rounding differs."""
    if row_id % 11 == 3:
        return failed_sample(row_id, index, 0, "no prompt")
    passes = random.Random(f"{row_id} {index} {luck}").random() < row_id / ROWS / 2
    return Sample(row_id, index, 0, "a", "stop", 1, 2, is_scored=True, score=float(passes))


class Simulation:
    """Replicas that take, score, store, tell and die in any order."""

    def __init__(self, folder: Path, seed: int, luck: Iterator[int]) -> None:
        self.run, self.folder, self.random, self.luck = run_of(folder), folder, random.Random(seed), luck
        table = open_input(self.run.data)
        self.counts = SampleCounts.equal(ROWS, BUDGET)
        session: Any = SimpleNamespace(run=self.run, run_dir=folder, table=table, counts=self.counts)
        self.settled = [0, 0]
        self.rounds = Rounds(session, self.survey(failed_too=False).num_owed, REPLICAS, self.settle)
        self.dispatcher = self.rounds.dispatcher
        self.held: list[list[tuple[int, int]]] = [[] for _ in range(REPLICAS)]
        self.told: list[list[Sample]] = [[] for _ in range(REPLICAS)]
        self.stored: list[list[Sample]] = [[] for _ in range(REPLICAS)]
        self.telling = Telling.of(self.run)

    def survey(self, failed_too: bool = True) -> Survey:
        return judged(self.folder, self.counts, self.run).survey(failed_too)

    def settle(self, spared: int, settled: int) -> None:
        self.settled[0] += spared
        self.settled[1] += settled

    def outcomes(self, samples: list[Sample]) -> list[Outcome]:
        return list(map(self.telling.outcome, samples))

    def work(self, replica: int) -> None:
        for task in self.dispatcher.take(replica, self.random.randint(1, 12)):
            self.held[replica] += [(task.prompt.row_id, index) for index in task.sample_indices]
        self.random.shuffle(self.held[replica])
        count = self.random.randint(0, len(self.held[replica]))
        done, self.held[replica] = self.held[replica][:count], self.held[replica][count:]
        samples = [sample_of(row_id, index, next(self.luck)) for row_id, index in done]
        self.dispatcher.finished(replica, self.outcomes(samples))
        self.rounds.hear(self.outcomes(samples), lambda: self.dispatcher.prompts_of(replica))
        self.told[replica] += samples

    def store(self, replica: int) -> None:
        count = self.random.randint(0, len(self.told[replica]))
        durable, self.told[replica] = self.told[replica][:count], self.told[replica][count:]
        self.stored[replica] += durable
        self.dispatcher.durable(replica, count)

    def die(self, replica: int) -> None:
        prompts = self.dispatcher.prompts_of(replica)
        lost, found = self.dispatcher.requeue(replica, self.outcomes(self.stored[replica]))
        self.rounds.forget(lost, prompts)
        self.rounds.hear(found, lambda: prompts)
        self.held[replica], self.told[replica] = [], []

    def to_the_end(self, deaths: int) -> None:
        for step in range(10_000):
            if self.dispatcher.is_done:
                return
            replica = self.random.randrange(REPLICAS)
            self.work(replica)
            if step < 20 * deaths and self.random.random() < 0.1:
                self.die(replica)
            self.store(replica)
        raise AssertionError("there is no end to it")

    def write(self) -> None:
        """What all replicas have stored, as their parts of the journal."""
        journal = Journal(self.folder, StoreConfig(), extras=self.run.extra_columns)
        for sample in (sample for samples in self.stored for sample in samples):
            journal.add(sample)
        journal.flush()


def nothing() -> Iterator[int]:
    while True:
        yield 0


def rounding(seed: int) -> Iterator[int]:
    drawn = random.Random(seed)
    while True:
        yield drawn.randint(0, 3)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("repeats", [True, False])
def test_what_is_durable_in_the_end_is_what_the_rule_asks_for(seed: int, repeats: bool, tmp_path: Path) -> None:
    """Also where a sample that is generated again is not the one that was lost, as on GPUs."""
    simulation = Simulation(tmp_path, seed, nothing() if repeats else rounding(seed))
    simulation.to_the_end(deaths=seed)
    simulation.write()
    survey = simulation.survey()
    assert survey.is_complete
    assert simulation.settled == [ROWS * BUDGET - len(everything(simulation)), ROWS * BUDGET] or not repeats
    if repeats:
        found = judged(tmp_path, simulation.counts, simulation.run).selection()
        assert everything(simulation) == {(row, index) for row in range(ROWS) for index in range(found.counts.of(row))}


def everything(simulation: Simulation) -> set[tuple[int, int]]:
    return {(sample.row_id, sample.sample_idx) for samples in simulation.stored for sample in samples}


def test_a_second_session_asks_for_nothing_that_is_there(tmp_path: Path) -> None:
    first = Simulation(tmp_path, 1, nothing())
    for step in range(30):
        first.work(step % REPLICAS)
        first.store(step % REPLICAS)
    first.write()
    before = everything(first)
    second = Simulation(tmp_path, 2, nothing())
    second.to_the_end(deaths=2)
    again = everything(second) & before
    assert all(row % 11 == 3 for row, _ in again)  # which are tried again
    second.write()
    assert second.survey().is_complete

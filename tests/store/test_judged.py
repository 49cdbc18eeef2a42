"""The journal of a run that scores while it samples: durable without a score, and with it as soon as it is there."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rollout.config import AdaptiveConfig, RunConfig, SamplingConfig, ScoreConfig, StoreConfig
from rollout.data.row_sampling import SampleCounts
from rollout.records import Sample, failed_sample
from rollout.store.journal import Journal, parts
from rollout.store.journal_reader import Scores, Unscored
from rollout.store.judged import Telling, judged, outcomes_of

RUN = RunConfig(
    sampling=SamplingConfig(n_samples=4),
    adaptive=AdaptiveConfig(until="passes", rounds=[2]),
)
RUN.postprocess.score = ScoreConfig(scorer="exact_match", ground_truth="answer")
COUNTS = SampleCounts.equal(3, 4)


def made(row_id: int, index: int) -> Sample:
    return Sample(row_id, index, 7, f"answer {row_id}-{index}", "stop", 3, 5)


def scored(sample: Sample, score: float | None, error: str | None = None) -> Sample:
    return replace(sample, is_scored=True, score=score, score_error=error)


def rows_of(run_dir: Path) -> list[tuple[int, int, bool | None]]:
    return [
        (row["row_id"], row["sample_idx"], row["is_scored"])
        for path in parts(run_dir)
        for row in pq.read_table(path).to_pylist()
    ]


def journal(run_dir: Path, store: StoreConfig | None = None) -> Journal:
    return Journal(run_dir, store or StoreConfig(), extras=RUN.extra_columns)


def test_a_sample_waits_for_its_score_until_a_flush_is_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("rollout.store.journal.time.monotonic", lambda: now)
    store = journal(tmp_path, StoreConfig(flush_seconds=30.0))
    store.hold(made(0, 0))
    now += 20
    store.hold(made(0, 1))
    store.add(scored(made(0, 1), 1.0))
    store.flush_if_old()
    assert rows_of(tmp_path) == []
    now += 11
    store.flush_if_old()
    assert rows_of(tmp_path) == [(0, 0, None), (0, 1, True)]
    assert store.num_durable == 1
    store.add(scored(made(0, 0), 0.0))
    store.flush()
    assert rows_of(tmp_path) == [(0, 0, None), (0, 1, True), (0, 0, True)]
    assert store.num_durable == 2


def test_no_more_than_so_many_samples_are_in_memory(tmp_path: Path) -> None:
    store = journal(tmp_path, StoreConfig(flush_samples=4))
    for index in range(4):
        store.hold(made(0, index))
    assert len(rows_of(tmp_path)) == 4
    store.add(scored(made(0, 0), 1.0))
    store.hold(made(1, 0))
    for index in (1, 2):
        store.add(scored(made(0, index), 1.0))
    assert len(rows_of(tmp_path)) == 7  # the one that has no score yet may wait for it
    store.add(scored(made(1, 0), 0.0))
    store.flush()
    assert rows_of(tmp_path)[-1] == (1, 0, True)


def test_the_score_of_a_sample_is_found_wherever_it_stands(tmp_path: Path) -> None:
    store = journal(tmp_path)
    store.hold(made(1, 0))
    store.add(scored(made(0, 1), 0.0))
    store.flush()
    store.add(scored(made(0, 0), 1.0))
    store.add(scored(made(1, 0), None, "no idea"))
    store.add(failed_sample(1, 1, 7, "refused"))
    store.flush()
    found = Scores(tmp_path, SampleCounts.equal(2, 2)).of(0, 2)
    assert found.column("score").to_pylist() == [1.0, 0.0, None, None]
    assert found.column("score_error").to_pylist() == [None, None, "no idea", None]


def test_what_is_there_is_judged(tmp_path: Path) -> None:
    store = journal(tmp_path)
    store.add(scored(made(0, 0), 1.0))
    store.hold(made(0, 1))
    store.add(scored(made(1, 1), 0.0))
    store.add(scored(made(1, 0), None, "answer is null"))
    store.flush()
    known = judged(tmp_path, COUNTS, RUN)
    assert [known.verdict(row) for row in range(3)] == [(2, None), (4, None), (2, None)]
    assert known.begin(0)[:2] == ([], [1])
    assert known.begin(1)[:2] == ([2, 3], [])
    survey = known.survey()
    assert (survey.num_owed, survey.num_done, survey.unscored, survey.num_open) == (8, 4, 1, 12)
    assert not survey.is_complete
    asked = known.hear(known.telling.outcome(scored(made(0, 1), 0.0)))
    assert (asked.to_generate, asked.spared, asked.settled) == ([], 2, 4)


def test_texts_without_a_score_are_read_again_row_by_row(tmp_path: Path) -> None:
    store = journal(tmp_path)
    for row_id, index in ((0, 0), (0, 1), (2, 0)):
        store.hold(made(row_id, index))
    store.flush()
    store.add(scored(made(0, 1), 1.0))
    store.flush()
    unscored = Unscored(tmp_path, RUN.extra_columns, judged(tmp_path, COUNTS, RUN))
    assert [unscored.of(row) for row in range(3)] == [[made(0, 0)], [], [made(2, 0)]]


def test_a_second_try_counts_as_one_that_does_not_pass(tmp_path: Path) -> None:
    store = journal(tmp_path)
    store.add(failed_sample(0, 0, 7, "refused"))
    store.add(scored(made(0, 1), 0.0))
    store.flush()
    assert judged(tmp_path, COUNTS, RUN).begin(0).to_generate == [0, 2, 3]
    store.add(scored(made(0, 0), 1.0))
    store.flush()
    assert judged(tmp_path, COUNTS, RUN).begin(0).to_generate == [2, 3]


def test_of_a_dead_writer_only_what_has_its_score_is_taken(tmp_path: Path) -> None:
    store = Journal(tmp_path, StoreConfig(), "0123456789a-000", RUN.extra_columns)
    store.hold(made(0, 0))
    store.add(scored(made(0, 1), 1.0))
    store.add(failed_sample(1, 0, 7, "refused"))
    store.flush()
    telling = Telling.of(RUN)
    found = [*outcomes_of(tmp_path, "0123456789a-000", telling)]
    assert found == [telling.outcome(scored(made(0, 1), 1.0)), telling.outcome(failed_sample(1, 0, 7, "refused"))]

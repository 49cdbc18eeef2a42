"""Scores of a run that a rule stops, while it goes on: those of first rounds, each once, whole ones only."""

from pathlib import Path

import pytest

from rollout.config import AdaptiveConfig, RunConfig, SamplingConfig, StoreConfig
from rollout.postprocess.scores_so_far import ScoresSoFar
from rollout.records import Sample, failed_sample
from rollout.scoring.summary import ScoreSummary
from rollout.store.journal import Journal, parts
from rollout.terminal.estimates import LEGEND
from rollout.terminal.watch import _scores


def run_of() -> RunConfig:
    run = RunConfig(adaptive=AdaptiveConfig(until="passes", rounds=[2, 4]))
    run.sampling = SamplingConfig(n_samples=8)
    return run


def sample(row: int, index: int, score: float | None, error: str | None = None) -> Sample:
    return Sample(row, index, 0, "a", "stop", 1, 2, is_scored=True, score=score, score_error=error)


def without_score(row: int, index: int) -> Sample:
    return Sample(row, index, 0, "a", "stop", 1, 2)


FLUSHES = [
    [sample(0, 0, 1), sample(0, 1, 0), without_score(1, 0), sample(1, 1, 0)],
    [sample(1, 0, 1), sample(2, 0, 1), sample(3, 0, 0), failed_sample(4, 0, 0, "no"), sample(3, 2, 1), sample(3, 3, 1)],
    [sample(3, 1, 0), sample(4, 0, 1), sample(4, 1, 1), sample(5, 0, None, "truth is null")],
    [sample(5, 1, None, "truth is null"), failed_sample(6, 0, 0, "no"), failed_sample(6, 1, 0, "no")],
]
"""Rows 0, 1, 3 and 4 have their first two samples with scores, and pass half, half, never and always."""


def looked_at(folder: Path, times: int) -> ScoreSummary | None:
    """What is known once all is durable, after looking so often while it came."""
    journal, seen = Journal(folder, StoreConfig(), extras=run_of().extra_columns), ScoresSoFar(run_of())
    for number, samples in enumerate(FLUSHES):
        for one in samples:
            journal.add(one)
        journal.flush()
        if number >= len(FLUSHES) - times:
            seen.look(parts(folder))
    return seen.summary


@pytest.mark.parametrize("times", [1, 2, 4])
def test_they_are_those_of_whole_first_rounds_however_often_one_looks(times: int, tmp_path: Path) -> None:
    found = looked_at(tmp_path, times)
    assert found is not None
    assert (found.pass_rate, found.pass_at_k) == (0.5, {"1": 0.5, "2": 0.75})
    assert found.estimates["mean"].n == 4
    assert (found.scored, found.unscored) == (8, 2)
    assert found.note == "so far: of the first 2 samples of 4 rows, which no rule has stopped by then"


def test_parts_that_somebody_has_deleted_do_not_count(tmp_path: Path) -> None:
    looked_at(tmp_path, 1)
    seen = ScoresSoFar(run_of())
    seen.look(parts(tmp_path))
    for part in parts(tmp_path)[1:]:
        part.unlink()
    seen.look(parts(tmp_path))
    assert seen.summary is not None
    assert seen.summary.estimates["mean"].n == 1
    assert seen.summary.note == "so far: of the first 2 samples of 1 row, which no rule has stopped by then"


def test_an_interval_that_is_marked_as_not_to_rely_on_says_what_the_mark_means(tmp_path: Path) -> None:
    (name, shown), *more = _scores(looked_at(tmp_path, 1))
    assert (name, shown.partition(";")[0].endswith(" *)")) == ("scores", True)
    assert more == [("", LEGEND)]


def test_before_the_first_score_there_is_nothing(tmp_path: Path) -> None:
    assert ScoresSoFar(run_of()).summary is None

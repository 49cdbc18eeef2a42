"""The table of jobs that a sweep ends with, on screen."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from rollout.pages.sweep_content import JobRow
from rollout.scoring.intervals import Estimate, share_of
from rollout.sweep import table
from rollout.terminal.estimates import LEGEND
from tests.sweep_content import bar, failed, job, metrics


def share(passed: int, rows: int = 200) -> Estimate:
    return share_of([1.0] * passed + [0.0] * (rows - passed))


def scored(num: int, estimate: Estimate, overrides: dict[str, str] | None = None) -> JobRow:
    given = {"sampling.temperature": str(num / 10)} if overrides is None else overrides
    bars = {"mean_score": bar(estimate), "pass@4": bar(estimate)}
    return job(num, given, metrics=metrics(mean_score=estimate.value), estimates=bars)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The lines of the table of these jobs."""

    def lines(*jobs: JobRow, path: str | None = None, width: int = 80) -> list[str]:
        screen = io.StringIO()
        monkeypatch.setattr(table, "job_rows", lambda *_: list(jobs))
        monkeypatch.setattr(table, "Console", lambda **_: Console(file=screen, width=width))
        table.show_jobs(Path(), [], path)
        return [line.rstrip() for line in screen.getvalue().splitlines() if line.strip()]

    return lines


def test_a_job_is_best_where_its_interval_says_so(shown: Callable[..., list[str]]) -> None:
    lines = shown(scored(0, share(60)), scored(1, share(120)), scored(2, share(70)))
    assert lines == [
        "Jobs",
        "job  temperature   mean  95% interval          cut off  tok/s  tokens",
        "0            0.0  0.300  0.241 to 0.367          10.0%    149      50",
        "1            0.1  0.600  0.531 to 0.666  best    10.0%    149      50",
        "2            0.2  0.350  0.287 to 0.419          10.0%    149      50",
    ]


def test_a_tie_is_shown_as_a_tie(shown: Callable[..., list[str]]) -> None:
    lines = shown(scored(0, share(60)), scored(1, share(120)), scored(2, share(115)))
    assert [line.split()[-4] for line in lines[2:5]] == ["0.367", "tied", "tied"]
    assert lines[5].startswith("tied: by their intervals not to be told from the best")
    assert lines[6].startswith("row by row, which tells more: python -m rollout compare ")


def test_shards_of_one_input_are_no_rivals(shown: Callable[..., list[str]]) -> None:
    lines = shown(*(scored(num, share(60 * num), {"data.shard_index": str(num)}) for num in range(1, 3)))
    assert not {"best", "tied"} & set(" ".join(lines).split())
    assert "; all rows: python -m rollout merge " in lines[-1]


def test_the_only_job_with_a_score_is_not_the_best(shown: Callable[..., list[str]]) -> None:
    lines = shown(scored(0, share(60)), job(1, {"sampling.temperature": "0.1"}))
    assert not {"best", "tied"} & set(" ".join(lines).split())


def test_the_objective_is_what_is_compared(shown: Callable[..., list[str]]) -> None:
    jobs = [scored(num, share(60 + num)) for num in range(2)]
    assert "pass@4" in shown(*jobs, path="score.pass_at_k.4")[1]
    assert "mean" in shown(*jobs, path="throughput.output_tok_s")[1].split()


def test_a_job_without_scores_has_its_status_and_the_others_theirs(shown: Callable[..., list[str]]) -> None:
    lines = shown(scored(0, share(5)), failed(1, {"sampling.temperature": "0.1"}))
    assert lines[2].split()[:2] == ["0", "done"]
    assert lines[3].split() == ["1", "failed", "0.1", "-", "-", "-", "-", "-"]
    assert lines[-1] == LEGEND


def test_long_values_are_cut_so_that_everything_fits_80_columns(shown: Callable[..., list[str]]) -> None:
    values = {"model.path": "/models/a-long-folder/of-checkpoints/step-{}", "data.system_prompt": "Be brief, " * 9}
    jobs = [scored(n, share(50), {key: value.format(n) for key, value in values.items()}) for n in range(3)]
    jobs[1]["overrides"]["data.system_prompt"] = "Be long."
    lines = shown(*jobs)
    assert max(map(len, lines)) <= 80
    assert [line.split()[1][-6:] for line in lines[2:5]] == ["step-0", "step-1", "step-2"]
    many = [scored(n, share(50), {f"group.key_number_{key}": str(n) for key in range(20)}) for n in range(2)]
    assert max(map(len, cut := shown(*many))) <= 80
    assert cut[4] == "16 more parameters differ; all are in sweep.csv"
    wide = shown(*jobs, width=250)
    assert json.dumps(wide).count("/models/a-long-folder/of-checkpoints/step-") == 0  # never longer than 28
    assert "pass@4" in wide[1]


def test_of_very_many_jobs_the_best_are_shown(shown: Callable[..., list[str]]) -> None:
    lines = shown(*(scored(num, share(num)) for num in range(100)))
    assert [line.split()[0] for line in lines[2:42]] == [str(num) for num in range(60, 100)]
    assert "the best 40 of 100 jobs; all are in sweep.csv" in lines

"""What scores samples while others are generated starts while the engine is loaded."""

import json
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from rollout.config import DataConfig, RunConfig
from rollout.engine.cache import Loaded
from rollout.errors import UserError
from rollout.generation.engine_start import load
from rollout.generation.session import too_many
from tests.conftest import chat, run_in, write_input

SCORED_BY = ("postprocess.score.scorer=tests.graders:by_rate", "postprocess.score.ground_truth=rate")
DIES_ONCE = ("engine.echo.die_after=30", "sampling.n_samples=4", "hardware.max_num_seqs=4")


@pytest.mark.long
@pytest.mark.parametrize(("rule", "processes"), [("adaptive=first_pass", 2), ("adaptive=default", 0)])
def test_also_of_an_engine_that_is_started_again(
    rule: str, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, meanwhile = len(active_children()), list[int]()

    def watched(run: RunConfig, log_file: Path) -> Loaded:
        meanwhile.append(len(active_children()) - before)
        return load(run, log_file)

    monkeypatch.setattr("rollout.generation.session.load", watched)
    rows: list[dict[str, Any]] = [{"prompt": chat(f"{row}"), "rate": 0.0} for row in range(10)]
    path = write_input(tmp_path / "input.parquet", rows)
    scored = (*SCORED_BY, "postprocess.score.workers=2", "postprocess.steps=[score]")
    run_dir = run_in(tmp_path / "run", f"data.path={path}", *scored, *DIES_ONCE, rule)
    assert meanwhile == [processes, processes]
    assert len(active_children()) == before
    assert json.loads((run_dir / "run.json").read_text())["totals"]["samples"] == 40


def test_the_allowed_share_of_bad_rows_is_allowed() -> None:
    shares = [(bad, rows) for rows in range(1, 101) for bad in range(rows + 1)]
    for bad, rows in shares:
        run = RunConfig(data=DataConfig(max_error_fraction=bad / rows))
        assert not too_many(bad, rows, run)
        assert bad == rows or too_many(bad + 1, rows, run)
    assert not too_many(0, 0, RunConfig())


@pytest.mark.parametrize("dies", [(), ("engine.echo.die_after=50",)])
def test_rows_that_failed_before_the_engine_died_count_too(dies: tuple[str, ...], tmp_path: Path) -> None:
    rows = [{"prompt": chat("refuseme" if row % 5 == 0 else f"{row}")} for row in range(100)]
    path = write_input(tmp_path / "input.parquet", rows)
    limit = ("engine.echo.refuse_word=refuseme", "data.max_error_fraction=0.15", "sampling.n_samples=1")
    with pytest.raises(UserError, match=r"max_error_fraction=0.15: 16 of 100 rows cannot be sampled so far"):
        run_in(tmp_path / "run", f"data.path={path}", "hardware.max_num_seqs=4", *limit, *dies)
    log = (tmp_path / "run/rollout.log").read_text()
    assert log.count("first prompt, rendered") == 1
    assert log.count("starting it again") == len(dies)

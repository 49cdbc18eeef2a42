"""The last numbers of a session that ends early: they are published and recorded as those of one that ends well."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from rollout.cli.run_list import listed
from rollout.cli.watched import WatchedRun
from rollout.engine.echo_engine import EchoEngine
from rollout.errors import UserError
from rollout.process.signals import Interrupted
from rollout.records import Sample
from tests.conftest import chat, run_in, write_input

pytestmark = pytest.mark.long

SLOWLY = ("engine.echo.token_steps=true", "hardware.max_num_seqs=8", "sampling.n_samples=6", "postprocess=none")
RULE = (
    "adaptive=mixed",
    "postprocess.score.scorer=tests.graders:by_rate",
    "postprocess.score.ground_truth=rate",
    "postprocess.score.workers=1",
)


def interrupted(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str, after: int = 25) -> Path:
    """A run of 15 rows that gets Ctrl-C when so many samples have finished: all after the last periodic numbers."""
    rates = [0.5, 0.05, 0.9]
    rows = [{"prompt": chat(f"number {number}"), "rate": rates[number % 3]} for number in range(15)]
    source = write_input(folder / "input.parquet", rows)
    whole_step, finished = EchoEngine.step, list[Sample]()

    def step(engine: EchoEngine) -> list[Sample]:
        samples = whole_step(engine)
        if len(finished) < after <= len(finished) + len(samples):
            os.kill(os.getpid(), signal.SIGINT)
        finished.extend(samples)
        return samples

    monkeypatch.setattr(EchoEngine, "step", step)
    with pytest.raises(Interrupted):
        run_in(folder / "run", f"data.path={source}", *SLOWLY, *overrides)
    return folder / "run"


def last_line(run_dir: Path) -> dict[str, Any]:
    line: dict[str, Any] = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    return line


@pytest.mark.parametrize("rule", [(), RULE], ids=["all_samples", "a_rule"])
def test_after_ctrl_c_all_say_how_many_samples_there_are(
    rule: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = interrupted(tmp_path, monkeypatch, *rule)
    watched = WatchedRun(run_dir)
    watched.look()
    durable = watched.seen.durable.num_done
    record, last = json.loads((run_dir / "run.json").read_text()), last_line(run_dir)
    assert durable >= 25
    assert (last["samples_done"], last["running"], last["waiting"]) == (durable, 0, 0)
    assert last["samples_total"] == 90 if not rule else durable <= last["samples_total"] <= 90
    assert (record["status"], record["throughput"]["samples"]) == ("interrupted", durable)
    (shown,) = listed(tmp_path, [])
    assert shown.samples == durable
    assert shown.tok_s == pytest.approx(last["output_tok_s"], abs=0.1)


def test_a_rule_that_may_ask_for_more_leaves_a_share_below_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the last line that there is expected fewer samples than are durable, as after a kill."""
    run_dir = interrupted(tmp_path, monkeypatch, *RULE, after=30)
    watched = WatchedRun(run_dir)
    for expected in ("60", "at most 30", "at most 25"):
        line = last_line(run_dir) | {"samples_done": 19, "samples_total": int(expected.removeprefix("at most "))}
        with (run_dir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        watched.look()
        assert watched.share_done is not None
        assert watched.share_done < 1
        (samples,) = (words for name, words in watched.describe() if name == "samples")
        share = f" ({watched.share_done:.0%}); durable: {watched.seen.durable.num_done}"
        assert share in samples
        assert samples.partition(" of ")[2].startswith("at most " if "at most" in expected else "60 samples")


def test_a_run_that_fails_keeps_its_numbers_too(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": chat(f"number {number}")} for number in range(50)]
    rows[-1] = {"prompt": None}
    source = write_input(tmp_path / "input.parquet", rows)
    with pytest.raises(UserError, match="on_error=fail"):
        run_in(tmp_path / "run", f"data.path={source}", *SLOWLY, "data.on_error=fail")
    record, last = json.loads((tmp_path / "run/run.json").read_text()), last_line(tmp_path / "run")
    assert record["status"] == "failed"
    assert (record["throughput"]["samples"], last["samples_failed"]) == (last["samples_generated"], 1)


def test_a_run_that_ends_before_its_engine_is_there_has_no_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.generation.session.load", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        run_in(tmp_path / "run", "data.limit=2")
    assert json.loads((tmp_path / "run/run.json").read_text())["throughput"] is None
    assert not (tmp_path / "run/metrics.jsonl").exists()

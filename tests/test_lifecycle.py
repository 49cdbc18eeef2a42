"""A whole run on the echo engine: every sample at its place, whatever the order in which it finished."""

import json
import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from rollout.config import EchoConfig, HardwareConfig
from rollout.data.chat import parse_chat
from rollout.engine.echo_engine import EchoEngine
from rollout.errors import UserError
from rollout.generation.requests import sample_seed
from rollout.process.signals import Interrupted
from rollout.records import ROLLOUT_FIELDS, Request
from rollout.store import run_record
from rollout.store.run_record import RunRecord
from rollout.terminal.console import screen
from tests.conftest import Rollout, chat

pytestmark = pytest.mark.long


def unequal_chats(count: int) -> list[dict[str, Any]]:
    """Chats of 1 to 5 turns, many of them equal to others, with columns that say which row is which."""
    rng = random.Random(7)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        turns = [{"role": "user", "content": f"question {rng.randrange(5)} " * rng.randrange(1, 4)}]
        for _ in range(rng.randrange(3)):
            turns += [{"role": "assistant", "content": "so?"}, {"role": "user", "content": f"{rng.randrange(3)}"}]
        rows.append({"prompt": turns, "number": number, "label": rng.choice(["a", None])})
    return rows


def expected_responses(rows: list[dict[str, Any]], n_samples: int) -> list[list[str | None]]:
    """What the echo engine answers to each row on its own, one request at a time."""
    engine = EchoEngine(EchoConfig(), HardwareConfig())
    expected: list[list[str | None]] = []
    for row_id, row in enumerate(rows):
        token_ids = engine.render(parse_chat(row["prompt"])).token_ids
        expected.append([])
        for index in range(n_samples):
            engine.add(Request(row_id, index, sample_seed(42, row_id, index), token_ids, 2048))
            (sample,) = engine.step()
            expected[-1].append(sample.response)
    return expected


@pytest.mark.parametrize("n_samples", [1, 2, 3])
@pytest.mark.parametrize("max_num_seqs", [1, 7, 512])
def test_nothing_is_shifted_dropped_or_doubled(rollout: Rollout, n_samples: int, max_num_seqs: int) -> None:
    rows = unequal_chats(311)
    run_dir = rollout(
        rows,
        f"sampling.n_samples={n_samples}",
        f"hardware.max_num_seqs={max_num_seqs}",
        "engine.echo.max_steps=37",
        "store.flush_samples=50",
    )
    table = pq.read_table(run_dir / "rollouts.parquet").to_pylist()
    assert [row["row_id"] for row in table] == list(range(311))
    assert [{key: row[key] for key in rows[0]} for row in table] == rows
    assert [row["responses"] for row in table] == expected_responses(rows, n_samples)
    assert [row["seeds"] for row in table] == [
        [sample_seed(42, row, index) for index in range(n_samples)] for row in range(311)
    ]


def test_the_order_of_finishing_changes_no_byte_of_the_output(rollout: Rollout) -> None:
    rows = unequal_chats(100)
    in_order = rollout(rows, "engine.echo.max_steps=1", name="in_order")
    shuffled = rollout(
        rows, "engine.echo.max_steps=50", "hardware.max_num_seqs=9", "store.flush_samples=7", name="shuffled"
    )
    for name in ("rollouts.parquet", "flat.parquet", "analysis.json"):
        assert (in_order / name).read_bytes() == (shuffled / name).read_bytes()


def test_a_limit_takes_the_first_rows_and_changes_none_of_them(rollout: Rollout) -> None:
    rows = unequal_chats(50)
    everything = pq.read_table(rollout(rows, name="everything") / "rollouts.parquet")
    limited = pq.read_table(rollout(rows, "data.limit=20", name="limited") / "rollouts.parquet")
    assert limited.equals(everything.slice(0, 20))


def test_bad_rows_keep_their_place_and_say_why(rollout: Rollout) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": chat("good")},
        {"prompt": None},
        {"prompt": []},
        {"prompt": [{"role": "user", "content": None}]},
        {"prompt": chat("too " * 60)},
        {"prompt": chat("please refuseme now")},
        {"prompt": chat("good too")},
    ]
    run_dir = rollout(
        rows,
        "sampling.n_samples=2",
        "data.max_error_fraction=1",
        "engine.echo.max_model_len=50",
        "sampling.max_tokens=20",
        "engine.echo.refuse_word=refuseme",
    )
    table = pq.read_table(run_dir / "rollouts.parquet").to_pylist()
    assert [row["error"] for row in table] == [
        None,
        "the prompt is null",
        "the prompt is empty",
        "message 0 has no content",
        "the prompt has 61 tokens and sampling.max_tokens is 20; the context holds 50",
        "refused: refuseme",
        None,
    ]
    for row in table[1:6]:
        assert row["responses"] == [None, None]
        assert row["finish_reasons"] == ["error", "error"]
        assert row["num_generated_tokens"] == [0, 0]
        assert row["num_prompt_tokens"] is None
        assert row["seeds"] == [sample_seed(42, row["row_id"], index) for index in range(2)]
    assert json.loads((run_dir / "analysis.json").read_text())["rows_with_errors"] == 5
    assert json.loads((run_dir / "run.json").read_text())["totals"]["failed"] == 10


def test_the_run_stops_at_the_error_limit_and_not_before(rollout: Rollout) -> None:
    rows = [{"prompt": chat("good")}] * 8 + [{"prompt": None}] * 2
    rollout(rows, "data.max_error_fraction=0.2", name="at_the_limit")
    with pytest.raises(UserError, match="2 of 10 rows cannot be sampled"):
        rollout(rows, "data.max_error_fraction=0.19", name="beyond")


def test_an_unusable_first_row_does_not_hide_the_first_prompt_of_the_log(rollout: Rollout) -> None:
    run_dir = rollout([{"prompt": None}, {"prompt": chat("hello there")}], "data.max_error_fraction=1")
    assert "first prompt, rendered (row 1): 'user: hello there'" in (run_dir / "rollout.log").read_text()


def test_the_output_has_the_declared_columns_and_footer(rollout: Rollout) -> None:
    schema = pq.read_schema(rollout([{"prompt": chat("a"), "answer": 3}]) / "rollouts.parquet")
    assert [schema.field(name) for name in schema.names[2:]] == list(ROLLOUT_FIELDS)
    assert schema.metadata[b"rollout.schema_version"] == b"1"
    assert b"rollout.version.pyarrow" in schema.metadata


def test_the_output_reads_back_with_pandas(rollout: Rollout) -> None:
    frame = pd.read_parquet(rollout([{"prompt": chat("a")}] * 3, "sampling.n_samples=4") / "rollouts.parquet")
    assert frame.explode(["responses", "seeds"]).shape[0] == 12


@pytest.mark.long
def test_metrics_are_written_from_the_first_interval_to_the_end(rollout: Rollout) -> None:
    run_dir = rollout(
        [{"prompt": chat("a")}] * 30,
        "engine.echo.step_seconds=0.02",
        "engine.echo.max_steps=100",
        "tracking.interval_seconds=0.5",
    )
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) >= 3
    done = [line["samples_done"] for line in lines]
    assert done == sorted(done)
    assert done[0] < done[-1] == 240
    assert lines[-1]["running"] == 0
    assert lines[-1]["generated_tokens"] == json.loads((run_dir / "run.json").read_text())["totals"]["generated_tokens"]


def test_the_manifest_says_what_ran_and_how_long_it_took(rollout: Rollout) -> None:
    manifest = json.loads((rollout([{"prompt": chat("a")}], "sampling.n_samples=3") / "run.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["config"]["sampling"]["n_samples"] == 3
    assert manifest["totals"]["samples"] == 3
    assert set(manifest["seconds"]) == {"load", "generate", "finalize", "postprocess"}
    assert manifest["provenance"]["packages"]["pyarrow"]


def test_no_temporary_file_is_left(rollout: Rollout) -> None:
    run_dir = rollout(unequal_chats(20), "store.flush_samples=3")
    assert not list(run_dir.rglob(".*.partial"))
    assert not (run_dir / ".reserve").exists()


def test_steps_can_be_left_out(rollout: Rollout) -> None:
    run_dir = rollout([{"prompt": chat("a")}], "postprocess=none")
    assert not (run_dir / "flat.parquet").exists()
    assert not (run_dir / "analysis.json").exists()


def test_a_run_writes_what_it_prints_to_the_log_too(rollout: Rollout, capfd: pytest.CaptureFixture[str]) -> None:
    run_dir = rollout([{"prompt": chat("a")}])
    assert f"run folder: {run_dir}" in capfd.readouterr().out
    assert f"run folder: {run_dir}" in (run_dir / "rollout.log").read_text()


def test_what_a_library_prints_goes_to_the_log_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with screen(tmp_path / "rollout.log") as console:
        os.write(1, b"from C++\n")
        subprocess.run(["echo", "from another process"], check=True)
        console.print("from us")
    os.write(1, b"afterwards\n")
    assert capfd.readouterr().out == "from us\nafterwards\n"
    assert (tmp_path / "rollout.log").read_text() == "from C++\nfrom another process\n"


@pytest.mark.parametrize(
    ("status", "overrides", "raised", "line"),
    [
        ("done", [], Interrupted, "SIGINT: came when everything was done."),
        ("failed", ["engine.echo.die_after=1", "engine.max_restarts=0"], UserError, ""),
    ],
)
def test_a_signal_while_the_end_is_written_changes_nothing_of_it(
    status: str,
    overrides: list[str],
    raised: type[BaseException],
    line: str,
    rollout: Rollout,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def write(run_dir: Path, record: RunRecord) -> None:
        if record.status == status:
            os.kill(os.getpid(), signal.SIGINT)
        write_record(run_dir, record)

    write_record = run_record.write
    monkeypatch.setattr("rollout.store.run_record.write", write)
    with pytest.raises(raised):
        rollout([{"prompt": "hi"}], *overrides)
    assert run_record.read(tmp_path / "run").status == status
    assert not (tmp_path / "run/.reserve").exists()
    assert line in capfd.readouterr().out


def test_what_is_stopped_before_it_has_begun_is_not_to_be_resumed(
    rollout: Rollout, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr("rollout.lifecycle.digest", interrupted)  # which reads the whole input
    with pytest.raises(Interrupted):
        rollout([{"prompt": "hi"}])
    assert not (tmp_path / "run/run.json").exists()
    assert "SIGINT: stopped cleanly. Nothing was begun; give the command again." in capfd.readouterr().out

"""The last run like this one, for an estimate: which it is, and what it tells."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rollout.cli import past_runs
from rollout.cli.compose import compose_run
from rollout.cli.past_runs import last_like
from rollout.config import RunConfig
from tests.commands import ECHO
from tests.conftest import run_in


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in(tmp_path_factory.mktemp("finished") / "run", "sampling.n_samples=2", "data.limit=5")


def put(finished: Path, place: Path, age: int, **changes: Any) -> None:
    """A copy of the finished run's record, `age` seconds old."""
    place.mkdir(parents=True)
    record = json.loads((finished / "run.json").read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = record
        for parent in parents:
            node = node[parent]
        node[last] = value
    (place / "run.json").write_text(json.dumps(record))
    os.utime(place / "run.json", (1_800_000_000 - age,) * 2)


def like(*overrides: str) -> RunConfig:
    return compose_run(*ECHO, *overrides)


def test_it_tells_speed_lengths_and_bytes(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    found = last_like(like("data.path=other.parquet", "sampling.n_samples=9"), finished.parent)
    assert found is not None
    assert found.folder == finished
    assert found.throughput.output_tok_s == record["throughput"]["output_tok_s"]
    assert found.tokens_of_sample == record["totals"]["generated_tokens"] / 10
    files = [
        *finished.glob("*.parquet"),
        *finished.glob("samples/*"),
        finished / "analysis.json",
        finished / "report.html",
    ]
    assert found.bytes_of_token == sum(path.stat().st_size for path in files) / record["totals"]["generated_tokens"]


def test_of_several_the_newest_counts_and_a_job_of_a_sweep_is_a_run(finished: Path, tmp_path: Path) -> None:
    put(finished, tmp_path / "2026-01-01/old", 20)
    put(finished, tmp_path / "2026-01-01/sweep/3", 10)
    put(finished, tmp_path / "named", 30)
    put(finished, tmp_path / "2026-01-02/killed", 1, throughput=None, totals=None)
    (tmp_path / "2026-01-02/broken").mkdir()
    (tmp_path / "2026-01-02/broken/run.json").write_text("{")
    found = last_like(like(), tmp_path)
    assert found is not None
    assert found.folder == tmp_path / "2026-01-01/sweep/3"


@pytest.mark.parametrize(
    "changes",
    [
        {"config__hardware__max_num_seqs": 7},
        {"config__model__quantization": "fp8"},
        {"config__engine__kind": "vllm"},
        {"provenance__model__path": "/other"},
        {"throughput": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_model_or_other_hardware_is_no_guide(changes: dict[str, Any], finished: Path, tmp_path: Path) -> None:
    put(finished, tmp_path / "a/b", 0, **changes)
    assert last_like(like(), tmp_path) is None
    assert last_like(like(), tmp_path / "none") is None


def test_gpus_count_where_this_machine_has_any(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(finished, tmp_path / "a/b", 0, provenance__gpus=["H200"])
    assert last_like(like(), tmp_path) is not None
    monkeypatch.setattr(past_runs, "gpu_names", lambda: ("A100",))
    assert last_like(like(), tmp_path) is None


def test_a_session_that_only_wrote_tables_leaves_the_speed_to_the_one_before(finished: Path, tmp_path: Path) -> None:
    before = json.loads((finished / "run.json").read_text())
    session = {key: before[key] for key in ("status", "started", "seconds", "throughput")}
    put(finished, tmp_path / "a/b", 0, throughput=None, sessions=[session])
    found = last_like(like(), tmp_path)
    assert found is not None
    assert found.throughput.samples == 10

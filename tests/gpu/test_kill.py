"""SIGKILL in the middle of a run on a GPU: nothing durable is lost, the memory comes back, a resume completes it."""

import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.records import SAMPLE_SCHEMA
from rollout.verify.__main__ import verify
from tests.commands import command, run_fresh
from tests.conftest import write_input
from tests.gpu.conftest import COLD_START, GPUS, ROWS, arguments, needs_gpu, write_model
from tests.processes import wait_until

pytestmark = [pytest.mark.gpu, needs_gpu]


def compute_capability() -> float:
    """Of the first GPU; 0 where there is none."""
    if not GPUS:
        return 0.0
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    return float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])


def journal(run_dir: Path) -> list[dict[str, object]]:
    parts = sorted(run_dir.glob("samples/part-*.parquet"))
    rows: list[dict[str, object]] = pa.concat_tables(
        pq.read_table(path, schema=SAMPLE_SCHEMA) for path in parts
    ).to_pylist()
    return rows


@pytest.mark.skipif(0 < compute_capability() < 9, reason="batch-invariant kernels need compute capability 9.0")
def test_killed_and_resumed_then_verified_to_the_last_character(tmp_path: Path) -> None:
    """Batch-invariant kernels make the comparison exact, though all samples are verified at a time instead of 16.

    With top_p=1: below, vLLM cuts off the tail in another way when fewer than 8 samples run at a time. With layers as
    wide as a real model's, because vLLM's kernel for norms shows its fault (its issue 48271) only there.
    """
    wide = {"hidden_size": 896, "num_attention_heads": 14, "num_hidden_layers": 8, "initializer_range": 0.1}
    model, source = write_model(tmp_path / "model", **wide), write_input(tmp_path / "input.parquet", ROWS * 4)
    asked = arguments(
        model,
        source,
        "hardware=debug",
        "hardware.gpu_memory_utilization=0.6",  # the resume cannot start unless the killed engine's memory is free
        "hardware.batch_invariant=true",
        "hardware.max_num_seqs=16",
        "sampling.max_tokens=150",
        "sampling.top_p=1",
        "store.flush_seconds=0.2",
        "store.flush_samples=20",
    )
    process = subprocess.Popen(command(*asked, "hydra.run.dir=run"), cwd=tmp_path, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: process.poll() is not None or len(list(tmp_path.glob("run/samples/part-*"))) > 1, COLD_START)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
        print(*(log.read_text()[-3000:] for log in tmp_path.glob("run/*.log")))  # which pytest shows should it fail
    durable = journal(tmp_path / "run")
    assert 0 < len(durable) < 288

    resumed = run_fresh("run", cwd=tmp_path, module="rollout.resume")
    assert resumed.returncode == 0, resumed.stderr
    after = journal(tmp_path / "run")
    assert len({(row["row_id"], row["sample_idx"]) for row in after}) == len(after) == 288
    assert all(row in after for row in durable)
    found = verify(tmp_path / "run", ["rows=all", "hardware.max_num_seqs=300"])
    assert found.samples == 288
    assert found.differences == []

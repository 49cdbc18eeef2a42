"""Several engines: on one GPU, and on a GPU each."""

import json
import time
from itertools import count
from pathlib import Path

import pytest

from tests.gpu.conftest import COLD_START, assert_complete, needs_gpu, needs_two_gpus, rows_of, write_model

pytestmark = [pytest.mark.gpu, needs_gpu]


def gpus(run_dir: Path) -> list[str]:
    """The GPU of each replica that sampled something."""
    replicas = json.loads((run_dir / "run.json").read_text())["engine"]["replicas"]
    return [replica["gpus"] for replica in replicas if replica["samples"]]


def logs_of(folder: Path, name: str) -> str:
    """The ends of all logs of that name: why an engine has not come."""
    return "\n".join(f"{path}:\n{path.read_text()[-3000:]}" for path in sorted(folder.rglob(name)))


def test_engines_share_a_gpu_and_its_memory(tmp_path: Path) -> None:
    """A run begins with the first engine; the other joins when it is there, in one of the runs that follow."""
    model = write_model(tmp_path / "model")
    asked = ("hardware=single_gpu", "hardware.replicas_per_gpu=2", "sampling.n_samples=40")
    deadline = time.monotonic() + COLD_START
    for number in count():
        assert_complete(rows_of(tmp_path, f"run-{number}", model, *asked), n_samples=40)
        if len(found := gpus(tmp_path / f"run-{number}")) == 2:
            break
        assert time.monotonic() < deadline, logs_of(tmp_path, "replica-001.log")
    assert len(set(found)) == 1


@needs_two_gpus
def test_every_gpu_has_a_replica(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    assert_complete(rows_of(tmp_path, "run", model, "hardware=multi_gpu", "sampling.n_samples=40"), n_samples=40)
    assert len(set(gpus(tmp_path / "run"))) >= 2

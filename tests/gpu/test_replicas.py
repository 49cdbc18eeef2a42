"""Several engines: on one GPU, and on a GPU each."""

import json
from pathlib import Path

import pytest

from tests.gpu.conftest import assert_complete, needs_gpu, needs_two_gpus, rows_of, write_model

pytestmark = [pytest.mark.gpu, needs_gpu]


def gpus(run_dir: Path) -> list[str]:
    """The GPU of each replica that sampled something."""
    replicas = json.loads((run_dir / "run.json").read_text())["engine"]["replicas"]
    return [replica["gpus"] for replica in replicas if replica["samples"]]


def test_three_engines_share_a_gpu_and_its_memory(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    asked = ("hardware=single_gpu", "hardware.replicas_per_gpu=3", "sampling.n_samples=40")
    assert_complete(rows_of(tmp_path, "run", model, *asked), n_samples=40)
    first, *others = gpus(tmp_path / "run")
    assert first
    assert set(others) == {first}


@needs_two_gpus
def test_every_gpu_has_a_replica(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    assert_complete(rows_of(tmp_path, "run", model, "hardware=multi_gpu", "sampling.n_samples=40"), n_samples=40)
    assert len(set(gpus(tmp_path / "run"))) >= 2

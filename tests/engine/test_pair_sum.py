"""Two GPUs that share a model add their tensors with a kernel of ours, if it gives what vLLM's gives."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rollout.config import HardwareConfig, ModelConfig

ROOT = Path(__file__).parents[2]
PAIR_WORKER = "rollout.engine.vllm_pair_worker.PairWorker"


def what_both_find(folder: Path, device: str) -> list[dict[str, Any]]:
    """What `tests.engine.pair_ranks` prints. A rank that waits for a call that the other does not make never ends."""
    command = [sys.executable, "-m", "tests.engine.pair_ranks", str(folder), device]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    environment |= {"TRITON_INTERPRET": "1"} if device == "cpu" else {}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_both_ranks_get_the_sum_and_refuse_a_kernel_that_one_of_them_finds_wrong(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    expected = {"put": True, "unequal": 0, "wrong put": False, "left": True}
    assert what_both_find(tmp_path, "cpu") == [expected, expected]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "changed"),
    [
        ("0.27.0", {}),
        ("0.26.0", {"disabled": True}),
        ("0.26.0", {"world_size": 4}),
        ("0.26.0", {"fully_connected": False}),
    ],
)
def test_it_is_left_to_vllm_elsewhere(version: str, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm

    from rollout.engine.vllm_pair_worker import put

    monkeypatch.setattr(vllm, "__version__", version)
    comm = SimpleNamespace(**{"disabled": False, "world_size": 2, "fully_connected": True} | changed)
    for found in (comm, None):
        assert not put(SimpleNamespace(device_communicator=SimpleNamespace(ca_comm=found)), torch.bfloat16)
    assert not put(SimpleNamespace(device_communicator=None), torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hardware", "worker"),
    [
        (HardwareConfig(tensor_parallel_size=2), PAIR_WORKER),
        (HardwareConfig(), None),
        (HardwareConfig(tensor_parallel_size=4), None),
        (HardwareConfig(tensor_parallel_size=2, device="cpu", fast_sampler="off"), None),
        (HardwareConfig(tensor_parallel_size=2, engine_kwargs={"worker_cls": "mine.Worker"}), "mine.Worker"),
    ],
)
def test_only_two_gpus_that_share_a_model_have_a_worker_of_ours(hardware: HardwareConfig, worker: str | None) -> None:
    from rollout.engine.vllm_engine import _engine_kwargs

    assert _engine_kwargs(ModelConfig(), hardware).get("worker_cls") == worker

"""Two GPUs that share a model add their tensors with a kernel of ours, if it gives what vLLM's gives."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rollout.config import HardwareConfig, ModelConfig
from tests.engine.ranks import what_ranks_find

PAIR_WORKER = "rollout.engine.vllm_pair_worker.PairWorker"


def assert_both_get_the_sum(folder: Path, device: str, **environment: str) -> None:
    expected = {"put": True, "unequal": 0, "wrong put": False, "left": True}
    found = what_ranks_find("tests.engine.pair_ranks", str(folder), device, **environment)
    assert found == [expected, expected]


@pytest.mark.slow
def test_both_ranks_get_the_sum_and_refuse_a_kernel_that_one_of_them_finds_wrong(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    assert_both_get_the_sum(tmp_path, "cpu", TRITON_INTERPRET="1")


@pytest.mark.slow
@pytest.mark.parametrize("changed", [{"disabled": True}, {"world_size": 4}, {"fully_connected": False}])
def test_without_vllms_kernel_or_nvlink_it_is_left_to_vllm(changed: dict[str, Any]) -> None:
    from rollout.engine.vllm_pair_worker import put

    comm = SimpleNamespace(**{"disabled": False, "world_size": 2, "fully_connected": True} | changed)
    for found in (comm, None):
        assert not put(SimpleNamespace(device_communicator=SimpleNamespace(ca_comm=found)), torch.bfloat16)
    assert not put(SimpleNamespace(device_communicator=None), torch.bfloat16)


@pytest.mark.slow
@pytest.mark.parametrize("is_fused", [True, False])
def test_the_worker_takes_the_kernel_where_vllm_does_not_fuse_its_all_reduces(
    is_fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rollout.engine import vllm_pair_worker

    monkeypatch.setattr("vllm.v1.worker.gpu_worker.Worker.init_device", lambda self: None)
    monkeypatch.setattr(vllm_pair_worker, "get_tp_group", lambda: "the group")
    monkeypatch.setattr(vllm_pair_worker, "put", lambda tp, dtype: (tp, dtype) == ("the group", torch.bfloat16))
    worker = object.__new__(vllm_pair_worker.PairWorker)
    passes = SimpleNamespace(fuse_allreduce_rms=is_fused)
    worker.vllm_config = SimpleNamespace(compilation_config=SimpleNamespace(pass_config=passes))
    worker.model_config = SimpleNamespace(dtype=torch.bfloat16)
    worker.init_device()
    assert worker.adds_with_ours() is not is_fused


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hardware", "version", "worker"),
    [
        (HardwareConfig(tensor_parallel_size=2), "0.26.0", PAIR_WORKER),
        (HardwareConfig(tensor_parallel_size=2), "0.27.0", None),
        (HardwareConfig(tensor_parallel_size=2, fast_all_reduce="off"), "0.26.0", None),
        (HardwareConfig(), "0.26.0", None),
        (HardwareConfig(tensor_parallel_size=4), "0.26.0", None),
        (HardwareConfig(tensor_parallel_size=2, device="cpu", fast_sampler="off"), "0.26.0", None),
        (HardwareConfig(tensor_parallel_size=2, engine_kwargs={"worker_cls": "mine.Worker"}), "0.26.0", "mine.Worker"),
    ],
)
def test_only_two_gpus_that_share_a_model_have_a_worker_of_ours(
    hardware: HardwareConfig, version: str, worker: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vllm

    from rollout.engine.vllm_engine import _engine_kwargs

    monkeypatch.setattr(vllm, "__version__", version)
    assert _engine_kwargs(ModelConfig(), hardware).get("worker_cls") == worker

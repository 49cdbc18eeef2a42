"""GPUs that cannot exchange data as they were to: the engine starts once more in a safer way, and the run says so."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rollout.cli.compose import compose_run
from rollout.config import HardwareConfig
from rollout.engine import cache, communication
from rollout.engine.communication import as_overrides, failure, levels, safer
from rollout.engine.echo_engine import EchoEngine
from rollout.errors import UserError
from tests.conftest import Rollout, chat

SWITCHES = ("NCCL_NVLS_ENABLE", "TORCH_SYMM_MEM_DISABLE_MULTICAST", "NVSHMEM_DISABLE_NVLS")
TWO = HardwareConfig(tensor_parallel_size=2)
ILLEGAL = "RuntimeError: CUDA error: an illegal memory access was encountered"


@pytest.fixture(autouse=True)
def multicast(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as this machine's variables say, there is NVLink multicast."""
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _no_engine_is_left(monkeypatch: pytest.MonkeyPatch) -> Any:
    yield
    cache.release()


def test_the_cheapest_way_is_left_out_first_and_all_of_them_last() -> None:
    assert list(levels(TWO)) == [0, 1, 2]
    assert safer(TWO, 0) == TWO
    assert safer(TWO, 1).engine_kwargs == {"compilation_config": {"pass_config": {"fuse_allreduce_rms": False}}}
    assert safer(TWO, 2).engine_kwargs["disable_custom_all_reduce"] is True
    assert safer(TWO, 2).env == {"VLLM_ALLREDUCE_USE_SYMM_MEM": "0", "NCCL_P2P_DISABLE": "1"}


def test_one_gpu_has_nobody_to_exchange_data_with() -> None:
    assert list(levels(HardwareConfig())) == [0]
    assert failure(HardwareConfig(), ILLEGAL) is None


@pytest.mark.parametrize(("switch", "value"), list(zip(SWITCHES, "011", strict=True)))
def test_where_multicast_is_switched_off_nothing_is_tried_with_it(
    switch: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(switch, value)
    assert list(levels(TWO)) == [1, 2]
    assert list(levels(HardwareConfig())) == [0]


def test_what_the_user_has_set_stays_and_what_changes_nothing_is_passed_over() -> None:
    asked = HardwareConfig(
        tensor_parallel_size=2,
        engine_kwargs={
            "compilation_config": {"max_cudagraph_capture_size": 8, "pass_config": {"fuse_allreduce_rms": True}}
        },
        env={"VLLM_ALLREDUCE_USE_SYMM_MEM": "1"},
    )
    assert safer(asked, 1) == asked
    assert list(levels(asked)) == [0, 2]
    captured = HardwareConfig(tensor_parallel_size=2, engine_kwargs={"compilation_config": {"mode": 3}})
    assert safer(captured, 1).engine_kwargs["compilation_config"] == {
        "mode": 3,
        "pass_config": {"fuse_allreduce_rms": False},
    }


@pytest.mark.parametrize("level", [1, 2])
def test_the_overrides_that_are_named_make_it_permanent(level: int) -> None:
    words = as_overrides(TWO, level)
    again = compose_run("hardware=dual_gpu", *words).hardware
    expected = safer(compose_run("hardware=dual_gpu").hardware, level)
    assert (again.engine_kwargs, again.env) == (expected.engine_kwargs, expected.env)
    assert as_overrides(again, level) == []


@pytest.mark.parametrize(
    "text",
    [
        ILLEGAL,
        "torch.AcceleratorError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx",
        "RuntimeError: NCCL error: unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
        "torch.distributed.DistBackendError: ncclUnhandledCudaError: Call to CUDA function failed.",
        "Failed: Cuda error /workspace/csrc/custom_all_reduce.cuh:455 'invalid argument'",
        "RuntimeError: peer access is not supported between these two devices",
    ],
)
def test_failures_of_communication_are_recognised(text: str) -> None:
    assert failure(TWO, f"(EngineCore pid=3) ERROR\n{text}\nSee root cause above") is not None


@pytest.mark.parametrize(
    "text",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "ValueError: No available memory for the cache blocks.",
        "WARNING Custom allreduce is disabled because your platform lacks GPU P2P capability",
    ],
)
def test_other_failures_and_warnings_are_not(text: str) -> None:
    assert failure(TWO, text) is None


class Machine:
    """Starts an echo engine at `works_at` rungs of the ladder, and fails below."""

    def __init__(self, works_at: int, reason: str = ILLEGAL) -> None:
        self.works_at, self.reason, self.started = works_at, reason, list[int]()

    def load(self, spec: cache.EngineSpec, level: int) -> EchoEngine:
        self.started.append(level)
        cache._cache.level = level
        if level < self.works_at:
            raise RuntimeError(self.reason)
        return EchoEngine(spec.engine.echo, communication.safer(spec.hardware, level))


def run_on(machine: Machine, rollout: Rollout, monkeypatch: pytest.MonkeyPatch, name: str = "run") -> Path:
    monkeypatch.setattr(cache, "_load", machine.load)
    asked = ("hardware.device=cuda", "hardware.tensor_parallel_size=2")
    return rollout([{"prompt": chat("hello")}], *asked, name=name)


@pytest.mark.parametrize("works_at", [0, 1, 2])
def test_the_run_is_done_and_says_what_was_left_out(
    works_at: int, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(works_at)
    run_dir = run_on(machine, rollout, monkeypatch)
    record = json.loads((run_dir / "run.json").read_text())
    assert machine.started == list(range(works_at + 1))
    assert record["status"] == "done"
    assert record["engine"]["safer"] == as_overrides(TWO, works_at)
    log = (run_dir / "rollout.log").read_text()
    assert log.count("starting again without") == works_at
    assert all(word in log for word in as_overrides(TWO, works_at))


def test_the_next_job_takes_the_engine_as_it_was_started(rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(works_at=1)
    run_on(machine, rollout, monkeypatch)
    record = json.loads((run_on(machine, rollout, monkeypatch, "next") / "run.json").read_text())
    assert machine.started == [0, 1]
    assert record["engine"]["reused"]
    assert record["engine"]["safer"] == as_overrides(TWO, 1)


def test_where_no_way_works_one_line_says_so(rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(works_at=3)
    with pytest.raises(UserError, match=r"^hardware.tensor_parallel_size=2: the GPUs cannot exchange data") as raised:
        run_on(machine, rollout, monkeypatch)
    assert machine.started == [0, 1, 2]
    assert "hardware=multi_gpu" in str(raised.value)


def test_another_failure_is_not_tried_again(rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(works_at=3, reason=f"CUDA out of memory. Tried to allocate 2.00 GiB.\n{ILLEGAL}")
    with pytest.raises(UserError, match="memory ran out"):
        run_on(machine, rollout, monkeypatch)
    assert machine.started == [0]


def test_the_environment_is_that_of_the_engine_that_started(monkeypatch: pytest.MonkeyPatch) -> None:
    found = list[str | None]()

    class Recorded(EchoEngine):
        def __init__(self, *arguments: Any) -> None:
            found.append(os.environ.get("VLLM_ALLREDUCE_USE_SYMM_MEM"))
            super().__init__(*arguments)

    monkeypatch.delenv("VLLM_ALLREDUCE_USE_SYMM_MEM", raising=False)
    monkeypatch.setattr("rollout.engine.echo_engine.EchoEngine", Recorded)
    spec = cache.EngineSpec.of(compose_run("engine.kind=echo", "hardware=cpu", "hardware.tensor_parallel_size=2"))
    cache.acquire(spec, 1)
    cache.release()
    assert found == ["0"]
    assert "VLLM_ALLREDUCE_USE_SYMM_MEM" not in os.environ

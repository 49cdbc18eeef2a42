"""Engines that cannot start, on real GPUs: the command ends with the reason, and no process of it is left."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rollout.engine.loading import _FAILED
from tests.commands import command
from tests.conftest import write_input
from tests.gpu.conftest import ROWS, arguments, needs_gpu, needs_two_gpus, write_model
from tests.processes import alive, family, wait_until

pytestmark = [pytest.mark.gpu, needs_gpu]

FAILING = ("hardware.engine_kwargs.worker_cls=tests.failing_worker.FailingWorker", "hardware.enforce_eager=true")


@pytest.mark.parametrize(
    ("stage", "how", "hardware"),
    [
        ("load_model", "raises and does not end", ("hardware=single_gpu",)),
        pytest.param("determine_available_memory", "breaks its GPU", ("hardware=dual_gpu",), marks=needs_two_gpus),
        pytest.param(
            "compile_or_warm_up_model", "aborts", ("hardware=dual_gpu", "hardware.replicas=null"), marks=needs_two_gpus
        ),
        pytest.param("load_model", "breaks its GPU", ("hardware=multi_gpu",), marks=needs_two_gpus),
    ],
)
def test_the_command_ends_soon_after_vllm_has_failed(
    stage: str, how: str, hardware: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two GPUs the last rank fails while the others wait for it on theirs."""
    model, source = write_model(tmp_path / "model"), write_input(tmp_path / "input.parquet", ROWS)
    for name, value in {"FAIL_STAGE": stage, "FAIL_HOW": how, "PYTHONPATH": ":".join(sys.path)}.items():
        monkeypatch.setenv(name, value)
    if hardware == ("hardware=dual_gpu",):
        monkeypatch.setenv("FAIL_RANK", "1")
    shown = arguments(model, source, *hardware, *FAILING, "hydra.run.dir=run")
    process = subprocess.Popen(command(*shown), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    members: dict[int, str] = {}

    def has_failed() -> bool:
        members.update(family(process.pid))
        logs = [path.read_text() for path in (tmp_path / "run").rglob("*.log")]
        return process.poll() is not None or any(_FAILED.search(log) for log in logs)

    wait_until(has_failed, 150)
    failed = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - failed < 20
    assert process.returncode == 1
    assert "error: hardware, model: vLLM cannot start" in errors
    wait_until(lambda: not alive(members), 10)

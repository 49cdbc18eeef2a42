"""A worker of vLLM's that fails while the engine starts: at FAIL_STAGE (one of STAGES), in the way of FAIL_HOW.

With FAIL_RANK only the worker of that rank fails; the others wait for it, as in the real failures of several GPUs.
"""

import atexit
import os
import signal
import subprocess
import sys
import time
from typing import Any

import torch
from vllm.platforms import current_platform

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as Worker
else:
    from vllm.v1.worker.gpu_worker import Worker

STAGES = ("init_device", "load_model", "determine_available_memory", "compile_or_warm_up_model")


def _fail(how: str) -> None:
    # what a worker starts must end too, even if the worker does not
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    if how == "exits":
        os._exit(3)
    if how == "aborts":
        os.abort()
    if how == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        time.sleep(600)
    if how == "says so, and the engine core waits":  # for the answer of another rank
        print("ERROR WorkerProc hit an exception.\nRuntimeError: a worker failed", flush=True)
        time.sleep(600)
    if how == "breaks its GPU":
        _break_the_gpu()
    if how == "raises and does not end":  # as one that waits for another GPU in its clean-up
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        atexit.register(time.sleep, 600)
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def _break_the_gpu() -> None:
    """Look up a row that is not there: a device-side assert, which every later call on this GPU then fails with."""
    torch.zeros(4, device="cuda").gather(0, torch.tensor([1 << 40], device="cuda"))
    torch.cuda.synchronize()


def _failing(stage: str) -> Any:
    original = getattr(Worker, stage)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        is_chosen = os.environ.get("FAIL_RANK", str(self.rank)) == str(self.rank)
        if os.environ["FAIL_STAGE"] == stage and is_chosen:
            _fail(os.environ["FAIL_HOW"])
        return original(self, *args, **kwargs)

    return method


FailingWorker = type("FailingWorker", (Worker,), {stage: _failing(stage) for stage in STAGES})

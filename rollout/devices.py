"""Which GPUs this machine shows, found without importing torch (which takes seconds)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache

from rollout.config import HardwareConfig


@cache
def gpu_names() -> tuple[str, ...]:
    """One name per NVIDIA GPU that a CUDA program started here would see; empty where there is none."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=name,uuid", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    if result.returncode != 0:  # the tool is there, the driver is not
        return ()
    gpus = [line.split(", ") for line in result.stdout.splitlines() if ", " in line]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(name for name, _ in gpus)
    wanted = [word.strip() for word in visible.split(",") if word.strip()]
    by_id = {str(index): name for index, (name, _) in enumerate(gpus)} | {uuid: name for name, uuid in gpus}
    return tuple(by_id[word] for word in wanted if word in by_id)


def default_hardware() -> str:
    """The hardware preset for this machine: `single_gpu` where there is a GPU, else `cpu`."""
    return "single_gpu" if gpu_names() else "cpu"


def check(hardware: HardwareConfig) -> Iterator[str]:
    """Whether the GPUs that `hardware` asks for are there: one line for each problem."""
    needed, found = hardware.tensor_parallel_size * hardware.pipeline_parallel_size, len(gpu_names())
    if hardware.device != "cuda" or needed <= found:
        return
    asked = f"hardware.tensor_parallel_size={hardware.tensor_parallel_size}"
    if hardware.pipeline_parallel_size > 1:
        asked += f" x pipeline_parallel_size={hardware.pipeline_parallel_size}"
    cure = f"lower it to at most {found}" if found else "use hardware=cpu"
    yield f"{asked}: needs {needed} GPU{'s' if needed > 1 else ''}, this machine shows {found}; {cure}"

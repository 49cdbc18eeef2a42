"""Which GPUs this machine shows, found without importing torch (which takes seconds)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache

from rollout.config import HardwareConfig


@cache
def installed_gpus() -> list[list[str]]:
    """Name, UUID and driver version of every NVIDIA GPU of this machine, in the driver's order."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,uuid,driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=15, check=True)
    except (OSError, subprocess.SubprocessError):  # the tool is there, the driver is not or does not answer
        return []
    return [line.split(", ") for line in result.stdout.splitlines() if line.count(", ") == 2]


def driver_version() -> str | None:
    """The NVIDIA driver's version, or None where there is none."""
    return next((driver for _, _, driver in installed_gpus()), None)


def gpu_names() -> tuple[str, ...]:
    """One name per NVIDIA GPU that a CUDA program started here would see; empty where there is none."""
    gpus = installed_gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(name for name, *_ in gpus)
    return tuple(_named(word.strip(), gpus) for word in visible.split(",") if word.strip() not in ("", "-1"))


def _named(word: str, gpus: list[list[str]]) -> str:
    """The GPU that an entry of CUDA_VISIBLE_DEVICES means: an index, the beginning of a UUID, or a MIG instance."""
    if word.isdigit() and int(word) < len(gpus):
        return gpus[int(word)][0]
    return next((name for name, uuid, _ in gpus if uuid.startswith(word)), word)


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

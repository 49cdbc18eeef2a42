"""Which GPUs this machine shows, found without importing torch (which takes seconds)."""

import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec

from rollout.config import HardwareConfig

_GPU_FACTORS = ("replicas", "tensor_parallel_size", "pipeline_parallel_size")


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


def lacks_multicast(hardware: HardwareConfig) -> bool:
    """Whether GPUs work together and whoever runs this machine has switched NVLink multicast off, in the variables that
    programs have for it.

    FlashInfer's fused all-reduce, vLLM's default for several GPUs, has none and would use it all the same; where it
    does not work that ends in "an illegal memory access".
    """
    switches = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1"}
    is_off = any(os.environ.get(name) == value for name, value in switches.items())
    return hardware.tensor_parallel_size > 1 and is_off


def default_hardware() -> str:
    """The hardware preset for this machine: `single_gpu` where there is a GPU, else `cpu`."""
    return "single_gpu" if gpu_names() else "cpu"


def check(hardware: HardwareConfig) -> Iterator[str]:
    """Whether the GPUs that `hardware` asks of this machine are there: one line for each problem."""
    needed, found = gpus_needed(hardware), len(gpu_names())
    if needed <= found:
        return
    factors = {key: getattr(hardware, key) or 1 for key in _GPU_FACTORS}
    shown = [f"{key}={value}" for key, value in factors.items() if value > 1] or ["tensor_parallel_size=1"]
    gpus = "1 GPU" if needed == 1 else f"{needed} GPUs"
    cure = f"lower it to at most {found}" if found else "use hardware=cpu"
    yield f"hardware.{' x '.join(shown)}: needs {gpus}, this machine shows {found}; {cure}"


def gpus_needed(hardware: HardwareConfig) -> int:
    """The least number of GPUs that this machine must have for `hardware`."""
    if hardware.device != "cuda" or hardware.ray_address is not None:  # a cluster is asked once it is reached
        return 0
    return math.prod(getattr(hardware, key) or 1 for key in _GPU_FACTORS)


def is_distributed(hardware: HardwareConfig) -> bool:
    """Whether the engines live in Ray actors, not in this process."""
    return next(_asked_of_ray(hardware), None) is not None


def check_ray(hardware: HardwareConfig) -> Iterator[str]:
    """Whether Ray is there if `hardware` needs it: one line if not."""
    key = next(_asked_of_ray(hardware), None)
    if key is not None and find_spec("ray") is None:
        yield f"hardware.{key}={getattr(hardware, key)}: needs Ray, which is not installed; run `pip install ray`"


def _asked_of_ray(hardware: HardwareConfig) -> Iterator[str]:
    for key in ("replicas", "replicas_per_gpu", "ray_address"):
        if getattr(hardware, key) != getattr(HardwareConfig, key):
            yield key

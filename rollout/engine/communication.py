"""GPUs that share a model exchange data in every layer. Where the fastest way does not work, a slower one may.

What works depends on the machine: its links, its driver, what a cloud has switched off. vLLM finds out by trying, and
ends in "an illegal memory access" or an error of NCCL's while it starts.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rollout.config import HardwareConfig
from rollout.config.presets import leaves
from rollout.engine import devices


@dataclass(frozen=True)
class Way:
    """How GPUs exchange data, as what differs from vLLM's own way."""

    words: str
    """For the log, after "starting again"."""
    engine_kwargs: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


_UNFUSED = {"compilation_config": {"pass_config": {"fuse_allreduce_rms": False}}}
_BACKEND = "VLLM_FLASHINFER_ALLREDUCE_BACKEND"
_NO_MULTICAST = {"VLLM_ALLREDUCE_USE_SYMM_MEM": "0"}
LADDER = (
    Way("as vLLM would"),
    Way(
        "with FlashInfer's fused all-reduce that needs no NVLink multicast",
        env={**_NO_MULTICAST, _BACKEND: "trtllm"},
    ),
    Way("without the fused all-reduce, which needs NVLink multicast", _UNFUSED, _NO_MULTICAST),
    Way(
        "without direct access from GPU to GPU",
        {**_UNFUSED, "disable_custom_all_reduce": True},
        {**_NO_MULTICAST, "NCCL_P2P_DISABLE": "1"},
    ),
)
"""The ways that are tried one after the other, the fastest first; TRTLLM only where that costs no compiling."""
TRTLLM = 1

_FAILURES = re.compile(
    r"an illegal memory access|CUBLAS_STATUS_(?:EXECUTION|INTERNAL)_\w+|ncclUnhandledCudaError|ncclSystemError|"
    r"ncclInternalError|ncclRemoteError|NCCL error|custom_all_reduce\.cuh?:\d+|cudaErrorPeerAccess\w*|"
    r"peer access is not supported|invalid device pointer"
)
"""How vLLM 0.26 to 0.33 end where GPUs cannot exchange data as they were asked to."""


def failure(hardware: HardwareConfig, text: str) -> str | None:
    """What in `text`, the output of an engine that failed to start, tells that its GPUs could not exchange data."""
    found = _FAILURES.search(text) if hardware.tensor_parallel_size > 1 else None
    return found[0] if found else None


def tried_again(hardware: HardwareConfig, failure: str, level: int) -> str:
    """What the log says when an engine that failed is started once more, in the way LADDER[level]."""
    return (
        f"the GPUs could not exchange data as they were to ({failure}): starting again {LADDER[level].words}; "
        f"to begin so next time, add {' '.join(as_overrides(hardware, level))}"
    )


def explain(hardware: HardwareConfig, failure: str | None) -> str | None:
    """The line about an engine that failed in the safest way too; None where the failure was another one."""
    if failure is None:
        return None
    return (
        f"hardware.tensor_parallel_size={hardware.tensor_parallel_size}: the GPUs cannot exchange data ({failure}), "
        "in the safest way either; check them with `nvidia-smi topo -m`, or give each a model of its own with "
        "hardware=multi_gpu"
    )


def levels(hardware: HardwareConfig) -> Iterator[int]:
    """Which ways of LADDER to start in, the next one where one fails.

    Where NVLink multicast is switched off the first is left out at once. One that changes nothing is passed over.
    """
    if hardware.tensor_parallel_size == 1:
        yield 0
        return
    tried = list[HardwareConfig]()
    for level in range(int(devices.lacks_multicast(hardware)), len(LADDER)):
        then = safer(hardware, level)
        if then not in tried and (level != TRTLLM or _asks_for_trtllm(hardware) or has_compiled_trtllm()):
            tried.append(then)
            yield level


def _asks_for_trtllm(hardware: HardwareConfig) -> bool:
    return hardware.env.get(_BACKEND, os.environ.get(_BACKEND)) == LADDER[TRTLLM].env[_BACKEND]


def has_compiled_trtllm() -> bool:
    """Whether FlashInfer has the kernels of its `trtllm` all-reduce on this machine: in the package of compiled ones, as
    vLLM's container has it, or from an earlier start. Compiling them takes three minutes, for a few percent of the tok/s.

    Where it looks is in `flashinfer/jit/env.py`, 0.6.13.
    """
    try:
        folder = Path(os.environ.get("FLASHINFER_WORKSPACE_BASE", Path.home()), ".cache/flashinfer")
        compiled_here = (folder / version("flashinfer-python")).glob("*/cached_ops/trtllm_comm/trtllm_comm.so")
    except PackageNotFoundError:
        return False
    return find_spec("flashinfer_jit_cache") is not None or any(compiled_here)


def safer(hardware: HardwareConfig, level: int) -> HardwareConfig:
    """`hardware` with the way LADDER[level]; what the user has set himself stays."""
    way = LADDER[level]
    kwargs = _with_defaults(hardware.engine_kwargs, way.engine_kwargs)
    return dataclasses.replace(hardware, engine_kwargs=kwargs, env={**way.env, **hardware.env})


def as_overrides(hardware: HardwareConfig, level: int) -> list[str]:
    """What a user would write to have the same from the start."""
    then, before = safer(hardware, level), dict(_leaves(hardware))
    return [f"{key}={value}" for key, value in _leaves(then) if key not in before]


def _leaves(hardware: HardwareConfig) -> Iterator[tuple[str, Any]]:
    for key in ("engine_kwargs", "env"):
        for path, value in leaves(getattr(hardware, key)):
            shown = str(value).lower() if isinstance(value, bool) else value
            yield f"hardware.{key}.{path}", shown


def _with_defaults(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, and of `defaults` what they do not say, in dictionaries within them too."""
    both = {
        name: _with_defaults(values[name], default)
        for name, default in defaults.items()
        if isinstance(default, Mapping) and isinstance(values.get(name), Mapping)
    }
    return {**defaults, **values, **both}

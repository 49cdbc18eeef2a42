"""GPUs that share a model exchange data in every layer. Where the fastest way does not work, a slower one may.

What works depends on the machine: its links, its driver, what a cloud has switched off. vLLM finds out by trying, and
ends in "an illegal memory access" or an error of NCCL's while it starts.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rollout.config import HardwareConfig
from rollout.config.presets import leaves, with_defaults
from rollout.engine import devices


@dataclass(frozen=True)
class Safer:
    """A way of exchanging data that is switched off."""

    without: str
    """Its name, for the log."""
    engine_kwargs: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)


LADDER = (
    Safer(
        "the fused all-reduce, which needs NVLink multicast",
        {"compilation_config": {"pass_config": {"fuse_allreduce_rms": False}}},
        {"VLLM_ALLREDUCE_USE_SYMM_MEM": "0"},
    ),
    Safer(
        "direct access from GPU to GPU",
        {"disable_custom_all_reduce": True},
        {"NCCL_P2P_DISABLE": "1"},
    ),
)
"""What is switched off in turn, the cheapest first: measured on H200s, the first costs 3 % of the tok/s."""

_FAILURES = re.compile(
    r"an illegal memory access|CUBLAS_STATUS_(?:EXECUTION|INTERNAL)_\w+|ncclUnhandledCudaError|ncclSystemError|"
    r"ncclInternalError|ncclRemoteError|NCCL error|custom_all_reduce\.cuh?:\d+|cudaErrorPeerAccess\w*|"
    r"peer access is not supported|invalid device pointer"
)
"""Errors of vLLM 0.26 to 0.33 if GPUs cannot exchange data in the way that was asked for."""


def failure(hardware: HardwareConfig, text: str) -> str | None:
    """The part of `text`, the output of an engine that failed to start, that shows that its GPUs could not exchange
    data.
    """
    found = _FAILURES.search(text) if hardware.tensor_parallel_size > 1 else None
    return found[0] if found else None


def tried_again(hardware: HardwareConfig, failure: str, level: int) -> str:
    """The log line before an engine that failed is started again, without `level` rungs of LADDER."""
    return (
        f"the GPUs could not exchange data as they were to ({failure}): starting again without "
        f"{LADDER[level - 1].without}; to begin so next time, add {' '.join(as_overrides(hardware, level))}"
    )


def explain(hardware: HardwareConfig, failure: str | None) -> str | None:
    """The line about an engine that failed even in the safest way; None if the failure has another cause."""
    if failure is None:
        return None
    return (
        f"hardware.tensor_parallel_size={hardware.tensor_parallel_size}: the GPUs cannot exchange data ({failure}), "
        "in the safest way either; check them with `nvidia-smi topo -m`, or give each a model of its own with "
        "hardware=multi_gpu"
    )


def levels(hardware: HardwareConfig) -> Iterator[int]:
    """How many rungs of LADDER to leave out at the first start, and at each next one if that fails.

    Where NVLink multicast is switched off, the first rung is left out at once. A rung that changes nothing is skipped.
    """
    first = int(devices.lacks_multicast(hardware))
    yield first
    if hardware.tensor_parallel_size > 1:
        for level in range(first + 1, len(LADDER) + 1):
            if safer(hardware, level) != safer(hardware, level - 1):
                yield level


def safer(hardware: HardwareConfig, level: int) -> HardwareConfig:
    """`hardware` without the first `level` rungs of LADDER; what the user has set stays."""
    for rung in LADDER[:level]:
        kwargs = with_defaults(hardware.engine_kwargs, rung.engine_kwargs)
        hardware = dataclasses.replace(hardware, engine_kwargs=kwargs, env={**rung.env, **hardware.env})
    return hardware


def as_overrides(hardware: HardwareConfig, level: int) -> list[str]:
    """The overrides with which a user gets the same from the start."""
    then, before = safer(hardware, level), dict(_leaves(hardware))
    return [f"{key}={value}" for key, value in _leaves(then) if key not in before]


def _leaves(hardware: HardwareConfig) -> Iterator[tuple[str, Any]]:
    for key in ("engine_kwargs", "env"):
        for path, value in leaves(getattr(hardware, key)):
            shown = str(value).lower() if isinstance(value, bool) else value
            yield f"hardware.{key}.{path}", shown

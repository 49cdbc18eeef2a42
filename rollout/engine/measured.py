"""The speeds in docs/performance.md, for estimates on a machine that has no run of its own yet.

A test compares every figure with the page.
"""

from dataclasses import dataclass

from rollout.config import HardwareConfig

SOURCE = "docs/performance.md"
_ALIKE = 0.75  # the smallest ratio of two sizes that count as alike
_BYTES = 2  # per number, in the weights that were measured


@dataclass(frozen=True)
class Measured:
    """Tokens per second of whole runs with 512 tokens a response, and as many samples at a time as the engine takes."""

    shape: str
    billions: float
    """Number of weights, in billions."""
    gpus: int
    preset: str
    hardware: HardwareConfig
    """The settings that decide the speed; the others are the defaults."""
    tok_s: int
    gpu: str = "H200"


MEASURED = (
    Measured("8B", 7.4, 1, "throughput", HardwareConfig(max_num_seqs=1024), 26_476),
    Measured("8B", 7.4, 1, "single_gpu", HardwareConfig(), 22_006),
    Measured("8B", 7.4, 1, "low_mem", HardwareConfig(max_num_seqs=64), 10_318),
    Measured("8B", 7.4, 1, "debug", HardwareConfig(enforce_eager=True), 15_781),
    Measured("8B", 7.4, 1, "fp8", HardwareConfig(max_num_seqs=1024, kv_cache_dtype="fp8"), 35_091),
    Measured("8B", 7.4, 2, "multi_gpu", HardwareConfig(replicas=2), 41_939),
    Measured("8B", 7.4, 2, "dual_gpu", HardwareConfig(tensor_parallel_size=2, max_num_seqs=512), 37_804),
    Measured("0.5B", 0.45, 1, "throughput", HardwareConfig(max_num_seqs=1024), 65_036),
)


def measured_like(weights: int, hardware: HardwareConfig, gpus: tuple[str, ...]) -> Measured | None:
    """The measurement with the same number of such GPUs and a model whose weights take about as many bytes.

    If there are several, the one with about as many samples at a time. None if there is none.
    """
    if hardware.device == "cpu" or hardware.replicas_per_gpu > 1 or hardware.pipeline_parallel_size > 1:
        return None
    alike = [one for one in MEASURED if _is_alike(one, weights, hardware, gpus)]
    return min(alike, key=lambda one: abs(one.hardware.max_num_seqs - hardware.max_num_seqs), default=None)


def _is_alike(one: Measured, weights: int, hardware: HardwareConfig, gpus: tuple[str, ...]) -> bool:
    is_fp8 = one.hardware.kv_cache_dtype == "fp8"
    theirs = one.billions * 1e9 * (1 if is_fp8 else _BYTES)
    replicas = len(gpus) // hardware.tensor_parallel_size if hardware.replicas is None else hardware.replicas
    return (
        min(theirs, weights) / max(theirs, weights, 1) >= _ALIKE
        and len(gpus) >= one.gpus
        and all(one.gpu in name for name in gpus)
        and replicas == one.hardware.replicas
        and hardware.tensor_parallel_size == one.hardware.tensor_parallel_size
        and hardware.enforce_eager == one.hardware.enforce_eager
        and hardware.kv_cache_dtype.startswith("fp8") == is_fp8
    )

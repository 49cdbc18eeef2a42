"""The config of a run for one of its engines."""

import dataclasses
import os

from rollout.config import PostprocessConfig, RunConfig, constraints
from rollout.engine import models, vllm_worker
from rollout.engine.protocol import GpuShare


def one_engine(run: RunConfig, share: GpuShare | None = None, count: int = 1) -> RunConfig:
    """`run` as one of its `count` replicas does it: an engine in its own process, with its part of the GPU's memory and
    of the processes that score, and paths that mean the same in another folder. `share` is that part where it need not
    be measured.
    """
    hardware, cache = run.hardware, dict[str, object]()
    utilization = hardware.gpu_memory_utilization / hardware.replicas_per_gpu
    if share is not None:
        cache, utilization = {"kv_cache_memory_bytes": share.kv_cache_bytes}, share.utilization
    elif hardware.replicas_per_gpu > 1 and "kv_cache_memory_bytes" not in hardware.engine_kwargs:
        cache = {"worker_extension_cls": vllm_worker.NAME}
    of_one = dataclasses.replace(
        hardware,
        replicas=1,
        replicas_per_gpu=1,
        ray_address=None,
        gpu_memory_utilization=utilization,
        engine_kwargs=cache | hardware.engine_kwargs,
    )
    sampling = constraints.with_schema_read(run.sampling)
    return dataclasses.replace(
        run,
        hardware=of_one,
        model=models.with_absolute_paths(run.model),
        sampling=sampling,
        postprocess=_with_workers(run.postprocess, count),
    )


def _with_workers(config: PostprocessConfig, count: int) -> PostprocessConfig:
    """`config` with the processes that score shared by `count` replicas."""
    workers = max(1, (config.score.workers or os.cpu_count() or 1) // count)
    return dataclasses.replace(config, score=dataclasses.replace(config.score, workers=workers))

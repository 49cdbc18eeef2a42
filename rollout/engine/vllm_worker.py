"""Methods added to vLLM's workers, all in one class: vLLM takes only one such extension (`worker_extension_cls`)."""

import logging
import sys
from collections.abc import Callable
from typing import Any

from rollout.engine.protocol import GpuShare

log = logging.getLogger(__name__)

_MOST_OF_CUDA = 1 << 30
"""Memory above this, in use before the engine starts, is another program's: on an H100, CUDA takes 0.52 GiB a process.
"""


class WorkerExtension:
    """Methods that `LLM.collective_rpc` can call in the workers, beside vLLM's own."""

    available_kv_cache_memory_bytes: int
    """Set by vLLM's own worker after it has measured."""
    requested_memory: int
    """The engine's share of the GPU's memory, in bytes."""
    init_snapshot: Any
    """The GPU's memory when the worker had loaded CUDA and nothing else."""
    model_runner: Any
    """Set by vLLM's own worker."""

    def share_of_next(self) -> tuple[float, int]:
        """The fields of a GpuShare for another engine like this one: the share of this one, less what it uses beyond
        that.

        That is CUDA's own memory and CUDA graphs: vLLM counts neither, and leaves room for those of one engine.
        """
        import torch

        start, (free, total) = self.init_snapshot, torch.cuda.mem_get_info()
        of_cuda = min(start.total_memory - start.free_memory, _MOST_OF_CUDA)
        beyond = max(0, start.free_memory - free + of_cuda - self.requested_memory)
        return (self.requested_memory - beyond) / total, int(self.available_kv_cache_memory_bytes) - beyond

    def put_weights(self, folder: str) -> dict[str, Any]:
        """Take the weights in `folder`; see `vllm_weights.put`."""
        from rollout.engine import vllm_weights  # imports torch and vLLM, only in the worker's process

        return vllm_weights.put(self, folder)

    def fast_sampler_refusal(self) -> str | None:
        """Why vLLM's own sampler must be used here, or None."""
        from rollout.engine import vllm_sampler

        return vllm_sampler.refusal(self.model_runner, sys.modules["vllm"].__version__)

    def use_fast_sampler(self, wanted: bool) -> bool:
        """Draw with our sampler from now on, or as vLLM does; False if ours draws wrong tokens here.

        To be called on all ranks, if none refuses it.
        """
        from rollout.engine import vllm_sampler

        if wanted:
            return vllm_sampler.put(self.model_runner)
        vllm_sampler.take_back(self.model_runner)
        return True

    def shard_batches(self, wanted: bool) -> bool:
        """Let each GPU of a tensor-parallel group draw for a part of the batch, or for all of it. Returns which it is.

        To be called on all ranks at the same time, after `use_fast_sampler`.
        """
        from rollout.engine import vllm_batch_shard

        vllm_batch_shard.take_back(self.model_runner)
        return wanted and vllm_batch_shard.put(self.model_runner)


Workers = Callable[..., list[Any]]
"""Calls a method of each worker, as `LLM.collective_rpc` does. Answers are as msgpack returns them: tuples as lists,
dataclasses as dictionaries.
"""


def share_of_next(workers: Workers) -> GpuShare:
    """The share of a GPU for another engine like this one."""
    utilization, kv_cache_bytes = workers("share_of_next")[0]
    return GpuShare(utilization, kv_cache_bytes)


def take_fast_sampler(workers: Workers) -> str | None:
    """Let all workers draw with our sampler, or none if one refuses it. Returns the reason for refusing."""
    for reason in workers("fast_sampler_refusal"):
        if reason is not None:
            return str(reason)
    if not all(workers("use_fast_sampler", args=(True,))):
        workers("use_fast_sampler", args=(False,))
        return "on this GPU ours draws other tokens than it should"
    if all(workers("shard_batches", args=(True,))):
        log.info("each GPU draws the tokens of a part of the batch")
    return None


NAME = f"{WorkerExtension.__module__}.{WorkerExtension.__qualname__}"

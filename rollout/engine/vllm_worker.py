"""What is added to vLLM's worker process; of such classes (`worker_extension_cls`) vLLM takes one."""

import sys
from collections.abc import Callable
from typing import Any


class WorkerExtension:
    """What `LLM.collective_rpc` can ask of the workers beside vLLM's own."""

    available_kv_cache_memory_bytes: int
    """Set by vLLM's own worker when it has measured."""
    model_runner: Any
    """Of vLLM's own worker."""

    def kv_cache_bytes_found(self) -> int:
        """What the worker found to be left for its KV cache, in bytes."""
        return int(self.available_kv_cache_memory_bytes)

    def put_weights(self, folder: str) -> dict[str, Any]:
        """Take the weights in `folder`; see `vllm_weights.put`."""
        from rollout.engine import vllm_weights  # torch and vLLM, in the worker's process only

        return vllm_weights.put(self, folder)

    def fast_sampler_refusal(self) -> str | None:
        """Why vLLM's own sampler has to do here, or None."""
        from rollout.engine import vllm_sampler

        return vllm_sampler.refusal(self.model_runner, sys.modules["vllm"].__version__)

    def use_fast_sampler(self, wanted: bool) -> None:
        """Draw with our sampler from now on, or as vLLM does. To be called where nothing refuses it, on all ranks."""
        from rollout.engine import vllm_sampler

        (vllm_sampler.put if wanted else vllm_sampler.take_back)(self.model_runner)


def take_fast_sampler(workers: Callable[..., list[Any]]) -> str | None:
    """Let all workers draw with our sampler, or none where one refuses it; why it does.

    `workers` calls a method of each of them, as `LLM.collective_rpc` does.
    """
    for reason in workers("fast_sampler_refusal"):
        if reason is not None:
            return str(reason)
    workers("use_fast_sampler", args=(True,))
    return None


NAME = f"{WorkerExtension.__module__}.{WorkerExtension.__qualname__}"

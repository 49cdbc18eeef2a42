"""What is added to vLLM's worker processes (vLLM's `worker_extension_cls`, of which it takes one)."""

from typing import Any


class WorkerExtension:
    """What `LLM.collective_rpc` can ask of a worker beside what vLLM's own worker knows."""

    available_kv_cache_memory_bytes: int
    """Set by vLLM's own worker when it has measured."""

    def kv_cache_bytes_found(self) -> int:
        """What was found to be left for the KV cache, in bytes."""
        return int(self.available_kv_cache_memory_bytes)

    def put_weights(self, folder: str) -> dict[str, Any]:
        """Take the weights in `folder`; see `vllm_weights.put`."""
        from rollout.engine import vllm_weights  # with torch and vLLM, which who only needs NAME need not have

        return vllm_weights.put(self, folder)


NAME = f"{WorkerExtension.__module__}.{WorkerExtension.__qualname__}"

"""What is added to vLLM's worker process where engines share a GPU (vLLM's `worker_extension_cls`)."""


class KVCacheSizeExtension:
    """Lets `LLM.collective_rpc("kv_cache_bytes_found")` ask what the worker found to be left for its KV cache."""

    available_kv_cache_memory_bytes: int
    """Set by vLLM's own worker when it has measured."""

    def kv_cache_bytes_found(self) -> int:
        """In bytes."""
        return int(self.available_kv_cache_memory_bytes)


NAME = f"{KVCacheSizeExtension.__module__}.{KVCacheSizeExtension.__qualname__}"

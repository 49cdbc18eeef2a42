"""vLLM's own scheduler, with a shorter way for what it does most: one more token for a request that has room for it.

Once per step, vLLM asks for room for each request that is running, and marks the blocks that are full. With blocks of
16 tokens there is nothing to do in 14 of 16 steps, which vLLM finds out through a dozen calls in Python. On two GPUs
that share a model, 512 samples at a time, the GPUs wait for this (docs/performance.md).
"""

from typing import Any

import vllm
from vllm.v1.core.kv_cache_coordinator import KVCacheCoordinatorNoPrefixCache, UnitaryKVCacheCoordinator
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager

_VERSIONS = ("0.26.", "0.32.")
"""Those with whose own scheduler it was compared, batch by batch. Engines take it with the first, measured on GPUs."""
_COORDINATORS = (UnitaryKVCacheCoordinator, KVCacheCoordinatorNoPrefixCache)
_ONE_TOKEN = {"num_lookahead_tokens": 0}
"""What the scheduler says of a running request beside its tokens, without speculative decoding."""


def scheduler(**kwargs: Any) -> Scheduler:
    """The one of vLLM, with the shorter way where it fits; for `scheduler_cls`. Its arguments are `Scheduler`'s."""
    made = vllms(**kwargs)
    if fits(made.kv_cache_manager):
        shorten(made.kv_cache_manager)
    return made


def vllms(**kwargs: Any) -> Scheduler:
    """The scheduler that vLLM makes for this config if none is named."""
    is_async = kwargs["vllm_config"].scheduler_config.async_scheduling
    return (AsyncScheduler if is_async else Scheduler)(**kwargs)


def fits(cache: Any) -> bool:
    """Whether the shorter way fits this `KVCacheManager`: all layers have full attention, and blocks of one size."""
    coordinator = cache.coordinator
    is_read = vllm.__version__.startswith(_VERSIONS) and type(coordinator) in _COORDINATORS
    if not is_read or [type(blocks) for blocks in coordinator.single_type_managers] != [FullAttentionManager]:
        return False
    has_drafts = coordinator.eagle_group_ids or getattr(coordinator, "num_reprefillable_tokens", 0)
    size, hashed = coordinator.single_type_managers[0].block_size, cache.block_pool.hash_block_size
    return not has_drafts and (size == hashed or not cache.enable_caching)


def shorten(cache: Any) -> None:
    """Let `allocate_slots` and `cache_blocks` of this `KVCacheManager` return at once where they would do nothing."""
    (blocks,) = cache.coordinator.single_type_managers
    size, of_request, cached = blocks.block_size, blocks.req_to_blocks, blocks.num_cached_block
    nothing, is_caching = cache.empty_kv_cache_blocks, cache.enable_caching
    allocate_slots, cache_blocks = cache.allocate_slots, cache.cache_blocks

    def is_cached(name: str, tokens: int) -> bool:
        return not is_caching or cached.get(name, 0) >= tokens // size

    def allocate(request: Any, num_new_tokens: int, **others: Any) -> Any:
        name, tokens = request.request_id, request.num_computed_tokens + 1
        if (
            num_new_tokens == 1
            and others == _ONE_TOKEN
            and tokens <= len(of_request.get(name, ())) * size
            and is_cached(name, min(tokens, request.num_tokens))
        ):
            return nothing
        return allocate_slots(request, num_new_tokens, **others)

    def mark(request: Any, num_computed_tokens: int) -> None:
        if not is_cached(request.request_id, num_computed_tokens):
            cache_blocks(request, num_computed_tokens)

    cache.allocate_slots, cache.cache_blocks = allocate, mark

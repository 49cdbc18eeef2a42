"""vLLM's own scheduler, with shorter ways for what it does most: one more token for a request that has room for it.

Once per step, vLLM does the same for each request that is running: it asks for room and marks the blocks that are full,
lists the request for the workers, and takes in its token, which may be the last one or fill a block. For most tokens
there is nothing to ask, to mark or to end. vLLM finds this out through many calls in Python; here a few comparisons do,
and all else is left to vLLM. The GPUs wait for this with small models, and where two of them share a model with 512
samples at a time (docs/performance.md).
"""

from typing import Any

import vllm
from vllm.v1.core.kv_cache_coordinator import KVCacheCoordinatorNoPrefixCache, UnitaryKVCacheCoordinator
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import CachedRequestData
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager
from vllm.v1.request import RequestStatus

_VERSIONS = ("0.26.", "0.32.")
"""Versions with whose scheduler this one was compared, batch by batch. Engines use it with 0.26 only."""
_COORDINATORS = (UnitaryKVCacheCoordinator, KVCacheCoordinatorNoPrefixCache)
_ONE_TOKEN = {"num_lookahead_tokens": 0}
"""What the scheduler says of a running request beside its tokens, unless drafts need room, too."""


def scheduler(**kwargs: Any) -> Scheduler:
    """Make vLLM's scheduler, with shorter ways where they fit; for `scheduler_cls`. Takes `Scheduler`'s arguments."""
    made = vllms(**kwargs)
    if fits(made.kv_cache_manager):
        shorten_blocks(made.kv_cache_manager)
        shorten_tokens(made)
        if made.use_v2_model_runner and not made.use_pp:
            shorten_batches(made)
    return made


def vllms(**kwargs: Any) -> Scheduler:
    """The scheduler that vLLM makes for this config if none is named."""
    is_async = kwargs["vllm_config"].scheduler_config.async_scheduling
    return (AsyncScheduler if is_async else Scheduler)(**kwargs)


def fits(cache: Any) -> bool:
    """Whether the shorter ways fit this `KVCacheManager`: its code is what was compared, all layers have full
    attention, its blocks have one size, and no draft model needs room in them.
    """
    coordinator = cache.coordinator
    is_compared = vllm.__version__.startswith(_VERSIONS) and type(coordinator) in _COORDINATORS
    if not is_compared or [type(blocks) for blocks in coordinator.single_type_managers] != [FullAttentionManager]:
        return False
    has_drafts = coordinator.eagle_group_ids or getattr(coordinator, "num_reprefillable_tokens", 0)
    size, hashed = coordinator.single_type_managers[0].block_size, cache.block_pool.hash_block_size
    return not has_drafts and (size == hashed or not cache.enable_caching)


def shorten_blocks(cache: Any) -> None:
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


def shorten_tokens(made: Scheduler) -> None:
    """Let `_update_request_with_output` of this scheduler just append a token that neither ends its request nor fills a
    block. The method takes the new tokens of a request, and returns those that count and whether the request ends.
    """
    is_async, longest, cache = type(made) is AsyncScheduler, made.max_model_len, made.kv_cache_manager
    size, take_in, mark = cache.block_pool.hash_block_size, made._update_request_with_output, cache.cache_blocks
    running = RequestStatus.RUNNING

    def append(request: Any, tokens: list[int], **others: Any) -> tuple[list[int], bool]:
        outputs, known, asked = request._output_token_ids, request._all_token_ids, request.sampling_params
        length = len(known) + 1
        if (
            len(tokens) != 1
            or length % size == 0
            or length >= longest
            or len(outputs) + 1 >= request.max_tokens
            or (token := tokens[0]) == asked.eos_token_id
            or token in (asked.stop_token_ids or ())
            or asked.repetition_detection is not None
            or request.status is not running
            or others.get("is_stale", False)  # vLLM 0.32: from before a preemption
            or getattr(request, "async_tokens_to_discard", False)  # vLLM 0.26: from before a reset
        ):
            taken: tuple[list[int], bool] = take_in(request, tokens, **others)
            return taken
        outputs.append(token)
        known.append(token)
        if is_async:
            request.num_output_placeholders -= 1
            assert request.num_output_placeholders >= 0
            mark(request, request.num_computed_tokens - request.num_output_placeholders)
        return tokens, False

    made._update_request_with_output = append


def shorten_batches(made: Scheduler) -> None:
    """Let `_make_cached_request_data` of this scheduler list the running requests of a batch column by column.

    Only the first model runner needs `all_token_ids`, and only a pipeline `new_token_ids`.
    """
    nothing, make = made.kv_cache_manager.empty_kv_cache_blocks, made._make_cached_request_data

    def columns(running: Any, resumed: Any, tokens: Any, drafts: Any, blocks: Any) -> CachedRequestData:
        if resumed or drafts:
            return make(running, resumed, tokens, drafts, blocks)
        new = [blocks[one.request_id] for one in running]
        return CachedRequestData(
            req_ids=[one.request_id for one in running],
            resumed_req_ids=set(),
            new_token_ids=[],
            all_token_ids={},
            new_block_ids=[None if one is nothing else one.get_block_ids(allow_none=True) for one in new],
            num_computed_tokens=[one.num_computed_tokens for one in running],
            num_output_tokens=[len(one._output_token_ids) + one.num_output_placeholders for one in running],
        )

    made._make_cached_request_data = columns

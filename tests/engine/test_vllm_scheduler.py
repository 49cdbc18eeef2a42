"""vLLM's scheduler with the shorter way, against vLLM's alone: every batch and every block is the same."""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from rollout.config import HardwareConfig, ModelConfig

pytestmark = pytest.mark.slow

OURS = "rollout.engine.vllm_scheduler.scheduler"


def engines(blocks: int, is_async: bool, caching: bool) -> tuple[Any, Any]:
    from benchmarks.scheduler import Engine  # here and below: to collect the tests needs no vllm
    from rollout.engine.vllm_scheduler import scheduler, vllms

    found = [Engine(8, blocks, make, is_async, caching, tokens_per_step=24) for make in (vllms, scheduler)]
    return found[0], found[1]


def state_of(engine: Any, batch: Any) -> dict[str, Any]:
    """What a batch asks of the worker, and which blocks are whose."""
    (blocks,) = engine.scheduler.kv_cache_manager.coordinator.single_type_managers
    cached = batch.scheduled_cached_reqs
    return {
        "tokens": batch.num_scheduled_tokens,
        "new": [(one.req_id, one.block_ids, one.num_computed_tokens) for one in batch.scheduled_new_reqs],
        "running": (cached.req_ids, cached.new_block_ids, cached.num_computed_tokens),
        "preempted": batch.preempted_req_ids,
        "finished": batch.finished_req_ids,
        "blocks": {name: [one.block_id for one in of] for name, of in blocks.req_to_blocks.items()},
        "hashes": {name: [one.block_hash for one in of] for name, of in blocks.req_to_blocks.items()},
        "marked": dict(blocks.num_cached_block),
        "found by others": len(blocks.block_pool.cached_block_hash_to_block),
        "free": blocks.block_pool.get_num_free_blocks(),
    }


@pytest.mark.parametrize("caching", [True, False])
@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize(
    ("blocks", "resets"),
    [
        (24, 0.0),  # too few for all
        (200, 0.02),  # of the prefix cache, with batches on their way, as before new weights
    ],
)
def test_every_batch_is_the_same_also_after_preemptions(
    blocks: int, resets: float, is_async: bool, caching: bool
) -> None:
    from rollout.engine.vllm_scheduler import fits

    vllms, ours = engines(blocks, is_async, caching)
    assert fits(ours.scheduler.kv_cache_manager)
    chance = random.Random(blocks)
    asked, given, preempted = 0, 0, 0
    while asked < 60 or vllms.scheduler.has_unfinished_requests():
        while asked < 60 and chance.random() < 0.3:
            prompt = [*range(chance.choice([0, 16, 40])), asked, *range(chance.randint(1, 30))]  # some begin alike
            length = chance.randint(1, 90)
            for engine in (vllms, ours):
                engine.add(str(asked), prompt, length)
            asked += 1
        if chance.random() < resets:
            assert [one.scheduler.reset_prefix_cache(True) for one in (vllms, ours)] == [True, True]
        (batch, tokens), (same, same_tokens) = vllms.step(), ours.step()
        assert state_of(ours, same) == state_of(vllms, batch)
        assert same_tokens == tokens
        given += sum(map(len, tokens.values()))
        preempted += len(batch.preempted_req_ids or ())
    assert given > 2000
    assert preempted > 0


@pytest.mark.parametrize(
    ("is_async", "long"),
    [
        (True, 21),  # the first token of each block; full ones are marked when their last token is taken in
        (False, 41),  # the last token of each block, too
    ],
)
def test_the_long_way_is_left_for_tokens_that_need_a_block_or_fill_one(
    is_async: bool, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.core.kv_cache_manager import KVCacheManager

    calls, whole = list[str](), KVCacheManager.allocate_slots

    def counted(cache: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(request.request_id)
        return whole(cache, request, *args, **kwargs)

    monkeypatch.setattr(KVCacheManager, "allocate_slots", counted)
    vllms, ours = engines(200, is_async, caching=True)
    count = dict[str, int]()
    for name, engine in (("vllms", vllms), ("ours", ours)):
        calls.clear()
        engine.add("a", [1, 2, 3], 320)
        while engine.scheduler.has_unfinished_requests():
            engine.step()
        count[name] = len(calls)
    assert count == {"vllms": 320, "ours": long}


def test_it_is_the_scheduler_that_vllm_would_take() -> None:
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler

    for is_async, taken in ((True, AsyncScheduler), (False, Scheduler)):
        assert [type(one.scheduler) for one in engines(24, is_async, caching=True)] == [taken, taken]


def test_models_whose_blocks_have_other_rules_are_left_to_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.single_type_kv_cache_manager import SlidingWindowManager

    from rollout.engine import vllm_scheduler

    cache = engines(24, is_async=True, caching=True)[0].scheduler.kv_cache_manager
    assert vllm_scheduler.fits(cache)
    with monkeypatch.context() as patch:
        patch.setattr(cache.coordinator, "eagle_group_ids", {0})  # speculative decoding
        assert not vllm_scheduler.fits(cache)
    with monkeypatch.context() as patch:
        patch.setattr(vllm_scheduler, "vllm", SimpleNamespace(__version__="0.33.0"))
        assert not vllm_scheduler.fits(cache)
    with monkeypatch.context() as patch:
        (blocks,) = cache.coordinator.single_type_managers
        patch.setattr(blocks, "__class__", SlidingWindowManager)
        assert not vllm_scheduler.fits(cache)
    with monkeypatch.context() as patch:
        patch.setattr(cache.block_pool, "hash_block_size", 8)
        assert not vllm_scheduler.fits(cache)
    assert vllm_scheduler.fits(cache)


@pytest.mark.parametrize(
    ("hardware", "version", "taken"),
    [
        (HardwareConfig(), "0.26.0", OURS),
        (HardwareConfig(), "0.32.0", None),
        (HardwareConfig(engine_kwargs={"scheduler_cls": "mine.Scheduler"}), "0.26.0", "mine.Scheduler"),
        (HardwareConfig(engine_kwargs={"scheduler_cls": None}), "0.26.0", None),
    ],
)
def test_engines_of_vllm_026_take_it_unless_the_user_names_one(
    hardware: HardwareConfig, version: str, taken: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import vllm

    from rollout.engine.vllm_engine import _engine_kwargs

    monkeypatch.setattr(vllm, "__version__", version)
    assert _engine_kwargs(ModelConfig(), hardware).get("scheduler_cls") == taken

"""vLLM's scheduler with the shorter way, against vLLM's alone: every batch and every block is the same."""

import random
from types import SimpleNamespace
from typing import Any

import pytest

from rollout.config import HardwareConfig, ModelConfig

pytestmark = pytest.mark.slow

OURS = "rollout.engine.vllm_scheduler.scheduler"
CONTEXT = 120
"""No multiple of a block of 16, so that the last token of a context fills none."""


def engines(blocks: int, is_async: bool, caching: bool, runner: int = 2) -> tuple[Any, Any]:
    from benchmarks.scheduler import Engine  # here and below: to collect the tests needs no vllm
    from rollout.engine.vllm_scheduler import scheduler, vllms

    def token(request: Any) -> int:
        """The same whichever engine asks; often 1, so that some repeat it."""
        drawn = random.Random(f"{request.request_id} {request.num_computed_tokens}").randrange(35)
        return drawn if drawn < 30 else 1

    limits = {"tokens_per_step": 24, "max_model_len": CONTEXT}
    found = [
        Engine(8, blocks, make, is_async, caching, **limits, token=token, runner=runner) for make in (vllms, scheduler)
    ]
    return found[0], found[1]


def asked_for(chance: random.Random, room: int) -> Any:
    """What some requests ask for: to end at a length, at a token, at one of several, or when they repeat themselves."""
    from vllm import SamplingParams
    from vllm.sampling_params import RepetitionDetectionParams

    length = chance.randint(1, 120)
    more = chance.choice(
        [
            {},
            {"stop_token_ids": [3, 11]},
            {"repetition_detection": RepetitionDetectionParams(2, 1, 2)},
            {"ignore_eos": True},
        ]
    )
    params = SamplingParams(max_tokens=length, min_tokens=chance.randint(0, min(length, room)), **more)
    params.update_from_generation_config({"eos_token_id": chance.choice([5, [5, 9]])}, chance.choice([None, 5]))
    return params


def state_of(engine: Any, batch: Any) -> dict[str, Any]:
    """What a batch asks of the worker, and which blocks are whose."""
    (blocks,) = engine.scheduler.kv_cache_manager.coordinator.single_type_managers
    cached = batch.scheduled_cached_reqs
    return {
        "tokens": batch.num_scheduled_tokens,
        "new": [(one.req_id, one.block_ids, one.num_computed_tokens) for one in batch.scheduled_new_reqs],
        "running": vars(cached),
        "requests": [
            (
                one.request_id,
                one.status,
                one.stop_reason,
                [*one.all_token_ids],
                [*one.output_token_ids],
                one.num_computed_tokens,
                one.num_output_placeholders,
                one.num_in_flight_tokens,
                [*one.block_hashes],
            )
            for one in engine.scheduler.requests.values()
        ],
        "preempted": batch.preempted_req_ids,
        "finished": batch.finished_req_ids,
        "blocks": {name: [one.block_id for one in of] for name, of in blocks.req_to_blocks.items()},
        "hashes": {name: [one.block_hash for one in of] for name, of in blocks.req_to_blocks.items()},
        "marked": dict(blocks.num_cached_block),
        "found by others": len(blocks.block_pool.cached_block_hash_to_block),
        "free": blocks.block_pool.get_num_free_blocks(),
    }


def result_of(output: Any) -> tuple[Any, ...]:
    return output.request_id, output.new_token_ids, output.finish_reason, output.stop_reason


REPEATED = ("repetition", "repetition_detected")


@pytest.mark.parametrize("runner", [1, 2])
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
    blocks: int, resets: float, is_async: bool, caching: bool, runner: int
) -> None:
    from vllm.v1.request import RequestStatus

    from rollout.engine.vllm_scheduler import fits

    vllms, ours = engines(blocks, is_async, caching, runner)
    assert fits(ours.scheduler.kv_cache_manager)
    chance = random.Random(blocks)
    asked, given, preempted, ends = 0, 0, 0, set[tuple[Any, Any]]()
    while asked < 120 or vllms.scheduler.has_unfinished_requests():
        while asked < 120 and chance.random() < 0.3:
            prompt = [*range(chance.choice([0, 16, 40])), asked, *range(chance.randint(1, 30))]  # some begin alike
            params = asked_for(chance, CONTEXT - len(prompt))
            for engine in (vllms, ours):
                engine.add(str(asked), prompt, params.clone())
            asked += 1
        if chance.random() < 0.02 and (running := list(vllms.scheduler.requests)):
            aborted = chance.choice(running)
            for engine in (vllms, ours):
                engine.scheduler.finish_requests([aborted], RequestStatus.FINISHED_ABORTED)
        if chance.random() < resets:
            assert [one.scheduler.reset_prefix_cache(True) for one in (vllms, ours)] == [True, True]
        (batch, outputs), (same, same_outputs) = vllms.step(), ours.step()
        assert state_of(ours, same) == state_of(vllms, batch)
        assert list(map(result_of, same_outputs)) == list(map(result_of, outputs))
        given += sum(len(one.new_token_ids) for one in outputs)
        ends |= {(str(one.finish_reason), one.stop_reason) for one in outputs}
        preempted += len(batch.preempted_req_ids or ())
    assert given > 2000
    assert preempted > 0
    assert ends == {("None", None), ("length", None), REPEATED, *(("stop", token) for token in (None, 3, 5, 9, 11))}


@pytest.mark.parametrize(
    ("is_async", "long"),
    [
        (True, 7),  # the first token of each block; full ones are marked when their last token is taken in
        (False, 13),  # the last token of each block, too
    ],
)
def test_the_long_way_is_left_for_tokens_that_need_a_block_or_fill_one(
    is_async: bool, long: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import SamplingParams
    from vllm.v1.core.kv_cache_manager import KVCacheManager
    from vllm.v1.core.sched.scheduler import Scheduler

    calls = list[str]()

    def count(owner: type, method: str) -> None:
        whole = getattr(owner, method)

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(method)
            return whole(*args, **kwargs)

        monkeypatch.setattr(owner, method, counted)

    methods = ("allocate_slots", "_update_request_with_output", "_make_cached_request_data")
    for owner, method in zip((KVCacheManager, Scheduler, Scheduler), methods, strict=True):
        count(owner, method)
    found = list[list[int]]()
    for engine in engines(200, is_async, caching=True):
        calls.clear()
        engine.add("a", [1, 2, 3], SamplingParams(max_tokens=100))
        while engine.scheduler.has_unfinished_requests():
            engine.step()
        found.append([calls.count(method) for method in methods])
    assert found[0][:2] == [100, 100]
    assert found[1] == [long, 7, 0]  # the tokens that fill one of six blocks, and the last one


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

"""Of GPUs that share a model each draws for a part of the batch, and all get what one would draw for the whole."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollout.engine import vllm_batch_shard
from rollout.engine.vllm_batch_shard import shards
from tests.engine.ranks import what_ranks_find


@given(st.integers(1, 2048), st.integers(2, 8))
def test_the_shards_are_all_rows_once_and_begin_where_memory_is_aligned(rows: int, ranks: int) -> None:
    found = shards(rows, ranks)
    if found is None:
        assert rows < max(16 * ranks, 4 * ranks * ranks)
        return
    assert [row for one in found for row in range(one.start, one.stop)] == list(range(rows))
    assert len(found) == ranks
    assert all(one.start % 4 == 0 for one in found)
    *others, last = [one.stop - one.start for one in found]
    assert set(others) == {found[0].stop}
    assert 0 < last <= found[0].stop


@pytest.mark.parametrize(("rows", "ranks", "divided"), [(31, 2, False), (32, 2, True), (512, 8, True), (129, 8, False)])
def test_a_batch_is_divided_where_each_rank_has_something_to_do(rows: int, ranks: int, divided: bool) -> None:
    assert (shards(rows, ranks) is not None) is divided


@pytest.mark.long
def test_two_ranks_return_what_one_draws_for_the_whole_batch() -> None:
    one, other = what_ranks_find("tests.engine.shard_ranks")
    assert all(is_same for is_same, _rows in [*one.values(), *other.values()])
    asked = {name: (one[name][1], other[name][1]) for name in one}
    assert asked.pop("not alike") == (100, 100)  # log-probabilities of some rows only: each draws all
    divided = {name: sum(rows) == int(name.split()[0]) for name, rows in asked.items()}
    assert divided == {name: int(name.split()[0]) >= 32 for name in asked}


def runner(*layers: torch.nn.Module, **changed: Any) -> Any:
    return SimpleNamespace(
        model=torch.nn.ModuleList(layers),
        sampler=changed.get("sampler", SimpleNamespace(compute_nans=changed.get("compute_nans", False))),
        parallel_config=SimpleNamespace(tensor_parallel_size=changed.get("gpus", 2)),
        lora_config=changed.get("lora_config"),
    )


@pytest.mark.slow
def test_it_is_left_to_vllm_where_logits_depend_on_more_than_their_row() -> None:
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    with set_current_vllm_config(VllmConfig()):
        layer, other = LogitsProcessor(10), LogitsProcessor(10)
    assert vllm_batch_shard._processor(runner(layer)) is layer
    for without in (
        runner(),
        runner(layer, other),
        runner(layer, gpus=1),
        runner(layer, sampler=None),
        runner(layer, compute_nans=True),
        runner(layer, lora_config=object()),
    ):
        assert vllm_batch_shard._processor(without) is None

"""Whose sampler draws the tokens: ours only where vLLM is as it was when ours was written."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rollout.engine import nucleus_kernel, vllm_sampler
from rollout.engine.nucleus_kernel import Draw
from rollout.engine.vllm_worker import WorkerExtension, take_fast_sampler

VOCABULARY = 100


def named(cls: type, path: str) -> type:
    """`cls`, as if it were defined there."""
    cls.__module__, _, cls.__qualname__ = path.rpartition(".")
    return cls


def sampler_class(path: str = vllm_sampler._SAMPLER) -> type:
    """vLLM's, as far as ours knows it."""

    class Sampler:
        def __init__(self) -> None:
            self.use_fp64_gumbel, self.logprobs_mode = False, "raw_logprobs"
            self.sampling_states = states()

        def sample(
            self,
            logits: torch.Tensor,
            expanded_idx_mapping: Any,
            idx_mapping_np: Any,
            pos: Any,
            input_ids: Any,
            expanded_local_pos: Any,
            return_logprobs: bool = False,
        ) -> tuple[str, torch.Tensor]:
            return "vLLM's", logits

        def apply_sampling_params(
            self,
            logits: torch.Tensor,
            expanded_idx_mapping: Any,
            idx_mapping_np: Any,
            pos: Any,
            input_ids: Any,
            expanded_local_pos: Any,
            skip_top_k_top_p: bool = False,
        ) -> torch.Tensor:
            assert skip_top_k_top_p
            return logits + 1

    return named(Sampler, path)


def states(top_p: float = 1.0, top_k: int = VOCABULARY) -> SimpleNamespace:
    """Of four requests, the last of which has these."""

    def value(first: float, last: float, dtype: type = np.float32) -> SimpleNamespace:
        array: np.ndarray[Any, Any] = np.array([first, first, first, last], dtype)
        return SimpleNamespace(np=array, gpu=torch.from_numpy(array))

    return SimpleNamespace(
        vocab_size=VOCABULARY,
        temperature=value(1.0, 1.0),
        top_p=value(1.0, top_p),
        top_k=value(VOCABULARY, top_k, np.int32),
        seeds=value(1, 2, np.int64),
    )


def runner(sampler: Any = None, path: str = vllm_sampler._RUNNER, **changed: Any) -> Any:
    """vLLM's, as far as ours knows it."""
    found = named(type("GPUModelRunner", (SimpleNamespace,), {}), path)()
    vars(found).update(
        sampler=sampler or sampler_class()(),
        speculative_config=None,
        device=torch.device("cuda"),
        dtype=torch.bfloat16,
        max_num_reqs=4,
    )
    vars(found).update(changed)
    return found


def without_parameter() -> Any:
    sampler = sampler_class()
    sampler.sample = lambda self, logits, pos: None  # type: ignore[attr-defined]
    return sampler()


def with_64_bits() -> Any:
    sampler = sampler_class()()
    sampler.use_fp64_gumbel = True
    return sampler


def without_seeds() -> Any:
    sampler = sampler_class()()
    del sampler.sampling_states.seeds
    return sampler


def test_ours_takes_the_place_of_the_sampler_that_it_was_written_for() -> None:
    assert vllm_sampler.refusal(runner(), "0.26.0") is None
    assert vllm_sampler.refusal(runner(), "0.26.1+cu130") is None


def test_a_rank_without_a_sampler_is_no_reason_against_it() -> None:
    without = runner()
    without.sampler = None
    assert vllm_sampler.refusal(without, "0.26.0") is None
    vllm_sampler.put(without)
    vllm_sampler.take_back(without)


@pytest.mark.parametrize(
    ("make", "version", "reason"),
    [
        (runner, "0.33.0", "vLLM is 0.33.0, and ours was written for 0.26.x"),
        (runner, "0.260.0", "vLLM is 0.260.0"),
        (
            lambda: runner(path="vllm.v1.worker.gpu_model_runner.GPUModelRunner"),
            "0.26.0",
            "this model runs in vllm.v1.worker.gpu_model_runner.GPUModelRunner",
        ),
        (lambda: runner(speculative_config=object()), "0.26.0", "with speculative decoding tokens are drawn elsewhere"),
        (lambda: runner(device=torch.device("cpu")), "0.26.0", "it is for NVIDIA GPUs"),
        (lambda: runner(sampler_class("mine.Sampler")()), "0.26.0", "this model is sampled by mine.Sampler"),
        (lambda: runner(without_parameter()), "0.26.0", f"{vllm_sampler._SAMPLER}.sample is not the one"),
        (lambda: runner(with_64_bits()), "0.26.0", "its noise has 64 bits"),
        (lambda: runner(without_seeds()), "0.26.0", f"{vllm_sampler._SAMPLER} knows no seeds of its requests"),
    ],
)
def test_anything_else_keeps_vllms_sampler_and_says_why(make: Callable[[], Any], version: str, reason: str) -> None:
    assert (vllm_sampler.refusal(make(), version) or "").startswith(reason)


class Kernel:
    """Remembers what it was asked to draw."""

    def __init__(self, rows: int, vocabulary: int, device: object) -> None:
        self.asked: list[tuple[list[int], list[float], bool]] = []

    def draws_as_defined(self, dtype: torch.dtype) -> bool:
        return True

    def draw(self, logits: torch.Tensor, draw: Draw, mask: bool) -> str:
        self.asked.append((draw.states.tolist(), logits.flatten()[:1].tolist(), mask))
        return "ours"


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A runner with our sampler, whose kernel is another."""
    monkeypatch.setattr(nucleus_kernel, "NucleusSampler", Kernel)
    found = runner(device=torch.device("cpu"))
    vllm_sampler.put(found)
    return found


def sampled(found: Any, *requests: int, return_logprobs: bool = False) -> Any:
    """Who drew the tokens of a batch of these requests."""
    mapping = torch.tensor(requests, dtype=torch.int32)
    batch = (torch.zeros(len(requests), VOCABULARY), mapping, np.array(requests), torch.zeros(1), None, None)
    return found.sampler.sample(*batch, return_logprobs=return_logprobs)[0]


def test_a_batch_in_which_nothing_is_cut_off_is_drawn_by_vllm(put: Any) -> None:
    put.sampler.sampling_states = states(top_p=0.9)
    assert sampled(put, 0, 1, 2) == "vLLM's"
    assert sampled(put, 0, 3) == "ours"
    put.sampler.sampling_states = states(top_k=5)
    assert sampled(put, 3) == "ours"


def test_penalties_and_temperature_come_first(put: Any) -> None:
    put.sampler.sampling_states = states(top_p=0.9)
    sampled(put, 3, 1)
    assert put.sampler.sample._kernel.asked[-1] == ([3, 1], [1.0], False)  # 0, and 1 by apply_sampling_params


@pytest.mark.parametrize(
    ("mode", "asked", "masked"),
    [("processed_logprobs", True, True), ("processed_logprobs", False, False), ("raw_logprobs", True, False)],
)
def test_what_cannot_be_drawn_is_cut_off_where_log_probabilities_are_of_what_was_sampled_from(
    put: Any, mode: str, asked: bool, masked: bool
) -> None:
    put.sampler.sampling_states, put.sampler.logprobs_mode = states(top_p=0.9), mode
    sampled(put, 3, return_logprobs=asked)
    assert put.sampler.sample._kernel.asked[-1][2] is masked


def test_it_is_compiled_before_the_first_request(put: Any) -> None:
    assert put.sampler.sample._kernel.asked == [([-1], [0.0], False)]


def test_the_worker_changes_to_and_fro(put: Any) -> None:
    worker = WorkerExtension()
    worker.model_runner = put
    put.sampler.sampling_states = states(top_p=0.9)
    worker.use_fast_sampler(False)
    assert sampled(put, 3) == "vLLM's"
    worker.use_fast_sampler(True)
    assert sampled(put, 3) == "ours"


def test_one_that_draws_something_else_on_this_gpu_is_not_put(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nucleus_kernel, "NucleusSampler", Kernel)
    monkeypatch.setattr(Kernel, "draws_as_defined", lambda kernel, dtype: False)
    found = runner(device=torch.device("cpu"))
    found.sampler.sampling_states = states(top_p=0.9)
    assert not vllm_sampler.put(found)
    assert sampled(found, 3) == "vLLM's"


@dataclass
class Workers:
    """Ranks that answer these."""

    refusals: list[str | None]
    are_right: list[bool]
    asked: list[tuple[object, ...]] = field(default_factory=list)

    def __call__(self, method: str, args: tuple[object, ...] = ()) -> list[Any]:
        self.asked.append((method, *args))
        answers: dict[str, list[Any]] = {"fast_sampler_refusal": self.refusals, "use_fast_sampler": self.are_right}
        return answers.get(method, [False, False])


def test_all_workers_draw_with_ours_or_none() -> None:
    willing = Workers([None, None], [True, True])
    assert take_fast_sampler(willing) is None
    assert willing.asked[-1] == ("shard_batches", True)
    refusing = Workers([None, "it has none"], [True, True])
    assert take_fast_sampler(refusing) == "it has none"
    assert refusing.asked == [("fast_sampler_refusal",)]
    wrong = Workers([None, None], [True, False])
    assert take_fast_sampler(wrong) == "on this GPU ours draws other tokens than it should"
    assert wrong.asked[-2:] == [("use_fast_sampler", True), ("use_fast_sampler", False)]

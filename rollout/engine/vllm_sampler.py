"""Our sampler in place of vLLM's, in a worker of vLLM 0.26 with the runner and sampler that it was written for.

The steps before it stay vLLM's: penalties, bad words, temperature, min_p. So does a batch in which nothing is cut off,
for which vLLM draws with the same noise. Everything else is drawn row by row: no row depends on the others.
"""

import inspect
from typing import Any

import numpy as np
import torch

_VERSION = "0.26."
_RUNNER = "vllm.v1.worker.gpu.model_runner.GPUModelRunner"
_SAMPLER = "vllm.v1.worker.gpu.sample.sampler.Sampler"
_BATCH = ("logits", "expanded_idx_mapping", "idx_mapping_np", "pos", "input_ids", "expanded_local_pos")
_METHODS = {
    "sample": (*_BATCH, "return_logprobs"),
    "apply_sampling_params": (*_BATCH, "skip_top_k_top_p"),
}
_STATES = ("temperature", "top_p", "top_k", "seeds", "vocab_size")
_PROCESSED = ("processed_logprobs", "processed_logits")


def refusal(runner: Any, version: str) -> str | None:
    """Why vLLM's own sampler must be used, in words for the log; None if ours can replace it.

    A runner without a sampler, as on all GPUs but the last of a pipeline, is no reason.
    """
    if not version.startswith(_VERSION):
        return f"vLLM is {version}, and ours was written for {_VERSION}x"
    if (found := _name(runner)) != _RUNNER:
        return f"this model runs in {found}, and ours was written for {_RUNNER}"
    if runner.speculative_config is not None:
        return "with speculative decoding tokens are drawn elsewhere"
    if runner.device.type != "cuda" or torch.version.hip is not None:
        return "it is for NVIDIA GPUs"
    return None if runner.sampler is None else _unlike(runner.sampler)


def _unlike(sampler: Any) -> str | None:
    """How this sampler differs from the one that ours was written for, or None."""
    if (found := _name(sampler)) != _SAMPLER:
        return f"this model is sampled by {found}, and ours was written for {_SAMPLER}"
    for method, parameters in _METHODS.items():
        if tuple(inspect.signature(getattr(type(sampler), method)).parameters)[1:] != parameters:
            return f"{_SAMPLER}.{method} is not the one that ours was written for"
    if missing := [name for name in _STATES if not hasattr(sampler.sampling_states, name)]:
        return f"{_SAMPLER} knows no {missing[0]} of its requests"
    return "its noise has 64 bits" if sampler.use_fp64_gumbel else None


def _name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def put(runner: Any) -> bool:
    """Draw with our sampler from now on, unless it draws wrong tokens here. Returns whether it is used.

    The first time compiles it, which takes some seconds. On a rank without a sampler there is nothing to do.
    """
    sampler = runner.sampler
    if sampler is None or "sample" in vars(sampler):
        return True
    ours = FastSampling(sampler, runner.max_num_reqs, runner.device, runner.dtype)
    is_right = ours.is_right(runner.dtype)
    if is_right:
        sampler.sample = ours
    return is_right


def take_back(runner: Any) -> None:
    """Draw as vLLM does from now on."""
    if runner.sampler is not None:
        vars(runner.sampler).pop("sample", None)


class FastSampling:
    """Replaces `Sampler.sample`; `NucleusSampler` draws."""

    def __init__(self, sampler: Any, rows: int, device: torch.device, dtype: torch.dtype) -> None:
        from rollout.engine.nucleus_kernel import NucleusSampler  # Triton is not available everywhere

        self._vllms, self._sampler = sampler.sample, sampler
        self._kernel = NucleusSampler(rows, sampler.sampling_states.vocab_size, device)
        self._compile(device, dtype)

    def __call__(
        self,
        logits: torch.Tensor,
        expanded_idx_mapping: torch.Tensor,
        idx_mapping_np: np.ndarray[Any, Any],
        pos: torch.Tensor,
        input_ids: torch.Tensor,
        expanded_local_pos: torch.Tensor,
        return_logprobs: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch = (logits, expanded_idx_mapping, idx_mapping_np, pos, input_ids, expanded_local_pos)
        if not _cuts_off(self._sampler.sampling_states, idx_mapping_np):
            drawn: tuple[torch.Tensor, torch.Tensor] = self._vllms(*batch, return_logprobs=return_logprobs)
            return drawn
        logits = self._sampler.apply_sampling_params(*batch, skip_top_k_top_p=True)
        mask = return_logprobs and self._sampler.logprobs_mode in _PROCESSED
        return self._kernel.draw(logits, self._draw(expanded_idx_mapping, pos), mask), logits

    def is_right(self, dtype: torch.dtype) -> bool:
        """Whether it draws the right tokens on this GPU, from logits of this type."""
        return self._kernel.draws_as_defined(dtype)

    def _draw(self, states: torch.Tensor, positions: torch.Tensor) -> Any:
        from rollout.engine.nucleus_kernel import Draw

        of = self._sampler.sampling_states
        return Draw(states, positions, of.temperature.gpu, of.top_p.gpu, of.top_k.gpu, of.seeds.gpu)

    def _compile(self, device: torch.device, dtype: torch.dtype) -> None:
        """Draw once, for a row without a request: the first step of a run need not wait for the compiler."""
        logits = torch.zeros(1, self._sampler.sampling_states.vocab_size, dtype=dtype, device=device)
        nobody, somewhere = (torch.tensor([value], dtype=kind, device=device) for value, kind in _NOBODY)
        mask = self._sampler.logprobs_mode in _PROCESSED
        for with_mask in {False, mask}:
            self._kernel.draw(logits, self._draw(nobody, somewhere), with_mask)


_NOBODY = ((-1, torch.int32), (0, torch.int64))


def _cuts_off(states: Any, requests: np.ndarray[Any, Any]) -> bool:
    """Whether top_p or top_k of any request in the batch cuts something off."""
    below = states.top_p.np[requests] != 1.0
    return bool(np.any(below | (states.top_k.np[requests] != states.vocab_size)))

"""Log-probabilities of a run's tokens once more: from a forward pass of transformers over prompt and response."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rollout.config import SamplingConfig

_EDGE = 1e-4
"""A token is not judged where the probabilities of the likeliest ones add up to this close to top_p: rounding decides
there which of them belong to the nucleus."""


@dataclass
class Agreement:
    """How the log-probabilities of a run compare with those of transformers."""

    tokens: int = 0
    at_the_edge: int = 0
    """Of the tokens: those not judged."""
    worst: float = 0.0
    """The largest difference of the others."""
    ended: int = 0
    """Responses that end with the model's end token."""


def agreement(rollouts: Path, model_folder: Path, sampling: SamplingConfig) -> Agreement:
    """Compare every response in `rollouts`. Raises AssertionError where ids, texts and counts contradict each other."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    tokenizer, found = AutoTokenizer.from_pretrained(model_folder), Agreement()
    for row in pq.read_table(rollouts).to_pylist():
        prompt = row["prompt_token_ids"]
        assert len(prompt) == row["num_prompt_tokens"]
        lists = ("responses", "response_token_ids", "response_logprobs", "num_generated_tokens")
        for text, ids, logprobs, count in zip(*(row[name] for name in lists), strict=True):
            assert len(ids) == len(logprobs) == count
            decoded = tokenizer.decode(ids, skip_special_tokens=True)
            # a text ends before what is only the beginning of a character
            assert decoded == text or (decoded.startswith(text) and decoded.endswith("\ufffd"))
            with torch.no_grad():
                logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].double().numpy()
            _compare(logits, np.array(ids), np.array(logprobs), sampling, found)
            found.ended += ids[-1] == tokenizer.eos_token_id
    return found


def _compare(logits: Any, ids: Any, logprobs: Any, sampling: SamplingConfig, found: Agreement) -> None:
    """Count one response; `logits` has a row for each of its tokens."""
    is_judged: Any = np.ones(len(ids), bool)
    if sampling.logprobs == "processed":
        logits = logits / sampling.temperature
        order = np.argsort(-logits, axis=1, kind="stable")
        mass = np.cumsum(np.take_along_axis(_softmax(logits), order, axis=1), axis=1)
        before = np.concatenate([np.zeros((len(ids), 1)), mass[:, :-1]], axis=1)
        is_out = np.zeros_like(logits, bool)
        np.put_along_axis(is_out, order, before >= sampling.top_p, axis=1)
        is_judged = (np.abs(mass - sampling.top_p) > _EDGE).all(axis=1) | (sampling.top_p == 1)
        logits = np.where(is_out & (sampling.top_p < 1), -np.inf, logits)
    expected = np.log(_softmax(logits)[np.arange(len(ids)), ids])
    found.tokens += len(ids)
    found.at_the_edge += int((~is_judged).sum())
    found.worst = max([found.worst, *np.abs(expected - logprobs)[is_judged]])


def _softmax(logits: Any) -> Any:
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponents / exponents.sum(axis=1, keepdims=True)

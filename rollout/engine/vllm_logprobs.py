"""The log-probability of each sampled token, without anything else that vLLM would return about it.

vLLM keeps a token's rank too, and decodes it once more for its text: 5 µs of the front end's one core for each token,
and that core is what an engine of 1,024 requests waits for. We keep one number, for 0.4 µs.
"""

from typing import Any

import numpy as np
from vllm.v1.engine.logprobs import LogprobsProcessor

from rollout.records import Logprobs


class SampledLogprobs(LogprobsProcessor):  # type: ignore[misc]  # vLLM is not looked into
    """Collects one log-probability per token, in `logprobs`, a list of floats."""

    def update_from_output(self, output: Any) -> None:
        """Called by vLLM with the output of a step."""
        if output.new_logprobs is not None:
            self.logprobs += output.new_logprobs.logprobs[:, 0].tolist()  # the sampled token's comes first


def keep_sampled_only(engine: Any, request_id: str) -> None:
    """Let a request that has just been added to `engine`, a vLLM LLMEngine, collect SampledLogprobs."""
    processor = engine.output_processor
    for internal in processor.external_req_ids[request_id]:
        processor.request_states[internal].logprobs_processor = SampledLogprobs(
            tokenizer=None,
            logprobs=[],
            prompt_logprobs=None,
            cumulative_logprob=None,
            num_logprobs=0,
            num_prompt_logprobs=None,
        )


def sampled(logprobs: list[float], count: int) -> Logprobs:
    """The log-probabilities of `count` tokens. Raises RuntimeError if that is not how many were collected."""
    if len(logprobs) != count:  # with the wrong tokens they would silently spoil a training
        raise RuntimeError(f"vLLM gave {len(logprobs)} log-probabilities for {count} tokens")
    return np.array(logprobs, np.float32)

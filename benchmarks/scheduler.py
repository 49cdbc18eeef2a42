"""How long vLLM's scheduler takes for a step in Python, with the shorter ways of `vllm_scheduler` and without.

    python -m benchmarks.scheduler [--seqs 256 512 1024] [--steps 200] [--repeats 9]

vLLM's own scheduler for the embedded model, with room for all: requests that decode one token per step, as many as
run at a time. In place of the model, every token is the same. Both ways take turns. Printed are milliseconds per step,
for scheduling and for taking in the tokens, and the median of the ratios of the pairs.
"""

import argparse
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from statistics import median
from unittest.mock import patch

import torch
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

from rollout.engine import models
from rollout.engine.vllm_scheduler import scheduler, vllms

BLOCK = 16


class Engine:
    """vLLM's scheduler and, in place of the model, a rule for the next token."""

    def __init__(
        self,
        seqs: int,
        blocks: int,
        make: Callable[..., Scheduler],
        is_async: bool = True,
        caching: bool = True,
        tokens_per_step: int | None = None,
        max_model_len: int | None = None,
        token: Callable[[Request], int] = lambda _: 7,
        runner: int = 2,
    ) -> None:
        """For `seqs` requests at a time in so many blocks; `make` takes the arguments of `Scheduler`. `token` gives the
        next token of a request that is in a batch; `runner` is the version of vLLM's model runner, 2 as on GPUs.
        """
        config = EngineArgs(
            model=models.resolve("embedded:SmolLM2-135M-Instruct"),
            max_num_seqs=seqs,
            block_size=BLOCK,
            enable_prefix_caching=caching,
            max_num_batched_tokens=tokens_per_step,
            max_model_len=max_model_len,
        ).create_engine_config()
        config.scheduler_config.async_scheduling = is_async  # as on a GPU; vLLM takes it back on a CPU
        config.cache_config.num_gpu_blocks = blocks
        layer = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
        cache = KVCacheConfig(blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], layer)])
        with patch.dict(os.environ, {"VLLM_USE_V2_MODEL_RUNNER": str(runner - 1)}):
            self.scheduler = make(
                vllm_config=config,
                kv_cache_config=cache,
                structured_output_manager=StructuredOutputManager(config),
                block_size=BLOCK,
                hash_block_size=BLOCK,
                log_stats=True,
            )
        hashes = get_hash_fn_by_name("sha256")
        init_none_hash(hashes)
        self._hasher = get_request_block_hasher(BLOCK, hashes) if caching else None
        self._flying = deque[tuple[SchedulerOutput, ModelRunnerOutput]]()
        self._most_flying, self._token = 2 if is_async else 1, token
        self.seconds = 0.0

    def add(self, name: str, prompt: list[int], params: SamplingParams) -> None:
        """A request for what follows the prompt, token numbers."""
        self.scheduler.add_request(Request(name, prompt, params, None, block_hasher=self._hasher))

    def step(self) -> tuple[SchedulerOutput, list[EngineCoreOutput]]:
        """Schedule a batch, and take in the tokens of the oldest one once there are enough. Returns the batch, and what
        each request has got.
        """
        begin = time.perf_counter()
        batch = self.scheduler.schedule()
        self.seconds += time.perf_counter() - begin
        self._flying.append((batch, self._drawn(batch)))
        return batch, self._take_in() if len(self._flying) >= self._most_flying else []

    def _take_in(self) -> list[EngineCoreOutput]:
        batch, drawn = self._flying.popleft()
        begin = time.perf_counter()
        found = self.scheduler.update_from_output(batch, drawn)
        self.seconds += time.perf_counter() - begin
        return [one for of in found.values() for one in of.outputs]

    def _drawn(self, batch: SchedulerOutput) -> ModelRunnerOutput:
        """One token for each request whose prompt ends with this batch."""
        names, requests = list(batch.num_scheduled_tokens), self.scheduler.requests
        tokens = [[] if requests[name].is_prefill_chunk else [self._token(requests[name])] for name in names]
        return ModelRunnerOutput(names, {name: at for at, name in enumerate(names)}, tokens)


def measure(seqs: int, steps: int, make: Callable[..., Scheduler]) -> float:
    """Milliseconds per step."""
    engine = Engine(seqs, seqs * (8 + steps // BLOCK), make)
    for at in range(seqs):
        engine.add(str(at), [at, *range(59)], SamplingParams(max_tokens=2 * steps))
    for _ in range(20):
        engine.step()
    engine.seconds = 0.0
    for _ in range(steps):
        engine.step()
    return 1e3 * engine.seconds / steps


def pairs(seqs: int, steps: int, repeats: int) -> Iterator[tuple[float, float]]:
    """(milliseconds of vLLM's way, of the shorter ones), in turns."""
    for at in range(repeats):
        ways = (vllms, scheduler) if at % 2 == 0 else (scheduler, vllms)
        found = {make: measure(seqs, steps, make) for make in ways}
        yield found[vllms], found[scheduler]


def main() -> None:
    """Print a row for each number of requests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seqs", type=int, nargs="+", default=[256, 512, 1024], help="requests that run at a time")
    parser.add_argument("--steps", type=int, default=200, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=9, help="pairs of measurements")
    options = parser.parse_args()
    print("| requests | vLLM's, ms per step | shorter | ratio |\n|---|---|---|---|")
    for seqs in options.seqs:
        found = [*pairs(seqs, options.steps, options.repeats)]
        whole, short = (median(column) for column in zip(*found, strict=True))
        ratio = median(short / whole for whole, short in found)
        print(f"| {seqs:,} | {whole:.2f} | {short:.2f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()

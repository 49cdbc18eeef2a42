"""AsyncLLM, one coroutine per prompt with n samples each, on an engine of its own: the way of servers and RL loops.

    python -m benchmarks.gpu.asynchronous --output FOLDER --tokenizer FOLDER --shape 8b \
        --do equal:async_llm,async_stream:2 [OVERRIDE ...]

Same arguments of the engine, same prompts and lengths as `benchmarks.gpu.measure`. `async_llm` asks for the finished
outputs only, which costs AsyncLLM least; `async_stream` takes vLLM's default, the text so far after every step, and
waits for its end, as Ray Data LLM's stage does (ray 2.60, ray/llm/_internal/batch/stages/vllm_engine_stage.py).
"""

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import AutoTokenizer
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from benchmarks.contenders import Measured, Work, sampling_params
from benchmarks.gpu.loading import Place
from benchmarks.gpu.results import about_work, demand_of, parse, take_turns, write
from rollout.config import RunConfig
from rollout.data.prompts import read_prompts
from rollout.engine.cache import ENVIRONMENT
from rollout.engine.vllm_engine import _engine_kwargs
from rollout.process import watchdog

_WAYS = {"async_llm": RequestOutputKind.FINAL_ONLY, "async_stream": RequestOutputKind.CUMULATIVE}


def main() -> None:
    """Load one engine and do everything that was asked for on it."""
    options = parse(__doc__)
    place, console = Place(options.shape, options.tokenizer, options.output, options.overrides), Console()
    run, loop, start = place.run(), asyncio.new_event_loop(), time.monotonic()
    engine = loop.run_until_complete(_load(run))
    tokenizer = AutoTokenizer.from_pretrained(run.model.path)
    about = {"load_seconds": round(time.monotonic() - start, 1), "max_num_seqs": run.hardware.max_num_seqs}
    write(options.output / "engine.json", {"shape": options.shape, "overrides": options.overrides} | about)
    warm_up = place.work(place.warm_up, run.hardware.max_num_seqs)
    loop.run_until_complete(_sample(engine, tokenizer, warm_up, RequestOutputKind.FINAL_ONLY))

    def once(_scratch: Path, work: Work, kind: RequestOutputKind) -> Measured:
        return loop.run_until_complete(_sample(engine, tokenizer, work, kind))

    for task in options.do:
        work = place.work(task.workload, run.hardware.max_num_seqs)
        needed = demand_of(place, work, len(_render(tokenizer, work)[0]), run.hardware.max_num_seqs)
        described = about_work(place, work, task) | needed | about
        ways: dict[str, Callable[[Path], Measured]] = {
            name: partial(once, work=work, kind=_WAYS[name]) for name in task.ways
        }
        take_turns(task, ways, described, work.tokens, options.output, console)
    engine.shutdown()
    loop.run_until_complete(asyncio.sleep(0))  # its tasks learn that they are cancelled


async def _load(run: RunConfig) -> Any:
    """An AsyncLLM with the same settings as our engine; call it inside the loop in which the engine will live.

    By default it batches 2,048 tokens at a time where LLM on the same GPU batches 16,384.
    """
    os.environ.update(ENVIRONMENT | run.hardware.env)
    watchdog.start()
    arguments = AsyncEngineArgs(**_engine_kwargs(run.model, run.hardware))
    return AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)


async def _sample(engine: Any, tokenizer: Any, work: Work, kind: RequestOutputKind) -> Measured:
    await engine.reset_prefix_cache()
    start = time.monotonic()
    prompts = _render(tokenizer, work)
    pairs = zip(prompts, sampling_params(work), strict=True)
    counts = await asyncio.gather(*(_one(engine, str(row), *pair, kind) for row, pair in enumerate(pairs)))
    return Measured(sum(counts), time.monotonic() - start)


def _render(tokenizer: Any, work: Work) -> list[list[int]]:
    chats = [prompt.messages for prompt in read_prompts(work.table, work.run.data)]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


async def _one(engine: Any, name: str, token_ids: list[int], params: SamplingParams, kind: RequestOutputKind) -> int:
    """Number of tokens in all samples of one prompt."""
    params.output_kind = kind
    tokens: dict[int, int] = {}  # sample -> its tokens, from the last output that contains it
    async for output in engine.generate({"prompt_token_ids": token_ids}, params, name):
        tokens |= {sample.index: len(sample.token_ids) for sample in output.outputs}
    return sum(tokens.values())


if __name__ == "__main__":
    main()

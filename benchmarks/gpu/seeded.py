"""Seeded sampling against what people type, with real vocabularies: `LLM.chat` without seeds and with FlashInfer.

    python -m benchmarks.gpu.seeded --output FOLDER --tokenizer FOLDER --shape 8b_qwen \
        --do seeded:typed,ours,ours_by_vllm:5 hardware=throughput sampling.top_p=0.95 [OVERRIDE ...]

All ways take turns on one engine, which changes its sampler in between, and the ratio of two ways is the geometric mean
over the repeats, with its interval. The weights are vLLM's `dummy` ones with norms of 1, features that differ from
token to token and an output head that leaves about two nats of choice (see `shapes.write_checkpoint`); how many it does
leave is measured first. With `--weights` they are written to the disk instead, for `benchmarks.gpu.replicas` as well.
"""

import argparse
import json
import logging
import math
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from vllm import SamplingParams

from benchmarks.contenders import WAYS, Measured
from benchmarks.gpu.loading import Place, load
from benchmarks.gpu.ratios import MIN_PAIRS, mean_ratio
from benchmarks.gpu.results import Task, about_work, parse, take_turns, write
from rollout.engine.cache import release
from rollout.engine.vllm_engine import VLLMEngine
from rollout.terminal.console import screen

_ENVIRONMENT = (
    "hardware.env.VLLM_USE_FLASHINFER_SAMPLER='1'",
    "hardware.env.VLLM_ALLOW_INSECURE_SERIALIZATION='1'",  # our function changes the weights
)


def main() -> None:
    """Load one engine and compare the ways on it."""
    options = parse(__doc__)
    overrides = [*_ENVIRONMENT, *options.overrides]
    place = Place(options.shape, options.tokenizer, options.output, overrides, options.weights)
    with screen(options.output / "engine.log") as console:
        logging.getLogger("rollout").setLevel(logging.WARNING)  # show only the measurements
        engine, about = load(place.run())
        if not options.weights:
            engine.llm.apply_model(make_peaked)
        about |= {"sampler": engine.sampler, "nats": _nats(engine)}
        write(options.output / "engine.json", {"shape": options.shape, "overrides": options.overrides} | about)
        console.print(f"engine ready: {about}")
        for task in options.do:
            _compare(place, task, engine, about, options, console)
        release()


def make_peaked(model: Any) -> None:
    """Set weights whose output head leaves about two nats of choice, and whose layers do almost nothing; in place."""
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data.fill_(1.0)
        elif "embed_tokens" in name:
            weight.data.normal_(0.0, 1.0)
        elif "lm_head" in name:
            weight.data.normal_(0.0, 6 / math.sqrt(weight.shape[1]))


def _compare(
    place: Place, task: Task, engine: VLLMEngine, about: dict[str, Any], options: argparse.Namespace, console: Console
) -> None:
    work = place.work(task.workload, engine.max_num_seqs)
    warm = place.work(place.warm_up, engine.max_num_seqs)
    for name in task.ways:  # compile before the first measurement
        WAYS[name](warm, engine, options.output / "runs" / f"warm_up-{name}")
    ways: dict[str, Callable[[Path], Measured]] = {name: partial(WAYS[name], work, engine) for name in task.ways}
    take_turns(task, ways, about_work(place, work, task) | about, work.tokens, options.output, console)
    for first, second in combinations(task.ways, 2):
        console.print(ratio_line(options.output, task, second, first))


def ratio_line(folder: Path, task: Task, way: str, other: str) -> str:
    """Tokens per second of `way` divided by those of `other`, for each repeat."""
    pairs = [(_tok_s(folder, task, way, repeat), _tok_s(folder, task, other, repeat)) for repeat in range(task.repeats)]
    if task.repeats < MIN_PAIRS:
        return f"{way} / {other}: {', '.join(f'{one / two:.3f}' for one, two in pairs)}"
    middle, low, high = mean_ratio(pairs)
    return f"{way} / {other}: {middle:.3f} ({low:.3f} to {high:.3f}, {task.repeats} pairs)"


def _tok_s(folder: Path, task: Task, way: str, repeat: int) -> float:
    return float(json.loads((folder / f"{task.workload}-{way}-{repeat}.json").read_text())["tok_s"])


def _nats(engine: VLLMEngine) -> float:
    """How much choice the model leaves: the mean of -log p over tokens drawn from the whole vocabulary."""
    params = SamplingParams(temperature=1.0, top_p=1.0, max_tokens=32, logprobs=0, ignore_eos=True, seed=1)
    prompts = [{"prompt_token_ids": [100 + number, 200 + number]} for number in range(16)]
    outputs = engine.llm.generate(prompts, params, use_tqdm=False)
    drawn = [
        -step[token].logprob
        for output in outputs
        for step, token in zip(output.outputs[0].logprobs, output.outputs[0].token_ids, strict=True)
    ]
    return round(float(mean(drawn)), 2)


if __name__ == "__main__":
    main()

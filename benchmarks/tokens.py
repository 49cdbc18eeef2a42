"""What keeping token ids and log-probabilities costs: the same work with and without, in alternation.

    python -m benchmarks.tokens [--repeats 5] [--prompts 16] [--n-samples 4] [--max-tokens 64]
        [--ways ids,raw,processed] [OVERRIDE ...]

Two engines in one process, because `processed` is an engine's own mode: one is measured with nothing kept, with ids,
and with `raw` log-probabilities, the other with `processed` ones. Without `raw` among the ways, which two large models
on a GPU have no room for, the second engine does it all: its mode says nothing about requests that ask for none. Every
response is exactly `max_tokens` long, the
prefix cache is emptied before each, loading is not counted. Prints tokens/s of each way with its ratios to `none`,
measured right before and right after it, repeat by repeat, and the median ratios.
"""

import argparse
import itertools
import logging
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import Work, asked_work, options_of, ours
from rollout.engine.cache import EngineSpec, environment
from rollout.engine.vllm_engine import VLLMEngine
from rollout.terminal.console import screen

_WAYS = {
    "none": (),
    "ids": ("store.token_ids=true",),
    "raw": ("sampling.logprobs=raw",),
    "processed": ("sampling.logprobs=processed",),
}
"""What is kept -> overrides."""


@dataclass(frozen=True)
class _Speed:
    """Tokens per second, and per second of this process's CPU time: on a busy machine only the latter says something,
    and only where the engine is in this process.
    """

    wall: float
    cpu: float

    def to(self, before: "_Speed", after: "_Speed") -> "_Speed":
        """Ratios to the mean of two others."""
        return _Speed(2 * self.wall / (before.wall + after.wall), 2 * self.cpu / (before.cpu + after.cpu))


def main() -> None:
    """Load the engines, measure in alternation, print the table."""
    options = options_of(__doc__, _add_ways)
    with tempfile.TemporaryDirectory() as name, screen(Path(name) / "engine.log") as console:
        logging.getLogger("rollout").setLevel(logging.WARNING)  # only the table
        folder, count = Path(name), itertools.count()
        ways = ("none", *options.ways)
        works = {name: asked_work(options, folder, *_WAYS[name]) for name in ways}
        with environment(works["none"].run.hardware):
            engines = {mode: _engine(works[mode]) for mode in ("raw", "processed") if mode in ways}
            of_the_others = next(iter(engines.values()))

            def speed(name: str) -> _Speed:
                cpu = time.process_time()
                done = ours(works[name], engines.get(name, of_the_others), folder / str(next(count)))
                return _Speed(done.tok_s, done.tokens / (time.process_time() - cpu))

            for mode in engines:  # the first use of an engine pays for warming up
                speed(mode)
            found: dict[str, list[_Speed]] = {name: [] for name in options.ways}
            console.print("repeat  tok/s (ratio to none, ratio by CPU time)")
            before = speed("none")
            for repeat in range(options.repeats):
                shown = [f"none {before.wall:,.1f}"]
                for name, ratios in found.items():
                    now, after = speed(name), speed("none")
                    ratios.append(now.to(before, after))
                    shown.append(f"{name} {now.wall:,.1f} ({ratios[-1].wall:.3f}, {ratios[-1].cpu:.3f})")
                    before = after
                console.print(f"{repeat + 1:>6}  {', '.join(shown)}", soft_wrap=True)
            for name, ratios in found.items():
                wall, cpu = (statistics.median(getattr(ratio, kind) for ratio in ratios) for kind in ("wall", "cpu"))
                console.print(f"median  {name} ({wall:.3f}, {cpu:.3f})", soft_wrap=True)


def _add_ways(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ways", type=lambda text: text.split(","), default=["ids", "raw", "processed"])


def _engine(work: Work) -> VLLMEngine:
    spec = EngineSpec.of(work.run)
    return VLLMEngine(spec.model, spec.hardware, spec.logprobs)


if __name__ == "__main__":
    main()

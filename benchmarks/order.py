"""How much sooner a run ends with `sampling.order=longest_first`, simulated: the real loop, an engine that only counts.

    python -m benchmarks.order [--rows 1000 384] [--n-samples 8] [--slots 256] [--share 0.8 0.5 0] [--repeats 12]

Lengths are lognormal (median 128 tokens, deviation of the logarithm 1: the longest of 384 is about 20 times the
median), of which a given share of the variance lies between rows, the rest between the samples of a row. The engine
takes a step for a token of each running sample. Prints the steps of both orders as multiples of the least that any
order could take, max(longest, total / slots): mean and range over the repeats, which draw other lengths; and their
ratio with its standard error.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from rollout.config import EchoConfig, HardwareConfig, RunConfig, SamplingConfig
from rollout.engine.echo_engine import EchoEngine
from rollout.engine.protocol import Engine
from rollout.generation.loop import Queued, Source, as_it_is, drain
from rollout.generation.order import LongestFirst
from rollout.generation.requests import requests
from rollout.records import Prompt, Request, Sample

SPREAD, MEDIAN, LONGEST = 1.0, 128, 60_000


@dataclass(frozen=True)
class Work:
    """Rows with `n_samples` each for an engine that generates `slots` at a time."""

    rows: int
    n_samples: int
    slots: int
    share: float
    """Of the variance of the logarithm of lengths, between rows."""
    seed: int = 0


ORDERS: dict[str, Callable[[Source, Engine], Source]] = {
    "input": lambda source, _engine: as_it_is(source),
    "longest_first": LongestFirst,
}


def steps_over_bound(work: Work, order: str) -> float:
    """The steps that `order` takes, as a multiple of the least possible."""
    echo = EchoConfig(
        token_steps=True,
        response_tokens=MEDIAN,
        length_spread=SPREAD,
        row_share=work.share,
        max_model_len=2 * LONGEST,
    )
    engine = EchoEngine(echo, HardwareConfig(max_num_seqs=work.slots))
    lengths: list[int] = []

    def record(sample: Sample) -> None:
        lengths.append(sample.num_generated_tokens)

    drain(engine, ORDERS[order](source_of(work, engine), engine), record, lambda: None)
    assert len(lengths) == work.rows * work.n_samples
    return engine.steps / max(max(lengths), sum(lengths) / work.slots)


def source_of(work: Work, engine: Engine) -> Source:
    """All requests at once: the feeder's thread would be slower than this engine, as it never is than a real one."""
    run = RunConfig(sampling=SamplingConfig(n_samples=work.n_samples, max_tokens=LONGEST, seed=work.seed))
    texts = (f"question {row} of {work.seed}" for row in range(work.rows))
    prompts = (Prompt(row, [{"role": "user", "content": text}]) for row, text in enumerate(texts))
    source = Queued[Request | Sample]()
    source.chunks.put(list(requests(prompts, engine, run, lambda _: list(range(work.n_samples)))))
    source.chunks.put([])
    return source


def main() -> None:
    """Parse the command line, simulate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 384])
    parser.add_argument("--n-samples", type=int, default=8)
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--share", type=float, nargs="+", default=[0.8, 0.5, 0.0])
    parser.add_argument("--repeats", type=int, default=12)
    options = parser.parse_args()
    print("| rows x samples | share between rows | input order | longest first | ratio |\n|---|---|---|---|---|")
    for rows in options.rows:
        for share in options.share:
            works = [Work(rows, options.n_samples, options.slots, share, seed) for seed in range(options.repeats)]
            found = {order: [steps_over_bound(work, order) for work in works] for order in ORDERS}
            cells = (
                f"{rows:,} x {options.n_samples}",
                f"{share:g}",
                *map(_range, found.values()),
                _ratio(*found.values()),
            )
            print(f"| {' | '.join(cells)} |", flush=True)


def _range(values: Sequence[float]) -> str:
    return f"{mean(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def _ratio(before: Sequence[float], now: Sequence[float]) -> str:
    ratios = [one / other for one, other in zip(now, before, strict=True)]
    error = stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else 0.0
    return f"{mean(ratios):.3f} +- {error:.3f}"


if __name__ == "__main__":
    main()

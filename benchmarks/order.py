"""How much sooner a run ends with `sampling.order=longest_first`, simulated: the real loop, an engine that only counts.

    python -m benchmarks.order [--rows 1000 384] [--n-samples 8] [--slots 256] [--share 0.8 0.5 0] [--repeats 12]
        [--replicas 1]

Lengths are lognormal (median 128 tokens, deviation of the logarithm 1: the longest of 384 is about 20 times the
median), of which a given share of the variance lies between rows, the rest between the samples of a row. The engine
takes a step for a token of each running sample. Prints the steps of both orders as multiples of the least that any
order could take, max(longest, total / slots): mean and range over the repeats, which draw other lengths; and their
ratio with its standard error. With `--replicas`, so many engines share the slots, and what is simulated is who gets
what when, with news every fourth step.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean, stdev

from rollout.config import EchoConfig, HardwareConfig, RunConfig, SamplingConfig
from rollout.engine.echo_engine import EchoEngine
from rollout.engine.protocol import Engine
from rollout.generation.loop import Queued, Source, as_it_is, drain
from rollout.generation.order import LongestFirst, most_held
from rollout.generation.requests import requests
from rollout.records import Prompt, Request, Sample, outcome_of
from rollout.replicas import longest
from rollout.replicas.dispatcher import Dispatcher, InInputOrder

SPREAD, MEDIAN, LONGEST = 1.0, 128, 60_000
_NEWS = 4  # steps


@dataclass(frozen=True)
class Work:
    """Rows with `n_samples` each for an engine that generates `slots` at a time."""

    rows: int
    n_samples: int
    slots: int
    share: float
    """Of the variance of the logarithm of lengths, between rows."""
    seed: int = 0
    replicas: int = 1

    @property
    def run(self) -> RunConfig:
        """Its config, as far as it matters."""
        return RunConfig(sampling=SamplingConfig(n_samples=self.n_samples, max_tokens=LONGEST, seed=self.seed))

    def engine(self) -> EchoEngine:
        """One of its engines, which has made no step."""
        echo = EchoConfig(
            token_steps=True,
            response_tokens=MEDIAN,
            length_spread=SPREAD,
            row_share=self.share,
            max_model_len=2 * LONGEST,
        )
        return EchoEngine(echo, HardwareConfig(max_num_seqs=self.slots // self.replicas))

    def prompts(self) -> Iterator[Prompt]:
        """Other ones for each seed, and so other lengths."""
        texts = (f"question {row} of {self.seed}" for row in range(self.rows))
        return (Prompt(row, [{"role": "user", "content": text}]) for row, text in enumerate(texts))

    def owed(self, _row_id: int) -> list[int]:
        """All samples of a row."""
        return list(range(self.n_samples))

    def over_bound(self, steps: int, lengths: Sequence[int]) -> float:
        """`steps` as a multiple of the least possible."""
        assert len(lengths) == self.rows * self.n_samples
        return steps / max(max(lengths), sum(lengths) / self.slots)


ORDERS: dict[str, Callable[[Source, Engine], Source]] = {
    "input": lambda source, _engine: as_it_is(source),
    "longest_first": LongestFirst,
}


def steps_over_bound(work: Work, order: str) -> float:
    """The steps that `order` takes, as a multiple of the least possible."""
    engine, lengths = work.engine(), list[int]()

    def record(sample: Sample) -> None:
        lengths.append(sample.num_generated_tokens)

    drain(engine, ORDERS[order](source_of(work, engine), engine), record, lambda: None)
    return work.over_bound(engine.steps, lengths)


def source_of(work: Work, engine: Engine) -> Source:
    """All requests at once: the feeder's thread would be slower than this engine, as it never is than a real one."""
    source = Queued[Request | Sample]()
    source.chunks.put(list(requests(work.prompts(), engine, work.run, work.owed)))
    source.chunks.put([])
    return source


def _always(indices: list[int]) -> Callable[[int], list[int]]:
    return lambda _row_id: indices


def on_replicas(work: Work, order: str) -> float:
    """The same on several engines that step together."""
    engines, lengths, step = [work.engine() for _ in range(work.replicas)], list[int](), 0
    slots = engines[0].max_num_seqs
    sampling = replace(work.run.sampling, order=order)
    tasks = InInputOrder if order == "input" else partial(longest.LongestFirst, clock=lambda: float(step))
    dispatcher = Dispatcher(work.prompts(), work.owed, work.rows * work.n_samples, work.replicas, tasks)
    for index in range(work.replicas):
        dispatcher.join(index, slots)
    while not dispatcher.all_finished:
        for index, engine in enumerate(engines):
            for task in dispatcher.take(index, most_held(sampling, slots)) if step % _NEWS == 0 else ():
                for request in requests([task.prompt], engine, work.run, _always(task.sample_indices)):
                    assert isinstance(request, Request)
                    engine.add(request)
            samples = engine.step()
            lengths += [sample.num_generated_tokens for sample in samples]
            dispatcher.finished(index, [outcome_of(sample) for sample in samples])
            dispatcher.durable(index, len(samples))
        step += 1
    return work.over_bound(step, lengths)


def main() -> None:
    """Parse the command line, simulate, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 384])
    parser.add_argument("--n-samples", type=int, default=8)
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--share", type=float, nargs="+", default=[0.8, 0.5, 0.0])
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--replicas", type=int, default=1)
    options = parser.parse_args()
    simulate = steps_over_bound if options.replicas == 1 else on_replicas
    print("| rows x samples | share between rows | input order | longest first | ratio |\n|---|---|---|---|---|")
    for rows in options.rows:
        for share in options.share:
            of_all = (rows, options.n_samples, options.slots, share)
            works = [Work(*of_all, seed, options.replicas) for seed in range(options.repeats)]
            found = {order: [simulate(work, order) for work in works] for order in ORDERS}
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

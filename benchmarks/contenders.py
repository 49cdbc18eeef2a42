"""Ways of sampling the same prompts on one loaded engine, each timed from the first prompt to the last sample.

`ours` is what the command line does once the engine is there: generation stage, durable shards, seeds, metrics and
finalize. The others use vLLM's own `LLM` on the very same engine and keep their outputs in memory. Tokens are counted
from the outputs, and the prefix cache is emptied before each.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from vllm import SamplingParams

from rollout.cli.compose import compose_run
from rollout.config import RunConfig
from rollout.data.prompts import open_input, read_prompts
from rollout.data.tables import Table
from rollout.engine.vllm_engine import VLLMEngine
from rollout.generation.loop import WINDOW
from rollout.generation.session import Failures, Session, error_limit, sample_all
from rollout.process.signals import StopRequest
from rollout.records import Request
from rollout.store.finalize import finalize
from rollout.store.run_record import begun
from rollout.tracking.progress import Progress
from rollout.tracking.tracker import Tracker

CHUNK = 128
"""Prompts of one call of `chunked`."""


@dataclass(frozen=True)
class Work:
    """What is sampled: the rows of `table`, `run.sampling.n_samples` times each, `lengths[row]` tokens long."""

    run: RunConfig
    table: Table
    lengths: Sequence[int]
    of_samples: Sequence[Sequence[int]] = ()
    """For each row the tokens of each sample, where they differ: `lengths` are the longest then."""

    @property
    def tokens(self) -> int:
        """Tokens that all responses have together."""
        if self.of_samples:
            return sum(map(sum, self.of_samples))
        return self.run.sampling.n_samples * sum(self.lengths)

    def length(self, request: Request) -> int:
        """Tokens of one response."""
        return self.of_samples[request.row_id][request.sample_idx] if self.of_samples else self.lengths[request.row_id]


@dataclass(frozen=True)
class Measured:
    """Tokens of the outputs, and the seconds they took."""

    tokens: int
    seconds: float
    preemptions: int | None = None
    """Samples put back because the KV cache was full, where the way tells."""

    @property
    def tok_s(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def write_questions(path: Path, rows: int, words: int = 0) -> None:
    """An input file of short questions, no two of them equal, each followed by so many more words."""
    texts = [f"Tell a story about the number {number}." + f" It is {number}." * (words // 3) for number in range(rows)]
    pq.write_table(pa.table({"prompt": texts}), path)


def work_of(run: RunConfig, lengths: Sequence[int], of_samples: Sequence[Sequence[int]] = ()) -> Work:
    """The work of a run whose input has as many rows as there are `lengths`."""
    return Work(run, open_input(run.data), lengths, of_samples)


def options_of(
    description: str | None, add_own: Callable[[argparse.ArgumentParser], None] = lambda _: None
) -> argparse.Namespace:
    """How much work, how often, and which overrides, from the command line, with options that `add_own` adds."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--n-samples", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=64)
    add_own(parser)
    parser.add_argument("overrides", nargs="*", help="config overrides, for example model.path=... hardware=single_gpu")
    return parser.parse_args()


def asked_work(options: argparse.Namespace, folder: Path, *overrides: str) -> Work:
    """The work of `options_of`, with its input in `folder`."""
    source = folder / "input.parquet"
    write_questions(source, options.prompts)
    run = compose_run(
        f"data.path={source}",
        f"sampling.n_samples={options.n_samples}",
        f"sampling.max_tokens={options.max_tokens}",
        "sampling.extra={ignore_eos: true}",
        "tracking=disabled",
        *options.overrides,
        *overrides,
    )
    return work_of(run, [options.max_tokens] * options.prompts)


def sampling_params(work: Work, seeded: bool = True) -> list[SamplingParams]:
    """What vLLM's own interfaces take for the same work: one request per prompt, `n` samples each."""
    sampling = work.run.sampling
    same: dict[str, Any] = {
        "n": sampling.n_samples,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed if seeded else None,
        "ignore_eos": True,
    }
    return [SamplingParams(max_tokens=length, **same) for length in work.lengths]


def one_call(work: Work, engine: VLLMEngine, _scratch: Path) -> Measured:
    """`LLM.chat` with all prompts in one call."""
    return _chat(work, engine, len(work.lengths))


def typed(work: Work, engine: VLLMEngine, _scratch: Path) -> Measured:
    """`LLM.chat` as people type it: one call, no seed, vLLM's sampler (FlashInfer's if the engine may have it)."""
    with sampler_of(engine, "vllm"):
        return _chat(work, engine, len(work.lengths), seeded=False)


def chunked(work: Work, engine: VLLMEngine, _scratch: Path) -> Measured:
    """`LLM.chat` in calls of 128 prompts, as programs do that want to save what they have from time to time."""
    return _chat(work, engine, CHUNK)


def _chat(work: Work, engine: VLLMEngine, prompts_per_call: int, seeded: bool = True) -> Measured:
    engine.llm.reset_prefix_cache()
    start = time.monotonic()
    chats = [prompt.messages for prompt in read_prompts(work.table, work.run.data)]
    params, tokens = sampling_params(work, seeded), 0
    for first in range(0, len(chats), prompts_per_call):
        part = slice(first, first + prompts_per_call)
        outputs = engine.llm.chat(chats[part], params[part], use_tqdm=False)
        tokens += sum(len(sample.token_ids) for output in outputs for sample in output.outputs)
    return Measured(tokens, time.monotonic() - start)


def ours(work: Work, engine: VLLMEngine, scratch: Path) -> Measured:
    """The stage of `python -m rollout`, from the first row read to rollouts.parquet complete on the disk."""
    run, table = work.run, work.table
    scratch.mkdir(parents=True)
    engine.llm.reset_prefix_cache()
    engine.configure(run.sampling)
    with (scratch / "screen.txt").open("w") as sink, _lengths_of(work, engine):
        start = time.monotonic()
        record = begun(run, {})
        session = Session(record, table, scratch, Console(file=sink), Tracker(scratch, record), StopRequest())
        failures = Failures(error_limit(run, table.num_rows))
        final = sample_all(session, engine, Progress(table.num_rows * run.sampling.n_samples, 0), failures)
        totals = finalize(scratch, table, session.counts, {}, run.extra_columns)
        seconds = time.monotonic() - start
    written = pq.read_table(scratch / "rollouts.parquet", columns=["num_generated_tokens"]).column(0)
    tokens = sum(sum(counts) for counts in written.to_pylist())
    assert totals.generated_tokens == tokens
    return Measured(tokens, seconds, final.preemptions)


def at_most(count: int, work: Work, engine: VLLMEngine, scratch: Path) -> Measured:
    """The same with at most `count` samples at a time on an engine that may have more."""
    asked, engine.max_num_seqs = engine.max_num_seqs, count // WINDOW
    try:
        return ours(work, engine, scratch)
    finally:
        engine.max_num_seqs = asked


def ours_by_vllm(work: Work, engine: VLLMEngine, scratch: Path) -> Measured:
    """The same with tokens drawn by vLLM's sampler."""
    with sampler_of(engine, "vllm"):
        return ours(work, engine, scratch)


def ours_unsharded(work: Work, engine: VLLMEngine, scratch: Path) -> Measured:
    """The same, but of the GPUs that share a model each draws all tokens."""
    engine.llm.collective_rpc("shard_batches", args=(False,))
    try:
        return ours(work, engine, scratch)
    finally:
        engine.llm.collective_rpc("shard_batches", args=(True,))


@contextmanager
def sampler_of(engine: VLLMEngine, name: str) -> Iterator[None]:
    """While the body runs, tokens are drawn by this one of the two; an engine that has only vLLM's keeps it."""
    has_ours = engine.sampler == "rollout"
    if has_ours:
        engine.llm.collective_rpc("use_fast_sampler", args=(name == "rollout",))
    try:
        yield
    finally:
        if has_ours:
            engine.llm.collective_rpc("use_fast_sampler", args=(True,))


def longest_first(work: Work, engine: VLLMEngine, scratch: Path) -> Measured:
    """The same with `sampling.order=longest_first`, which is not told how long a response is going to be."""
    sampling = dataclasses.replace(work.run.sampling, order="longest_first")
    return ours(dataclasses.replace(work, run=dataclasses.replace(work.run, sampling=sampling)), engine, scratch)


@contextmanager
def _lengths_of(work: Work, engine: VLLMEngine) -> Iterator[None]:
    """Give every request the length drawn for it; the stage itself has one `max_tokens` for all."""
    add = engine.add

    def add_with_length(request: Request) -> None:
        add(dataclasses.replace(request, max_tokens=work.length(request)))

    vars(engine)["add"] = add_with_length
    try:
        yield
    finally:
        del vars(engine)["add"]


WAYS: dict[str, Callable[[Work, VLLMEngine, Path], Measured]] = {
    "ours": ours,
    "ours_by_vllm": ours_by_vllm,
    "ours_unsharded": ours_unsharded,
    "longest_first": longest_first,
    **{f"at_most_{count}": partial(at_most, count) for count in (4, 384, 512, 768)},
    "typed": typed,
    "one_call": one_call,
    "chunked": chunked,
}
"""By the names that commands and result files use."""

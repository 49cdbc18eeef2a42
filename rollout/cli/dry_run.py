"""`dry_run=true`: do every check that needs no model, then print what would run and what it would take."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from rollout.cli.estimates import Work, disk_lines, memory_lines, time_lines
from rollout.cli.latest import OUTPUTS
from rollout.cli.past_runs import last_like
from rollout.config import HardwareConfig, RunConfig, SamplingConfig
from rollout.config.check import column_warnings, config_warnings
from rollout.data.prompts import read_prompts, shard_in_words, watch_chats
from rollout.data.row_sampling import sample_counts, sampling_of_row
from rollout.data.tables import Table
from rollout.data.text import counted
from rollout.engine.devices import gpu_names, gpus_needed
from rollout.engine.model_files import context_length
from rollout.engine.protocol import Renderer
from rollout.errors import PromptError, UserError
from rollout.generation.prompt_tokens import EvenSample, NoTokenizer, PromptTokens, count_tokens, load_renderer
from rollout.generation.session import error_limit, too_many
from rollout.postprocess.second_place import path_of
from rollout.preflight import parameter_check, preflight, refuse_used, scorer_warnings, to_continue
from rollout.records import Outcome, Prompt
from rollout.scoring.distribution import Histogram
from rollout.store import run_record
from rollout.store.judged import how_far

_SHOWN_REASONS, _SHOWN_ROWS, _SHOWN_BINS = 5, 5, 8
_SHOWN_CHARACTERS = 2000
_BAR = 40  # characters of the longest bar


def plan(run: RunConfig, run_dir: Path, may_continue: bool) -> None:
    """Print the plan of `run` in `run_dir`, where it `may_continue` a run that is there.

    Raises UserError for what the run itself would be refused for, and as `show_plan` does.
    """
    table = preflight(run, run_dir)
    if may_continue and run_record.exists(run_dir):
        to_continue(run, table, run_dir)
    else:
        refuse_used(run, run_dir)
    show_plan(run, table, run_dir)


def show_plan(run: RunConfig, table: Table, run_dir: Path | None = None) -> None:
    """Print the plan of `run` on `table`, which would write to `run_dir` or continue the run there.

    Reads the whole input, to count the rows that cannot be sampled. Raises UserError, after the plan, where there are
    more of them than the run allows, and for a chat template that is broken or missing.
    """
    prompts = _Prompts(error_limit(run, table.num_rows))
    prompts.read(table, run)
    _show("input", [f"{table.path}: {counted(table.num_rows, 'row')}, columns {', '.join(table.schema.names)}"])
    if run.data.num_shards > 1:
        _show("shard", [shard_in_words(table, run.data)])
    usable = table.num_rows - prompts.num_bad
    _show("prompts", [f"{usable:,} usable, {prompts.num_bad:,} not", *prompts.reasons.lines()])
    tokens = _show_tokens(run, prompts)
    for warning in prompts.warnings:
        _show("warning", [warning])
    work = _show_samples(run, table, prompts, tokens, run_dir)
    _show_settings(run)
    too_large = _show_estimates(run, work, run_dir)
    known = (*config_warnings(run), *column_warnings(run, table.schema.names))
    for line in (*known, *scorer_warnings(run, table), *([] if too_large is None else [too_large])):
        print(f"warning: {line}", file=sys.stderr)
    if prompts.problem is not None:
        raise prompts.problem


@dataclass
class _Reasons:
    """Why prompts cannot be used, with how many and the first rows; texts that differ in numbers only are one."""

    _counts: Counter[str] = field(default_factory=Counter)
    _first: dict[str, list[Prompt]] = field(default_factory=dict)

    def add(self, prompt: Prompt) -> None:
        """Count a prompt that has an error."""
        kind = re.sub(r"\d+", "0", prompt.error or "")
        self._counts[kind] += 1
        first = self._first.setdefault(kind, [])
        if len(first) < _SHOWN_ROWS:
            first.append(prompt)

    def lines(self) -> Iterator[str]:
        """The most frequent reason first."""
        for kind, count in self._counts.most_common(_SHOWN_REASONS):
            first = self._first[kind]
            numbers = ", ".join(str(prompt.row_id) for prompt in first) + ", ..." * (count > len(first))
            yield f"{'row' if count == 1 else f'{count:,} rows:'} {numbers}: {first[0].error}"
        if (more := len(self._counts) - _SHOWN_REASONS) > 0:
            yield f"and {counted(more, 'more reason')}"


@dataclass
class _Prompts:
    """What reading all prompts tells."""

    check: Callable[[Outcome], None]
    """Raises UserError once too many rows are bad."""
    sample: EvenSample = field(default_factory=EvenSample)
    """Of those that can be used."""
    reasons: _Reasons = field(default_factory=_Reasons)
    warnings: list[str] = field(default_factory=list)
    problem: UserError | None = None
    """Why the run would stop."""
    first: Prompt | None = None
    num_bad: int = 0
    samples: int = 0
    """Of those that can be used."""
    most_tokens: int = 0
    """Of these samples, if each is as long as it may be."""

    def read(self, table: Table, run: RunConfig) -> None:
        """Go through the input."""
        check = parameter_check(run)
        prompts = read_prompts(table, run.data)
        for prompt in watch_chats(prompts, run.model.chat_template_kwargs, self.warnings.append):
            try:
                sampling = _sampling(prompt, run, check)
            except PromptError as error:
                self.num_bad += 1
                self.reasons.add(replace(prompt, error=str(error)))
                self.refuse(prompt.row_id, str(error))
            else:
                self.first = self.first or prompt
                self.sample.add(prompt)
                self.samples += sampling.n_samples
                self.most_tokens += sampling.n_samples * sampling.max_tokens

    def refuse(self, row_id: int, error: str | None) -> None:
        """Note that a row cannot be sampled."""
        try:
            self.check(Outcome(row_id, sample_idx=0, num_prompt_tokens=None, num_generated_tokens=0, error=error))
        except UserError as problem:
            self.problem = self.problem or problem


def _sampling(prompt: Prompt, run: RunConfig, check: Callable[[SamplingConfig], None]) -> SamplingConfig:
    """How the row is sampled. Raises PromptError where it cannot be."""
    if prompt.error is not None:
        raise PromptError(prompt.error)
    sampling = sampling_of_row(prompt.sampling, run)
    check(sampling)
    return sampling


def _show_tokens(run: RunConfig, prompts: _Prompts) -> PromptTokens | None:
    """What the tokenizer tells of the prompts, and what the model's context means for them."""
    context = context_length(run.model) if run.engine.kind == "vllm" else run.engine.echo.max_model_len
    try:
        if not run.dry_run_tokens:
            raise NoTokenizer("dry_run_tokens=false")
        renderer = load_renderer(run)
    except NoTokenizer as error:
        _show("tokens", [f"not counted: {error}"])
        if context is not None:
            room = max(0, context - run.sampling.max_tokens)
            _show(
                "context",
                [f"{context:,} tokens: room for prompts of {room:,} beside max_tokens={run.sampling.max_tokens:,}"],
            )
        return None
    found = count_tokens(prompts.sample.prompts, renderer, run)
    _show("tokens", _length_lines(found, prompts.sample.seen))
    for prompt in found.refused:
        prompts.refuse(prompt.row_id, prompt.error)
    if too_many(len(found.refused), found.looked_at, run):
        prompts.warnings.append(
            f"{len(found.refused):,} of {counted(found.looked_at, 'prompt')} that were looked at cannot be sampled, "
            f"more than data.max_error_fraction={run.data.max_error_fraction} allows"
        )
    _show("context", _context_lines(run, renderer, found))
    if prompts.first is not None:
        _show_first(prompts.first, renderer)
    return found


def _length_lines(found: PromptTokens, usable: int) -> Iterator[str]:
    part = counted(found.looked_at, "prompt")
    if found.looked_at < usable:
        part += f", evenly spread over {usable:,}"
    lengths = found.lengths
    if lengths is None:
        yield f"of {part}: none could be rendered"
        return
    yield (
        f"of {part}: {lengths.min:,} to {lengths.max:,}, mean {lengths.mean:,.0f}, median {lengths.p50:,.0f}, "
        f"99% have at most {lengths.p99:,.0f}"
    )
    if lengths.max > lengths.min:
        yield from _bars(lengths.histogram, lengths.max)


def _bars(histogram: Histogram, most: int) -> Iterator[str]:
    """A histogram as lines of text, its bins put together until there are few enough."""
    edges, counts = histogram.edges, histogram.counts
    together = -(-len(counts) // _SHOWN_BINS)
    sums = [sum(counts[start : start + together]) for start in range(0, len(counts), together)]
    bounds = [*edges[: len(counts) : together], edges[-1]]
    names = [_range(left, min(right, most + 1)) for left, right in pairwise(bounds)]
    width, highest = max(map(len, names)), max(sums)
    for name, count in zip(names, sums, strict=True):
        yield f"{name:>{width}}  {'#' * -(-count * _BAR // highest):<{_BAR}}  {count:,}"


def _range(left: float, right: float) -> str:
    """The whole numbers between two edges; bins of a single value begin half below it."""
    first, last = int(left + 0.5), int(right + 0.5) - 1
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


_TOO_LONG = {
    "error": "each is recorded with an error",
    "truncate_left": "their oldest tokens are cut off",
    "reduce_max_tokens": "their responses get the room that is left",
}
"""What data.too_long does."""


def _context_lines(run: RunConfig, renderer: Renderer, found: PromptTokens) -> Iterator[str]:
    context, most = renderer.max_model_len, f"max_tokens={run.sampling.max_tokens:,}"
    if run.data.sampling_key is not None:
        most = "its max_tokens"
    if found.lengths is None:
        yield f"{context:,} tokens"
    elif not found.too_long:
        yield f"{context:,} tokens: each of these prompts fits beside {most}"
    else:
        do = f"{found.too_long:,} of {counted(found.looked_at, 'prompt')} {'does' if found.too_long == 1 else 'do'}"
        yield f"{context:,} tokens: {do} not fit beside {most}, the longest is row {found.longest}"
        yield f"data.too_long={run.data.too_long}: {_TOO_LONG[run.data.too_long]}"
    reasons = _Reasons()
    for prompt in found.refused:
        reasons.add(prompt)
    yield from reasons.lines()


def _show_first(prompt: Prompt, renderer: Renderer) -> None:
    """The first prompt, letter by letter: a wrong template or a doubled token shows here."""
    try:
        text = renderer.render(prompt.messages, prompt.tools).text
    except PromptError:  # which has been said
        return
    cut = len(text) - _SHOWN_CHARACTERS
    if cut > 0:
        half = _SHOWN_CHARACTERS // 2
        text = f"{text[:half]}\n[... {cut:,} characters ...]\n{text[-half:]}"
    _show("first", [f"row {prompt.row_id}, as the model reads it:", *map(_printable, text.split("\n"))])


def _printable(line: str) -> str:
    shown = "".join(character if character.isprintable() else repr(character)[1:-1] for character in line)
    return f"| {shown}" if line else "|"


def _show_samples(
    run: RunConfig, table: Table, prompts: _Prompts, tokens: PromptTokens | None, run_dir: Path | None
) -> Work:
    """How many samples there will be, and how many of them are owed where a run is continued."""
    samples, there = prompts.samples, 0
    if run_dir is not None and run_record.exists(run_dir):
        there = how_far(run_dir, sample_counts(table, run), run).num_done
    owed = max(0, samples - there)
    how_many = f"{there:,} are there, {owed:,} are owed, " if there else ""
    median = None if tokens is None or tokens.lengths is None else round(tokens.lengths.p50)
    work = Work(owed, median, last_like(run, OUTPUTS), prompts.most_tokens / samples if samples else None)
    each = f"{'' if run.adaptive.until is None else 'at most '}{run.sampling.n_samples} per row"
    if run.data.sampling_key is not None:
        each += f" where column {run.data.sampling_key} says nothing else"
    about = "about " if there and run.data.sampling_key is not None else ""
    _show("samples", [f"{samples:,} ({each}), {how_many}at most {about}{work.most_tokens(run):,} tokens"])
    return work


def _show_settings(run: RunConfig) -> None:
    sampling = run.sampling
    _show("model", [run.model.path])
    _show("sampling", [f"temperature {sampling.temperature}, top_p {sampling.top_p}, seed {sampling.seed}"])
    _show("hardware", [", ".join(_hardware(run.hardware))])
    if (path := path_of(run)) is not None:
        _show("output", [str(path)])


def _show_estimates(run: RunConfig, work: Work, run_dir: Path | None) -> str | None:
    """Print what the run is going to take, if anything. Returns a warning, where there is one."""
    if not work.samples:
        return None
    if run.engine.kind == "vllm":
        _show("memory", memory_lines(run, work))
    _show("time", time_lines(run, work))
    lines, warning = disk_lines(run, work, (run_dir or OUTPUTS).absolute())
    _show("disk", lines)
    return warning


def _show(name: str, lines: Iterable[str]) -> None:
    """Print lines under a name in the margin."""
    for line in lines:
        print(f"{name:<9} {line}", flush=True)
        name = ""


def _hardware(hardware: HardwareConfig) -> Iterator[str]:
    """Device and parallel sizes, and what of the keys for several engines is not the default."""
    yield hardware.device
    yield f"tensor_parallel_size {hardware.tensor_parallel_size}"
    if hardware.replicas != HardwareConfig.replicas:
        yield f"replicas {hardware.replicas or 'null (as many as there are GPUs for)'}"
    if hardware.replicas_per_gpu != HardwareConfig.replicas_per_gpu:
        yield f"replicas_per_gpu {hardware.replicas_per_gpu}"
    if hardware.ray_address is not None:
        yield f"ray_address {hardware.ray_address}"
    if needed := gpus_needed(hardware):
        yield f"needs {counted(needed, 'GPU')} (this machine shows {len(gpu_names())})"

"""Estimates of memory, time and disk for a run, as lines of a dry run's plan. Each says what it is based on."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rollout.cli.past_runs import PastRun
from rollout.config import RunConfig
from rollout.data.text import counted
from rollout.engine.devices import gpu_memory, gpu_names
from rollout.engine.measured import SOURCE, Measured, measured_like
from rollout.engine.memory import GIB, ModelSize, gpus_of_engine, kv_space, model_size
from rollout.engine.model_files import context_length
from rollout.files import short
from rollout.terminal.text import duration

_BYTES_OF_TOKEN = 4  # of text in most languages, before it is compressed
_WRITTEN_AGAIN = ("flatten", "filter", "export")
"""Steps that write all responses once more."""


@dataclass(frozen=True)
class Work:
    """What is still to be generated."""

    samples: int
    """Owed."""
    prompt_tokens: int | None
    """Of a prompt in the middle; None where they were not counted."""
    past: PastRun | None
    """The last run with this model and hardware."""
    max_tokens: float | None = None
    """Most tokens of a sample, the mean where rows have their own; None: the run's."""

    def longest(self, run: RunConfig) -> float:
        """Most tokens of a sample."""
        return run.sampling.max_tokens if self.max_tokens is None else self.max_tokens

    def tokens(self, run: RunConfig) -> int | None:
        """If responses are as long as those of the past run; None where there is none."""
        if self.past is None:
            return None
        return round(self.samples * min(self.past.tokens_of_sample, self.longest(run)))

    def most_tokens(self, run: RunConfig) -> int:
        """If every response is as long as it may be."""
        return round(self.samples * self.longest(run))


def memory_lines(run: RunConfig, work: Work) -> Iterator[str]:
    """Weights, KV cache, and how many samples at once it has room for, of one engine."""
    size, hardware = model_size(run.model, run.hardware), run.hardware
    if size.weights is None and size.kv_of_token is None:
        yield "not known: the model's files are not on this machine"
        return
    gpus = gpus_of_engine(hardware)
    yield _gib("weights", size.weights) + (f", on {gpus} GPUs together" if gpus > 1 else "")
    space = kv_space(size, hardware, None if hardware.ray_address is not None else gpu_memory())
    if space is None:
        yield f"KV cache: {_why_not_known(run, size)}"
    elif space <= 0:
        yield f"no room for a KV cache on {_place(run)}; use more GPUs (hardware.tensor_parallel_size)"
    else:
        yield f"KV cache about {space / GIB:.1f} GiB on {_place(run)}{_tokens(size, space)}"
    if size.kv_of_token is None:
        return
    context, tokens = context_length(run.model), (space or 0) // size.kv_of_token
    if context is not None and 0 < tokens < context:
        yield f"vLLM may not start: one sample of {context:,} tokens does not fit; set model.max_model_len={tokens}"
    yield _room(run, work, size.kv_of_token, space)


def time_lines(run: RunConfig, work: Work) -> Iterator[str]:
    """How long generating takes; an estimate from a run that was, or from what is documented."""
    tokens, most = work.tokens(run), work.most_tokens(run)
    if work.past is not None and tokens is not None:
        rate = work.past.throughput.output_tok_s
        seconds = f"about {duration(tokens / rate)}, at most {duration(most / rate)}"
        yield f"{seconds}: an estimate from {short(work.past.folder)},"
        yield (
            f"where {counted(work.past.throughput.samples, 'sample')} came at {rate:,.0f} tok/s, with "
            f"{work.past.tokens_of_sample:,.0f} tokens each"
        )
        if work.past.load_seconds:
            yield f"loading is not counted; it took {duration(work.past.load_seconds)} there"
        return
    weights = model_size(run.model, run.hardware).weights
    like = None if weights is None else measured_like(weights, run.hardware, gpu_names())
    if like is None:
        yield f"not known: no run with this model and hardware under outputs/, and nothing like it in {SOURCE}"
    else:
        yield f"at most {duration(most / like.tok_s)}, loading not counted: an estimate from {SOURCE},"
        yield _documented(like)


def disk_lines(run: RunConfig, work: Work, folder: Path) -> tuple[list[str], str | None]:
    """How much the run is going to write into `folder`, and a warning where there is less room than that."""
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    tokens, most = work.tokens(run), work.most_tokens(run)
    if work.past is not None and tokens is not None:
        needed = tokens * work.past.bytes_of_token
        lines = [
            f"about {_bytes(needed)}, at most {_bytes(most * work.past.bytes_of_token)}: an estimate from the same run"
        ]
    else:
        copies = 2 + sum(step in run.postprocess.steps for step in _WRITTEN_AGAIN) + (run.output is not None)
        needed = float(most * _BYTES_OF_TOKEN * copies)
        lines = [f"at most {_bytes(needed)}: {_BYTES_OF_TOKEN} bytes a token, written {copies} times, not compressed"]
    lines.append(f"{_bytes(free)} free there")
    is_short = needed > free
    return lines, f"{short(place)} has {_bytes(free)} free, and the run may need {_bytes(needed)}" if is_short else None


def _room(run: RunConfig, work: Work, kv_of_token: int, space: int | None) -> str:
    """How many samples there is room for, against how many run at once."""
    prompt, most = work.prompt_tokens or 0, round(work.longest(run))
    each = f"{prompt:,} + {most:,} tokens" if prompt else f"{most:,} tokens, prompts not counted"
    if space is None or space <= 0:
        return f"a sample of {each} takes {(prompt + most) * kv_of_token / (1 << 20):,.0f} MiB of it"
    at_once = space // kv_of_token // (prompt + most)
    asked = min(run.hardware.max_num_seqs, work.samples)
    if at_once >= asked:
        return f"room for {counted(at_once, 'sample')} of {each}: more than the {asked:,} at once that are asked for"
    asked_for = f"of the {asked:,} at once that are asked for"
    return (
        f"room for {counted(at_once, 'sample')} of {each}, {asked_for}: others wait, or are put back and computed again"
    )


def _tokens(size: ModelSize, space: int) -> str:
    return "" if size.kv_of_token is None else f": {space // size.kv_of_token:,} tokens"


def _why_not_known(run: RunConfig, size: ModelSize) -> str:
    if run.hardware.ray_address is not None:
        return "not known here: the GPUs are the cluster's"
    if run.hardware.device == "cpu":
        return "not known: vLLM takes what it finds (hardware.env.VLLM_CPU_KVCACHE_SPACE sets it)"
    if size.weights is None:
        return "not known: the weights are not on this machine"
    return "not known here: this machine shows no GPU" + ("" if not gpu_names() else " that tells how large it is")


def _place(run: RunConfig) -> str:
    if run.hardware.device == "cpu":
        return "the CPU"
    of_each = gpu_memory()
    name = (gpu_names() or ("the GPU",))[0]
    share = f"{run.hardware.gpu_memory_utilization:.0%}"
    return name if of_each is None else f"{name} ({share} of {of_each / GIB:.0f} GiB)"


def _documented(like: Measured) -> str:
    many = "one" if like.gpus == 1 else str(like.gpus)
    return (
        f"where the {like.shape} shape gave {like.tok_s:,} tok/s on {many} {like.gpu}{'s' * (like.gpus > 1)} with "
        f"hardware={like.preset}, {counted(like.hardware.max_num_seqs, 'sample')} at once"
    )


def _gib(name: str, size: int | None) -> str:
    return f"{name} not known" if size is None else f"{name} {size / GIB:.1f} GiB"


def _bytes(size: float) -> str:
    """A size as people say it, in powers of 1000, as `df -H` has it."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if size >= 10 or unit == "B" else f"{size:,.1f} {unit}"

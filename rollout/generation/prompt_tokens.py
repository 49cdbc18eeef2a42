"""How many tokens the prompts of a run have, for a dry run: only a tokenizer is loaded.

From a large input, an evenly spread sample is read, in bounded memory and time. Prompts are rendered as by the run's
engine, and fitted to the context by the run's own rule.
"""

import importlib.util
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rollout.config import RunConfig
from rollout.data.row_sampling import sampling_of_row
from rollout.engine.cache import environment
from rollout.engine.protocol import Renderer
from rollout.errors import PromptError, UserError
from rollout.generation.context import fit_to_context
from rollout.records import Prompt
from rollout.scoring.distribution import Distribution, ValueCounts
from rollout.terminal.console import unseen

MAX_PROMPTS = 2000
_MAX_CHARACTERS = 64 << 20
_MAX_SECONDS = 10.0
_MODULUS = 1 << 64
_GOLDEN = 0x9E3779B97F4A7C15
"""2 ** 64 divided by the golden ratio: its multiples modulo 2 ** 64 are evenly spread (a Weyl sequence). They also
cover all of a pattern that repeats every few rows of the input, which every 512th row would not.
"""


class NoTokenizer(Exception):
    """Tokens cannot be counted here; the message says why in one line."""


@dataclass
class EvenSample:
    """A sample of the added prompts, spread evenly over their rows: at most MAX_PROMPTS, and a bounded amount of text.
    The first ones of `prompts` are spread as evenly as all of them.
    """

    seen: int = 0
    _kept: list[tuple[int, int, Prompt]] = field(default_factory=list)
    _limit: int = _MODULUS
    _characters: int = 0

    def add(self, prompt: Prompt) -> None:
        """Add the next prompt to the sample, or leave it out."""
        self.seen += 1
        key = prompt.row_id * _GOLDEN % _MODULUS
        if key >= self._limit:
            return
        self._kept.append((key, len(str(prompt.messages)) + len(str(prompt.tools)), prompt))
        self._characters += self._kept[-1][1]
        while len(self._kept) > 1 and (len(self._kept) > MAX_PROMPTS or self._characters > _MAX_CHARACTERS):
            self._limit //= 2
            self._kept = [item for item in self._kept if item[0] < self._limit]
            self._characters = sum(size for _, size, _ in self._kept)

    @property
    def prompts(self) -> list[Prompt]:
        """The prompts in the sample."""
        return [prompt for _, _, prompt in sorted(self._kept, key=lambda item: item[0])]


@dataclass(frozen=True)
class PromptTokens:
    """The result of rendering some prompts."""

    lengths: Distribution | None
    """Token counts of the prompts that could be rendered."""
    looked_at: int
    refused: list[Prompt]
    """Prompts that cannot be sampled, each with its `error`: refused by the template, or too long."""
    too_long: int
    """How many prompts do not fit into the context beside their `max_tokens`."""
    longest: int | None
    """The row_id of the longest prompt."""


def load_renderer(run: RunConfig) -> Renderer:
    """The renderer of this run. Imports vLLM, which takes seconds, and unpacks the embedded model.

    Raises UserError for a chat template that is broken or missing, and NoTokenizer if the model's files or vLLM are not
    available.
    """
    if run.engine.kind == "echo":
        from rollout.engine.echo_engine import EchoEngine

        return EchoEngine(run.engine.echo, run.hardware)
    if importlib.util.find_spec("vllm") is None:
        raise NoTokenizer("vLLM is not installed here")
    try:
        with environment(run.hardware), unseen():
            from rollout.engine.vllm_renderer import renderer_of_files

            return renderer_of_files(run.model, run.hardware)
    except UserError:
        raise
    except Exception as error:  # any error of vLLM, transformers or the hub: the rest of the plan can be shown
        raise NoTokenizer(f"the tokenizer cannot be loaded: {_reason(error)}") from error


def count_tokens(
    prompts: Sequence[Prompt], renderer: Renderer, run: RunConfig, max_seconds: float = _MAX_SECONDS
) -> PromptTokens:
    """Render `prompts` in their order, for at most `max_seconds`."""
    counts, refused, too_long = ValueCounts(), list[Prompt](), 0
    longest, most, looked_at = None, -1, 0
    end = time.monotonic() + max_seconds
    for prompt in prompts:
        if looked_at and time.monotonic() > end:
            break
        looked_at += 1
        try:
            sampling = sampling_of_row(prompt.sampling, run)
            token_ids = renderer.render(prompt.messages, prompt.tools).token_ids
            counts.add(np.array([len(token_ids)]))
            if len(token_ids) > most:
                longest, most = prompt.row_id, len(token_ids)
            too_long += len(token_ids) + sampling.max_tokens > renderer.max_model_len
            fit_to_context(token_ids, sampling, renderer.max_model_len, run.data.too_long, renderer.bos_token_id)
        except PromptError as error:
            refused.append(Prompt(prompt.row_id, [], str(error)))
    refused.sort(key=lambda prompt: prompt.row_id)
    return PromptTokens(counts.distribution(), looked_at, refused, too_long, longest)


def _reason(error: Exception) -> str:
    """The first line of an error that is useful; pydantic's first line only counts errors."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = lines[1] if len(lines) > 1 and re.match(r"\d+ validation errors? for ", lines[0]) else lines[0]
    return re.sub(r" \[type=.*", "", line.removeprefix("Value error, "))

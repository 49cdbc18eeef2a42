"""What the generation stage asks of an engine."""

from dataclasses import dataclass
from typing import Any, Protocol

from rollout.config import ModelConfig, SamplingConfig
from rollout.records import Message, Request, Sample


@dataclass(frozen=True)
class Rendered:
    """A chat as the model reads it."""

    text: str
    token_ids: list[int]


@dataclass(frozen=True)
class GpuShare:
    """What of a GPU another engine like the one that is there may have beside it, so that all fit."""

    utilization: float
    """Part of the GPU's memory."""
    kv_cache_bytes: int
    """Of it for the KV cache."""


@dataclass(frozen=True)
class EngineStats:
    """What is going on inside: samples being generated, samples waiting for a place, tokens generated so far (finished
    or not; counted from any starting point, so only differences mean something).
    """

    running: int
    waiting: int
    generated_tokens: int
    preemptions: int = 0
    """How often a sample was put back because the KV cache was full, to be computed again; counted like tokens."""
    tokens_of_replicas: tuple[int, ...] = ()
    """Tokens for each of several engines, where there are several."""


NO_STATS = EngineStats(0, 0, 0)
"""Of an engine that has not begun."""


class WeightsNotPut(Exception):
    """Why an engine could not take other weights; it is of no use any more."""


class Renderer(Protocol):
    """What makes tokens of a chat. It may be used from another thread than what samples."""

    max_model_len: int
    """Context length in tokens, prompt and response together."""
    bos_token_id: int | None
    """The token every prompt begins with, if the model has one."""

    def render(self, messages: list[Message], tools: list[dict[str, Any]] | None = None) -> Rendered:
        """The prompt's text and tokens, with the `tools` that it may call. Raises PromptError when the template refuses
        the chat.
        """
        ...

    def decode(self, token_ids: list[int]) -> str:
        """The text of some tokens of a prompt."""
        ...


class Engine(Renderer, Protocol):
    """An engine turns requests into samples, many at a time. `prepare` may be called from another thread too."""

    max_num_seqs: int
    """Most samples generated at the same time."""
    kv_cache_tokens: int | None
    """Tokens of prompts and responses that its KV cache has room for; None where it does not say."""
    steps: int
    """How often it has done a `step`, in which a running sample usually becomes a token longer."""
    share_of_next: GpuShare | None
    """Where `vllm_worker.WorkerExtension` was asked to tell it."""
    sampler: str
    """What draws the tokens: `rollout` (see `nucleus_kernel`), `vllm`, or `echo`."""

    def use(self, model: ModelConfig) -> None:
        """Put this adapter (or none) on the model from now on, and tell thinking from answers like this.

        Nothing else of `model` is looked at; what is asked for is in the `EngineSpec` that the engine was built from.
        To be called before `configure`. Raises UserError for an adapter that does not fit or a parser that is not for
        this tokenizer.
        """
        ...

    def reload(self, model: ModelConfig) -> None:
        """Take the weights of `model`, which has the `checkpoints.form` of the one that the engine was built for, and
        forget what was computed with others. To be called while no request is there. Raises WeightsNotPut.
        """
        ...

    def configure(self, sampling: SamplingConfig) -> None:
        """Sample like this from now on. Raises UserError when the engine does not know or accept one of them."""
        ...

    def prepare(self, sampling: SamplingConfig, key: str) -> Any:
        """What a request carries as `parameters` to be sampled like this instead. Raises PromptError, in which `key` is
        where the row says so, when the engine does not know or accept one of them.
        """
        ...

    def describe(self) -> str:
        """What it samples with, as far as it differs from the engine's own defaults, for the log."""
        ...

    def add(self, request: Request) -> None:
        """Queue a request. Raises PromptError when this one is refused; the others continue."""
        ...

    def step(self) -> list[Sample]:
        """Generate for a while; the samples that finished, in any order. Raises EngineDied."""
        ...

    def stats(self) -> EngineStats: ...

    def abort(self) -> None:
        """Forget every request that has not finished."""
        ...

    def shutdown(self) -> None:
        """End the engine's processes and free its memory; the engine cannot be used again."""
        ...

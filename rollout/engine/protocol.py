"""The interface of an engine for the generation stage."""

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
    """How much of a GPU another engine like this one may take, so that all fit."""

    utilization: float
    """Share of the GPU's memory."""
    kv_cache_bytes: int
    """The part of it for the KV cache."""


@dataclass(frozen=True)
class EngineStats:
    """Samples being generated, samples waiting for a place, and tokens generated so far, of unfinished samples too.

    Tokens are counted from any starting point, so only differences mean something.
    """

    running: int
    waiting: int
    generated_tokens: int
    preemptions: int = 0
    """How often a sample was put back because the KV cache was full, to be computed again; counted like tokens."""
    tokens_of_replicas: tuple[int, ...] = ()
    """Tokens of each engine, if there are several."""


NO_STATS = EngineStats(0, 0, 0)
"""The stats of an engine that has not begun."""


class WeightsNotPut(Exception):
    """Why an engine could not take new weights. It must not be used any more."""


class Renderer(Protocol):
    """Turns a chat into tokens. May be used from another thread than the one that samples."""

    max_model_len: int
    """Context length in tokens: prompt and response together."""
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
    """None unless `vllm_worker.WorkerExtension` had to measure it."""
    sampler: str
    """What draws the tokens: `rollout` (see `nucleus_kernel`), `vllm`, or `echo`."""

    def use(self, model: ModelConfig) -> None:
        """Use the adapter of `model` (or none) and its reasoning parser from now on. To be called before `configure`.

        Nothing else of `model` is used: the rest is in the `EngineSpec` that the engine was built from. Raises
        UserError for an adapter that does not fit, or a parser that is not for this tokenizer.
        """
        ...

    def reload(self, model: ModelConfig) -> None:
        """Replace the weights by those of `model`, and drop everything that was computed with the old ones.

        `model` has the `checkpoints.form` of the model that the engine was built for. To be called while there is no
        request. Raises WeightsNotPut.
        """
        ...

    def configure(self, sampling: SamplingConfig) -> None:
        """Use these sampling parameters from now on. Raises UserError if the engine does not know or accept one."""
        ...

    def prepare(self, sampling: SamplingConfig, key: str) -> Any:
        """The `parameters` of a request that is to be sampled with these instead.

        `key` is where the row has its sampling. Raises PromptError if the engine does not know or accept a parameter.
        """
        ...

    def describe(self) -> str:
        """The sampling parameters that differ from the engine's own defaults, for the log."""
        ...

    def add(self, request: Request) -> None:
        """Queue a request. Raises PromptError if it is refused; the others continue."""
        ...

    def step(self) -> list[Sample]:
        """Generate for a while, and return the samples that finished, in any order. Raises EngineDied."""
        ...

    def stats(self) -> EngineStats: ...

    def abort(self) -> None:
        """Drop every request that has not finished."""
        ...

    def shutdown(self) -> None:
        """End the engine's processes and free its memory; the engine cannot be used again."""
        ...

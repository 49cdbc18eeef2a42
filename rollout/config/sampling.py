"""Every key of `sampling`, and of the objects in it that are also objects in vLLM."""

from dataclasses import dataclass, field
from typing import Any

from rollout.config.limits import limited as _field


@dataclass
class StructuredOutputsConfig:
    """The required form of a response: at most one of these."""

    json: Any = None
    """JSON that fits a schema: a JSON schema, written here, or a file PATH.json."""
    regex: str | None = None
    """A text that fits this regular expression."""
    choice: list[str] = field(default_factory=list)
    """One of these texts."""
    grammar: str | None = None
    """A text of this grammar, in EBNF or Lark."""


@dataclass
class RepetitionDetectionConfig:
    """When a response counts as repetitive."""

    max_pattern_size: int = _field(0, ge=0)
    """Longest pattern to look for, in tokens. 0: look for none."""
    min_pattern_size: int = _field(0, ge=0)
    """Shortest pattern to look for, in tokens."""
    min_count: int = _field(0, ge=0)
    """A response ends once a pattern has come this many times in a row; at least 2."""


@dataclass
class SamplingConfig:
    n_samples: int = _field(8, ge=1, le=100_000)
    """Responses per prompt."""
    max_tokens: int = _field(2048, ge=1)
    """Longest response, in tokens."""
    temperature: float = _field(1.0, ge=0.0, le=2.0)
    """0 always takes the likeliest token."""
    top_p: float = _field(0.95, gt=0.0, le=1.0)
    """Sample from the likeliest tokens whose probabilities add up to this."""
    seed: int = _field(42, ge=0)
    """Every sample's seed is a hash of this, its row and its number; see `rollout.generation.requests.sample_seed`."""
    top_k: int = _field(0, ge=-1)
    """Sample from the k likeliest tokens. 0 or -1: from all."""
    min_p: float = _field(0.0, ge=0.0, le=1.0)
    """Leave out tokens less likely than this share of the likeliest one's probability."""
    repetition_penalty: float = _field(1.0, gt=0.0)
    """Above 1: tokens already in the prompt or response become less likely."""
    presence_penalty: float = _field(0.0, ge=-2.0, le=2.0)
    """Above 0: tokens already in the response become less likely."""
    frequency_penalty: float = _field(0.0, ge=-2.0, le=2.0)
    """Above 0: tokens already in the response become less likely with every repetition."""
    stop: list[str] = field(default_factory=list)
    """Texts that end a response; they are not part of it."""
    stop_token_ids: list[int] = field(default_factory=list)
    """Token ids that end a response, beside the model's own end token."""
    min_tokens: int = _field(0, ge=0)
    """A response does not end before this many tokens."""
    logprobs: str = _field("none", choices=("none", "processed", "raw"))
    """Keep the log-probability of every generated token, and the token ids: `processed` is that of the distribution it
    was sampled from (after temperature, top_p, ...; what verl, TRL and prime-rl compare with), `raw` is the model's."""
    structured_outputs: StructuredOutputsConfig = field(default_factory=StructuredOutputsConfig)
    """The required form of a response: at most one of these; vLLM lets the model choose only tokens that fit."""
    repetition_detection: RepetitionDetectionConfig = field(default_factory=RepetitionDetectionConfig)
    """Responses that repeat themselves end early, with the finish reason `repetition`."""
    order: str = _field("input", choices=("input", "longest_first"))
    """The order in which samples are generated; it does not change them. `longest_first`: one of every row, then the
    rows whose samples are probably the longest, so that the run does not wait for a long sample that began last."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Any other field of vLLM's SamplingParams; unknown ones, wrong types and log-probabilities are refused at once."""

"""Every key of the engine that only tests use."""

from dataclasses import dataclass, field


@dataclass
class EchoConfig:
    """Knobs of the engine that only tests use; see `rollout.engine.echo_engine`."""

    max_steps: int = field(default=1, metadata={"ge": 1})
    """A request finishes after 1 to this many steps, by its seed, so that samples finish out of order."""
    step_seconds: float = field(default=0.0, metadata={"ge": 0.0})
    """How long a step takes."""
    max_model_len: int = field(default=4096, metadata={"ge": 1})
    """Context length in tokens (one token per word)."""
    refuse_word: str | None = None
    """A prompt that contains this word is refused by the engine."""
    die_after: int | None = field(default=None, metadata={"ge": 0})
    """The engine dies once it has finished this many samples."""
    response_tokens: int | None = field(default=None, metadata={"ge": 2})
    """Every response is this long, up to max_tokens. null: 2 to 31 words, by the seed."""
    think_tokens: int | None = field(default=None, metadata={"ge": 1})
    """Every response begins with this many words of thinking; a fifth of the responses never reach the answer."""
    token_steps: bool = False
    """A response takes one step per token instead, and at most max_num_seqs are in work at the same time, in the order
    in which they came."""
    length_spread: float = field(default=0.0, metadata={"ge": 0.0})
    """Lengths are lognormal: `response_tokens` (null: 64) is the median, this the deviation of the logarithm."""
    row_share: float = field(default=0.0, metadata={"ge": 0.0, "le": 1.0})
    """The share of that logarithm's variance between prompts; the rest is between the samples of one prompt."""

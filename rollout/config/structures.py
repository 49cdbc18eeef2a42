"""Keys of `sampling` that are objects in vLLM too."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class StructuredOutputsConfig:
    """What a response has to be: at most one of these."""

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
    """When a response repeats itself."""

    max_pattern_size: int = field(default=0, metadata={"ge": 0})
    """Longest pattern to look for, in tokens. 0: look for none."""
    min_pattern_size: int = field(default=0, metadata={"ge": 0})
    """Shortest pattern to look for, in tokens."""
    min_count: int = field(default=0, metadata={"ge": 0})
    """A response ends once a pattern has come so many times in a row; at least 2."""

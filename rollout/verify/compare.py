"""Compare samples that were generated again with those in the result of the run."""

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rollout.data.text import counted
from rollout.records import Sample

_KEPT = 10
_CONTEXT = 40  # characters shown of each text, from the first difference on


@dataclass(frozen=True, order=True)
class Difference:
    """A sample that has changed: the first different character of the two texts, and how each continues there. If the
    texts are equal, the same for their tokens.
    """

    row_id: int
    sample_idx: int
    offset: int
    recorded: str
    regenerated: str
    unit: str = "character"


@dataclass
class Comparison:
    """How many samples were compared, how many are the same, and the first that differ."""

    samples: int = 0
    matches: int = 0
    differences: list[Difference] = field(default_factory=list)

    def add(self, found: Difference | None) -> None:
        """Count one sample. The differences with the lowest row and sample numbers are kept."""
        self.samples += 1
        self.matches += found is None
        if found is not None:
            insort(self.differences, found)
            del self.differences[_KEPT:]

    def share(self) -> str:
        """Matches in percent, rounded down: 100.0% means all of them."""
        return f"{math.floor(1000 * self.matches / self.samples) / 10}%"


def difference(sample: Sample, row: dict[str, Any]) -> Difference | None:
    """How `sample` differs from its values in `row` of rollouts.parquet. None if text, finish reason and length are
    equal, and also the thinking and the token ids if both have them. Log-probabilities are rounded, and not compared.

    For failed samples the reasons are compared: a row has all reasons of its samples in one text.
    """
    index = sample.sample_idx
    response, end = row["responses"][index], (row["finish_reasons"][index], row["num_generated_tokens"][index])
    if response is None or sample.response is None:
        recorded, regenerated = _outcome(response, row["error"]), _outcome(sample.response, sample.error)
        is_same_failure = response is None and sample.response is None and (sample.error or "") in (row["error"] or "")
        return None if is_same_failure else Difference(sample.row_id, index, 0, recorded, regenerated)
    offset = _common_prefix(response, sample.response)
    recorded, regenerated = response[offset:], sample.response[offset:]
    if not recorded and not regenerated:
        if end == (sample.finish_reason, sample.num_generated_tokens):
            return _other_thinking(sample, row) or _other_tokens(sample, row)
        recorded, regenerated = _ending(*end), _ending(sample.finish_reason, sample.num_generated_tokens)
    return Difference(sample.row_id, index, offset, _shown(recorded), _shown(regenerated))


def _other_thinking(sample: Sample, row: dict[str, Any]) -> Difference | None:
    """The first difference in the thinking before equal answers."""
    recorded, now = row.get("reasonings"), sample.reasoning
    if recorded is None or now is None or (then := recorded[sample.sample_idx] or "") == now:
        return None
    offset = _common_prefix(then, now)
    unit = "thinking, character"
    return Difference(sample.row_id, sample.sample_idx, offset, _shown(then[offset:]), _shown(now[offset:]), unit)


def _other_tokens(sample: Sample, row: dict[str, Any]) -> Difference | None:
    """The first difference in the tokens of equal texts: first in the prompt, then in the response."""
    index, responses = sample.sample_idx, row.get("response_token_ids")
    pairs = (
        ("token of the prompt", row.get("prompt_token_ids"), sample.prompt_token_ids),
        ("token", None if responses is None else responses[index], sample.response_token_ids),
    )
    for unit, recorded, array in pairs:
        if recorded is None or array is None or recorded == (now := array.tolist()):
            continue
        offset = _common_prefix(recorded, now)
        return Difference(sample.row_id, index, offset, _ids(recorded[offset:]), _ids(now[offset:]), unit)
    return None


def _outcome(response: str | None, error: str | None) -> str:
    if response is not None:
        return _shown(response)
    return "no response" if error is None else f"failed: {error}"


def _ending(finish_reason: str, num_tokens: int) -> str:
    return f"{finish_reason} after {counted(num_tokens, 'token')}"


def _shown(text: str) -> str:
    return text if len(text) <= _CONTEXT else text[: _CONTEXT - 3] + "..."


def _ids(token_ids: list[int]) -> str:
    return _shown(" ".join(map(str, token_ids)))


def _common_prefix(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The length of the common beginning of both."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))

"""When a row has enough samples (`adaptive`): a rule on its samples in the order of `sample_idx`, not of completion.

A row is judged after rounds, and only once all samples of its rounds so far have finished. So one engine, several
engines and a resumed run ask for the same samples.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import blake2b
from typing import NamedTuple

from rollout.config import AdaptiveConfig

DONE, FAILED, SCORED, PASSED, NO_TRUTH = 1, 2, 4, 8, 16
"""What is known about a sample, as bits: it has a response; it failed (perhaps at an earlier try); its score is known;
it passes; its row has no ground truth."""

BUDGET, ERROR = "budget", "error"
"""Why a row gets no more samples, other than `adaptive.until`: its budget is used up; it cannot be sampled."""

NO_VOTE = 0
"""The vote of a response without an answer."""


def vote_of(answer: str | None) -> int:
    """A number that stands for an answer: 62 bits of its BLAKE2b hash, plus 1."""
    if answer is None:
        return NO_VOTE
    return 1 + (int.from_bytes(blake2b(answer.encode("utf-8", "replace"), digest_size=8).digest()) >> 2)


class Verdict(NamedTuple):
    """The result of the rule for a row."""

    end: int
    """Samples 0 to `end` (exclusive) of the row are asked for so far."""
    reason: str | None
    """Why the row gets no more; None while some of these samples are missing."""


def judge(rule: AdaptiveConfig, flags: bytes, votes: Sequence[int]) -> Verdict:
    """The verdict on a row; `flags` has a byte for each sample of its budget.

    `votes` stand for the answers and are only used for `until=agree`. A sample that has failed counts as one that does
    not pass, even if a second try gave a response. A row whose first samples all failed gets only its first round, a
    row without a ground truth its budget.
    """
    missing, budget = flags.translate(_IS_THERE).find(0), len(flags)
    for end in round_ends(tuple(rule.rounds), budget):
        if 0 <= missing < end:
            return Verdict(end, None)
        if 1 not in flags[:end].translate(_IS_DONE):
            return Verdict(end, ERROR)
        if _is_enough(rule, flags[:end], votes[:end], budget - end):
            return Verdict(end, rule.until)
    return Verdict(budget, BUDGET)


def _is_enough(rule: AdaptiveConfig, flags: bytes, votes: Sequence[int], to_come: int) -> bool:
    if rule.until == "agree":
        return is_decided([*Counter(vote for vote in votes if vote != NO_VOTE).values()], to_come)
    if 1 in flags.translate(_HAS_NO_TRUTH):
        return False
    return is_met(rule, len(flags), flags.translate(_PASSES).count(1))


def _table(is_so: Callable[[int], bool]) -> bytes:
    """A table for `bytes.translate`: 1 for flags where `is_so` is true, 0 for the others."""
    return bytes(int(is_so(flags)) for flags in range(256))


_IS_DONE = _table(lambda flags: bool(flags & DONE))
_IS_THERE = _table(lambda flags: bool(flags & FAILED) or flags & (DONE | SCORED) == DONE | SCORED)
_PASSES = _table(lambda flags: flags & (PASSED | FAILED) == PASSED)
_HAS_NO_TRUTH = _table(lambda flags: bool(flags & NO_TRUTH))


@cache
def round_ends(rounds: tuple[int, ...], budget: int) -> tuple[int, ...]:
    """The numbers of samples after which a row is judged: sums of `rounds` (the last one repeats), then `budget`."""
    ends, end = list[int](), 0
    while end < budget:
        size = rounds[min(len(ends), len(rounds) - 1)]
        end = min(end + size, budget)
        ends.append(end)
    return tuple(ends)


def is_met(rule: AdaptiveConfig, samples: int, passed: int) -> bool:
    """Whether a row with `passed` of `samples` passing has enough, for a rule that only counts passes."""
    if rule.until == "passes":
        return passed >= rule.passes
    if rule.until == "mixed":
        return 0 < passed < samples
    low, high = wilson(samples, passed)
    return high - low < rule.width or high < rule.low or low > rule.high


def is_decided(votes: Sequence[int], to_come: int) -> bool:
    """Whether the leading answer stays ahead whatever `to_come` more samples answer; a tie is not a lead."""
    counts = sorted(votes, reverse=True)
    return bool(counts) and counts[0] > to_come + (counts[1] if len(counts) > 1 else 0)


def wilson(samples: int, passed: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a pass rate."""
    share, weight = passed / samples, _Z**2 / samples
    middle, half = share + weight / 2, math.sqrt(weight * (share * (1 - share) + weight / 4))
    return (middle - half) / (1 + weight), (middle + half) / (1 + weight)


_Z = 1.959963984540054  # 95 % of a normal distribution lie within ± this many standard deviations

"""Which responses of a row make pairs for preference learning, and why a row has none."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isclose
from typing import TypeAlias

from rollout.config import ExportFormat
from rollout.records import Message

FEW = "without two scored responses"
EQUAL = "without different scores"
SAME = "where only equal texts have different scores"
EMPTY = "where only empty responses score higher"
NO_CHAT = "whose prompt is no chat"


@dataclass(frozen=True)
class Candidate:
    """A scored response of a row, as it would stand in a pair."""

    position: int
    """Where it stands in its batch."""
    sample_idx: int
    score: float
    turn: Message
    text: tuple[str, ...]
    """What its turn says: two candidates of equal text are the same to a trainer, whatever their scores."""
    is_empty: bool


Pair: TypeAlias = tuple[Candidate, Candidate]
"""The chosen response and the rejected one."""

_Texts: TypeAlias = frozenset[tuple[str, ...]]


def pairs_of(row: Sequence[Candidate], rules: ExportFormat) -> list[Pair]:
    """The first `rules.pairs_per_row` pairs of a row, found in rounds; fewer if there are no more.

    In a round every text is in one pair at most: the best response goes with the worst, the next best with the next
    worst, and so on; of equal scores the lower sample_idx comes first. Later rounds, which use texts again, are only
    for rows where the earlier ones have too few pairs. Two texts are never paired twice, not even the other way round.
    """
    lowest = rules.min_chosen_score
    able = [each for each in _not_empty(row) if lowest is None or each.score >= lowest]
    return list(islice(_in_rounds(able, row, rules.min_margin), rules.pairs_per_row))


def why_none(row: Sequence[Candidate], rules: ExportFormat) -> str:
    """Why `pairs_of` has found none: what first leaves no pair, in words that follow a number of rows."""
    if len(row) < 2:
        return FEW
    if len({each.score for each in row}) == 1:
        return EQUAL
    if not _has_pair(row, row):
        return SAME
    if not _has_pair(_not_empty(row), row):
        return EMPTY
    lowest = rules.min_chosen_score
    if lowest is not None and not _has_pair([each for each in _not_empty(row) if each.score >= lowest], row):
        return "by min_chosen_score"
    return "by min_margin"


def _not_empty(row: Sequence[Candidate]) -> list[Candidate]:
    return [each for each in row if not each.is_empty]


def _has_pair(able: Sequence[Candidate], row: Sequence[Candidate]) -> bool:
    return next(_in_rounds(able, row, None), None) is not None


def _in_rounds(able: Sequence[Candidate], row: Sequence[Candidate], margin: float | None) -> Iterator[Pair]:
    """All pairs of a response that is `able` to be chosen with another one of the row, round after round."""
    best_first = _different(sorted(able, key=lambda each: (-each.score, each.sample_idx)))
    worst_first = _different(sorted(row, key=lambda each: (each.score, each.sample_idx)))
    paired, before = set[_Texts](), -1
    while len(paired) > before:
        before = len(paired)
        yield from _round(best_first, worst_first, margin, paired)


def _round(
    best_first: list[Candidate], worst_first: list[Candidate], margin: float | None, paired: set[_Texts]
) -> Iterator[Pair]:
    """The pairs of one round; their texts are added to those that are `paired` already."""
    used = set[tuple[str, ...]]()
    for chosen in best_first:
        for rejected in worst_first if chosen.text not in used else ():
            if not _is_better(chosen, rejected, margin):
                break  # nor than the others, whose scores are higher
            texts = frozenset((chosen.text, rejected.text))
            if len(texts) == 2 and rejected.text not in used and texts not in paired:
                paired.add(texts)
                used |= texts
                yield chosen, rejected
                break


def _is_better(chosen: Candidate, rejected: Candidate, margin: float | None) -> bool:
    """Whether the scores differ enough: 0.3 is 0.1 more than 0.2, though not in floating point."""
    difference = chosen.score - rejected.score
    return difference > 0 and (margin is None or difference >= margin or isclose(difference, margin))


def _different(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Of those with the same text and score the first."""
    found = dict[tuple[tuple[str, ...], float], Candidate]()
    for each in candidates:
        found.setdefault((each.text, each.score), each)
    return list(found.values())

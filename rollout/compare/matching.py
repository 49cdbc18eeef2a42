"""Which rows of two sides belong together: those that ask the same, wherever they stand in their files."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rollout.compare.row_values import UNREADABLE, Hashes, Integers, RowValues

_MIX = np.uint64(0x9E3779B97F4A7C15)  # an odd number with no pattern in its bits


@dataclass(frozen=True)
class Unmatched:
    """How many rows of a side have no counterpart on the other, by reason."""

    not_there: int
    """The other side does not have this prompt."""
    other_truth: int
    """The other side has this prompt with another right answer."""
    more_copies: int
    """The other side has this prompt, but fewer times."""
    unreadable: int
    """The row has no readable prompt."""

    @property
    def total(self) -> int:
        """The number of all these rows."""
        return self.not_there + self.other_truth + self.more_copies + self.unreadable


@dataclass(frozen=True)
class Matching:
    """Rows of the first and of the second side that belong together, in the order of the first side."""

    first: Integers
    """Positions in the first side."""
    second: Integers
    """Positions in the second side, one for each of `first`."""
    unmatched: tuple[Unmatched, Unmatched]
    copies: tuple[int, int]
    """Rows of each side that repeat the prompt of an earlier row. They are matched in their order."""
    clusters: Integers
    """A group number for each pair, from 0: rows with the same prompt share one, as they are not independent."""


def keys_of(side: RowValues, with_truths: bool) -> Hashes:
    """The identity of each row of a side: its prompt or, with right answers, its prompt and answer."""
    if not with_truths or side.truths is None:
        return side.prompts
    return np.where(side.prompts == UNREADABLE, UNREADABLE, side.prompts * _MIX + side.truths)


def match(first: RowValues, second: RowValues, with_truths: bool) -> Matching:
    """Match the n-th row with some prompt on the one side to the n-th row with the same prompt on the other."""
    sides, keys = (first, second), [keys_of(side, with_truths) for side in (first, second)]
    numbers = [_occurrences(found) for found in keys]
    readable = [np.flatnonzero(found != UNREADABLE) for found in keys]
    unique = [
        (found + number.astype(np.uint64) * _MIX)[there]
        for found, number, there in zip(keys, numbers, readable, strict=True)
    ]
    _, here, there = np.intersect1d(unique[0], unique[1], assume_unique=True, return_indices=True)
    places = readable[0][here], readable[1][there]
    order = np.argsort(places[0])
    matched = places[0][order], places[1][order]
    return Matching(
        first=matched[0],
        second=matched[1],
        unmatched=(
            _unmatched(sides, keys, matched[0], 0),
            _unmatched(sides, keys, matched[1], 1),
        ),
        copies=(_copies(keys[0], numbers[0]), _copies(keys[1], numbers[1])),
        clusters=np.unique(keys[0][matched[0]], return_inverse=True)[1].astype(np.int64),
    )


def _occurrences(keys: Hashes) -> Integers:
    """The number of earlier rows with the same key, for each row."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(keys) else np.zeros(0, int)
    lengths = np.diff([*starts, len(keys)])
    numbers = np.empty(len(keys), np.int64)
    numbers[order] = np.arange(len(keys)) - np.repeat(starts, lengths)
    return numbers


def _copies(keys: Hashes, numbers: Integers) -> int:
    return int(((numbers > 0) & (keys != UNREADABLE)).sum())


def _unmatched(sides: tuple[RowValues, RowValues], keys: list[Hashes], matched: Integers, which: int) -> Unmatched:
    is_left: npt.NDArray[np.bool_] = np.ones(len(sides[which]), bool)
    is_left[matched] = False
    unreadable = is_left & (keys[which] == UNREADABLE)
    is_left &= ~unreadable
    copies = is_left & np.isin(keys[which], keys[1 - which])
    is_left &= ~copies
    other = is_left & np.isin(sides[which].prompts, sides[1 - which].prompts)
    counts = (is_left & ~other, other, copies, unreadable)
    return Unmatched(*(int(count.sum()) for count in counts))

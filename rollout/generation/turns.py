"""Whose turn it is: `sampling.order=longest_first`, for one engine and for several.

A run ends with its longest sample, and the later that one begins, the more slots stand empty while it is waited for.
How long a response will be nobody knows, but those to one prompt are often alike. So the first sample of every row is
started as it comes, and what is left of a row when its turn comes by length: the mean of what has finished of it, or,
until something has, half as much again as its first sample should have by now. To wait for the first sample instead
would put off just those rows whose samples are long. Where responses to one prompt turn out to be only somewhat alike,
one of them tells little and a second is started; where they are not, rows keep the order in which they came.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from rollout.records import Lengths

ROWS, SAMPLES = 4, 32
"""Most rows, and most samples of them, among which the longest is looked for, as multiples of how many samples are
generated at a time. What is short among them is what slots are filled with while the last long ones run: as many
samples as there are slots would be over long before.
"""

_OVERDUE = 2 * ROWS
"""A row is next in any case when so many have come after it, as a multiple of the same. Parts of the journal overlap
only so far, and the merge's memory has an end.
"""

_STILL_RUNNING = 1.5
"""How long a sample is going to be that has been running for a while, as a multiple of that."""

_TWICE = 4
"""Of every so many rows two samples are started at once. They tell how much alike the samples of a row are; of two that
do not begin together, the long ones would be missing at first."""

_PAIRS, _MUCH, _NOT = 30, 0.6, 0.1
"""So many pairs have to be there before anything but much likeness is believed. A correlation of less than this is
little, and of less than that, or than chance often gives, none."""


@dataclass
class _Likeness:
    """How much alike two responses to one prompt are: the correlation of the logarithms of their lengths."""

    pairs: int = 0
    total: float = 0.0
    squares: float = 0.0
    products: float = 0.0

    def add(self, one: int, other: int) -> None:
        """Two samples of a row; which is which does not matter."""
        x, y = math.log1p(one), math.log1p(other)
        self.pairs += 1
        self.total += x + y
        self.squares += x * x + y * y
        self.products += x * y

    @property
    def correlation(self) -> float:
        """1 until there are enough pairs."""
        if self.pairs < _PAIRS:
            return 1.0
        mean = self.total / (2 * self.pairs)
        variance, together = self.squares / (2 * self.pairs) - mean**2, self.products / self.pairs - mean**2
        return together / variance if variance > 0 else 0.0

    @property
    def is_there(self) -> bool:
        """Whether rows differ."""
        return self.correlation > max(_NOT, 2 / math.sqrt(max(self.pairs, _PAIRS)))


@dataclass(slots=True)
class _Row:
    samples: int
    tokens: int
    """Of the samples that have finished."""
    waiting: int = 0
    running: dict[int, int] = field(default_factory=dict)
    """Sample number -> the engine that it is in."""
    arrival: int = -1
    """How many rows had come when samples of this one began to wait, the last time."""
    is_pair: bool = False
    """Whether two samples are started at once."""
    pair: dict[int, int | None] = field(default_factory=dict)
    """Their numbers, and their tokens once they are known."""
    first: int = -1
    """The number of the sample that began first, of those that run;"""
    place: int = -1
    """how many samples had been started before;"""
    begun: float | None = None
    """when it began."""


@dataclass
class _Lane:
    """An engine, which begins samples in the order in which it was given them."""

    slots: int
    given: int = 0
    ended: int = 0
    not_begun: deque[tuple[int, _Row]] = field(default_factory=deque)
    """Rows of which the first sample waits in it, and how many it had been given before."""

    def note_begun(self, now: float) -> None:
        """What has just got a slot begins now."""
        while self.not_begun and self.not_begun[0][0] < self.ended + self.slots:
            self.not_begun.popleft()[1].begun = now


class Turn(NamedTuple):
    """The row that is next, and how many of its samples may be started together."""

    row_id: int
    samples: int


class Turns:
    """Knows of every row how many samples wait to be started, and which row is next.

    Rows of which nothing waits or runs any more are remembered for a while: with `adaptive` they come back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` goes on as a running sample gets longer, in any unit."""
        self._clock = clock
        self._lanes: dict[int, _Lane] = {}
        self._rows: dict[int, _Row] = {}
        self._gone: dict[int, None] = {}  # row_ids of those with nothing left, the first ones for longest
        self._arrived = self._started = 0
        # where the next row is looked for, by row_id; what is no longer true of it is passed over when it comes up
        self._arrivals = deque[tuple[int, int]]()  # with its arrival
        self._fresh = deque[int]()
        self._running: list[tuple[int, int]] = []  # a heap, by which was started first
        self._known: list[tuple[float, int, int]] = []  # a heap, by -mean; and of how many samples that is
        self._probe_tokens = self._probe_time = 1.0
        self._likeness = _Likeness()

    def set_slots(self, slots: int, lane: int = 0) -> None:
        """The engine called `lane` generates so many samples at a time."""
        self._lanes.setdefault(lane, _Lane(slots)).slots = slots

    @property
    def slots(self) -> int:
        """Of all engines."""
        return sum(lane.slots for lane in self._lanes.values())

    def add(self, row_id: int, samples: int, known: Lengths) -> None:
        """More samples of a row wait; `known` is what had finished of it before this session."""
        row = self._rows.get(row_id)
        if row is None:
            is_pair = known.samples == 0 and self._arrived % _TWICE == 0
            row = self._rows[row_id] = _Row(*known, is_pair=is_pair)
        self._gone.pop(row_id, None)
        was_waiting, row.waiting = row.waiting, row.waiting + samples
        if not was_waiting:
            row.arrival = self._arrived
            self._arrivals.append((row_id, row.arrival))
            self._arrived += 1
            self._list(row_id, row)

    def next(self) -> Turn | None:
        """What is to be started; None where nothing waits."""
        oldest = self._oldest()
        if oldest is None:
            return None
        if self._rows[oldest].arrival < self._arrived - _OVERDUE * self.slots or not self._likeness.is_there:
            return Turn(oldest, self._rows[oldest].waiting)
        while self._fresh:
            row_id = self._fresh[0]
            if row_id in self._rows and (wanted := self._unknown(self._rows[row_id])):
                return Turn(row_id, wanted)
            self._fresh.popleft()
        longest = self._longest()
        return None if longest is None else Turn(longest, self._rows[longest].waiting)

    def start(self, row_id: int, sample_idx: int, lane: int = 0) -> None:
        """A sample that waited has been given to an engine."""
        row, engine = self._rows[row_id], self._lanes[lane]
        if not row.running:
            row.first, row.place, row.begun = sample_idx, self._started, None
            engine.not_begun.append((engine.given, row))
        row.waiting -= 1
        row.running[sample_idx] = lane
        if row.is_pair and len(row.pair) < 2:
            row.pair[sample_idx] = None
        self._started += 1
        engine.given += 1
        engine.note_begun(self._clock())
        if len(row.running) <= 2:
            self._list(row_id, row)
        if self._started % (ROWS * self.slots) == 0:
            self._list_anew()

    def finish(self, row_id: int, sample_idx: int, tokens: int | None) -> bool:
        """A sample has ended, with so many tokens, or has failed. Whether it was known to be running."""
        row = self._rows.get(row_id)
        if row is None or sample_idx not in row.running:
            return False
        engine = self._lanes[row.running.pop(sample_idx)]
        engine.ended += 1
        engine.note_begun(self._clock())
        if tokens is not None and self._learn(row, sample_idx, tokens):
            self._list_anew()
        else:
            self._list(row_id, row)
        if not row.waiting and not row.running:
            self._forget_later(row_id)
        return True

    def _learn(self, row: _Row, sample_idx: int, tokens: int) -> bool:
        """Take in the length of a sample; whether other rows may be seen in another light now."""
        if sample_idx == row.first and row.begun is not None:
            self._probe_tokens += tokens
            self._probe_time += self._clock() - row.begun
        is_new = False
        if sample_idx in row.pair:
            row.pair[sample_idx] = tokens
            found = [tokens for tokens in row.pair.values() if tokens is not None]
            if is_new := len(found) == 2:
                self._likeness.add(*found)
        row.samples += 1
        row.tokens += tokens
        return is_new and self._likeness.pairs % _PAIRS == 0

    def _list(self, row_id: int, row: _Row) -> None:
        """Put a row where it is looked for."""
        if row.waiting and row.samples:
            heapq.heappush(self._known, (-row.tokens / row.samples, row_id, row.samples))
        elif row.waiting and row.running:
            heapq.heappush(self._running, (row.place, row_id))
        if self._unknown(row):
            self._fresh.append(row_id)

    def _unknown(self, row: _Row) -> int:
        """How many samples are to be started so that it becomes known how long they are."""
        wanted = 2 if row.is_pair or self._likeness.correlation < _MUCH else 1
        return max(0, min(row.waiting, wanted - row.samples - len(row.running)))

    def _list_anew(self) -> None:
        """Drop what never comes up: a short row that was overdue stays at the end of its heap."""
        self._fresh.clear()
        self._known.clear()
        self._running.clear()
        for row_id, row in self._rows.items():
            self._list(row_id, row)

    def _oldest(self) -> int | None:
        while self._arrivals:
            row_id, arrival = self._arrivals[0]
            row = self._rows.get(row_id)
            if row is not None and row.waiting and row.arrival == arrival:
                return row_id
            self._arrivals.popleft()
        return None

    def _longest(self) -> int | None:
        while self._known and not self._is_known(*self._known[0]):
            heapq.heappop(self._known)
        while self._running and not self._is_running(*self._running[0]):
            heapq.heappop(self._running)
        if not self._known or not self._running:
            return self._known[0][1] if self._known else self._running[0][1] if self._running else None
        (mean, known, _), (_, running) = self._known[0], self._running[0]
        return running if _STILL_RUNNING * self._so_far(self._rows[running]) > -mean else known

    def _is_known(self, _mean: float, row_id: int, samples: int) -> bool:
        row = self._rows.get(row_id)
        return row is not None and row.waiting > 0 and row.samples == samples

    def _is_running(self, place: int, row_id: int) -> bool:
        row = self._rows.get(row_id)
        return row is not None and row.waiting > 0 and not row.samples and bool(row.running) and row.place == place

    def _so_far(self, row: _Row) -> float:
        """Tokens that the first sample of a row should have by now."""
        time = 0.0 if row.begun is None else self._clock() - row.begun
        return time * self._probe_tokens / self._probe_time

    def _forget_later(self, row_id: int) -> None:
        self._gone[row_id] = None
        if len(self._gone) > ROWS * self.slots:
            oldest = next(iter(self._gone))
            del self._gone[oldest], self._rows[oldest]

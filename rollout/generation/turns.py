"""The order of `sampling.order=longest_first`, for one engine and for several.

A run ends with its longest sample; the later this begins, the longer slots stay empty while it runs. The length of a
response is not known before, but responses to one prompt are often alike. So the first sample of every row is started
in input order, and the rest of the row by expected length, the longest first. That is the mean of the row's finished
samples or, until one has finished, 1.5 times the length that its first sample should have by now. Waiting for the first
sample instead would delay exactly the rows with long samples. If responses to one prompt are only somewhat alike, a
second one is started, because one says little; if they are not alike at all, rows keep their order.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from rollout.records import Lengths

ROWS, SAMPLES = 4, 32
"""In how many rows, and samples of them, the longest is searched for: multiples of the number of slots. The short ones
among them fill the slots while the last long ones run; with only as many samples as slots, they would end long before.
"""

_OVERDUE = 2 * ROWS
"""A row is next in any case once this many rows (a multiple of the slots) have come after it. This limits how far parts
of the journal overlap, and so the memory of the merge.
"""

_STILL_RUNNING = 1.5
"""A running sample is expected to become this many times as long as it is."""

_PAIR_EVERY = 4
"""In one of this many rows, two samples are started at once: pairs show how alike the samples of a row are. In samples
that do not begin together, the long ones would be missing at first.
"""

_MIN_PAIRS = 30
"""Until there are this many pairs, samples of a row are assumed to be alike."""

_ALIKE, _UNRELATED = 0.6, 0.1
"""Correlations: below the first, one sample says little about its row; below the second, or below what chance often
gives, it says nothing.
"""


@dataclass
class _Likeness:
    """How alike two responses to one prompt are: the correlation of the logarithms of their lengths."""

    pairs: int = 0
    total: float = 0.0
    squares: float = 0.0
    products: float = 0.0

    def add(self, one: int, other: int) -> None:
        """Count a pair of samples of one row, in any order."""
        x, y = math.log1p(one), math.log1p(other)
        self.pairs += 1
        self.total += x + y
        self.squares += x * x + y * y
        self.products += x * y

    @property
    def correlation(self) -> float:
        """1 until there are enough pairs."""
        if self.pairs < _MIN_PAIRS:
            return 1.0
        mean = self.total / (2 * self.pairs)
        variance, together = self.squares / (2 * self.pairs) - mean**2, self.products / self.pairs - mean**2
        return together / variance if variance > 0 else 0.0

    @property
    def tells_rows_apart(self) -> bool:
        """Whether the length of one sample says anything about the others of its row."""
        return self.correlation > max(_UNRELATED, 2 / math.sqrt(max(self.pairs, _MIN_PAIRS)))


@dataclass(slots=True)
class _Row:
    samples: int
    """How many samples have finished."""
    tokens: int
    """Tokens of the finished samples."""
    waiting: int = 0
    """How many samples wait to be started."""
    running: dict[int, int] = field(default_factory=dict)
    """sample_idx -> its lane."""
    arrival: int = -1
    """How many rows had come before this one, when its samples last began to wait."""
    is_pair: bool = False
    """Whether its first two samples are started at once."""
    pair: dict[int, int | None] = field(default_factory=dict)
    """sample_idx -> tokens of these two; None until the sample has finished."""
    first: int = -1
    """The sample_idx of the running sample that was started first."""
    first_start: int = -1
    """How many samples of all rows had been started before that one."""
    first_began: float | None = None
    """The time at which that one got a slot; None while it waits in its engine."""


@dataclass
class _Lane:
    """One engine. It begins samples in the order in which it got them."""

    slots: int
    given: int = 0
    """Number of samples so far, like `ended`."""
    ended: int = 0
    not_begun: deque[tuple[int, _Row]] = field(default_factory=deque)
    """Rows whose first sample waits in it, each with the number of samples that it got before that one."""

    def note_begun(self, now: float) -> None:
        """Note that the samples which have just got a slot begin now."""
        while self.not_begun and self.not_begun[0][0] < self.ended + self.slots:
            self.not_begun.popleft()[1].first_began = now


class Turn(NamedTuple):
    """The next row, and how many of its samples may be started."""

    row_id: int
    samples: int


class Turns:
    """Knows how many samples of each row wait to be started, and which row is next.

    A row without waiting or running samples is remembered for a while: with `adaptive` it may come back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` advances, in any unit, as running samples get longer."""
        self._clock = clock
        self._lanes: dict[int, _Lane] = {}
        self._rows: dict[int, _Row] = {}
        self._gone: dict[int, None] = {}  # row_ids without samples left, the oldest first
        self._arrived = self._started = 0
        # Where the next row is searched for. Outdated entries are dropped when they come up.
        self._arrivals = deque[tuple[int, int]]()  # (row_id, arrival) in the order of arrival
        self._fresh = deque[int]()  # row_ids of which a sample is to be started to learn their length
        self._running: list[tuple[int, int]] = []  # a heap of (first_start, row_id) of rows with none finished
        self._known: list[tuple[float, int, int]] = []  # a heap of (-mean of the finished, row_id, how many these are)
        self._probe_tokens = self._probe_time = 1.0  # of all first samples together: how fast one sample grows
        self._likeness = _Likeness()

    def set_slots(self, slots: int, lane: int = 0) -> None:
        """Say how many samples the engine called `lane` generates at a time."""
        self._lanes.setdefault(lane, _Lane(slots)).slots = slots

    @property
    def slots(self) -> int:
        """Slots of all engines."""
        return sum(lane.slots for lane in self._lanes.values())

    def add(self, row_id: int, samples: int, known: Lengths) -> None:
        """More samples of a row wait; `known` is what had finished of it before this session."""
        row = self._rows.get(row_id)
        if row is None:
            is_pair = known.samples == 0 and self._arrived % _PAIR_EVERY == 0
            row = self._rows[row_id] = _Row(*known, is_pair=is_pair)
        self._gone.pop(row_id, None)
        was_waiting, row.waiting = row.waiting, row.waiting + samples
        if not was_waiting:
            row.arrival = self._arrived
            self._arrivals.append((row_id, row.arrival))
            self._arrived += 1
            self._enqueue(row_id, row)

    def next(self) -> Turn | None:
        """The next row; None if nothing waits."""
        oldest = self._oldest()
        if oldest is None:
            return None
        if self._rows[oldest].arrival < self._arrived - _OVERDUE * self.slots or not self._likeness.tells_rows_apart:
            return Turn(oldest, self._rows[oldest].waiting)
        while self._fresh:
            row_id = self._fresh[0]
            if row_id in self._rows and (wanted := self._samples_to_probe(self._rows[row_id])):
                return Turn(row_id, wanted)
            self._fresh.popleft()
        longest = self._longest()
        return None if longest is None else Turn(longest, self._rows[longest].waiting)

    def start(self, row_id: int, sample_idx: int, lane: int = 0) -> None:
        """A waiting sample was given to an engine."""
        row, engine = self._rows[row_id], self._lanes[lane]
        if not row.running:
            row.first, row.first_start, row.first_began = sample_idx, self._started, None
            engine.not_begun.append((engine.given, row))
        row.waiting -= 1
        row.running[sample_idx] = lane
        if row.is_pair and len(row.pair) < 2:
            row.pair[sample_idx] = None
        self._started += 1
        engine.given += 1
        engine.note_begun(self._clock())
        if len(row.running) <= 2:
            self._enqueue(row_id, row)
        if self._started % (ROWS * self.slots) == 0:
            self._enqueue_all()

    def finish(self, row_id: int, sample_idx: int, tokens: int | None) -> bool:
        """A sample has ended with this many tokens, or failed (None). Returns whether it was known to be running."""
        row = self._rows.get(row_id)
        if row is None or sample_idx not in row.running:
            return False
        engine = self._lanes[row.running.pop(sample_idx)]
        engine.ended += 1
        engine.note_begun(self._clock())
        if tokens is not None and self._learn(row, sample_idx, tokens):
            self._enqueue_all()
        else:
            self._enqueue(row_id, row)
        if not row.waiting and not row.running:
            self._forget_later(row_id)
        return True

    def _learn(self, row: _Row, sample_idx: int, tokens: int) -> bool:
        """Use the length of a finished sample. Returns whether that may change the order of other rows."""
        if sample_idx == row.first and row.first_began is not None:
            self._probe_tokens += tokens
            self._probe_time += self._clock() - row.first_began
        is_new = False
        if sample_idx in row.pair:
            row.pair[sample_idx] = tokens
            found = [tokens for tokens in row.pair.values() if tokens is not None]
            if is_new := len(found) == 2:
                self._likeness.add(*found)
        row.samples += 1
        row.tokens += tokens
        return is_new and self._likeness.pairs % _MIN_PAIRS == 0

    def _enqueue(self, row_id: int, row: _Row) -> None:
        """Put a row where `next` looks for it."""
        if row.waiting and row.samples:
            heapq.heappush(self._known, (-row.tokens / row.samples, row_id, row.samples))
        elif row.waiting and row.running:
            heapq.heappush(self._running, (row.first_start, row_id))
        if self._samples_to_probe(row):
            self._fresh.append(row_id)

    def _samples_to_probe(self, row: _Row) -> int:
        """How many samples to start only to learn the lengths of this row."""
        wanted = 2 if row.is_pair or self._likeness.correlation < _ALIKE else 1
        return max(0, min(row.waiting, wanted - row.samples - len(row.running)))

    def _enqueue_all(self) -> None:
        """Rebuild the queues, without entries that would never come up: a short row stays at the end of its heap."""
        self._fresh.clear()
        self._known.clear()
        self._running.clear()
        for row_id, row in self._rows.items():
            self._enqueue(row_id, row)

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

    def _is_running(self, first_start: int, row_id: int) -> bool:
        row = self._rows.get(row_id)
        return (
            row is not None
            and row.waiting > 0
            and not row.samples
            and bool(row.running)
            and row.first_start == first_start
        )

    def _so_far(self, row: _Row) -> float:
        """How many tokens the first sample of a row should have by now."""
        time = 0.0 if row.first_began is None else self._clock() - row.first_began
        return time * self._probe_tokens / self._probe_time

    def _forget_later(self, row_id: int) -> None:
        self._gone[row_id] = None
        if len(self._gone) > ROWS * self.slots:
            oldest = next(iter(self._gone))
            del self._gone[oldest], self._rows[oldest]

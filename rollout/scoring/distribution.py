"""Distributions of values: exact for any number of values, because they are counted, not stored."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

_MAX_BINS = 40


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` values lie in [edges[i], edges[i + 1]); the last bin includes its right edge."""

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True)
class Distribution:
    """`std` is the population's; quantiles are exact, interpolated linearly between neighbours (numpy's default)."""

    mean: float
    std: float
    min: int
    p50: float
    p90: float
    p99: float
    max: int
    histogram: Histogram


@dataclass
class ValueCounts:
    """Counts whole numbers. Memory grows with the number of different values (16 bytes each), not of all values."""

    _values: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    _counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count more values."""
        new, counts = np.unique(values.astype(np.int64), return_counts=True)
        self._values, place = np.unique(np.concatenate([self._values, new]), return_inverse=True)
        weights = np.concatenate([self._counts, counts])
        self._counts = np.zeros(len(self._values), np.int64)
        np.add.at(self._counts, place, weights)

    def distribution(self) -> Distribution | None:
        """The distribution of all values added; None if there are none."""
        values, counts = self._values, self._counts
        if not len(values):
            return None
        mean = float(np.average(values, weights=counts))
        std = float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))
        p50, p90, p99 = (self._quantile(q) for q in (0.5, 0.9, 0.99))
        return Distribution(mean, std, int(values[0]), p50, p90, p99, int(values[-1]), self._histogram())

    def _quantile(self, q: float) -> float:
        ends = np.cumsum(self._counts)
        position = q * (int(ends[-1]) - 1)
        below = int(position)
        low, high = (float(self._values[np.searchsorted(ends, at, side="right")]) for at in (below, np.ceil(position)))
        return low + (high - low) * (position - below)

    def _histogram(self) -> Histogram:
        """Bins whose equal width is a whole number, so that each covers equally many whole numbers.

        A bin for a single value has this value in its middle.
        """
        low, high = int(self._values[0]), int(self._values[-1])
        width = max(1, -(-(high + 1 - low) // _MAX_BINS))
        edges = np.arange(low, high + width + 1, width) - (0.5 if width == 1 else 0)
        counts, _ = np.histogram(self._values, bins=edges, weights=self._counts)
        return Histogram([float(edge) for edge in edges], [int(count) for count in counts])

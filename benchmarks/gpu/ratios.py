"""Ratios of speeds that were measured in turns, and their uncertainty."""

import math
from collections.abc import Sequence
from statistics import mean, stdev

MIN_PAIRS = 3
"""The number of pairs from which on an interval is worth showing."""

_STUDENT = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Degrees of freedom -> 97.5 % quantile."""


def mean_ratio(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """The geometric mean of first / second, with its 95 % interval (Student's t of the logarithms); 3 to 10 pairs."""
    logs = [math.log(first / second) for first, second in pairs]
    middle = mean(logs)
    half = _STUDENT[len(logs) - 1] * stdev(logs) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)

"""Numbers with their error bars, as cells of tables."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

from rollout.scoring.intervals import FEWEST, Estimate

INTERVAL = "95% interval"
"""The heading above cells of `interval_cell`; they are aligned left."""

Form: TypeAlias = Callable[[float | None, float | None], str]
"""How a number is shown, given also the size of the largest one beside it."""

_SMALL, _LARGE = 0.0005, 1e15

LEGEND = f"* not to rely on: too few rows, or fewer than {FEWEST} on one side of the share"
"""The meaning of the mark."""


def number(value: float | None, size: float | None = None) -> str:
    """0.3333 as 0.333, 12345.6 as 12,346; "-" for None.

    Very small and very large numbers as 2.50e-10; `size` is that of the largest number which is shown with this one.
    """
    return _shown(value, size, "", fewest_whole=1000)


def signed(value: float | None, size: float | None = None) -> str:
    """A difference: 0.3333 as +0.333, 123.4 as +123; else as `number`."""
    return _shown(value, size, "+", fewest_whole=100)


def percent(value: float | None, _size: float | None = None) -> str:
    """0.3333 as 33.3%; "-" for None."""
    return "-" if value is None else f"{value:.1%}"


def signed_percent(value: float | None, _size: float | None = None) -> str:
    """0.3333 as +33.3%; "-" for None."""
    return "-" if value is None else f"{value:+.1%}"


def value_cell(estimate: Estimate | None, shown: Form = number) -> str:
    """The number only."""
    return "-" if estimate is None else shown(estimate.value, _size_of(estimate))


def interval_cell(estimate: Estimate | None, shown: Form = number) -> str:
    """0.121 to 0.646, with a * if it is not to be relied on."""
    if estimate is None or estimate.interval is None:
        return "-"
    low, high = (shown(end, _size_of(estimate)) for end in estimate.interval)
    return f"{low} to {high}{'' if estimate.trusted else ' *'}"


def _size_of(estimate: Estimate) -> float:
    """The largest absolute value of those that are shown of an estimate."""
    low, high = estimate.interval or (estimate.value, estimate.value)
    return max(abs(estimate.value), abs(low), abs(high))


def _shown(value: float | None, size: float | None, sign: str, fewest_whole: int) -> str:
    """`sign` is that of a format; from `fewest_whole` on a number has no decimals."""
    if value is None:
        return "-"
    if value and _has_exponent(abs(value) if size is None else size):
        return f"{value:{sign}.2e}"
    return f"{value:{sign}.3f}" if abs(value) < fewest_whole else f"{value:{sign},.0f}"


def _has_exponent(size: float) -> bool:
    """Whether three decimals would show nothing of a number, or all of its digits too many."""
    return size < _SMALL or size >= _LARGE


def passing_line(pass_score: float, is_graded: bool, key: str = "pass_score") -> list[str]:
    """From which score on a response passes, and the `key` that says so; nothing for scores of 0 and 1."""
    return [f"a response passes from a score of {pass_score:g} on ({key})"] if is_graded or pass_score != 1 else []


def legend(rows: Iterable[list[str]], leans: bool = False) -> list[str]:
    """The LEGEND for the cells of a table, if any of them needs it. `leans`: some are of scores with the note PLAIN."""
    if not any(cell.endswith(" *") for row in rows for cell in row):
        return []
    return [f"{LEGEND}, or rows that a rule has stopped" if leans else LEGEND]

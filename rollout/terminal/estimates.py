"""Numbers with their error bars, as cells of tables."""

from collections.abc import Callable, Iterable

from rollout.scoring.intervals import FEWEST, Estimate

INTERVAL = "95% interval"
"""The heading above cells of `interval_cell`; they are aligned left."""

LEGEND = f"* not to rely on: too few rows, or fewer than {FEWEST} on one side of the share"
"""The meaning of the mark."""


def number(value: float | None) -> str:
    """0.3333 as 0.333, 12345.6 as 12,346; "-" for None."""
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """0.3333 as 33.3%; "-" for None."""
    return "-" if value is None else f"{value:.1%}"


def value_cell(estimate: Estimate | None, shown: Callable[[float | None], str] = number) -> str:
    """The number only."""
    return shown(None if estimate is None else estimate.value)


def interval_cell(estimate: Estimate | None, shown: Callable[[float | None], str] = number) -> str:
    """0.121 to 0.646, with a * if it is not to be relied on."""
    if estimate is None or estimate.interval is None:
        return "-"
    low, high = estimate.interval
    return f"{shown(low)} to {shown(high)}{'' if estimate.trusted else ' *'}"


def passing_line(pass_score: float, is_graded: bool, key: str = "pass_score") -> list[str]:
    """From which score on a response passes, and the `key` that says so; nothing for scores of 0 and 1."""
    return [f"a response passes from a score of {pass_score:g} on ({key})"] if is_graded or pass_score != 1 else []


def legend(rows: Iterable[list[str]], leans: bool = False) -> list[str]:
    """The LEGEND for the cells of a table, if any of them needs it. `leans`: some are of scores with the note PLAIN."""
    if not any(cell.endswith(" *") for row in rows for cell in row):
        return []
    return [f"{LEGEND}, or rows that a rule has stopped" if leans else LEGEND]

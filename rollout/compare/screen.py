"""A comparison on screen."""

from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.text import Text

from rollout.compare.comparison import Comparison, MetricDifference, Pair, SideSummary
from rollout.compare.notes import matched_line
from rollout.compare.row_values import SCORES
from rollout.data.text import counted
from rollout.scoring.paired import PairedDifference
from rollout.terminal.console import show_table
from rollout.terminal.estimates import (
    INTERVAL,
    Form,
    interval_cell,
    legend,
    number,
    passing_line,
    percent,
    signed,
    signed_percent,
    value_cell,
)
from rollout.terminal.text import duration

_MAX_LINES = 10  # for pairs
_ALPHA = 0.05
_SMALLEST_P = 0.0001
_NAMES = {"truncated": "cut off"}
"""Metric -> its name for people, if it differs."""
_SHORT = {"prompt tokens": "prompt", "generated tokens": "generated", "tokens / s": "tok/s"}
"""Short names of costs, so that a table with a line per side fits."""


def show_comparison(console: Console, comparison: Comparison, notes: list[str]) -> None:
    """Print what is compared, the differences, their costs, and notes for the reader."""
    for side in comparison.sides:
        text = f"{side.name}  {side.label}: {counted(side.rows, 'row')}, {counted(side.samples, 'sample')}"
        console.print(Text(text), soft_wrap=True)
    for line in _matched_lines(comparison):
        console.print(Text(line), soft_wrap=True)
    console.print()
    _show_sides(console, comparison.sides, comparison.pass_score)
    show_pairs(console, comparison.pairs)
    _show_costs(console, comparison.sides)
    if len(comparison.pairs) == 1:
        console.print(Text(verdict(comparison.pairs[0])), soft_wrap=True)
    for note in notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)


def _matched_lines(comparison: Comparison) -> Iterator[str]:
    """For many pairs, only the lines of those that have rows without a counterpart."""
    pairs = comparison.pairs
    if len(pairs) > 1:
        pairs = [pair for pair in pairs if any(left.total for left in pair.unmatched.values())]
        whole = len(comparison.pairs) - len(pairs)
        if whole:
            yield f"{whole} of {len(comparison.pairs)} pairs: all rows matched by {comparison.matched_by}"
    yield from (matched_line(pair, comparison.matched_by) for pair in pairs[:_MAX_LINES])
    if len(pairs) > _MAX_LINES:
        yield f"and {len(pairs) - _MAX_LINES} more pairs with rows that are not matched"


def shown_name(metric: str) -> str:
    """The name of a metric for people."""
    return _NAMES.get(metric, metric)


def verdict(pair: Pair) -> str:
    """What the first metric shows, in words: which side is better, or that it is a tie."""
    metric = next(iter(pair.metrics), None)
    if metric is None:
        return f"{pair.earlier}, {pair.later}: no row has a number on both sides"
    return f"{pair.earlier}, {pair.later} in {shown_name(metric)}: {in_words(pair.metrics[metric], pair)}"


def in_words(found: MetricDifference, pair: Pair) -> str:
    """Which side has more, or that the difference may be due to chance."""
    if found.untested is not None:
        return f"not tested, {found.untested} (see the note)"
    paired = found.paired
    difference = paired.difference
    if difference is None or paired.rows < 2:
        return "one row says nothing"
    if paired.p is None:
        return "one group of rows says nothing"
    if not paired.wins and not paired.losses:
        return "no row differs"
    if not is_decided(paired):
        return f"a tie, the difference may be chance ({p_value(paired)})"
    side = pair.later if difference.value > 0 else pair.earlier
    return f"{side} has more ({p_value(paired)})"


def is_decided(paired: PairedDifference) -> bool:
    """Whether the difference is more than chance: by its interval, if it has one, and by the corrected test."""
    difference, p = paired.difference, paired.p if paired.p_holm is None else paired.p_holm
    if difference is None or p is None:
        return False
    low, high = difference.interval or (difference.value, difference.value)
    return (low > 0 or high < 0) and p < _ALPHA


def p_value(paired: PairedDifference) -> str:
    """The p value with its test, for example: p=0.031, sign-flip, exact."""
    return f"p{_p(paired.p, '=')}, {paired.test}"


def _p(p: float | None, equals: str = "") -> str:
    if p is None:
        return "-"
    return f"<{_SMALLEST_P}" if p < _SMALLEST_P else f"{equals}{p:.4f}"


def _show_sides(console: Console, sides: list[SideSummary], pass_score: float) -> None:
    """Each side on its own, over all of its rows: for two sides a line per metric, else a line per side."""
    cells = [{name: _cells(side, name) for name in side.estimates} for side in sides]
    metrics = sorted(dict.fromkeys(name for its in cells for name in _without_twin(its)), key=_place)
    if len(sides) == 2:
        rows = [[shown_name(name), *(cell for side in sides for cell in _cells(side, name))] for name in metrics]
        columns = ["", *(heading for side in sides for heading in (side.name, INTERVAL))]
    else:
        of_all = [name for name in metrics if "@" in name and all(name in its for its in cells)]
        shown = [name for name in metrics if name == "score"] + of_all[-1:]
        lengths = [name for name in ("tokens", "truncated") if name in metrics]
        rows = [
            [side.name, *(cell for name in shown for cell in _cells(side, name))]
            + [_cells(side, name)[0] for name in lengths]
            for side in sides
        ]
        columns = ["", *(heading for name in shown for heading in (name, INTERVAL)), *map(shown_name, lengths)]
    show_table(console, "Each by itself", columns, rows, left=[INTERVAL])
    of_scores = any("score" in its for its in cells)
    passing = passing_line(pass_score, any(side.is_graded for side in sides)) if of_scores else []
    for line in [*legend(rows, leans=any(side.note is not None for side in sides)), *passing]:
        console.print(line, soft_wrap=True)
    console.print()


def _place(metric: str) -> tuple[int, int]:
    """The place of a metric: scores first, by k, as not all sides have all of them; the others in their order."""
    name, _, k = metric.partition("@")
    return SCORES.index(name) if name in SCORES else len(SCORES), int(k or 0)


def _cells(side: SideSummary, metric: str) -> list[str]:
    form: Form = percent if metric == "truncated" else number
    return [value_cell(side.estimates.get(metric), form), interval_cell(side.estimates.get(metric), form)]


def show_pairs(console: Console, pairs: list[Pair]) -> None:
    """The differences: for two sides in every metric; for more, a line for each pair, in the first metric that both
    have.
    """
    if len(pairs) == 1:
        (pair,) = pairs
        cells = {name: _difference_cells(pair, name) for name in pair.metrics}
        lines = {shown_name(name): (pair, name) for name in _without_twin(cells)}
        title = f"Difference, {pair.later} - {pair.earlier}, row by row"
    else:
        lines = {f"{pair.later} - {pair.earlier}": (pair, name) for pair in pairs for name in list(pair.metrics)[:1]}
        title = (
            f"Difference in {' or '.join(dict.fromkeys(shown_name(name) for _, name in lines.values()))}, row by row"
        )
    rows = [[name, *_difference_cells(*line)] for name, line in lines.items()]
    p = "p" if len(pairs) == 1 else "p, Holm"
    show_table(console, title, ["", "mean", INTERVAL, p, "wins", "ties", "losses", ""], rows, left=[INTERVAL, ""])
    who = f"{pairs[0].later} has" if len(pairs) == 1 else "the side that is named first in the line has"
    console.print(f"wins: rows in which {who} more", soft_wrap=True)
    console.print()


def _difference_cells(pair: Pair, metric: str) -> list[str]:
    found = pair.metrics[metric]
    paired = found.paired
    form: Form = signed_percent if metric == "truncated" else signed
    return [
        value_cell(paired.difference, form),
        interval_cell(paired.difference, form),
        _p(paired.p if paired.p_holm is None else paired.p_holm),
        *(f"{count:,}" for count in (paired.wins, paired.ties, paired.losses)),
        "" if is_decided(paired) or found.untested is not None else "tie",
    ]


def _without_twin(cells: Mapping[str, list[str]]) -> list[str]:
    """The metrics, without pass@1 if it shows the same as the score, as with scores of 0 and 1."""
    return [name for name in cells if name != "pass@1" or cells[name] != cells.get("score")]


def _show_costs(console: Console, sides: list[SideSummary]) -> None:
    """What the sides cost, each over all of its rows."""
    costs = [side.cost for side in sides]
    lines = {
        "prompt tokens": [_count(cost.prompt_tokens) for cost in costs],
        "generated tokens": [_count(cost.generated_tokens) for cost in costs],
        "tokens per pass": [_count(cost.tokens_per_pass) for cost in costs],
        "generating": ["-" if cost.seconds is None else duration(cost.seconds) for cost in costs],
        "tokens / s": [_count(cost.output_tok_s) for cost in costs],
        "machine": [cost.machine or "-" for cost in costs],
    }
    there = {name: cells for name, cells in lines.items() if set(cells) != {"-"}}
    if len(sides) == 2:
        columns, rows = ["", *(side.name for side in sides)], [[name, *cells] for name, cells in there.items()]
    else:
        columns = ["", *(_SHORT.get(name, name) for name in there)]
        rows = [[side.name, *(cells[at] for cells in there.values())] for at, side in enumerate(sides)]
    if there:
        show_table(console, "Cost, over all rows", columns, rows)
        console.print()


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"

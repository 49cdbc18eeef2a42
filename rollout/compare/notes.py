"""What a reader of a comparison must know beside its numbers, one line each."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rollout.compare.comparison import Comparison, Pair, SideSummary
from rollout.compare.matching import Unmatched
from rollout.compare.sides import Side
from rollout.data.text import are, counted, have
from rollout.files import as_argument
from rollout.postprocess.report import flat

_MOST_NAMED = 3
_MOST_CHANGES = 8
_GROUPS = ("model", "data", "sampling", "adaptive")
"""The groups of a run's config on which its samples depend."""
_CONTENT = {"data.path": "data.path", "model.path": "model.content"}
"""A path in the config -> the key of the digest with the hash of its content."""


def notes_of(sides: Sequence[Side], comparison: Comparison) -> Iterator[str]:
    """The lines, the more important ones first."""
    yield from _settings(sides)
    yield from _without_scores(sides, comparison)
    yield from _scorers(sides)
    if without := [side.name for side in sides if side.truth is None]:
        yield (
            f"rows are matched by their prompts alone: nothing tells where {_names(without)} "
            f"{_has(without)} right answers; ground_truth=COLUMN does"
        )
    for summary in comparison.sides:
        if summary.note is not None:
            yield f"{summary.name}: {summary.note}"
        if summary.unscored:
            number = summary.unscored
            responses = f"{counted(number, 'response')} of {summary.name} {have(number)}"
            yield f"{responses} no score and {are(number)} left out"
    yield from _unequal_rows(comparison.sides)
    copies = {name: count for pair in comparison.pairs for name, count in pair.copies.items() if count}
    for count in dict.fromkeys(copies.values()):
        names = [name for name, its in copies.items() if its == count]
        yield (
            f"{counted(count, 'row')} of {_names(names)} {'asks' if count == 1 else 'ask'} what an earlier one asks; "
            "such rows are matched in their order, as one group"
        )


def matched_line(pair: Pair, matched_by: str) -> str:
    """How many rows of two sides match, and why others do not."""
    line = f"{pair.earlier}, {pair.later}: {counted(pair.matched, 'row')} matched by {matched_by}"
    for name, other in ((pair.earlier, pair.later), (pair.later, pair.earlier)):
        if (left := pair.unmatched[name]).total:
            line += f"; {left.total:,} of {name} not: {', '.join(_reasons(left, other))}"
    return line


def _reasons(left: Unmatched, other: str) -> Iterator[str]:
    words = {
        f"not in {other}": left.not_there,
        f"with another ground truth in {other}": left.other_truth,
        f"more often than in {other}": left.more_copies,
        "without a prompt": left.unreadable,
    }
    yield from (f"{count:,} {why}" for why, count in words.items() if count)


def _settings(sides: Sequence[Side]) -> Iterator[str]:
    """The settings that differ between two runs; for more runs, their labels or the list of runs show it."""
    runs = [asdict(side.run) for side in sides if side.run is not None]
    if len(sides) != 2 or len(runs) != 2:
        return
    before, now = (flat({group: run[group] for group in _GROUPS}) for run in runs)
    differing = [key for key, value in now.items() if before.get(key) != value and not _is_same_content(key, sides)]
    changes = [f"{key} {before.get(key)} -> {now[key]}" for key in differing]
    if changes:
        more = f" and {len(changes) - _MOST_CHANGES} more" if len(changes) > _MOST_CHANGES else ""
        yield f"set differently, {sides[0].name} -> {sides[1].name}: {', '.join(changes[:_MOST_CHANGES])}{more}"


def _is_same_content(key: str, sides: Sequence[Side]) -> bool:
    """Whether the key is a path, and both runs found the same input or weights there."""
    name = _CONTENT.get(key)
    found = [None if side.record is None else side.record.digest.get(name or "") for side in sides]
    return found[0] is not None and found[0] == found[1]


def _without_scores(sides: Sequence[Side], comparison: Comparison) -> Iterator[str]:
    pairs = zip(sides, comparison.sides, strict=True)
    without = [side for side, summary in pairs if "score" not in summary.estimates]
    if not without:
        return
    names = [side.name for side in without]
    who = "no side has scores" if len(without) == len(sides) else f"{_names(names)} {_has(names)} no scores"
    file = as_argument(without[0].path)
    yield (
        f"{who}: only lengths are compared; score with `python -m rollout score {file} scored.parquet "
        f"scorer=... ground_truth=...`"
    )


def _scorers(sides: Sequence[Side]) -> Iterator[str]:
    scorers = {side.name: side.scorer for side in sides if side.scorer is not None}
    if len(set(scorers.values())) > 1:
        each = ", ".join(f"{name} by {scorer}" for name, scorer in scorers.items())
        yield f"scored differently ({each}): differences may be the scorers'"


def _unequal_rows(sides: Sequence[SideSummary]) -> Iterator[str]:
    """Two means of one side that may differ, where its rows have different numbers of responses."""
    counts = {side.name: f"{side.per_row[0]:,} to {side.per_row[1]:,}" for side in sides if side.per_row is not None}
    if not counts:
        return
    each = ", ".join(f"of {name} {count}" for name, count in list(counts.items())[:_MOST_NAMED])
    more = f" and of {len(counts) - _MOST_NAMED} more sides other numbers" if len(counts) > _MOST_NAMED else ""
    yield (
        f"not all rows have as many responses (a row {each}{more}): `Each by itself` weighs every response alike, the "
        "differences weigh every row alike, so one side may be ahead in the one and behind in the other"
    )


def _has(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"


def _names(names: list[str]) -> str:
    if len(names) > _MOST_NAMED:
        return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more"
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last

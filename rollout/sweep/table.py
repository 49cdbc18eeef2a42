"""The table of a sweep's jobs on screen: what differs, and the results, in as many columns as fit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rollout.data.text import counted
from rollout.pages.sweep_content import JobRow
from rollout.scoring.intervals import Estimate
from rollout.store.layout import CSV
from rollout.sweep import objective
from rollout.sweep.comparison import job_rows, swept
from rollout.sweep.metrics import best_jobs, is_lower_better
from rollout.sweep.notes import JobRecord
from rollout.terminal.console import show_table
from rollout.terminal.estimates import INTERVAL, Form, interval_cell, legend, number, percent, value_cell
from rollout.terminal.text import compare_command, merge_command

_MOST_JOBS = 40
_LONGEST, _SHORTEST = 28, 8  # characters of a parameter's value, with enough room and without
_GAP = 2  # between columns
_NAMES = {"mean_score": "mean", "truncated_fraction": "cut off", "mean_tokens": "tokens", "output_tok_s": "tok/s"}


@dataclass(frozen=True)
class _Column:
    name: str
    cells: list[str]
    is_left: bool = False
    parameter: str | None = None
    """The swept key, if this is its column."""

    @property
    def width(self) -> int:
        return max(map(len, [self.name, *self.cells])) + _GAP


def show_jobs(sweep_dir: Path, records: list[JobRecord], path: str | None) -> None:
    """Print the jobs in `records`; `path` is the sweep's objective, if it has one."""
    console, jobs = Console(highlight=False), job_rows(sweep_dir, records)
    score = _score(jobs, path)
    shown = _best_of_many(jobs, score)
    names = swept(jobs)
    columns = _columns(jobs, shown, score, names, console.width + _GAP)
    rows = [[*cells] for cells in zip(*(column.cells for column in columns), strict=True)]
    console.print()
    show_table(console, "Jobs", [it.name for it in columns], rows, {it.name for it in columns if it.is_left})
    for line in [*_notes(jobs, shown, names, columns, sweep_dir), *legend(rows)]:
        console.print(line, soft_wrap=True)
    console.print()


def _score(jobs: list[JobRow], path: str | None) -> str | None:
    """The metric that compares the jobs: the objective if it has error bars, else the mean score."""
    there = {name for job in jobs for name in job["estimates"]}
    asked = None if path is None else objective.metric(path)
    return next((name for name in (asked, "mean_score") if name in there), None)


def _best_of_many(jobs: list[JobRow], score: str | None) -> list[JobRow]:
    """All jobs or, of very many, the best, by number."""

    def rank(job: JobRow) -> float:
        if score is None or score not in job["estimates"]:
            return float("inf")
        return job["estimates"][score]["value"] * (1 if is_lower_better(score) else -1)

    return sorted(sorted(jobs, key=rank)[:_MOST_JOBS], key=lambda job: job["num"])


def _columns(jobs: list[JobRow], shown: list[JobRow], score: str | None, names: list[str], width: int) -> list[_Column]:
    """The columns that fit: first the job and its score, then what differs, then further metrics."""
    first = [_Column("job", [str(job["num"]) for job in shown])]
    if any(job["status"] != "done" for job in shown):
        first.append(_Column("status", [job["status"] for job in shown], is_left=True))
    scores = [] if score is None else _estimated(jobs, shown, score)
    room = width - sum(column.width for column in [*first, *scores])
    parameters = _parameters(shown, names, room)
    room -= sum(column.width for column in parameters)
    return [*first, *parameters, *scores, *_that_fit(_further(jobs, shown, score), room)]


def _parameters(jobs: list[JobRow], names: list[str], room: int) -> list[_Column]:
    """The columns of swept keys: in full if there is room, else cut to equal widths, and the last ones left out."""
    for longest in range(_LONGEST, _SHORTEST - 1, -1):
        columns = [_parameter(jobs, name, names, longest) for name in names]
        if sum(column.width for column in columns) <= room:
            return columns
    return list(_that_fit([[_parameter(jobs, name, names, _SHORTEST)] for name in names], room))


def _parameter(jobs: list[JobRow], name: str, names: list[str], longest: int) -> _Column:
    last = name.rpartition(".")[2]
    is_alone = [other.rpartition(".")[2] for other in names].count(last) == 1
    cells = [_cut(job["overrides"].get(name, "-"), longest) for job in jobs]
    return _Column(_cut(last if is_alone else name, longest), cells, parameter=name)


def _cut(text: str, longest: int) -> str:
    """Long text without its middle, cut nearer to the end: there paths differ."""
    line = " ".join(text.split())
    if len(line) <= longest:
        return line
    tail = (longest - 2) // 3
    return f"{line[: longest - 2 - tail]}..{line[len(line) - tail :]}"


def _further(jobs: list[JobRow], shown: list[JobRow], score: str | None) -> Iterator[list[_Column]]:
    """Columns of further metrics, the most interesting ones first; those in one list belong together."""
    yield [_figure(shown, "truncated_fraction", percent)]
    yield [_figure(shown, "output_tok_s", _whole)]
    yield [_figure(shown, "mean_tokens", _whole)]
    names = {name for job in jobs for name in job["estimates"] if name.startswith("pass@")}
    largest = max(names, key=lambda name: int(name.removeprefix("pass@")), default="pass@1")
    if largest not in ("pass@1", score):
        yield _estimated(jobs, shown, largest)


def _that_fit(groups: Iterator[list[_Column]] | list[list[_Column]], room: int) -> Iterator[_Column]:
    for group in groups:
        room -= sum(column.width for column in group)
        if room < 0:
            return
        yield from group


def _estimated(jobs: list[JobRow], shown: list[JobRow], metric: str) -> list[_Column]:
    """The columns of a score: its value, its interval, and which jobs are the best: one, or several that cannot be told
    apart.
    """
    bars = [Estimate(**bar) if (bar := job["estimates"].get(metric)) else None for job in shown]
    best = best_jobs(jobs, metric)
    mark = "tied" if len(best) > 1 else "best"
    form: Form = percent if metric.endswith("_fraction") else number
    return [
        _Column(_NAMES.get(metric, metric), [value_cell(bar, form) for bar in bars]),
        _Column(INTERVAL, [interval_cell(bar, form) for bar in bars], is_left=True),
        _Column("", [mark if job["num"] in best else "" for job in shown]),
    ]


def _figure(jobs: list[JobRow], metric: str, form: Callable[[float | None], str]) -> _Column:
    return _Column(_NAMES[metric], [form(job["metrics"].get(metric)) for job in jobs])


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _notes(
    jobs: list[JobRow], shown: list[JobRow], names: list[str], columns: list[_Column], sweep_dir: Path
) -> Iterator[str]:
    if hidden := len(names) - sum(column.parameter is not None for column in columns):
        yield f"{counted(hidden, 'more parameter')} {'differs' if hidden == 1 else 'differ'}; all are in {CSV}"
    if len(shown) < len(jobs):
        yield f"the best {len(shown)} of {counted(len(jobs), 'job')}; all are in {CSV}"
    if any("tied" in column.cells for column in columns):
        yield "tied: by their intervals not to be told from the best (rows taken as unrelated)"
        yield f"row by row, which tells more: {compare_command(sweep_dir)}"
    if names == ["data.shard_index"]:
        yield f"the jobs are shards of one input; all rows: {merge_command(sweep_dir)}"

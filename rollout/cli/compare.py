"""`rollout compare A B [MORE ...]`: opens what the command names, or reports everything that is wrong with it."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import pyarrow as pa

from rollout.cli.arguments import show_help
from rollout.cli.help import text
from rollout.cli.latest import named_path
from rollout.cli.responses import Opened, ends_in_lines, open_responses
from rollout.compare.comparison import Comparison, compare
from rollout.compare.notes import notes_of
from rollout.compare.page import is_page_of_ours, write_comparison_page
from rollout.compare.screen import show_comparison
from rollout.compare.sides import Side, side_name
from rollout.config import CompareCommand, trust
from rollout.config.arguments import parse
from rollout.data.column_path import find, names_in
from rollout.errors import UserError, did_you_mean
from rollout.files import disk_full_explained, holds_keys, same_file, short, user_path, write_json
from rollout.postprocess.numbering import PROMPT
from rollout.postprocess.source import Source
from rollout.records import RESERVED_COLUMNS
from rollout.store import run_record
from rollout.store.layout import COMPARISON, COMPARISON_PAGE, JOBS
from rollout.terminal.console import plain_screen


def command(arguments: list[str]) -> None:
    """The command. Exit codes as of `python -m rollout`."""
    with ends_in_lines(), plain_screen() as console:
        show_help(arguments, lambda: text(["compare"]))
        _, words = trust.asked(arguments)  # responses are data only, so trust makes no difference
        keys = parse(CompareCommand, words, paths=("inputs",))
        folder = user_path(keys.output)
        if wrong := [*_output_problems(folder, keys.overwrite)]:
            raise UserError(*wrong)
        sides, notes = open_sides(keys)
        comparison = compare_sides(sides, keys)
        show_comparison(console, comparison, [*notes, *notes_of(sides, comparison)])
        for path in write_files(folder, sides, comparison, notes):
            print(f"wrote {short(path)}")


def compare_sides(sides: Sequence[Side], keys: CompareCommand) -> Comparison:
    """Compare them as the keys say. Raises UserError where they cannot be compared."""
    return compare(sides, pass_score_of(sides, keys.pass_score), keys.clusters, keys.pairs, keys.rows)


def write_files(folder: Path, sides: Sequence[Side], comparison: Comparison, notes: list[str]) -> Iterator[Path]:
    """Write compare.json and compare.html to `folder`. Yields their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with disk_full_explained(f"output={folder}", "free some space"):
        write_json(folder / COMPARISON, dataclasses.asdict(comparison))
        yield folder / COMPARISON
        page_notes = [*notes, *notes_of(sides, comparison)]
        write_comparison_page(folder / COMPARISON_PAGE, sides, comparison, page_notes)
        yield folder / COMPARISON_PAGE


def open_sides(keys: CompareCommand) -> tuple[list[Side], list[str]]:
    """The sides that the keys name, in their order, and what is to be said of them.

    Raises UserError with everything that is wrong with them.
    """
    given, wrong, notes = list[tuple[str, Path]](), list[str](), list[str]()
    for word in keys.inputs:
        try:
            path = named_path(word)
            given += _jobs(path, notes) if (path / JOBS).is_dir() else [(short(path), path)]
        except UserError as error:
            wrong += error.problems
    wrong += _twice(given)
    if len(given) < 2 and not wrong:
        raise UserError(f"{', '.join(keys.inputs)}: nothing to compare it with; give two or more, or a sweep's folder")
    opened, prompts = [], keys.prompt_key or PROMPT
    for label, path in given:
        try:
            opened.append((label, path, open_responses(path, "inputs", keys.score_key, prompts=prompts)))
        except UserError as error:
            wrong += error.problems
    if wrong:
        raise UserError(*wrong)
    return _sides(opened, keys), notes


def _jobs(sweep: Path, notes: list[str]) -> list[tuple[str, Path]]:
    """The finished jobs of a sweep. Raises UserError where there is none."""
    from rollout.sweep.notes import jobs_in

    jobs = jobs_in(sweep)
    done = [job for job in jobs if job.status == "done"]
    left_out = [str(job.num) for job in jobs if job.status != "done"]
    if left_out:
        notes.append(f"{short(sweep)}: jobs that are not done are left out: {', '.join(left_out)}")
    if not done:
        raise UserError(f"{short(sweep)}: no job of the sweep is done; give its command again")
    alike = set.intersection(*(set(job.overrides) for job in done)) if len(done) > 1 else set[str]()
    return [
        (
            f"job {job.num}: {' '.join(word for word in job.overrides if word not in alike)}".removesuffix(": "),
            Path(job.run_dir),
        )
        for job in done
    ]


def _twice(given: list[tuple[str, Path]]) -> Iterator[str]:
    for (label, path), (_, other) in combinations(given, 2):
        if same_file(path, other):
            yield f"{label}: is given twice; leave one out"


def _sides(opened: list[tuple[str, Path, Opened]], keys: CompareCommand) -> list[Side]:
    """Raises UserError for columns that are not there."""
    known = [truth for _, _, each in opened if (truth := each.scoring.ground_truth) is not None]
    truths = keys.ground_truth or known
    sides, wrong = list[Side](), list[str]()
    for number, (label, path, each) in enumerate(opened):
        try:
            sides.append(_side(side_name(number), label, path, each, keys, truths))
        except UserError as error:
            wrong += error.problems
    if keys.ground_truth and all(side.truth is None for side in sides):
        wrong += [_nowhere("ground_truth", keys.ground_truth, side) for side in sides]
    if keys.clusters is not None:
        without = [side for side in sides if find(side.source.schema, keys.clusters) is None]
        wrong += [_nowhere("clusters", [keys.clusters], side) for side in without]
    if wrong:
        raise UserError(*wrong)
    return sides


def _side(name: str, label: str, path: Path, opened: Opened, keys: CompareCommand, truths: list[str]) -> Side:
    """`truths` are paths that may lead to its right answers. Raises UserError for one without prompts."""
    schema, run = opened.source.schema, opened.run
    data = opened.data
    prompts = keys.prompt_key or [data.prompt_key]
    prompt = next((column for column in prompts if column in schema.names), None)
    if prompt is None:
        near = did_you_mean(prompts[0], _columns_of_input(opened.source))
        raise UserError(f"{label}: has no column {' or '.join(prompts)}, {near}; set prompt_key=COLUMN")
    own = None if keys.ground_truth else opened.scoring.ground_truth
    candidates = [*([] if own is None else [own]), *truths]
    truth = next((column for column in candidates if find(schema, column) is not None), None)
    record = run_record.read(path) if path.is_dir() and run_record.exists(path) else None
    return Side(name, label, path, opened.source, dataclasses.replace(data, prompt_key=prompt), truth, run, record)


def _nowhere(key: str, paths: list[str], side: Side) -> str:
    near = did_you_mean(paths[0], _columns_of_input(side.source))
    return f"{key}={','.join(paths)}: {side.label} has no such column, {near}"


def _columns_of_input(source: Source) -> list[str]:
    """Those that are not ours, as paths."""
    return names_in(pa.schema([column for column in source.schema if column.name not in RESERVED_COLUMNS]))


def pass_score_of(sides: Sequence[Side], given: float | None) -> float:
    """The score from which a response of any side passes. Raises UserError where their runs had different ones."""
    if given is not None:
        return given
    had = {side.label: score.pass_score for side in sides if (score := side.scoring) is not None}
    if len(set(had.values())) > 1:
        each = ", ".join(f"{label} from {score:g}" for label, score in had.items())
        raise UserError(f"pass_score: responses pass from other scores on: {each}; say which with pass_score=...")
    return next(iter(had.values()), 1.0)


def _output_problems(folder: Path, overwrite: bool) -> Iterator[str]:
    """What this command has written before is replaced; anything else is not."""
    if folder.suffix in (".json", ".html"):
        yield f"output={folder}: is the name of a file, two are written; give a folder"
    elif os.path.lexists(folder) and not folder.is_dir():
        yield f"output={folder}: is a file; give a folder"
    elif not overwrite:
        is_ours = {
            COMPARISON: _is_ours(folder / COMPARISON),
            COMPARISON_PAGE: is_page_of_ours(folder / COMPARISON_PAGE),
        }
        for name, ours in is_ours.items():
            if os.path.lexists(folder / name) and not ours:
                yield (
                    f"output={short(folder)}: {name} there already exists and was not written by this; choose another "
                    "folder, or set overwrite=true to replace it"
                )


def _is_ours(path: Path) -> bool:
    return holds_keys(path, {"matched_by", "sides", "pairs"})

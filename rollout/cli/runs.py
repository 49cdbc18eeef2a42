"""`rollout runs [FOLDER]`: the runs and sweeps under a folder, as a table, CSV or JSON."""

import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from rollout.cli.arguments import output_problems, show_help
from rollout.cli.help import text
from rollout.cli.one_line_errors import one_line_errors
from rollout.cli.run_list import Listed, ListedSweep, listed
from rollout.config import RunsCommand
from rollout.config.arguments import parse
from rollout.config.keys import config_fields, shown
from rollout.config.presets import is_of_preset
from rollout.data.text import counted
from rollout.errors import UserError
from rollout.files import disk_full_explained, replacing, short, user_path

_KINDS = {".csv": "csv", ".json": "json"}
_NARROWEST = 80
_SHORTEST_MODEL = 10
_UNSEEN = ("tracking.", "engine.", "sweep.", "postprocess.", "output", "dry_run", "hardware.env", "store.flush")
"""Keys that rarely distinguish two experiments: a table leaves them out."""
_SEEN = ("postprocess.score.",)
"""Exceptions: keys of these that do."""
_LONGEST_VALUE = 32


def runs(arguments: list[str]) -> None:
    """`rollout runs`: show them, or write them to a file."""
    with one_line_errors():
        if arguments:
            show_help(arguments, lambda: text(["runs"]))
        keys = parse(RunsCommand, arguments, paths=("folder",))
        kind, folder = _kind(keys), user_path(keys.folder)
        broken: list[str] = []
        found = _chosen(list(listed(folder, broken)), keys)
        for line in sorted(broken):
            print(f"warning: {line}", file=sys.stderr)
        if not found:
            such = "" if keys.status is keys.model is None else "such "
            print(f"there is no {such}run under {short(folder)}", file=sys.stderr)
        _show(found, kind, keys)


def _kind(keys: RunsCommand) -> str:
    """The format to write. Raises UserError for an output that cannot be written, or a folder that does not exist."""
    problems = []
    if keys.folder != RunsCommand().folder and not user_path(keys.folder).is_dir():
        problems.append(f"folder={keys.folder}: there is no such folder")
    by_name = None
    if keys.output is not None:
        path = user_path(keys.output)
        by_name = _KINDS.get(path.suffix)
        problems += output_problems("output", path, (*_KINDS,), lambda _: False, keys.overwrite)
        if by_name and keys.format not in (None, by_name):
            problems.append(f"format={keys.format}: the output {keys.output} is {by_name}; leave the format out")
    if problems:
        raise UserError(*problems)
    return keys.format or by_name or "table"


def _chosen(found: list[Listed], keys: RunsCommand) -> list[Listed]:
    """The runs that the keys ask for, in the order that they ask for."""
    if keys.jobs:
        found = [job for one in found for job in (one.jobs if isinstance(one, ListedSweep) else [one])]
    chosen = [one for one in found if any(_is_meant(job, keys) for job in _and_jobs(one))]
    chosen.sort(key=lambda one: (one.started, str(one.folder)))
    if keys.sort != "started":
        chosen.sort(key=_order(keys.sort))
    return chosen if keys.last is None else chosen[-keys.last :]


def _and_jobs(one: Listed) -> list[Listed]:
    return [one, *(one.jobs if isinstance(one, ListedSweep) else ())]


def _is_meant(one: Listed, keys: RunsCommand) -> bool:
    has_status = keys.status is None or one.status in keys.status
    return has_status and (keys.model is None or keys.model.lower() in one.model.lower())


def _order(column: str) -> Callable[[Listed], Any]:
    """What to sort by: of a sweep its best score, and what is not known is least."""

    def value(one: Listed) -> Any:
        found: Any = getattr(one, column)
        if column == "score" and isinstance(one, ListedSweep) and one.scores:
            found = one.scores[-1]
        found = str(found) if isinstance(found, Path) else found
        return (found is not None, found if found is not None else 0)

    return value


def _show(found: list[Listed], kind: str, keys: RunsCommand) -> None:
    if kind == "table":
        print(*_table(found), sep="\n")
        return
    content = _as_json(found) if kind == "json" else _as_csv(found)
    if keys.output is None:
        print(content, end="")
        return
    with disk_full_explained(f"output={keys.output}", "free some space"), replacing(user_path(keys.output)) as partial:
        partial.write_text(content, encoding="utf-8")
    print(f"wrote {counted(len(found), 'line')}: {keys.output}")


# For programs


def _as_json(found: list[Listed]) -> str:
    return json.dumps([_values(one) for one in found], indent=2, ensure_ascii=False) + "\n"


def _values(one: Listed) -> dict[str, Any]:
    values: dict[str, Any] = {
        "folder": short(one.folder),
        "kind": "sweep" if isinstance(one, ListedSweep) else "run",
        "started": one.started.isoformat(timespec="milliseconds"),
        "status": one.status,
        "model": one.model,
        "rows": one.rows,
        "samples": one.samples,
        "tok_s": None if one.tok_s is None else round(one.tok_s, 1),
        "score": one.score,
        "interval": one.interval,
        "differs": one.differs,
        "error": one.error,
    }
    if isinstance(one, ListedSweep):
        values |= {"jobs_done": one.jobs_done, "jobs_begun": one.jobs_begun, "jobs": [_values(job) for job in one.jobs]}
    return values


def _as_csv(found: list[Listed]) -> str:
    names = ["folder", "kind", "started", "status", "model", "rows", "samples", "tok_s", "score", "low", "high"]
    sink = io.StringIO()
    writer = csv.DictWriter(sink, [*names, "differs", "error"], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for one in found:
        low, high = one.interval or (None, None)
        differs = " ".join(f"{key}={shown(value)}" for key, value in one.differs.items())
        writer.writerow(_values(one) | {"low": low, "high": high, "differs": differs})
    return sink.getvalue()


# For people


def _table(found: list[Listed]) -> Iterator[str]:
    """Two lines for each: the numbers, and where it is with what differs."""
    if not found:
        return
    width = max(_NARROWEST, shutil.get_terminal_size().columns)
    head = ("started", "status", "model", "rows", "samples", "tok/s", "score")
    cells = [head, *map(_cells, found)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(head))]
    room = width - sum(widths) - 2 * (len(head) - 1) + widths[2]
    widths[2] = max(_SHORTEST_MODEL, min(widths[2], room))
    yield _line(head, widths)
    for one, row in zip(found, cells[1:], strict=True):
        yield _line(row, widths)
        yield from _second_lines(one, width)


def _line(row: Iterable[str], widths: list[int]) -> str:
    places = enumerate(zip(row, widths, strict=True))
    aligned = [_cut(cell, width).ljust(width) if place < 3 else cell.rjust(width) for place, (cell, width) in places]
    return "  ".join(aligned).rstrip()


def _second_lines(one: Listed, width: int) -> Iterator[str]:
    """The folder, never cut, because it is what one types, and beside it or below what differs."""
    folder, differs = f"  {short(one.folder)}", _differs(one)
    if len(folder) + 2 + min(len(differs), 30) <= width:
        yield f"{folder}  {_cut(differs, width - len(folder) - 2)}".rstrip()
    else:
        yield folder
        if differs:
            yield _cut(f"    {differs}", width)


def _cells(one: Listed) -> tuple[str, ...]:
    local = one.started.astimezone()
    is_this_year = local.year == datetime.now().year
    status = f"{one.status} {one.jobs_done}/{one.jobs_begun}" if isinstance(one, ListedSweep) else one.status
    return (
        f"{local:%m-%d %H:%M}" if is_this_year else f"{local:%Y-%m-%d}",
        status,
        re.split("[/:]", one.model.rstrip("/"))[-1],
        _count(one.rows),
        _count(one.samples),
        _count(one.tok_s),
        _score(one),
    )


def _count(number: float | None) -> str:
    if number is None:
        return "-"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e5, "k")):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):,.{0 if unit == 'k' else 1}f}{unit}"
    return f"{number:,.0f}"


def _score(one: Listed) -> str:
    if isinstance(one, ListedSweep):
        scores = [f"{score:.3f}" for score in one.scores]
        return "-" if not scores else scores[0] if scores[0] == scores[-1] else f"{scores[0]} to {scores[-1]}"
    if one.score is None:
        return "-"
    if one.interval is None:
        return f"{one.score:.3f}"
    low, high = one.interval
    return f"{one.score:.3f} [{low:.2f}, {high:.2f}]"


def _differs(one: Listed) -> str:
    """What differs, with short names, as one types them; what was swept comes first."""
    swept = [key for key in one.differs if isinstance(one, ListedSweep) and _is_swept(one, key)]
    shown_keys = [key for key, value in one.differs.items() if key in swept or _is_seen(key, value)]
    order = sorted(shown_keys, key=lambda key: (key not in swept, key != "data.path", not key.startswith("sampling.")))
    names = _short_names()
    return " ".join(f"{names.get(key, key)}={_value(key, one.differs[key], key in swept)}" for key in order)


def _is_swept(sweep: ListedSweep, key: str) -> bool:
    return any(job.differs.get(key) != sweep.differs[key] for job in sweep.jobs)


def _is_seen(key: str, value: Any) -> bool:
    return not (is_of_preset(key, value) or (key.startswith(_UNSEEN) and not key.startswith(_SEEN)))


@cache
def _short_names() -> dict[str, str]:
    """Key -> its last part, where no other key ends so."""
    keys = [key for key, _ in config_fields()]
    last = [key.rpartition(".")[2] for key in keys]
    return {key: name for key, name in zip(keys, last, strict=True) if last.count(name) == 1}


def _value(key: str, value: Any, is_swept: bool) -> str:
    if is_swept:
        return ",".join(_value(key, item, is_swept=False) for item in value)
    written = shown(value)
    return _cut(written.rpartition("/")[2] if key.endswith("path") else written, _LONGEST_VALUE)


def _cut(words: str, width: int) -> str:
    return words if len(words) <= width else f"{words[: max(0, width - 1)]}…"

"""`latest`: the run that started last under `outputs/`, jobs of sweeps included."""

import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from rollout.errors import UserError
from rollout.files import as_argument, user_path
from rollout.store.layout import MANIFEST
from rollout.store.times import moment

NAME = "latest"
OUTPUTS = Path("outputs")

_HEAD = 4096  # bytes of run.json: `started` is its second key
_STARTED = re.compile(rb'^  "started": "([^"]*)"', re.MULTILINE)


def named_path(word: str, say: bool = True) -> Path:
    """The path that the user means by `word`. A line on stderr says which run is the latest, if `say`.

    Raises UserError where it is `latest`, no path has this name, and there is no run.
    """
    path = user_path(word)
    if word != NAME or os.path.lexists(path):
        return path
    if (run_dir := latest_run(OUTPUTS)) is None:
        raise UserError(f"{NAME}: there is no run under {OUTPUTS}/ here; give the folder of one")
    if say:
        print(f"{NAME}: {as_argument(run_dir)}", file=sys.stderr)
    return run_dir


def latest_run(folder: Path) -> Path | None:
    """The folder of the run that started last of those in `folder`, however deep; None where there is none.

    Of most runs only the beginning of run.json is read. One that cannot be read counts as none.
    """
    found = ((started, run_dir) for run_dir in run_folders(folder) if (started := _started(run_dir)) is not None)
    return next((run_dir for _, run_dir in sorted(found, reverse=True) if _is_readable(run_dir)), None)


def run_folders(folder: Path) -> Iterator[Path]:
    """Folders with a run.json; nothing in them is looked at, nor in hidden ones."""
    to_see, seen = [str(folder)], set[str]()
    while to_see:
        here = to_see.pop()
        if (real := os.path.realpath(here)) in seen:  # links may lead in a circle
            continue
        seen.add(real)
        if os.path.lexists(os.path.join(here, MANIFEST)):  # noqa: PTH118 - of a thousand folders, paths would take longest
            yield Path(here)
            continue
        to_see += _subfolders(here)


def _subfolders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:  # it is not there, or not ours to see
        return []


def _started(run_dir: Path) -> datetime | None:
    """When the run's newest session started; None where run.json does not say."""
    try:
        with (run_dir / MANIFEST).open("rb") as file:
            head = file.read(_HEAD)
        match = _STARTED.search(head)
        text = match[1].decode() if match else json.loads((run_dir / MANIFEST).read_bytes())["started"]
        return moment(text)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_readable(run_dir: Path) -> bool:
    """Whether run.json is whole; its beginning alone does not tell."""
    try:
        return isinstance(json.loads((run_dir / MANIFEST).read_bytes()), dict)
    except (OSError, ValueError):
        return False

"""`latest`: the run that started last."""

import json
import os
from pathlib import Path

from rollout.errors import UserError
from rollout.files import short
from rollout.store.layout import MANIFEST


def latest_run(folder: Path = Path("outputs")) -> Path:
    """The folder of the run under `folder` whose newest session started last, jobs of sweeps included.

    Raises UserError where there is none.
    """
    started = {found: when for found in _run_folders(folder) if (when := _started(found))}
    if not started:
        raise UserError(f"latest: there is no run under {short(folder.absolute())}; give a run's folder")
    return max(started, key=lambda found: started[found])


def _run_folders(folder: Path) -> list[Path]:
    found = list[Path]()
    for path, folders, files in os.walk(folder):
        if MANIFEST in files:
            found.append(Path(path))
            folders.clear()
    return found


def _started(run_dir: Path) -> str | None:
    """When, ISO 8601 in UTC; None for a damaged run.json."""
    try:
        return str(json.loads((run_dir / MANIFEST).read_text(encoding="utf-8"))["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

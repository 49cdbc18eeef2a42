"""Which files post-processing writes, and which it may replace: those that it wrote itself, and never an input.

The file WRITTEN of a folder lists what was written to it. A run folder without WRITTEN is from an older version; there
every file with the name of a result is the run's.
"""

import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from rollout.config import PostprocessConfig, RunConfig
from rollout.files import at_home, same_file, short, user_path, write_json
from rollout.store.layout import DROPPED, FLAT, KEPT, METRICS, OUTPUT, RESULTS, SCORES, WRITTEN, is_kept_by_a_run
from rollout.store.run_record import RunRecord

log = logging.getLogger(__name__)

_OTHERS = {OUTPUT, METRICS, FLAT, SCORES, KEPT, DROPPED}
"""Names in a run folder that `export.file` could have by its suffix."""


def own(folder: Path, record: RunRecord | None = None) -> set[str]:
    """Names of the files that post-processing has written to `folder`, and paths of those it wrote elsewhere.

    `record` is the run's where `folder` is a run's.
    """
    try:
        names = set(json.loads((folder / WRITTEN).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        names = set() if record is None else set(RESULTS)
    if record is not None and "export" in record.config.postprocess.steps:
        names.add(_expanded(record.config.postprocess.export.file))
    return names


def claim(folder: Path, names: Iterable[str], record: RunRecord | None = None) -> None:
    """Note that `names` are going to be written to `folder`, beside what was before; `record` as in `own`."""
    write_json(folder / WRITTEN, {"files": sorted({*own(folder, record), *names})})


def files_read(run: RunConfig) -> list[Path]:
    """The files that a run reads: its input, and the chat template."""
    return [user_path(path) for path in (run.data.path, run.model.chat_template) if path is not None]


def remove_own(folder: Path, names: Collection[str], record: RunRecord | None, inputs: Iterable[Path]) -> list[str]:
    """Delete those of `names` that post-processing wrote to `folder`, unless they are read. Returns their names."""
    here = sorted(name for name in own(folder, record) & set(names) if (folder / name).exists())
    removed = [name for name in here if not any(same_file(folder / name, path) for path in inputs)]
    for name in removed:
        (folder / name).unlink()
    return removed


def log_removed(names: Collection[str]) -> None:
    """Say that results of earlier steps are gone."""
    if names:
        log.info("removed %s, which earlier steps made; name these steps to have them again", ", ".join(names))


def output_problems(
    config: PostprocessConfig,
    names: Iterable[str],
    folder: Path,
    key: str,
    inputs: Collection[Path],
    own_files: Collection[str],
) -> Iterator[str]:
    """A line for each of the outputs `names` that would replace an input, or a file that is not one of `own_files` of
    `folder`. `key` is what the user chose the folder with.
    """
    for name in names:
        path, is_export = folder / name, name == _expanded(config.export.file)
        chosen = f"postprocess.export.file={name}:" if is_export else f"{key}={short(folder)}: {name} there"
        cure = "choose another name" if is_export else "choose another folder"
        if read := next((source for source in inputs if same_file(path, source)), None):
            yield f"{chosen} is the input {short(read)}, which is never written over; {cure}"
        elif is_export and path.name in _OTHERS and same_file(path.parent, folder):
            yield f"{chosen} is a file that is written otherwise; {cure}"
        elif is_export and not same_file(path.parent, folder) and is_kept_by_a_run(path):
            yield f"{chosen} is a file that another run keeps; {cure}"
        elif os.path.lexists(path) and name not in own_files and not config.overwrite:
            yield (
                f"{chosen} already exists and was not written by this; {cure}, or set postprocess.overwrite=true to "
                "replace it"
            )


def _expanded(file: str) -> str:
    return str(at_home(file))

"""`output=FILE`: a second copy of the result, the same bytes as `rollouts.parquet` in the run's folder.

A copy, not a link: editing one must not change the other. A file that exists already is replaced only if this run has
written it; the run's folder and the file's own footer must both say so.
"""

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rollout.config import RunConfig
from rollout.errors import UserError
from rollout.files import at_home, disk_full_explained, real, replacing, same_file, short, user_path
from rollout.postprocess.outputs import claim, files_read, own
from rollout.store.digest import differences
from rollout.store.footer import DIGEST
from rollout.store.layout import OUTPUT, is_kept_by_a_run
from rollout.store.run_record import RunRecord


def path_of(run: RunConfig) -> Path | None:
    """The file, as an absolute path; None where none is asked for."""
    return None if run.output is None else user_path(run.output).absolute()


def problems(run: RunConfig, run_dir: Path | None, record: RunRecord | None) -> Iterator[str]:
    """Why `output` cannot be written once the run is complete: one line or none.

    `record` is the run's in `run_dir` where there is one already; `run_dir` is None where it is not known yet.
    """
    path = path_of(run)
    if path is not None and (problem := _of_name(run.output, path) or _of_place(run, path, run_dir)):
        yield f"output={run.output}: {problem}"
    elif path is not None and _is_somebody_elses(run, path, run_dir, record):
        yield (
            f"output={run.output}: already exists and was not written by this run; choose another name, or set "
            "postprocess.overwrite=true to replace it"
        )


def write(run: RunConfig, run_dir: Path, record: RunRecord) -> None:
    """Write the file, if one is asked for. Raises UserError where it cannot be; the run's folder is complete then."""
    path = path_of(run)
    if path is None:
        return
    there = f"the result is in {short(run_dir / OUTPUT)}"
    if _is_somebody_elses(run, path, run_dir, record):
        raise UserError(f"output={run.output}: somebody else has written it since the run began; {there}")
    claim(run_dir, [str(path)], record)
    try:
        with (
            disk_full_explained(f"output={run.output}", f"{there}; free some space and resume the run, or copy it"),
            replacing(path) as partial,
        ):
            shutil.copyfile(run_dir / OUTPUT, partial)
    except OSError as error:
        raise UserError(f"output={run.output}: {error.strerror or error}; {there}") from error


def is_current(run: RunConfig, run_dir: Path) -> bool:
    """Whether the file, if one is asked for, is as large as the result in `run_dir`."""
    path = path_of(run)
    return path is None or (path.exists() and path.stat().st_size == (run_dir / OUTPUT).stat().st_size)


def _of_name(typed: str | None, path: Path) -> str | None:
    """What is wrong with the name, wherever the file lies."""
    if not typed:
        return "names no file; give one that ends in .parquet, or leave it out"
    if path.is_dir():
        return "is a folder; give a file in it that ends in .parquet (the run's own folder is hydra.run.dir)"
    if path.suffix != ".parquet":
        return f"must end in .parquet; for the run's own folder write {shlex.quote(f'hydra.run.dir={typed}')}"
    if not path.parent.is_dir():
        return f"there is no folder {short(path.parent)}; make it, or choose another place"
    if not os.access(path.parent, os.W_OK):
        return f"nothing can be written to {short(path.parent)}; change its permissions, or choose another place"
    return None


def _of_place(run: RunConfig, path: Path, run_dir: Path | None) -> str | None:
    """What is wrong with the place: other files of this run are there."""
    if read := next((source for source in files_read(run) if same_file(path, source)), None):
        return f"is the input {short(read)}, which is never written over; choose another name"
    if run_dir is not None and real(path).is_relative_to(real(run_dir)):
        return "is in the run's own folder, which has the result already; choose a file elsewhere, or leave it out"
    if is_kept_by_a_run(path):
        return "is a file that another run keeps; choose another name"
    export = at_home(run.postprocess.export.file)
    if "export" in run.postprocess.steps and export.is_absolute() and same_file(path, export):
        return "is the file of postprocess.export.file as well; choose another name"
    return None


def _is_somebody_elses(run: RunConfig, path: Path, run_dir: Path | None, record: RunRecord | None) -> bool:
    if run.postprocess.overwrite or not os.path.lexists(path):
        return False
    is_ours = run_dir is not None and record is not None and str(path) in own(run_dir, record)
    return not (is_ours and record is not None and _has_samples_of(record, path))


def _has_samples_of(record: RunRecord, path: Path) -> bool:
    """Whether the footer of a file says that its samples are those of this run, perhaps fewer."""
    try:
        digest = json.loads((pq.read_schema(path).metadata or {})[DIGEST.encode()])
        return not any(differences(digest, record.digest))
    except (OSError, pa.ArrowInvalid, ValueError, KeyError):
        return False

"""The jobs of a sweep, read from its folder: the notes in `jobs/`, and how many jobs were asked for."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import yaml

from rollout.errors import UserError
from rollout.files import short
from rollout.store.layout import JOBS, SWEEP_CONFIG


@dataclass
class JobRecord:
    """The note that a job leaves in `jobs/`."""

    num: int
    run_dir: str
    overrides: list[str]
    status: str
    """running, done, interrupted or failed."""
    started: str
    """ISO 8601."""
    error: str | None = None
    refused: str | None = None
    """Why the newest command was refused; the other fields are about the earlier job in this folder."""
    asked: list[str] | None = None
    """The overrides of that command."""

    def title(self) -> str:
        """The job's number and its overrides."""
        return f"{self.num} ({' '.join(self.overrides if self.asked is None else self.asked)})"


def jobs_in(sweep_dir: Path) -> list[JobRecord]:
    """The notes of all jobs of the sweep, by number, with `run_dir` where the run is now: in `sweep_dir`, even if that
    was moved or is seen from another machine. Raises UserError for a note that is damaged.
    """
    jobs = sorted(map(read_note, (sweep_dir / JOBS).glob("*.json")), key=lambda job: job.num)
    return [replace(job, run_dir=str(_run_dir(Path(job.run_dir), sweep_dir))) for job in jobs]


def read_note(path: Path) -> JobRecord:
    """The note of one job. Raises UserError if it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=JobRecord)
    except msgspec.MsgspecError as error:
        cure = "delete it, or give the sweep's command again, which writes it anew"
        raise UserError(f"{short(path)}: the note of a job is damaged ({error}); {cure}") from error


def is_sweep(folder: Path) -> bool:
    """Whether it is the folder of a sweep, even if no job has begun."""
    return (folder / JOBS).is_dir() or (folder / SWEEP_CONFIG).is_file()


def _run_dir(noted: Path, sweep_dir: Path) -> Path:
    """The folder of a run that was at `noted` when its job began. That of a copied sweep is in the copy."""
    inside = sweep_dir / noted.name
    is_elsewhere = not noted.is_relative_to(sweep_dir.absolute())
    return inside if is_elsewhere and (inside.exists() or not noted.exists()) else noted


def num_jobs(sweep_dir: Path) -> int | None:
    """How many jobs the newest command asked for; None if that is not known before its end."""
    try:
        hydra = yaml.safe_load((sweep_dir / SWEEP_CONFIG).read_text(encoding="utf-8"))["hydra"]
        sweeper, words = hydra["sweeper"], list(hydra["overrides"]["task"])
        if str(sweeper["_target_"]).endswith(".BasicSweeper"):
            return _num_combinations([*(f"{key}={value}" for key, value in (sweeper["params"] or {}).items()), *words])
        return int(sweeper["n_trials"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return None


def _num_combinations(overrides: list[str]) -> int | None:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed: list[Any] = OverridesParser.create().parse_overrides(overrides)
        return sum(map(len, BasicSweeper.split_arguments(parsed, None)))
    except (HydraException, AssertionError):
        return None

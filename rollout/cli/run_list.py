"""The runs and sweeps under a folder as records, with what a person needs to choose one."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from rollout.cli.latest import run_folders
from rollout.config import RunConfig
from rollout.config.keys import Field, config_fields
from rollout.config.presets import leaves
from rollout.errors import UserError
from rollout.store import outside
from rollout.store.layout import ANALYSIS, MANIFEST
from rollout.store.run_record import RunRecord, SessionRecord
from rollout.store.times import moment
from rollout.sweep.notes import is_sweep, jobs_in
from rollout.tracking.metrics import newest_point

_UNWELL_FIRST = ("running", "preparing", "silent", "killed", "failed", "interrupted", "done")
"""The status of a sweep is the first of these that one of its jobs has."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A run. What is not known of it is None."""

    folder: Path
    started: datetime
    """The first of its sessions."""
    status: str
    """As `outside.Seen` has it."""
    model: str
    differs: dict[str, Any]
    """The keys of its config, but `model.path`, that have another value than the default, with it."""
    rows: int | None = None
    samples: int | None = None
    tok_s: float | None = None
    """Generated tokens per second, of the newest session that generated any."""
    score: float | None = None
    """The mean of all scores."""
    interval: tuple[float, float] | None = None
    """Of the score."""
    error: str | None = None
    """Why it failed."""
    tokens: int = 0
    """That came at this rate."""


@dataclass(frozen=True, kw_only=True)
class ListedSweep(Listed):
    """A sweep: `rows`, `samples` and `tok_s` are of all its jobs, and `differs` says what was swept first."""

    jobs: list[Listed] = field(default_factory=list)
    """Jobs that have begun a run."""
    jobs_done: int = 0
    jobs_begun: int = 0
    """Also jobs that have not begun a run because they were refused."""

    @property
    def scores(self) -> list[float]:
        """Of the jobs that have one, ascending."""
        return sorted(job.score for job in self.jobs if job.score is not None)


def listed(folder: Path, broken: list[str]) -> Iterator[Listed]:
    """Every run in `folder`, however deep, and every sweep as one; in no order. What cannot be read is added to
    `broken`, a line each.
    """
    sweeps: dict[Path, list[Listed]] = {}
    is_a_sweep = cache(is_sweep)
    for run_dir in run_folders(folder):
        run = _read(run_dir, broken)
        sweep = next((one for one in _between(run_dir, folder) if is_a_sweep(one)), None)
        if sweep is not None:
            sweeps.setdefault(sweep, []).extend([run] if run else [])
        elif run is not None:
            yield run
    yield from (_sweep(sweep, jobs, broken) for sweep, jobs in sweeps.items() if jobs)


def _between(run_dir: Path, folder: Path) -> Iterator[Path]:
    """The folders that `run_dir` is in, up to `folder`, which does not count."""
    for parent in run_dir.parents:
        if parent == folder:
            return
        yield parent


def _read(run_dir: Path, broken: list[str]) -> Listed | None:
    try:
        seen = outside.look(run_dir)
        return None if seen.record is None else _run(run_dir, seen.record, seen.status, broken)
    except UserError as error:
        is_newer = error.__cause__ is None
        broken.append(str(error) if is_newer else f"{run_dir / MANIFEST}: cannot be read; it is left out")
    except (ValueError, TypeError) as error:
        broken.append(f"{run_dir / MANIFEST}: cannot be understood ({error}); it is left out")
    return None


def _run(run_dir: Path, record: RunRecord, status: str, broken: list[str]) -> Listed:
    session = _last_that_generated(record)
    score, interval = _score(run_dir, broken)
    point = None if record.totals is not None else newest_point(run_dir)
    samples = record.totals.samples if record.totals else point.samples_done if point else None
    speed = None if session is None else session.throughput
    return Listed(
        folder=run_dir,
        started=moment((record.sessions or [record])[0].started),
        status=status,
        model=record.config.model.path,
        differs=dict(_differences(record.config)),
        rows=None if record.totals is None else record.totals.rows,
        samples=samples,
        tok_s=speed.output_tok_s if speed else point.output_tok_s if point else None,
        score=score,
        interval=interval,
        error=record.error if status == record.status else None,
        tokens=speed.generated_tokens if speed else 0,
    )


def _last_that_generated(record: RunRecord) -> SessionRecord | None:
    sessions = (record, *reversed(record.sessions))
    return next((one for one in sessions if one.throughput is not None and one.throughput.samples), None)


@cache
def _defaults() -> Mapping[str, Any]:
    return {key: item.value for key, item in config_fields()}


@cache
def _default_groups() -> RunConfig:
    return RunConfig()


def _differences(run: RunConfig) -> Iterator[tuple[str, Any]]:
    defaults, groups = _defaults(), _default_groups()
    for name, group in vars(run).items():
        if group == getattr(groups, name):
            continue
        fields = config_fields(group, f"{name}.") if is_dataclass(group) else [(name, Field(group, type(group), {}))]
        for key, item in fields:
            if item.value != defaults[key] and key != "model.path":
                yield from leaves({key: item.value})


@dataclass(frozen=True)
class _Interval:
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Scores:
    mean: float | None = None
    estimates: dict[str, _Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class _Analysis:
    """The part of analysis.json that a list shows, in the form of every version."""

    scores: _Scores | None = None


def _score(run_dir: Path, broken: list[str]) -> tuple[float | None, tuple[float, float] | None]:
    """The mean score of a run, and its interval."""
    try:
        scores = msgspec.json.decode((run_dir / ANALYSIS).read_bytes(), type=_Analysis).scores
    except FileNotFoundError:
        return None, None
    except (OSError, msgspec.MsgspecError):
        broken.append(f"{run_dir / ANALYSIS}: cannot be read; the run is shown without its score")
        return None, None
    if scores is None:
        return None, None
    return scores.mean, scores.estimates.get("mean", _Interval()).interval


def _sweep(sweep_dir: Path, jobs: list[Listed], broken: list[str]) -> ListedSweep:
    try:
        notes = jobs_in(sweep_dir)
    except (OSError, UserError):
        notes = []
        broken.append(f"{sweep_dir / 'jobs'}: holds a note that cannot be read")
    jobs = sorted(jobs, key=lambda job: (job.started, os.fspath(job.folder)))
    statuses = {job.status for job in jobs} | {note.status for note in notes if note.status != "running"}
    models = dict.fromkeys(job.model for job in jobs)
    seconds = sum(job.tokens / job.tok_s for job in jobs if job.tok_s and job.tokens)
    return ListedSweep(
        folder=sweep_dir,
        started=min(job.started for job in jobs),
        status=next((status for status in _UNWELL_FIRST if status in statuses), "done"),
        model=next(iter(models)) if len(models) == 1 else f"{len(models)} models",
        differs=_swept(jobs),
        rows=_sum(job.rows for job in jobs),
        samples=_sum(job.samples for job in jobs),
        tok_s=sum(job.tokens for job in jobs) / seconds if seconds else None,
        jobs=jobs,
        jobs_done=sum(job.status == "done" for job in jobs),
        jobs_begun=max(len(jobs), len(notes)),
    )


def _swept(jobs: list[Listed]) -> dict[str, Any]:
    """What differs between the jobs, with the different values, and then what they have in common."""
    defaults = _defaults()
    keys = dict.fromkeys(key for job in jobs for key in job.differs)
    values = {key: [job.differs.get(key, defaults.get(key)) for job in jobs] for key in keys}
    different = {key: _distinct(found) for key, found in values.items()}
    swept = {key: found for key, found in different.items() if len(found) > 1}
    return swept | {key: found[0] for key, found in different.items() if len(found) == 1}


def _distinct(values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None

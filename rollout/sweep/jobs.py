"""A sweep: many jobs, some of which may fail. Their results are in sweep.csv and sweep.html, rewritten after each job.

Each job keeps a note in `jobs/` of the sweep's folder from its start on: jobs may run in one process or in many, and
the same command may be given again to do the rest.
"""

import shlex
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from rollout.config import RunConfig, SweepConfig
from rollout.config.overrides import hydra_word
from rollout.data.text import counted
from rollout.errors import UserError
from rollout.files import disk_full_explained, same_file, short, write_json
from rollout.process.signals import Interrupted
from rollout.store.layout import CSV, HTML, JOBS, SWEEP_CONFIG
from rollout.sweep import objective
from rollout.sweep.notes import JobRecord, jobs_in, read_note
from rollout.terminal.text import postprocess_command


class Sweep(Callback):
    """A sweep that this process has started. Hydra makes it, as conf/config.yaml asks, and says when it begins and when
    all its jobs have been tried; an exception of a job ends it earlier.
    """

    _asked: bytes | None = None
    """What Hydra noted of the command before this one. Not known in a process that does only a job."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Before the first job, and before Hydra makes the sweeper."""
        self._folder = Path(config.hydra.sweep.dir).absolute()
        self._is_new = not self._folder.exists()
        asked = self._folder / SWEEP_CONFIG
        self._asked = asked.read_bytes() if asked.exists() else None
        self._begun = _now()
        try:
            objective.direct(config)
        except UserError as error:  # Hydra would go on, after a warning
            for problem in error.problems:
                print(f"error: {problem}", file=sys.stderr)
            sys.exit(1)

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Before each job. Hydra has noted by now what the command asks for; that of a dry run counts for nothing."""
        if config.dry_run and self._asked is not None:
            (self._folder / SWEEP_CONFIG).write_bytes(self._asked)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Show the jobs in a table, say where the results are, and exit with 1 if jobs failed."""
        if config.dry_run:
            if self._is_new:  # it was made by Hydra
                (self._folder / SWEEP_CONFIG).unlink(missing_ok=True)
                self._folder.rmdir()
            return
        if not (self._folder / JOBS).is_dir():
            print(f"error: hydra.sweep.dir={self._folder}: no job of the sweep has begun", file=sys.stderr)
            sys.exit(1)
        here = [job for job in jobs_in(self._folder) if job.started >= self._begun]
        failed = [job for job in here if job.status != "done" or job.refused is not None]
        _show_table(self._folder, config.sweep.objective)
        print(
            f"sweep: {len(here) - len(failed)} of {counted(len(here), 'job')} done: {short(self._folder / HTML)}, {CSV}"
        )
        _warn_of_missing(here)
        for job in failed:
            how, why = (job.status, job.error) if job.refused is None else ("refused", job.refused)
            print(f"error: job {job.title()}: {how}: {why}", file=sys.stderr)
        if any(job.refused is None for job in failed):
            print("run the same command with the same hydra.sweep.dir to do what is not done", file=sys.stderr)
        if failed:
            sys.exit(1)


def name() -> str | None:
    """The W&B group of a sweep's jobs: the sweep's folder, as in outputs/. None for a job of no sweep."""
    hydra_cfg = HydraConfig.get()
    return "/".join(Path(hydra_cfg.sweep.dir).parts[-2:]) if hydra_cfg.mode == RunMode.MULTIRUN else None


def do_job(run_dir: Path, config: SweepConfig, do: Callable[[], None], command: list[str]) -> float | None:
    """Do one job of a sweep, note its outcome, and return the value of `config.objective`.

    `command` is the command that started the whole sweep.

    A failure is printed at once and does not stop the other jobs, unless an optimizer waits for the objective: it gets
    the exception, for its own policy about failed trials.
    """
    hydra_cfg = HydraConfig.get()
    sweep_dir = Path(hydra_cfg.sweep.dir).absolute()
    overrides = list(hydra_cfg.overrides.task)
    job = JobRecord(hydra_cfg.job.num, str(run_dir.absolute()), overrides, "running", _now())
    path = sweep_dir / JOBS / f"{job.num}.json"
    before, session = read_note(path) if path.exists() else None, _newest_session(run_dir)
    _note(sweep_dir, job)
    try:
        do()
        job.status = "done"
    except Interrupted as error:
        job.status, job.error = "interrupted", str(error)
        print(f"continue the sweep with its own command and {_folder_override(sweep_dir)}", file=sys.stderr)
        raise
    except Exception as error:
        job.status, job.error = "failed", _explained(error)
        _print_failure(job, error)
        is_refused = isinstance(error, UserError) and _newest_session(run_dir) == session
        if before is not None and before.status == "done" and is_refused:  # the folder stays that of its earlier job
            job = replace(before, started=job.started, refused=job.error, asked=job.overrides)
        if config.objective is not None:
            raise
    finally:
        _note(sweep_dir, job)
        _write_comparison(sweep_dir, config.rows, command)
    return None if config.objective is None else objective.value(run_dir, config.objective)


def _newest_session(run_dir: Path) -> str | None:
    """When the newest session in a job's folder began; None without one."""
    from rollout.store import run_record

    try:
        return run_record.read(run_dir).started
    except UserError:
        return None


def _note(sweep_dir: Path, job: JobRecord) -> None:
    """Write the note of a job. Without disk space, ends the whole sweep in one line: no job could have a result, and
    nobody would know which have been tried.
    """
    cure = f"free some space, then give the sweep's own command and {_folder_override(sweep_dir)}"
    try:
        with disk_full_explained(short(sweep_dir), cure):
            (sweep_dir / JOBS).mkdir(parents=True, exist_ok=True)
            write_json(sweep_dir / JOBS / f"{job.num}.json", asdict(job))
    except UserError as error:  # Hydra would go on with the next job
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _folder_override(sweep_dir: Path) -> str:
    return shlex.quote(hydra_word("hydra.sweep.dir", str(sweep_dir)))


def sampled_once_if_greedy(run: RunConfig) -> RunConfig:
    """`run` with one sample per prompt if it is greedy, as all samples would be the same; prints that. In a single run
    this is an error; in a sweep the other jobs have other temperatures, and this one is compared with them.
    """
    sampling = run.sampling
    if sampling.temperature != 0 or sampling.n_samples == 1:
        return run
    print(f"job {HydraConfig.get().job.num}: temperature=0 is greedy: 1 sample per prompt, not {sampling.n_samples}")
    return replace(run, sampling=replace(sampling, n_samples=1))


def refuse_as_input(path: Path) -> None:
    """Raise UserError for an input that the sweep's table or page would replace."""
    folder = Path(HydraConfig.get().sweep.dir)
    for name in (CSV, HTML):
        if same_file(path, folder / name):
            raise UserError(f"hydra.sweep.dir={folder}: {name} in it is the input; choose another folder")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _explained(error: Exception) -> str:
    return "; ".join(error.problems) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _print_failure(job: JobRecord, error: Exception) -> None:
    if not isinstance(error, UserError):
        traceback.print_exception(error)
    print(f"error: job {job.title()}: {job.error}", file=sys.stderr)


def _write_comparison(sweep_dir: Path, num_rows: int, command: list[str]) -> None:
    """Rewrite sweep.csv and sweep.html. A failure is only a warning: the job itself is done."""
    from rollout.sweep.comparison import write_comparison  # reads tables, which most commands need not load

    try:
        write_comparison(sweep_dir, jobs_in(sweep_dir), num_rows, command)
    except Exception as error:
        print(f"warning: sweep.csv and sweep.html are not up to date: {_explained(error)}", file=sys.stderr)


def _warn_of_missing(jobs: list[JobRecord]) -> None:
    """Repeat which steps are missing in jobs that are done: it was printed long ago."""
    from rollout.store import run_record

    for job in (job for job in jobs if job.status == "done"):
        with suppress(UserError):  # the run was deleted
            run_dir = Path(job.run_dir)
            if (missing := run_record.read(run_dir).missing) is not None:
                cure = f"then do what is missing with `{postprocess_command(run_dir)}`"
                print(f"warning: job {job.title()}: {missing.reason}; {cure}", file=sys.stderr)


def _show_table(sweep_dir: Path, path: str | None) -> None:
    """Show all jobs of the sweep, also those that an earlier command has done."""
    from rollout.sweep.table import show_jobs  # reads tables

    try:
        show_jobs(sweep_dir, jobs_in(sweep_dir), path)
    except Exception as error:  # the jobs are done, even if they cannot be shown
        print(f"warning: the jobs cannot be shown: {_explained(error)}", file=sys.stderr)

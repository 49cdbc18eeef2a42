"""What `rollout watch` shows: a run, or a sweep and those of its jobs that are running."""

import dataclasses
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from rollout.cli.so_far import SoFar, responses_so_far
from rollout.cli.watched_total import Total, Totals
from rollout.config import AdaptiveConfig, RunConfig, ScoreConfig
from rollout.errors import UserError
from rollout.files import short
from rollout.postprocess.analyze import analyze
from rollout.postprocess.durable import Durable
from rollout.postprocess.report import write_report
from rollout.postprocess.score import with_scores
from rollout.postprocess.scores_so_far import ScoresSoFar
from rollout.postprocess.source import open_source
from rollout.postprocess.step import Work
from rollout.scoring.summary import ScoreSummary
from rollout.store.layout import CSV, HTML, OUTPUT, SCORES
from rollout.store.lock import holder_of
from rollout.store.outside import SILENT_SECONDS, look, seconds_since_written
from rollout.store.run_record import RunRecord
from rollout.store.speed import earliest_line
from rollout.store.times import moment
from rollout.sweep.notes import JobRecord, is_sweep, jobs_in, num_jobs
from rollout.terminal.text import watch_command
from rollout.terminal.watch import Lines, Look, describe, progress_line
from rollout.tracking.metrics import Point, newest_point
from rollout.tracking.progress import throughput_of


class WatchedRun:
    """A run. `look` sees how it is; all else is of that moment."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._durable = Durable(run_dir)
        self._totals = Totals(run_dir)
        self._judged_by: tuple[AdaptiveConfig, ScoreConfig] | None = None
        self._scores: ScoresSoFar | None = None
        """Of a run that a rule stops."""
        self.seen: Look

    def look(self) -> None:
        """See how it is now. Raises UserError for a folder that is no run's."""
        seen = look(self.run_dir)
        self._durable.look()
        point = None if seen.record is None else _of_session(newest_point(self.run_dir), seen.record)
        total = Total(None) if seen.record is None else self._totals.of(seen, point, self._durable)
        scores = None if seen.record is None or seen.status == "done" else self._scores_so_far(seen.record.config)
        self.seen = Look(self.run_dir, seen, self._durable, point, *total, time.time(), scores)

    @property
    def goes_on(self) -> bool:
        """Whether it may still change by itself."""
        return self.seen.seen.goes_on

    @property
    def is_well(self) -> bool:
        """Whether it goes on, or is done."""
        return self.goes_on or self.seen.seen.status == "done"

    @property
    def share_done(self) -> float | None:
        """Of its samples; None where that is not known."""
        return self.seen.num_done / self.seen.total if self.seen.total else None

    @property
    def state(self) -> object:
        """Equal as long as a report would show the same."""
        return self.seen.seen.status, len(self._durable.parts)

    @property
    def doing(self) -> str:
        """Changes when it goes on to something else."""
        return self.seen.phase

    def describe(self) -> Lines:
        """All there is to say of it."""
        yield from describe(self.seen)
        if is_sweep(sweep := self.run_dir.absolute().parent):
            yield "sweep", watch_command(sweep)

    def progress_line(self) -> str:
        """How far it is."""
        return progress_line(self.seen)

    def write_report(self, path: Path) -> Iterator[str]:
        """Write report.html of what is durable to `path`. Yields warnings."""
        record = self.seen.seen.record
        if record is None:
            yield "report=true: nothing is durable yet, so there is no page"
            return
        found = self._responses(record)
        config = found.run.postprocess
        if found.problem is not None:
            yield f"{found.problem}; the page is without the prompts"
            config = dataclasses.replace(config, analyze=dataclasses.replace(config.analyze, by=None))
        try:
            work = Work(found.source, self.run_dir, config, found.run.data, self._as_now(record))
            _write(path, work, self._title(), self.seen.scores)
        except UserError as error:
            yield f"{error}; the page was not written"

    def _responses(self, record: RunRecord) -> SoFar:
        if record.status == "done" and (self.run_dir / OUTPUT).exists():
            source, scores = open_source(self.run_dir / OUTPUT, "run"), self.run_dir / SCORES
            return SoFar(record.config, with_scores(source, scores) if scores.exists() else source)
        return responses_so_far(self._durable, record)

    def _scores_so_far(self, run: RunConfig) -> ScoreSummary | None:
        """What is known of the scores before all of them are there; None without a rule."""
        if run.adaptive.until is None:
            return None
        if self._scores is None or self._judged_by != (run.adaptive, run.postprocess.score):  # a resume may change it
            self._scores, self._judged_by = ScoresSoFar(run), (run.adaptive, run.postprocess.score)
        self._scores.look(self._durable.parts)
        return self._scores.summary

    def _as_now(self, record: RunRecord) -> RunRecord:
        """The record with what it would say if the session had ended now."""
        point = self.seen.point
        if point is None or record.throughput is not None or not point.elapsed_seconds:
            return dataclasses.replace(record, status=self.seen.seen.status)
        return dataclasses.replace(record, status=self.seen.seen.status, throughput=throughput_of(point))

    def _title(self) -> str:
        so_far = f" ({self._durable.num_done:,} of {self.seen.total_in_words})"
        return short(self.run_dir) + ("" if self.seen.seen.status == "done" else so_far)


def _write(path: Path, work: Work, title: str, so_far: ScoreSummary | None) -> None:
    with TemporaryDirectory() as folder:  # for analysis.json, which is in the page
        analysis = analyze(work.source, Path(folder), work.config.analyze, work.config.score, work.early)
    if so_far is not None:
        analysis = dataclasses.replace(analysis, scores=so_far)
    write_report(path, work, dataclasses.asdict(analysis), title)


def _of_session(point: Point | None, record: RunRecord) -> Point | None:
    """The line of metrics.jsonl, if the newest session has written it."""
    return point if point is not None and point.time >= earliest_line(record.started) else None


class WatchedSweep:
    """A sweep. `look` sees how it is; all else is of that moment."""

    def __init__(self, sweep_dir: Path) -> None:
        self.sweep_dir = sweep_dir
        self._runs: dict[int, WatchedRun] = {}
        self._jobs: list[JobRecord] = []
        self._asked: int | None = None

    def look(self) -> None:
        """See how its jobs are now."""
        self._asked = num_jobs(self.sweep_dir)
        self._jobs = jobs_in(self.sweep_dir)
        for job in self._jobs:
            if job.status == "running":
                self._look_at(job)

    def _look_at(self, job: JobRecord) -> None:
        run = self._runs.setdefault(job.num, WatchedRun(Path(job.run_dir)))
        try:
            run.look()
        except UserError:  # it has not begun
            del self._runs[job.num]

    @property
    def _working(self) -> list[tuple[JobRecord, WatchedRun]]:
        """The jobs that have begun and not said how they ended, with their runs."""
        return [(job, self._runs[job.num]) for job in self._jobs if job.status == "running" and job.num in self._runs]

    @property
    def goes_on(self) -> bool:
        """Whether another job may begin or end by itself."""
        if any(run.goes_on for _, run in self._working):
            return True
        ended = [job for job in self._jobs if job.status != "running"]
        if self._asked is not None and len(ended) >= self._asked:
            return False
        return self._is_between_jobs()

    def _is_between_jobs(self) -> bool:
        """Whether the process is there that did the newest job; of one elsewhere, whether that was just now."""
        if self._jobs:
            newest = max(self._jobs, key=lambda job: job.started)
            holder = holder_of(Path(newest.run_dir))
            if holder is not None and holder.is_neighbour and holder.began >= moment(newest.started).timestamp():
                return holder.is_alive
        return seconds_since_written(self.sweep_dir) < SILENT_SECONDS

    @property
    def is_well(self) -> bool:
        """Whether it goes on, or all its jobs are done."""
        return self.goes_on or (not self._unwell and len(self._jobs) >= (self._asked or 0))

    @property
    def _unwell(self) -> list[JobRecord]:
        """The jobs that have not ended well."""
        working = {job.num for job, run in self._working if run.goes_on}
        return [
            job for job in self._jobs if job.num not in working and (job.status != "done" or job.refused is not None)
        ]

    @property
    def share_done(self) -> float | None:
        """Of its jobs; None where it is not known how many there are."""
        if not self._asked:
            return None
        parts = sum(run.share_done or 0.0 for _, run in self._working)
        return (sum(job.status == "done" for job in self._jobs) + parts) / self._asked

    @property
    def doing(self) -> str:
        """Changes when another job begins or ends, or goes on to something else."""
        return " ".join([*(job.status for job in self._jobs), *(run.doing for _, run in self._working)])

    def describe(self) -> Lines:
        """All there is to say of it."""
        yield "sweep", short(self.sweep_dir)
        yield "jobs", self._count()
        for job in () if self.goes_on else self._unwell:
            yield "job", f"{job.title()}: {self._how(job)}"
        for job, run in self._working if self.goes_on else ():
            yield "job", job.title()
            yield from describe(run.seen)
        if self.is_well and not self.goes_on:
            yield "results", f"{short(self.sweep_dir / HTML)}, {CSV}"
        elif not self.goes_on:
            word = shlex.quote(f"hydra.sweep.dir={short(self.sweep_dir)}")
            yield "continue", f"give the command of the sweep again with {word}"

    def _how(self, job: JobRecord) -> str:
        """How a job has ended, and why."""
        if job.refused is not None:
            return f"refused: {job.refused}"
        status = "killed" if job.status == "running" else job.status
        return status if job.error is None else f"{status}: {job.error}"

    def _count(self) -> str:
        working = [run for _, run in self._working if run.goes_on]
        done = sum(job.status == "done" for job in self._jobs)
        counts = {"running": len(working), "not done": len(self._unwell)}
        others = "".join(f", {count} {name}" for name, count in counts.items() if count)
        return f"{done} of {'?' if self._asked is None else self._asked} done{others}"

    def progress_line(self) -> str:
        """How far it is."""
        jobs = "".join(f"; job {job.num}: {run.progress_line()}" for job, run in self._working)
        return f"{self._count()}{jobs}"

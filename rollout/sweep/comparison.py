"""Compare the jobs of a sweep: sweep.csv for programs, sweep.html for people."""

import csv
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from rollout.errors import UserError
from rollout.files import replacing, short
from rollout.pages.report_content import Row
from rollout.pages.sweep_content import JobRow, Step, SweepPage, SweepRow
from rollout.pages.write import write_page
from rollout.postprocess.analyze import Analysis, read_analysis
from rollout.postprocess.report import typed_command
from rollout.postprocess.sample_rows import PAGE_BYTES, sample_rows
from rollout.postprocess.score import with_scores
from rollout.postprocess.source import Source, open_source
from rollout.scoring.stopped_early import made_by
from rollout.store import run_record
from rollout.store.layout import ANALYSIS, CSV, HTML, OUTPUT, REPORT, SCORES
from rollout.store.run_record import EngineRecord, RunRecord
from rollout.sweep import steps
from rollout.sweep.metrics import bars_of, best_jobs, metrics_of
from rollout.sweep.notes import JobRecord
from rollout.sweep.steps import step_of


@dataclass(frozen=True)
class _Done:
    """One job, with what its run has written, if anything."""

    job: JobRecord
    run: RunRecord | None
    analysis: Analysis | None

    @property
    def run_dir(self) -> Path:
        return Path(self.job.run_dir)

    @property
    def error(self) -> str | None:
        """Why the job has no result, or only a part of it."""
        missing = None if self.run is None or self.job.status != "done" else self.run.missing
        return self.job.error if missing is None else missing.reason

    @classmethod
    def of(cls, job: JobRecord) -> "_Done":
        run_dir = Path(job.run_dir)
        run = run_record.read(run_dir) if run_record.exists(run_dir) else None
        return cls(job, run, read_analysis(run_dir) if (run_dir / ANALYSIS).exists() else None)


def job_rows(sweep_dir: Path, records: list[JobRecord]) -> list[JobRow]:
    """The jobs as the page and the table show them."""
    return [_job(_Done.of(record), sweep_dir) for record in records]


def write_comparison(sweep_dir: Path, records: list[JobRecord], num_rows: int, command: list[str]) -> None:
    """Write sweep.csv and sweep.html from the `records` of the jobs and the content of the jobs' own folders.

    `command` is the command that started the sweep. The page compares the first `num_rows` rows of every job, or as
    many as fit into its share of a page. Several processes may do this at the same time: each writes in its own folder,
    and the files of the last one stay.
    """
    known = [_Done.of(record) for record in records]
    jobs = [_job(one, sweep_dir) for one in known]
    parameters = swept(jobs)
    content: SweepPage = {
        "title": short(sweep_dir),
        "command": typed_command(command),
        "parameters": parameters,
        "jobs": jobs,
        "rows": _rows(known, num_rows),
        "best": {name: best_jobs(jobs, name) for name in sorted({name for job in jobs for name in job["estimates"]})},
    }
    for one in known:
        if one.analysis is not None and one.analysis.scores is not None:
            content["pass_score"] = one.analysis.scores.pass_score
    with TemporaryDirectory(prefix=".comparison-", dir=sweep_dir) as name:
        folder = Path(name)
        _write_csv(folder / CSV, jobs, parameters)
        write_page(folder / HTML, "sweep.html", content)
        for file in (CSV, HTML):
            (folder / file).replace(sweep_dir / file)


def _write_csv(path: Path, jobs: list[JobRow], parameters: list[str]) -> None:
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        metrics = list(dict.fromkeys(name for job in jobs for name in job["metrics"]))
        writer = csv.writer(file)
        figures = [(name, column) for name in metrics for column in _columns(name, jobs)]
        names = [column for _, column in figures]
        writer.writerow(["num", "status", "run_dir", *parameters, *names, "engine", "error"])
        for job in jobs:
            values: list[Any] = [job["overrides"].get(name) for name in parameters]
            values += [_figures(job, name).get(column) for name, column in figures]
            writer.writerow([job["num"], job["status"], job["run_dir"], *values, job["engine"], job["error"]])


def _columns(metric: str, jobs: list[JobRow]) -> list[str]:
    """The columns of a metric: itself, and its error bar if any job has one."""
    has_bar = any(metric in job["estimates"] for job in jobs)
    return [metric, *(f"{metric}_{part}" for part in ("se", "low", "high") if has_bar)]


def _figures(job: JobRow, metric: str) -> dict[str, float | None]:
    """Column of the metric -> the job's value."""
    figures = {metric: job["metrics"].get(metric)}
    if (bar := job["estimates"].get(metric)) is not None:
        low, high = bar["interval"] or (None, None)
        figures |= {f"{metric}_se": bar["se"], f"{metric}_low": low, f"{metric}_high": high}
    return figures


def swept(jobs: list[JobRow]) -> list[str]:
    """The keys whose values differ between the jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job["overrides"])
    return [key for key in keys if len({job["overrides"].get(key) for job in jobs}) > 1]


def _rows(known: list[_Done], num_rows: int) -> list[SweepRow]:
    """The first rows of the finished jobs, with the responses of each job; jobs may have different rows."""
    rows: dict[tuple[int, str], SweepRow] = {}
    done = [one for one in known if one.job.status == "done"]
    for one in done:
        for row in _rows_of(one, num_rows, PAGE_BYTES // len(done)):
            empty = SweepRow(row_id=row["row_id"], prompt=row["prompt"], ground_truth=row["ground_truth"], responses={})
            shared = rows.setdefault((row["row_id"], json.dumps(row["prompt"])), empty)
            shared["responses"][str(one.job.num)] = row["responses"]
    return [rows[key] for key in sorted(rows)]


def _rows_of(one: _Done, num_rows: int, most_bytes: int) -> list[Row]:
    if one.run is None:
        return []
    run_dir, data, score = one.run_dir, one.run.config.data, one.run.config.postprocess.score
    try:
        source = open_source(run_dir / OUTPUT, "run_dir")
    except UserError:  # it was deleted or moved
        return []

    def rows_of(responses: Source) -> list[Row]:
        truth = made_by(responses.scored_by, score).ground_truth
        return sample_rows(responses, range(num_rows), data, truth, most_bytes)

    with suppress(UserError):  # scores of what a filter left
        if (run_dir / SCORES).exists():
            return rows_of(with_scores(source, run_dir / SCORES))
    return rows_of(source)


def _job(one: _Done, sweep_dir: Path) -> JobRow:
    """One job as the page and the table show it."""
    job, run_dir = one.job, one.run_dir
    inside, overrides = run_dir.is_relative_to(sweep_dir), _overrides(job.overrides)
    shown = run_dir.relative_to(sweep_dir) if inside else run_dir
    return {
        "num": job.num,
        "run_dir": str(shown),
        "report": f"{shown}/{REPORT}" if (run_dir / REPORT).exists() and inside else None,
        "status": job.status,
        "error": one.error,
        "overrides": overrides,
        "steps": _steps(overrides),
        "engine": None if one.run is None else _engine(one.run.engine),
        "metrics": {} if one.run is None or job.status != "done" else metrics_of(run_dir, one.run, one.analysis),
        "estimates": bars_of(one.analysis) if job.status == "done" else {},
    }


def _overrides(typed: list[str]) -> dict[str, str]:
    """Key -> value, without the quotes and escapes that were typed."""
    parsed = OverridesParser.create().parse_overrides(typed)
    return {override.key_or_group: str(override.value()) for override in parsed}


def _steps(overrides: dict[str, str]) -> dict[str, Step]:
    found = {key: step_of(value) for key, value in overrides.items() if key in steps.KEYS}
    return {key: Step(step=known.step, of=known.of) for key, known in found.items() if known is not None}


def _engine(engine: EngineRecord | None) -> str | None:
    if engine is None:
        return None
    return "reloaded" if engine.reloaded else "reused" if engine.reused else "loaded"

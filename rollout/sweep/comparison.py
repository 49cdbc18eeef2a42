"""The jobs of a sweep beside each other: sweep.csv for programs, sweep.html for people."""

import csv
import json
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from rollout.config import DataConfig
from rollout.errors import UserError
from rollout.files import replacing, short
from rollout.pages.report_content import Row
from rollout.pages.sweep_content import Job, Sweep, SweepRow
from rollout.pages.write import write_page
from rollout.postprocess.report import typed_command
from rollout.postprocess.sample_rows import PAGE_BYTES, sample_rows
from rollout.postprocess.score import with_scores
from rollout.postprocess.source import open_source
from rollout.store.layout import CSV, HTML, OUTPUT, SCORES


def write_comparison(sweep_dir: Path, notes: list[dict[str, Any]], num_rows: int) -> None:
    """Write sweep.csv and sweep.html from the `notes` of the jobs and what the jobs' own folders hold.

    The page compares the first `num_rows` rows of every job, or as many as its share of a page holds. Several processes
    may do this at the same time: each writes in a folder of its own, and the last one's files stay.
    """
    jobs = [_job(note, sweep_dir) for note in notes]
    parameters = _swept(jobs)
    content: Sweep = {
        "title": short(sweep_dir),
        "command": typed_command([sys.executable, *sys.argv]),
        "parameters": parameters,
        "jobs": jobs,
        "rows": _rows(notes, num_rows),
    }
    for scores in filter(None, (_json(Path(note["run_dir"]) / "analysis.json").get("scores") for note in notes)):
        content["pass_score"] = scores["pass_score"]
    with TemporaryDirectory(prefix=".comparison-", dir=sweep_dir) as name:
        folder = Path(name)
        _write_csv(folder / CSV, jobs, parameters)
        write_page(folder / HTML, "sweep.html", content)
        for file in (CSV, HTML):
            (folder / file).replace(sweep_dir / file)


def _write_csv(path: Path, jobs: list[Job], parameters: list[str]) -> None:
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        metrics = list(dict.fromkeys(name for job in jobs for name in job["metrics"]))
        writer = csv.writer(file)
        writer.writerow(["num", "status", "run_dir", *parameters, *metrics, "engine", "error"])
        for job in jobs:
            values: list[Any] = [job["overrides"].get(name) for name in parameters]
            values += [job["metrics"].get(name) for name in metrics]
            writer.writerow([job["num"], job["status"], job["run_dir"], *values, job["engine"], job["error"]])


def _swept(jobs: list[Job]) -> list[str]:
    """The keys whose values differ between the jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job["overrides"])
    return [key for key in keys if len({job["overrides"].get(key) for job in jobs}) > 1]


def _rows(notes: list[dict[str, Any]], num_rows: int) -> list[SweepRow]:
    """The first rows of the finished jobs, with what each job answered; a job may have other rows than another."""
    rows: dict[tuple[int, str], SweepRow] = {}
    done = [note for note in notes if note["status"] == "done"]
    for note in done:
        for row in _rows_of(Path(note["run_dir"]), num_rows, PAGE_BYTES // len(done)):
            empty = SweepRow(row_id=row["row_id"], prompt=row["prompt"], ground_truth=row["ground_truth"], responses={})
            shared = rows.setdefault((row["row_id"], json.dumps(row["prompt"])), empty)
            shared["responses"][str(note["num"])] = row["responses"]
    return [rows[key] for key in sorted(rows)]


def _rows_of(run_dir: Path, num_rows: int, most_bytes: int) -> list[Row]:
    config = _json(run_dir / "run.json")["config"]
    data, truth = DataConfig(**config["data"]), config["postprocess"]["score"]["ground_truth"]
    try:
        source = open_source(run_dir / OUTPUT, "run_dir")
    except UserError:  # it was deleted, or moved
        return []
    with suppress(UserError):  # scores of what a filter had left
        if (run_dir / SCORES).exists():
            return sample_rows(with_scores(source, run_dir / SCORES), range(num_rows), data, truth, most_bytes)
    return sample_rows(source, range(num_rows), data, truth, most_bytes)


def _job(note: dict[str, Any], sweep_dir: Path) -> Job:
    """What the page and the table say about one job."""
    run_dir = Path(note["run_dir"])
    run, analysis = _json(run_dir / "run.json"), _json(run_dir / "analysis.json")
    inside = run_dir.is_relative_to(sweep_dir)
    shown = run_dir.relative_to(sweep_dir) if inside else run_dir
    return {
        "num": note["num"],
        "run_dir": str(shown),
        "report": f"{shown}/report.html" if (run_dir / "report.html").exists() and inside else None,
        "status": note["status"],
        "error": note["error"],
        "overrides": _overrides(note["overrides"]),
        "engine": _engine(run),
        "metrics": _metrics(run, analysis) if note["status"] == "done" else {},
    }


def _overrides(typed: list[str]) -> dict[str, str]:
    """Keys and values without what quotes and escapes they were typed with."""
    parsed = OverridesParser.create().parse_overrides(typed)
    return {override.key_or_group: str(override.value()) for override in parsed}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _engine(run: dict[str, Any]) -> str | None:
    return None if not run.get("engine") else "reused" if run["engine"]["reused"] else "loaded"


def _metrics(run: dict[str, Any], analysis: dict[str, Any]) -> dict[str, float | None]:
    throughput, seconds, totals = run["throughput"] or {}, run["seconds"], run["totals"] or {}
    metrics = {
        "output_tok_s": throughput.get("output_tok_s"),
        **{name: totals.get(name) for name in ("rows", "samples", "failed", "generated_tokens")},
        **{f"{stage}_seconds": seconds.get(stage) for stage in ("load", "generate")},
    }
    if not analysis:
        return metrics
    for name in ("tokens", "characters"):
        metrics |= {f"{part}_{name}": (analysis[name] or {}).get(part) for part in ("mean", "p50", "p99")}
    samples = max(1, analysis["samples"] - analysis["failed"])
    metrics["truncated_fraction"] = analysis["truncated_fraction"]
    for name, counted in (("empty", "empty"), ("duplicate", "duplicates"), ("looping", "looping")):
        metrics[f"{name}_fraction"] = analysis[counted] / samples
    metrics["distinct_responses"] = (analysis["distinct_responses"] or {}).get("mean")
    scores = analysis["scores"]
    if scores:
        metrics |= {"mean_score": scores["mean"], "pass_rate": scores["pass_rate"]}
        metrics |= {f"pass@{k}": value for k, value in scores["pass_at_k"].items()}
        metrics |= {f"majority@{k}": value for k, value in scores["majority_at_k"].items()}
    return metrics

"""The jobs of a sweep beside each other: sweep.csv for programs, sweep.html for people."""

import csv
import json
from pathlib import Path
from typing import Any

from rollout.files import replacing

CSV = "sweep.csv"
HTML = "sweep.html"

_FIRST = ("num", "status", "run_dir")


def write_comparison(sweep_dir: Path, notes: list[dict[str, Any]], num_rows: int) -> None:
    """Write sweep.csv from the `notes` of the jobs and what the jobs' own folders hold."""
    jobs = [_job(note, sweep_dir) for note in notes]
    parameters = swept(jobs)
    with replacing(sweep_dir / CSV) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        metrics = list(dict.fromkeys(name for job in jobs for name in job["metrics"]))
        writer = csv.writer(file)
        writer.writerow([*_FIRST, *parameters, *metrics, "engine", "error"])
        for job in jobs:
            values = [job["overrides"].get(name) for name in parameters]
            values += [job["metrics"].get(name) for name in metrics]
            writer.writerow([*(job[name] for name in _FIRST), *values, job["engine"], job["error"]])


def swept(jobs: list[dict[str, Any]]) -> list[str]:
    """The keys whose values differ between the jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job["overrides"])
    return [key for key in keys if len({job["overrides"].get(key) for job in jobs}) > 1]


def _job(note: dict[str, Any], sweep_dir: Path) -> dict[str, Any]:
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
        "overrides": dict(word.lstrip("+").partition("=")[::2] for word in note["overrides"]),
        "engine": _engine(run),
        "metrics": _metrics(run, analysis) if note["status"] == "done" else {},
    }


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

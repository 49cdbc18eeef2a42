"""Gather what report.html shows: what ran, how fast, the analysis, and a sample of rows to read."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rollout.config.presets import leaves
from rollout.data.text import as_text
from rollout.engine.vocabulary import TokenText, token_text
from rollout.files import short
from rollout.pages.report_content import Point, Replica, ReportPage, Run
from rollout.pages.write import write_page
from rollout.postprocess.sample_rows import sample_rows
from rollout.postprocess.source import Source
from rollout.postprocess.step import Plan, Step, Work
from rollout.records import extras_of
from rollout.store.layout import ANALYSIS, REPORT
from rollout.store.metrics import all_lines
from rollout.store.run_record import ReplicaRecord, RunRecord

_MAX_POINTS = 600
_MAX_LINES = 8  # replicas with a line of their own: as many as the page has colours
_OF_MANY = {"slowest": 0.0, "median": 0.5, "fastest": 1.0}  # the lines, and which quantile of the replicas they are
_FACTS = {
    "model": "model.path",
    "n_samples": "sampling.n_samples",
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "max_tokens": "sampling.max_tokens",
    "seed": "sampling.seed",
    "rows' own": "data.sampling_key",
    "input": "data.path",
    "device": "hardware.device",
}
_PROGRAMS = ("-m", "-c", "-")
"""The options of Python behind which the program comes: a module, its text, or standard input."""
_SELDOM = {"data.sampling_key"}
"""Of these facts, those that only some runs have."""


def report(work: Work) -> None:
    """Write `report.html` from the responses, the `analysis.json` just made of them, and the record of their run, if
    there is one.
    """
    analysis = json.loads((work.output_dir / ANALYSIS).read_text(encoding="utf-8"))
    title = short(work.output_dir if work.record else work.source.path)
    write_report(work.output_dir / REPORT, work, analysis, title)


def write_report(path: Path, work: Work, analysis: dict[str, Any], title: str) -> None:
    """Write the page to `path`; `analysis` is what analysis.json would say of the responses of `work`."""
    lines, series = _replica_lines(_series(work.output_dir))
    content: ReportPage = {
        "title": title,
        "run": _run(work.record, work.output_dir) if work.record else None,
        "series": series,
        "replica_lines": lines,
        "analysis": analysis,
        "rows": sample_rows(
            work.source,
            _spread(work.config.report.rows, analysis["rows"]),
            work.data,
            work.scoring.ground_truth,
            text=_token_text(work.source, work.record),
        ),
        "rows_total": analysis["rows"],
    }
    write_page(path, "report.html", content)


def _token_text(source: Source, record: RunRecord | None) -> TokenText | None:
    """What tokens of these responses say, where that can be known and is asked for."""
    if record is None or record.provenance.model is None or not extras_of(source.schema):
        return None
    return token_text(record.config.model, record.provenance.model.vocabulary)


def _run(record: RunRecord, run_dir: Path) -> Run:
    settings = flat(asdict(record.config))
    return {
        "status": record.status,
        "started": record.started,
        "ended": record.ended,
        "command": typed_command(record.provenance.command),
        "run_dir": str(run_dir),
        "facts": [
            (name, settings[key])
            for name, key in _FACTS.items()
            if key not in _SELDOM or settings[key] != as_text(None)
        ],
        "config": settings,
        "provenance": flat(asdict(record.provenance)),
        "totals": None if record.totals is None else asdict(record.totals),
        "throughput": None if record.throughput is None else asdict(record.throughput),
        "seconds": record.seconds,
        "replicas": [] if record.engine is None else [_replica(engine) for engine in record.engine.replicas],
    }


def _replica(engine: ReplicaRecord) -> Replica:
    return {
        "host": engine.host,
        "gpus": engine.gpus or None,
        "load_seconds": engine.load_seconds,
        "restarts": engine.restarts,
        "samples": engine.samples,
        "generated_tokens": engine.generated_tokens,
        "output_tok_s": engine.output_tok_s,
    }


def typed_command(command: list[str]) -> str:
    """The command as it was typed, without the folders of Python and of the package.

    `command` is what Python was started with: `-m` and a module, or a script, which may be a module's file; a program
    that calls us may be another script, or typed into Python.
    """
    _, *words = command
    while words and words[0].startswith("-") and words[0] not in _PROGRAMS:
        words = words[2 if words[0] in ("-X", "-W") else 1 :]  # Python's own options
    if not words or words[0] in _PROGRAMS:
        return shlex.join(["python", *words])
    script, arguments = Path(words[0]), words[1:]
    if script.stem in ("__main__", "rollout"):
        return shlex.join(["python", "-m", "rollout", *arguments])
    is_ours = script.parent.name == "rollout"
    return shlex.join(["python", *(["-m", f"rollout.{script.stem}"] if is_ours else [str(script)]), *arguments])


def flat(values: Mapping[str, object]) -> dict[str, str]:
    """Nested `values` as texts by their dotted names, as keys of a config are written."""
    return {key: as_text(value) for key, value in leaves(values)}


def _series(run_dir: Path) -> list[Point]:
    """The whole run's points; each session's clock continues where the last one's stopped."""
    points: list[Point] = []
    before = last = 0.0
    for point in all_lines(run_dir):
        if point["elapsed_seconds"] < last:
            before += last
        last = point["elapsed_seconds"]
        shown = {name: point[name] for name in Point.__annotations__ if name in point}
        points.append(Point(seconds=before + last, **shown))  # type: ignore[typeddict-item]
    step = max(1, -(-len(points) // _MAX_POINTS))
    return points[::-1][::step][::-1]  # the last one always


def _replica_lines(series: list[Point]) -> tuple[list[str], list[Point]]:
    """The names of the lines to draw for the replicas, and the points with one rate for each of these lines."""
    count = max((len(point.get("replica_tok_s_now", [])) for point in series), default=0)
    if count <= _MAX_LINES:
        return [f"replica {index}" for index in range(count)] if count > 1 else [], series
    return [*_OF_MANY], [
        {**point, "replica_tok_s_now": np.quantile(rates, [*_OF_MANY.values()]).round(3).tolist()}
        if (rates := point.get("replica_tok_s_now"))
        else point
        for point in series
    ]


def _spread(count: int, num_rows: int) -> list[int]:
    """At most `count` positions, evenly spread over `num_rows` rows, the first and the last among them."""
    return sorted({round(position) for position in np.linspace(0, max(0, num_rows - 1), count)})


def _problems(plan: Plan) -> Iterator[str]:
    before = plan.before("report")
    if "analyze" not in before:
        yield "postprocess.steps=report: shows what analyze finds; name analyze before it"
        return
    since = before[before.index("analyze") :]
    for step in ("score", "filter"):
        if step in since:
            yield f"postprocess.steps=report: analyze has not seen what {step} does; name analyze between the two"


def _report(work: Work) -> Work:
    report(work)
    return work


MAKE_REPORT = Step("report", _report, outputs=lambda _: [REPORT], problems=_problems)

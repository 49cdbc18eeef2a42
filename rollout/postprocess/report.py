"""Gather what report.html shows: what ran, how fast, the analysis, and a sample of rows to read."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rollout.config import DataConfig, PostprocessConfig
from rollout.errors import PromptError
from rollout.pages import write_page
from rollout.pages.content import Message, Point, Report, Response, Row, Run
from rollout.postprocess.analyze import ANALYSIS
from rollout.postprocess.column_path import values_at
from rollout.postprocess.repetition import is_looping
from rollout.postprocess.scorers import as_text
from rollout.postprocess.source import Source, row_slices
from rollout.prompts import parse_chat, with_system_prompt
from rollout.records import FLAT_FIELDS, SCORE_FIELDS
from rollout.screen import short
from rollout.tracking import METRICS

REPORT = "report.html"

_MOST_POINTS = 600
_MOST_CHARACTERS = 20_000  # of one text
_MOST_BYTES = 30 << 20  # of all rows: a page that a browser opens at once
_OURS = {column.name for column in (*FLAT_FIELDS, *SCORE_FIELDS)}
_FACTS = {
    "model": "model.path",
    "n_samples": "sampling.n_samples",
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "max_tokens": "sampling.max_tokens",
    "seed": "sampling.seed",
    "input": "data.path",
    "device": "hardware.device",
}


def report(
    source: Source, output_dir: Path, config: PostprocessConfig, data: DataConfig, about: dict[str, Any] | None
) -> None:
    """Write `report.html` from `source`, `analysis.json` and `about`, the content of run.json if there is one."""
    analysis = json.loads((output_dir / ANALYSIS).read_text(encoding="utf-8"))
    content: Report = {
        "title": short(output_dir if about else source.path),
        "run": _run(about, output_dir) if about else None,
        "series": _series(output_dir / METRICS),
        "analysis": analysis,
        "rows": _rows(source, analysis["rows"], config, data),
        "rows_total": analysis["rows"],
    }
    write_page(output_dir / REPORT, "report.html", content)


def _run(about: dict[str, Any], run_dir: Path) -> Run:
    settings = _flat(about["config"])
    return {
        "status": about["status"],
        "started": about["started"],
        "ended": about.get("ended"),
        "command": _typed(about["provenance"]["command"]),
        "run_dir": str(run_dir),
        "facts": [(name, settings[key]) for name, key in _FACTS.items()],
        "config": settings,
        "provenance": _flat(about["provenance"]),
        "totals": about["totals"],
        "throughput": about["throughput"],
        "seconds": about["seconds"],
    }


def _typed(command: list[str]) -> str:
    """The command as it was typed, without the folders of Python and of the package."""
    _, script, *arguments = command
    module = "rollout" if Path(script).stem in ("__main__", "rollout") else f"rollout.{Path(script).stem}"
    return shlex.join(["python", "-m", module, *arguments])


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = as_text(value)
    return flat


def _series(metrics: Path) -> list[Point]:
    """The whole run's points; each session's clock goes on where the last one's stopped."""
    points: list[Point] = []
    before = last = 0.0
    for point in _lines(metrics):
        if point["elapsed_seconds"] < last:
            before += last
        last = point["elapsed_seconds"]
        shown = {name: point[name] for name in Point.__annotations__ if name != "seconds"}
        points.append(Point(seconds=before + last, **shown))  # type: ignore[typeddict-item]
    step = max(1, -(-len(points) // _MOST_POINTS))
    return points[::-1][::step][::-1]  # the last one always


def _lines(metrics: Path) -> Iterator[dict[str, Any]]:
    if not metrics.exists():
        return
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # a killed session's last line
            continue


def _rows(source: Source, num_rows: int, config: PostprocessConfig, data: DataConfig) -> list[Row]:
    """`report.rows` rows, evenly spread over all."""
    wanted = np.unique(np.linspace(0, max(0, num_rows - 1), config.report.rows).astype(np.int64))
    rows: list[Row] = []
    first = size = 0
    for batch in source.batches():
        slices = row_slices(batch)
        for position in wanted[(wanted >= first) & (wanted < first + len(slices))] - first:
            start, stop = slices[position]
            row = _row(batch.slice(start, stop - start), config, data)
            size += len(json.dumps(row))
            if size > _MOST_BYTES:
                return rows
            rows.append(row)
        first += len(slices)
    return rows


def _row(samples: pa.RecordBatch, config: PostprocessConfig, data: DataConfig) -> Row:
    """One input row, from the batch of its responses."""
    path = config.score.ground_truth
    truth = None if path is None else values_at(samples.slice(0, 1), path)[0]
    first = samples.slice(0, 1).to_pylist()[0]
    shown = {name: value for name, value in first.items() if name not in _OURS and name != data.prompt_key}
    return {
        "row_id": first["row_id"],
        "prompt": _prompt(first.get(data.prompt_key), data),
        "ground_truth": None if truth is None else _short(as_text(truth)),
        "fields": {name: _short(as_text(value)) for name, value in shown.items()},
        "responses": [_response(sample) for sample in samples.to_pylist()],
    }


def _prompt(value: Any, data: DataConfig) -> list[Message]:
    try:
        chat = with_system_prompt(parse_chat(value), data.system_prompt)
    except PromptError as error:
        return [{"role": "error", "content": str(error)}]
    return [{"role": turn["role"], "content": _short(as_text(turn["content"]))} for turn in chat]


def _response(sample: dict[str, Any]) -> Response:
    text = sample["response"]
    return {
        "sample_idx": sample["sample_idx"],
        "text": None if text is None else _short(text),
        "finish_reason": sample["finish_reason"] or "unknown",
        "tokens": sample["num_generated_tokens"],
        "score": sample.get("score"),
        "answer": sample.get("extracted_answer"),
        "error": sample["error"] or sample.get("score_error"),
        "looping": text is not None and is_looping(text),
    }


def _short(text: str) -> str:
    more = len(text) - _MOST_CHARACTERS
    return text if more <= 0 else f"{text[:_MOST_CHARACTERS]} ... ({more:,} more characters)"

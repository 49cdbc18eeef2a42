"""The second stage: rollouts.parquet -> tables and numbers people look at. One step per file, each streamed."""

import logging
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rollout.config import DataConfig, PostprocessConfig
from rollout.postprocess.analyze import Analysis, analyze
from rollout.postprocess.export import export
from rollout.postprocess.filter import filter_responses, only_kept
from rollout.postprocess.flatten import flatten
from rollout.postprocess.outputs import claim, outputs, remove_own
from rollout.postprocess.report import report
from rollout.postprocess.score import score_responses, with_scores
from rollout.postprocess.source import Source
from rollout.store.layout import FLAT, RESULTS, SCORES
from rollout.store.run_record import RunRecord

log = logging.getLogger(__name__)


def run_steps(
    source: Source, output_dir: Path, config: PostprocessConfig, data: DataConfig, record: RunRecord | None = None
) -> Analysis | None:
    """Run `config.steps` in order on `source`, writing to `output_dir`. Returns the analysis, if made.

    `record` is that of the run, if one has made the responses: for the report and the export. Raises UserError for
    data that a step cannot work on; what can be known before is found by `check.problems`.
    """
    claim(output_dir, outputs(config), record)
    analysis: Analysis | None = None
    of_template = {} if record is None else record.config.model.chat_template_kwargs
    continued = bool(of_template.get("continue_final_message"))
    for step in config.steps:
        match step:
            case "flatten":
                flatten(source, output_dir)
            case "score":
                _log_counts("score", score_responses(source, output_dir, config.score))
                _remove_outdated(source.path, output_dir, config, record)
                source = with_scores(source, output_dir / SCORES)
            case "filter":
                _log_counts("filter", filter_responses(source, output_dir, config.filter))
                source = only_kept(source, config.filter)
            case "analyze":
                analysis = analyze(source, output_dir, config.analyze, config.score)
            case "export":
                count = export(source, output_dir, config.export, data, continued)
                _log_counts("export", {config.export.format: count})
            case "report":
                report(source, output_dir, config, data, record)
    return analysis


def _remove_outdated(source: Path, output_dir: Path, config: PostprocessConfig, record: RunRecord | None) -> None:
    """Once there are new scores, delete results of an earlier command that show others."""
    before_score = replace(config, steps=config.steps[: config.steps.index("score")])
    outdated = set(RESULTS) - {SCORES, *outputs(before_score)}
    if not _shows_scores(output_dir / FLAT):
        outdated.discard(FLAT)
    remove_own(output_dir, outdated, record, [source])


def _shows_scores(flat: Path) -> bool:
    try:
        return "score" in pq.read_schema(flat).names
    except (OSError, pa.ArrowInvalid):  # there is none, or none of ours
        return False


def _log_counts(step: str, counts: dict[str, int]) -> None:
    log.info("%s: %s", step, ", ".join(f"{count:,} {name}" for name, count in counts.items()))

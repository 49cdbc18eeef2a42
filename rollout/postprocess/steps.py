"""The second stage: rollouts.parquet -> tables and numbers people look at. One step per file, each streamed."""

import logging
from collections.abc import Sequence
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
from rollout.postprocess.score import ScoreFailed, score_responses, with_scores
from rollout.postprocess.source import Source
from rollout.store.layout import FLAT, RESULTS, SCORES
from rollout.store.run_record import RunRecord

log = logging.getLogger(__name__)


def run_steps(
    source: Source, output_dir: Path, config: PostprocessConfig, data: DataConfig, record: RunRecord | None = None
) -> Analysis | None:
    """Run `config.steps` in order on `source`, writing to `output_dir`. Returns the analysis, if made.

    `record` is that of the run, if one has made the responses: for the report and the export. Raises UserError for
    data that a step cannot work on; what can be known before is found by `check.problems`. Where no response could be
    scored, ScoreFailed is raised after all steps that need no scores.
    """
    claim(output_dir, outputs(config), record)
    analysis: Analysis | None = None
    failed: ScoreFailed | None = None
    of_template = {} if record is None else record.config.model.chat_template_kwargs
    continued = bool(of_template.get("continue_final_message"))
    for step in config.steps:
        if failed is not None and _needs_scores(step, failed.missing, config):
            failed.missing = [*failed.missing, step]
            continue
        match step:
            case "flatten":
                flatten(source, output_dir)
            case "score":
                try:
                    _log_counts("score", score_responses(source, output_dir, config.score))
                except ScoreFailed as error:
                    failed = error
                    continue
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
                if not count and config.export.format == "preference":
                    log.warning("export: no row has two responses with different scores, so there are no pairs")
            case "report":
                report(source, output_dir, config, data, record)
    if failed is not None:
        failed.analysis = analysis
        raise failed
    return analysis


def _needs_scores(step: str, missing: Sequence[str], config: PostprocessConfig) -> bool:
    """Whether `step` cannot be done without scores, or would see responses that a missing `filter` drops."""
    rules = config.filter
    by_score = any(rule is not None for rule in (rules.min_score, rules.min_pass_rate, rules.max_pass_rate))
    return (
        "filter" in missing
        or (step == "filter" and by_score)
        or (step == "export" and config.export.format == "preference")
    )


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

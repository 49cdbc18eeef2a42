"""The second stage: rollouts.parquet -> tables and numbers people look at. One step per file, each streamed."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rollout.config import PostprocessConfig
from rollout.postprocess.analyze import ANALYZE, Analysis
from rollout.postprocess.export import EXPORT
from rollout.postprocess.filter import FILTER, rule_problems
from rollout.postprocess.flatten import FLATTEN
from rollout.postprocess.outputs import claim, log_removed, remove_own
from rollout.postprocess.report import MAKE_REPORT
from rollout.postprocess.score import SCORE, ScoreFailed
from rollout.postprocess.step import Plan, Work
from rollout.store.layout import FLAT, RESULTS, SCORES

STEPS = {step.name: step for step in (FLATTEN, SCORE, FILTER, ANALYZE, EXPORT, MAKE_REPORT)}
"""The words that `postprocess.steps` takes."""


def outputs(config: PostprocessConfig) -> list[str]:
    """The files that the steps of `config` write, relative to the output folder unless `export.file` is absolute."""
    return [file for name in config.steps if name in STEPS for file in STEPS[name].outputs(config)]


def problems(plan: Plan) -> Iterator[str]:
    """Everything that keeps the steps of `plan` from running: one line for each problem."""
    config, steps = plan.config, plan.config.steps
    yield from (f"postprocess.steps={name}: named twice; once is enough" for name in _twice(steps))
    if config.score.scorer is not None and "score" not in steps and not plan.scored:
        yield f"postprocess.score.scorer={config.score.scorer}: nothing is scored; add score to postprocess.steps"
    yield from rule_problems(config.filter)
    for name, step in STEPS.items():
        if name in steps:
            yield from step.problems(plan)


def run_steps(work: Work) -> Analysis | None:
    """Run the steps in order, writing to the output folder. Returns the analysis, if made.

    Raises UserError for data that a step cannot work on; what can be known before is found by `problems`. Where no
    response could be scored, ScoreFailed is raised after all steps that need no scores.
    """
    config = work.config
    claim(work.output_dir, outputs(config), work.record)
    failed: ScoreFailed | None = None
    for name in config.steps:
        if failed is not None and _is_missing(name, failed.missing, config):
            failed.missing = [*failed.missing, name]
            continue
        try:
            work = STEPS[name].run(work)
        except ScoreFailed as error:
            failed = error
            continue
        if name == "score":
            _remove_outdated(work)
    if failed is not None:
        failed.analysis = work.analysis
        raise failed
    return work.analysis


def _twice(steps: list[str]) -> list[str]:
    return sorted({step for step in steps if steps.count(step) > 1})


def _is_missing(name: str, missing: Sequence[str], config: PostprocessConfig) -> bool:
    """Whether a step cannot be done without scores, or would see responses that a missing `filter` drops."""
    return "filter" in missing or STEPS[name].needs_scores(config)


def _remove_outdated(work: Work) -> None:
    """Once there are new scores, delete results of an earlier command that show others."""
    config, output_dir = work.config, work.output_dir
    before_score = replace(config, steps=config.steps[: config.steps.index("score")])
    outdated = set(RESULTS) - {SCORES, *outputs(before_score)}
    if not _shows_scores(output_dir / FLAT):
        outdated.discard(FLAT)
    log_removed(remove_own(output_dir, outdated, work.record, [work.source.path]))


def _shows_scores(flat: Path) -> bool:
    try:
        return "score" in pq.read_schema(flat).names
    except (OSError, pa.ArrowInvalid):  # there is none, or none of ours
        return False

"""The second stage: rollouts.parquet -> tables and numbers people look at. One step per file, each streamed."""

from collections.abc import Callable
from pathlib import Path

from rollout.config import PostprocessConfig
from rollout.postprocess.analyze import Analysis, Distribution, analyze
from rollout.postprocess.filter import filter_responses
from rollout.postprocess.flatten import flatten

__all__ = ["Analysis", "Distribution", "run_steps"]


def run_steps(rollouts: Path, output_dir: Path, postprocess: PostprocessConfig) -> Analysis | None:
    """Run `postprocess.steps` in order on `rollouts`, writing to `output_dir`. Returns the analysis, if made."""
    analysis: list[Analysis] = []
    steps: dict[str, Callable[[], object]] = {
        "flatten": lambda: flatten(rollouts, output_dir),
        "filter": lambda: filter_responses(rollouts, output_dir, postprocess.filter),
        "analyze": lambda: analysis.append(analyze(rollouts, output_dir)),
    }
    for step in postprocess.steps:
        steps[step]()
    return analysis[-1] if analysis else None

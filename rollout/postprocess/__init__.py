"""The second stage: rollouts.parquet -> tables and numbers people look at. One step per file, each streamed."""

from collections.abc import Callable
from pathlib import Path

from rollout.config import PostprocessConfig
from rollout.postprocess.analyze import ANALYSIS, Analysis, Distribution, analyze
from rollout.postprocess.filter import DROPPED, KEPT, filter_responses
from rollout.postprocess.flatten import FLAT, flatten

__all__ = ["OUTPUTS", "Analysis", "Distribution", "run_steps"]

OUTPUTS = {"flatten": (FLAT,), "filter": (KEPT, DROPPED), "analyze": (ANALYSIS,)}
"""What each step writes."""


def run_steps(rollouts: Path, output_dir: Path, postprocess: PostprocessConfig) -> Analysis | None:
    """Run `postprocess.steps` in order on `rollouts`, writing to `output_dir`. Returns the analysis, if made.

    What earlier steps wrote there is removed: it was made from other rollouts.
    """
    for name in (name for names in OUTPUTS.values() for name in names):
        (output_dir / name).unlink(missing_ok=True)
    analysis: list[Analysis] = []
    steps: dict[str, Callable[[], object]] = {
        "flatten": lambda: flatten(rollouts, output_dir),
        "filter": lambda: filter_responses(rollouts, output_dir, postprocess.filter),
        "analyze": lambda: analysis.append(analyze(rollouts, output_dir)),
    }
    for step in postprocess.steps:
        steps[step]()
    return analysis[-1] if analysis else None

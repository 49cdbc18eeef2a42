"""The sides of a comparison, made without the command."""

from pathlib import Path

from rollout.compare.sides import Side
from rollout.data.column_path import find
from rollout.postprocess.origin import scoring_of
from rollout.postprocess.score import with_scores
from rollout.postprocess.source import open_source
from rollout.store import run_record
from rollout.store.layout import OUTPUT, SCORES


def side_of_run(name: str, label: str, run_dir: Path) -> Side:
    """A run that is done, such as the job of a sweep. Raises UserError for a folder without its result."""
    record = run_record.read(run_dir)
    source = open_source(run_dir / OUTPUT, "run_dir")
    if (run_dir / SCORES).exists():
        source = with_scores(source, run_dir / SCORES)
    truth = scoring_of(source.origin, record.config).ground_truth
    if truth is not None and find(source.schema, truth) is None:
        truth = None
    return Side(name, label, run_dir, source, record.config.data, truth, record.config, record)

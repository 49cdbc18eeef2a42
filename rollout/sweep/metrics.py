"""The metrics of a job that a sweep compares, and for which of them lower is better."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rollout.pages.sweep_content import Bar, JobRow
from rollout.postprocess.analyze import Analysis, all_estimates
from rollout.scoring.intervals import Estimate
from rollout.scoring.summary import ScoreSummary
from rollout.scoring.ties import best_of
from rollout.store.run_record import RunRecord
from rollout.store.speed import generated_by
from rollout.sweep.objective import UNWANTED


def metrics_of(run_dir: Path, run: RunRecord, analysis: Analysis | None) -> dict[str, float | None]:
    """Name in sweep.csv -> value, for every metric of a job."""
    worked = generated_by(run_dir, run)
    totals = () if run.totals is None else asdict(run.totals).items()
    metrics = {
        "output_tok_s": None if worked is None else worked.output_tok_s,
        **{name: value for name, value in totals if name != "prompt_tokens"},
        "load_seconds": run.seconds.get("load"),
        "generate_seconds": None if worked is None else worked.seconds,
    }
    return metrics if analysis is None else metrics | _of_analysis(analysis) | _of_scores(analysis.scores)


def _of_analysis(analysis: Analysis) -> dict[str, float | None]:
    samples = max(1, analysis.samples - analysis.failed)
    metrics: dict[str, float | None] = {}
    for name, values in (("tokens", analysis.tokens), ("characters", analysis.characters)):
        for part in ("mean", "p50", "p99"):
            metrics[f"{part}_{name}"] = None if values is None else getattr(values, part)
    if analysis.thinking is not None:
        metrics["unclosed_fraction"] = analysis.thinking.unclosed / samples
    return metrics | {
        "truncated_fraction": analysis.truncated_fraction,
        "empty_fraction": analysis.empty / samples,
        "duplicate_fraction": analysis.duplicates / samples,
        "looping_fraction": analysis.looping / samples,
        "distinct_responses": None if analysis.distinct_responses is None else analysis.distinct_responses.mean,
    }


def _of_scores(scores: ScoreSummary | None) -> dict[str, float | None]:
    if scores is None:
        return {}
    return {
        "mean_score": scores.mean,
        "pass_rate": scores.pass_rate,
        **{f"pass@{k}": value for k, value in scores.pass_at_k.items()},
        **{f"majority@{k}": value for k, value in scores.majority_at_k.items()},
    }


def bars_of(analysis: Analysis | None) -> dict[str, Bar]:
    """The error bars of the metrics that are scores or shares."""
    estimates = {} if analysis is None else all_estimates(analysis)
    return {
        name: Bar(value=it.value, se=it.se, interval=it.interval, n=it.n, trusted=it.trusted)
        for name, it in estimates.items()
    }


def best_jobs(jobs: Sequence[JobRow], metric: str) -> list[int]:
    """The numbers of the job with the best estimate, and of those that cannot be told from it by their intervals.

    With fewer than two jobs none is the best; shards of one input are parts, not rivals.
    """
    bars = {job["num"]: job["estimates"][metric] for job in jobs if metric in job["estimates"]}
    if len(bars) < 2 or len({job["overrides"].get("data.shard_index") for job in jobs}) > 1:
        return []
    return best_of({num: Estimate(**bar) for num, bar in bars.items()}, highest=not is_lower_better(metric))


def is_lower_better(metric: str) -> bool:
    """Whether a metric is a share of responses that nobody wants."""
    return metric.removesuffix("_fraction") in UNWANTED

"""The numbers of a comparison: compare.json."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from rollout.compare.matching import Matching, Unmatched, keys_of, match
from rollout.compare.row_values import Columns, Integers, RowValues, is_score, metrics_of, row_values
from rollout.compare.sides import Cost, Side, cost_of
from rollout.data.text import are, counted
from rollout.errors import UserError
from rollout.scoring.intervals import Estimate, Moments
from rollout.scoring.paired import PairedDifference, holm, paired_difference
from rollout.scoring.stopped_early import Estimator, estimator_at
from rollout.scoring.summary import PLAIN, untrusted


@dataclass(frozen=True)
class SideSummary:
    """One side on its own, over all of its rows."""

    name: str
    label: str
    rows: int
    samples: int
    failed: int
    """Samples without a response."""
    unscored: int
    """Responses without a score, if others have one."""
    scorer: str | None
    estimates: dict[str, Estimate]
    cost: Cost
    note: str | None = None
    """What a reader must know about its estimates."""
    per_row: tuple[int, int] | None = None
    """The fewest and the most responses of a row, of rows with any, if they differ and the estimates weigh responses
    alike. If there are scores, of the responses with a score."""
    is_graded: bool = False
    """Whether there are scores other than 0 and 1."""


@dataclass(frozen=True)
class MetricDifference:
    """The difference of one metric over the matched rows that have it on both sides."""

    earlier: float
    """The mean of the earlier side over these rows, like `later`."""
    later: float
    paired: PairedDifference
    untested: str | None = None
    """Why there is no p value, where there are rows enough for one."""


@dataclass(frozen=True)
class Pair:
    """Two sides; every difference is `later` minus `earlier`."""

    earlier: str
    later: str
    matched: int
    """Number of rows that both sides have."""
    unmatched: dict[str, Unmatched]
    """Side -> its rows without a counterpart."""
    copies: dict[str, int]
    """Side -> number of rows that repeat the prompt of an earlier row."""
    metrics: dict[str, MetricDifference]


@dataclass(frozen=True)
class DifferingRow:
    """One of the rows that differ most."""

    row_ids: dict[str, int]
    """Side -> the row_id there."""
    positions: dict[str, int]
    """Side -> number of rows before it there."""
    values: dict[str, float | None]
    """Side -> its value of the comparison's first metric."""


@dataclass(frozen=True)
class Comparison:
    """The content of compare.json."""

    matched_by: str
    """`prompt` or `prompt and ground truth`."""
    pass_score: float
    clusters: str | None
    """The column whose values group rows that are not independent; None if only copies of a row form groups."""
    metric: str
    """The first of the metrics that all sides have: it orders the rows."""
    sides: list[SideSummary]
    pairs: list[Pair]
    common: int
    """Number of rows that all sides have."""
    rows: list[DifferingRow] = field(default_factory=list)


def compare(
    sides: Sequence[Side], pass_score: float = 1.0, clusters: str | None = None, pairs: str = "all", rows: int = 50
) -> Comparison:
    """Compare every two of the sides, or with `pairs` "first" the first with each other one. Every side is read once.

    `clusters` is a column whose values group rows that are not independent; `rows` is how many of the rows that differ
    most are named. Memory: about 150 bytes per row and side. Raises UserError if two sides have no row in common.
    """
    with_truths = all(side.truth is not None for side in sides)
    values = [
        row_values(
            side.source, Columns(side.data.prompt_key, side.truth, clusters), pass_score, _early(side, pass_score)
        )
        for side in sides
    ]
    chosen = [(a, b) for a, b in combinations(range(len(sides)), 2) if pairs == "all" or a == 0]
    matchings = {(a, b): match(values[a], values[b], with_truths) for a, b in chosen}
    _refuse_strangers(sides, matchings, with_truths)
    metric = next(metrics_of(values))
    common = _common([matchings[0, b] for b in range(1, len(sides))])
    return Comparison(
        matched_by="prompt and ground truth" if with_truths else "prompt",
        pass_score=pass_score,
        clusters=clusters,
        metric=metric,
        sides=[_summary(*each, with_truths) for each in zip(sides, values, strict=True)],
        pairs=_with_holm([_pair(sides, values, places, found) for places, found in matchings.items()]),
        common=len(common[0]),
        rows=_differing(sides, values, common, metric, rows),
    )


def _early(side: Side, pass_score: float) -> Estimator | None:
    return estimator_at(side.run, pass_score, side.source.scored_by) if side.is_scored else None


def _refuse_strangers(sides: Sequence[Side], matchings: dict[tuple[int, int], Matching], with_truths: bool) -> None:
    """Raise UserError for sides that have no row in common."""
    wrong = []
    for (a, b), found in matchings.items():
        if not len(found.first):
            there = found.unmatched[0]
            why = "no prompt of the one is a prompt of the other"
            if with_truths and there.other_truth:
                number = there.other_truth
                prompts = f"{counted(number, 'prompt')} {are(number)}"
                why = f"{prompts} the same, but their ground truths are not"
            elif there.unreadable and there.unreadable == there.total:
                why = f"{sides[a].label} has no prompts in the column {sides[a].data.prompt_key}"
            cure = "say which columns hold them with prompt_key=... and ground_truth=..."
            wrong.append(f"{sides[a].label}, {sides[b].label}: no row matches, {why}; {cure}")
    if wrong:
        raise UserError(*wrong)


def _summary(side: Side, values: RowValues, with_truths: bool) -> SideSummary:
    keys = values.groups if values.groups is not None else keys_of(values, with_truths)
    clusters = np.unique(keys, return_inverse=True)[1]
    found = {metric: _estimate(values, metric, clusters) for metric in metrics_of([values])}
    tokens = None if np.isnan(values.tokens).any() else round(values.tokens.sum())
    responses, scored = int(values.responses.sum()), int(values.scored.sum())
    return SideSummary(
        name=side.name,
        label=side.label,
        rows=len(values),
        samples=int(values.samples.sum()),
        failed=int(values.samples.sum()) - responses,
        unscored=responses - scored if scored else 0,
        scorer=side.scorer,
        estimates=_marked({metric: it for metric, it in found.items() if it is not None}, values),
        cost=cost_of(side, tokens, int(values.passed.sum())),
        note=PLAIN if values.is_plain else None,
        per_row=_per_row(values),
        is_graded=values.has_scores and not values.is_binary,
    )


def _per_row(values: RowValues) -> tuple[int, int] | None:
    counts = values.scored if values.has_scores else values.responses
    counts = counts[counts > 0]
    if values.early is not None or not len(counts) or counts.min() == counts.max():
        return None
    return int(counts.min()), int(counts.max())


def _marked(estimates: dict[str, Estimate], values: RowValues) -> dict[str, Estimate]:
    """The estimates; those of scores as not to be relied on if a rule has stopped rows by other scores."""
    scores = {metric: it for metric, it in estimates.items() if values.is_plain and is_score(metric)}
    return estimates | untrusted(scores)


def _estimate(values: RowValues, metric: str, clusters: Integers) -> Estimate | None:
    """The mean over the rows of a side, or over their responses; None if no row has the value."""
    if "@" in metric:
        of_rows = values.of(metric)
        sums, sizes = np.nan_to_num(of_rows), (~np.isnan(of_rows)).astype(np.int64)
    else:
        sums, sizes = values.sums(metric)
    moments = Moments()
    moments.add(np.bincount(clusters, sums), np.bincount(clusters, sizes))
    if not moments.n:
        return None
    is_share = "@" in metric or metric == "truncated" or (metric == "score" and values.is_binary)
    return moments.as_share() if is_share else moments.as_mean()


def _pair(sides: Sequence[Side], values: list[RowValues], places: tuple[int, int], found: Matching) -> Pair:
    names, (a, b) = [sides[at].name for at in places], (values[at] for at in places)
    clusters = found.clusters
    if a.groups is not None:
        clusters = np.unique(a.groups[found.first], return_inverse=True)[1].astype(np.int64)
    metrics = {}
    leaning = [name for name, side in zip(names, (a, b), strict=True) if side.is_plain]
    for metric in metrics_of([a, b]):
        earlier, later = a.of(metric)[found.first], b.of(metric)[found.second]
        both = ~(np.isnan(earlier) | np.isnan(later))
        if both.any():
            paired = paired_difference(earlier, later, clusters)
            untested = None
            if leaning and is_score(metric):
                paired, untested = _without_test(paired), f"a rule has stopped rows of {' and '.join(leaning)}"
            means = float(earlier[both].mean()), float(later[both].mean())
            metrics[metric] = MetricDifference(*means, paired, untested)
    return Pair(
        earlier=names[0],
        later=names[1],
        matched=len(found.first),
        unmatched=dict(zip(names, found.unmatched, strict=True)),
        copies=dict(zip(names, found.copies, strict=True)),
        metrics=metrics,
    )


def _without_test(paired: PairedDifference) -> PairedDifference:
    """The difference without a p value, and marked as not to be relied on."""
    difference = paired.difference
    return replace(
        paired, difference=None if difference is None else replace(difference, trusted=False), p=None, test=None
    )


def _with_holm(pairs: list[Pair]) -> list[Pair]:
    """The pairs with the p values of each metric corrected for their number, if there are several."""
    if len(pairs) < 2:
        return pairs
    corrected = [dict(pair.metrics) for pair in pairs]
    for metric in dict.fromkeys(name for pair in pairs for name in pair.metrics):
        having = [metrics for metrics in corrected if metric in metrics]
        for metrics, p in zip(having, holm([metrics[metric].paired.p for metrics in having]), strict=True):
            found = metrics[metric]
            metrics[metric] = replace(found, paired=replace(found.paired, p_holm=p))
    return [replace(pair, metrics=metrics) for pair, metrics in zip(pairs, corrected, strict=True)]


def _common(matchings: list[Matching]) -> list[Integers]:
    """The positions, in each side, of the rows that all sides have; `matchings` are those of the first with each other
    side.
    """
    first = matchings[0].first
    for found in matchings[1:]:
        first = np.intersect1d(first, found.first, assume_unique=True)
    return [first, *(found.second[np.searchsorted(found.first, first)] for found in matchings)]


def _differing(
    sides: Sequence[Side], values: list[RowValues], places: list[Integers], metric: str, most: int
) -> list[DifferingRow]:
    """The rows whose values are furthest apart: half of them with more on a later side, half with less."""
    found = np.stack([side.of(metric)[at] for side, at in zip(values, places, strict=True)])
    there = np.flatnonzero(~np.isnan(found).any(axis=0))
    found = found[:, there]
    spread = np.ptp(found, axis=0) if len(there) else np.zeros(0)
    rises = found.argmax(axis=0) > found.argmin(axis=0)
    order = np.argsort(-spread, kind="stable")
    order = order[spread[order] > 0] if (spread > 0).any() else order
    up, down = order[rises[order]], order[~rises[order]]
    half = max(most - len(down), most // 2)
    chosen = np.concatenate([up[:half], down[: most - min(half, len(up))]])
    chosen = chosen[np.argsort(-spread[chosen], kind="stable")]
    names = [side.name for side in sides]
    positions = np.stack([at[there[chosen]] for at in places])
    row_ids = np.stack([side.row_ids[at] for side, at in zip(values, positions, strict=True)])
    columns = zip(row_ids.T.tolist(), positions.T.tolist(), found[:, chosen].T.tolist(), strict=True)
    return [DifferingRow(*(dict(zip(names, part, strict=True)) for part in row)) for row in columns]

"""Keep the responses that every rule of `postprocess.filter` lets through; write the others, and why, beside them."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollout.config import FilterConfig, PostprocessConfig
from rollout.data.parquet_output import parquet_writer
from rollout.data.text import counted
from rollout.files import replacing
from rollout.postprocess.source import Source
from rollout.postprocess.step import Plan, Step, Work, log_counts
from rollout.postprocess.where import Seen, column_problems, form_problems, not_ended, not_where
from rollout.records import has_thinking
from rollout.store.layout import DROPPED, KEPT

log = logging.getLogger(__name__)

DROPPED_BY = pa.field("dropped_by", pa.string(), nullable=False)
"""The column of filtered.dropped.parquet that names the first rule a response did not satisfy."""


@dataclass
class Tally:
    """What a filter has done so far."""

    counts: Counter[str] = field(default_factory=lambda: Counter({"kept": 0}))
    """How many responses were kept, and for each rule how many it dropped; one that several rules would drop counts for
    the first.
    """
    seen: Seen = field(default_factory=Seen)

    def add(self, reasons: pa.Array) -> None:
        """Count what became of some responses: the rule that dropped each, or null."""
        self.counts.update("kept" if reason is None else reason for reason in reasons.to_pylist())

    @property
    def dropped(self) -> str:
        """The rules with what each dropped, the most first; empty if none did."""
        return ", ".join(f"{count:,} by {rule}" for rule, count in self.counts.most_common() if rule != "kept")

    def warnings(self, rules: FilterConfig, source: Source) -> Iterator[str]:
        """What is likely a slip of the user, once all responses are counted."""
        if self.counts.total():
            yield from self.seen.warnings(rules)
        if "score" not in source.schema.names and self.counts["max_per_row"]:
            yield (
                f"max_per_row={rules.max_per_row}: there are no scores, so the first responses of a row are kept, and "
                "not the best ones; score them before this"
            )


def filter_responses(source: Source, output_dir: Path, rules: FilterConfig) -> Tally:
    """Write `filtered.parquet` and `filtered.dropped.parquet`, flat like `flat.parquet`."""
    tally = Tally()
    dropped_schema = source.schema.append(DROPPED_BY)
    footer = source.file_schema.metadata
    with ExitStack() as stack:
        kept, dropped = (
            stack.enter_context(parquet_writer(stack.enter_context(replacing(path)), schema.with_metadata(footer)))
            for path, schema in ((output_dir / KEPT, source.schema), (output_dir / DROPPED, dropped_schema))
        )
        for batch in source.batches():
            reasons = _dropped_by(batch, rules, tally.seen)
            kept.write_batch(batch.filter(pc.is_null(reasons)))
            dropped.write_batch(_dropped(batch, reasons, dropped_schema))
            tally.add(reasons)
    return tally


def only_kept(source: Source, rules: FilterConfig, tally: Tally | None = None) -> Source:
    """The source as the steps after `filter` see it. Reading it adds to `tally`."""

    def keep(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            reasons = _dropped_by(batch, rules, None if tally is None else tally.seen)
            if tally is not None:
                tally.add(reasons)
            yield batch.filter(pc.is_null(reasons))

    return source.then(source.schema, keep)


def only_dropped(source: Source, rules: FilterConfig) -> Source:
    """The other responses, each with the rule that drops it in `dropped_by`."""
    schema = source.schema.append(DROPPED_BY)

    def drop(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield _dropped(batch, _dropped_by(batch, rules), schema)

    return source.then(schema, drop)


def _dropped(batch: pa.RecordBatch, reasons: pa.Array, schema: pa.Schema) -> pa.RecordBatch:
    rest = pa.RecordBatch.from_arrays([*batch.columns, reasons], schema=_nullable(schema))
    return pa.RecordBatch.from_arrays(rest.filter(pc.is_valid(reasons)).columns, schema=schema)


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([column.with_nullable(True) for column in schema])


def _dropped_by(batch: pa.RecordBatch, rules: FilterConfig, seen: Seen | None = None) -> pa.Array:
    """For every response the first rule that drops it, or null."""
    of_it, by_score = dict(_broken_rules(batch, rules, seen)), dict(_broken_by_score(batch, rules))
    duplicate = {}
    if rules.drop_duplicates:
        duplicate = {"drop_duplicates": _duplicates(batch, [*of_it.values(), *by_score.values()])}
    reasons = pa.nulls(batch.num_rows, pa.string())
    for rule, is_dropped in (of_it | duplicate | by_score).items():
        reasons = pc.coalesce(reasons, pc.if_else(is_dropped, rule, None))
    return reasons if rules.max_per_row is None else _at_most(batch, reasons, rules.max_per_row)


def _at_most(batch: pa.RecordBatch, reasons: pa.Array, most: int) -> pa.Array:
    """`reasons` with that of the responses which no rule has dropped, but which are too many for their row."""
    is_left = reasons.is_null()
    is_dropped = np.zeros(batch.num_rows, dtype=bool)
    is_dropped[is_left.to_numpy(zero_copy_only=False)] = _too_many(batch.filter(is_left), most)
    return pc.if_else(pa.array(is_dropped), "max_per_row", reasons)


def _too_many(batch: pa.RecordBatch, most: int) -> npt.NDArray[np.bool_]:
    """Whether each response is not among the `most` of its row with the highest scores; of equal ones the first count,
    and one without a score comes last.
    """
    row_ids, scores = batch.column("row_id").to_numpy(), np.zeros(batch.num_rows)
    if "score" in batch.schema.names:
        scores = batch.column("score").fill_null(-np.inf).to_numpy()
    order = np.lexsort((np.arange(batch.num_rows), -scores, row_ids))
    place = np.empty(batch.num_rows, dtype=np.int64)
    place[order] = np.arange(batch.num_rows) - np.searchsorted(row_ids[order], row_ids[order])
    return place >= most


def _duplicates(batch: pa.RecordBatch, others: list[pa.BooleanArray]) -> pa.BooleanArray:
    """Which responses equal an earlier one of their row, thinking included; of equal ones that no other rule drops the
    first stays, whatever became of those before it.
    """
    passes = np.ones(batch.num_rows, dtype=bool)
    for is_dropped in others:
        passes &= ~is_dropped.to_numpy(zero_copy_only=False)
    columns = ["response", "reasoning"] if has_thinking(batch.schema) else ["response"]
    is_repeat = repeats(batch, columns).to_numpy(zero_copy_only=False).copy()
    is_repeat[passes] = repeats(batch.filter(pa.array(passes)), columns)
    return pa.array(is_repeat)


def _broken_rules(
    batch: pa.RecordBatch, rules: FilterConfig, seen: Seen | None
) -> Iterator[tuple[str, pa.BooleanArray]]:
    """(rule, whether it drops each response) for those that look at it alone. What cannot be measured does not pass."""
    response = batch.column("response")
    if rules.drop_errors:
        yield "drop_errors", pc.is_null(response)
    if rules.where:
        yield "where", not_where(batch, rules.where, seen)
    if rules.finish_reasons:
        yield "finish_reasons", not_ended(batch, rules.finish_reasons, seen)
    yield from _bounds("length", pc.utf8_length(response), rules.min_length, rules.max_length)
    yield from _bounds("tokens", batch.column("num_generated_tokens"), rules.min_tokens, rules.max_tokens)


def _broken_by_score(batch: pa.RecordBatch, rules: FilterConfig) -> Iterator[tuple[str, pa.BooleanArray]]:
    """The same for those that look at scores."""
    if rules.min_score is not None:
        yield from _bounds("score", batch.column("score"), rules.min_score, None)
    if rules.min_pass_rate is not None or rules.max_pass_rate is not None:
        yield from _bounds("pass_rate", batch.column("pass_rate"), rules.min_pass_rate, rules.max_pass_rate)


def _bounds(name: str, values: pa.Array, low: Any, high: Any) -> Iterator[tuple[str, pa.BooleanArray]]:
    if low is not None:
        yield f"min_{name}", pc.invert(pc.fill_null(pc.greater_equal(values, low), False))
    if high is not None:
        yield f"max_{name}", pc.invert(pc.fill_null(pc.less_equal(values, high), False))


def repeats(batch: pa.RecordBatch, columns: Sequence[str] = ("response",)) -> pa.BooleanArray:
    """Whether each response equals an earlier one of its row in these columns. A failed sample equals none."""
    keys = ["row_id", *columns]
    pairs = pa.table({name: batch.column(name) for name in keys} | {"position": pa.array(np.arange(batch.num_rows))})
    first = pairs.group_by(keys).aggregate([("position", "min")]).column("position_min")
    is_repeat = np.ones(batch.num_rows, dtype=bool)
    is_repeat[first.to_numpy()] = False
    return pc.and_(pa.array(is_repeat), pc.is_valid(batch.column("response")))


def rule_problems(rules: FilterConfig) -> Iterator[str]:
    """Rules that are none, or would drop everything, whatever the responses."""
    yield from form_problems(rules.where)
    for measure in ("length", "tokens", "pass_rate"):
        low, high = getattr(rules, f"min_{measure}"), getattr(rules, f"max_{measure}")
        if low is not None and high is not None and low > high:
            yield (
                f"postprocess.filter.min_{measure}={low}: more than max_{measure}={high}, "
                "which would drop everything; lower it"
            )


def _by_score(rules: FilterConfig) -> dict[str, float]:
    """The rules that are set and look at scores."""
    values = {name: getattr(rules, name) for name in ("min_score", "min_pass_rate", "max_pass_rate")}
    return {name: value for name, value in values.items() if value is not None}


def _problems(plan: Plan) -> Iterator[str]:
    yield from column_problems(plan.config.filter.where, plan.schema)
    if not plan.has_scores("filter"):
        for name, value in _by_score(plan.config.filter).items():
            yield f"postprocess.filter.{name}={value}: no scores; {plan.cure_for_scores('filter')}"
    elif plan.scored and "pass_rate" not in plan.schema.names:
        for name, value in _by_score(plan.config.filter).items():
            if name != "min_score":
                yield f"postprocess.filter.{name}={value}: the scores have no pass rates; use min_score, or score again"


def _needs_scores(config: PostprocessConfig) -> bool:
    return bool(_by_score(config.filter))


def _run(work: Work) -> Work:
    rules = work.config.filter
    tally = filter_responses(work.source, work.output_dir, rules)
    for line in tally.warnings(rules, work.source):
        log.warning("filter: %s", line)
    if tally.counts["kept"] or not tally.counts.total():
        log_counts("filter", tally.counts)
    else:
        log.warning("filter: kept 0 of %s, dropped %s", counted(tally.counts.total(), "response"), tally.dropped)
    return replace(work, source=only_kept(work.source, rules), is_whole=False)


FILTER = Step("filter", _run, outputs=lambda _: [KEPT, DROPPED], problems=_problems, needs_scores=_needs_scores)

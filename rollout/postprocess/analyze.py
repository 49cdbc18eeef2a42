"""The numbers that say whether a run is worth using: lengths, how responses ended, repetition, scores, errors."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rollout.config import AnalyzeConfig, ScoreConfig
from rollout.data.column_path import texts_at
from rollout.files import write_json
from rollout.postprocess.filter import repeats
from rollout.postprocess.repeated_prompts import RepeatedPrompts
from rollout.postprocess.repetition import is_looping
from rollout.postprocess.shares import Flags, Shares, as_flags, reason_flags
from rollout.postprocess.source import Source
from rollout.postprocess.step import Plan, Step, Work
from rollout.records import has_thinking
from rollout.scoring.distribution import Distribution, ValueCounts
from rollout.scoring.intervals import Estimate
from rollout.scoring.stopped_early import Estimator
from rollout.scoring.summary import ScoreCounts, ScoreSummary
from rollout.store.layout import ANALYSIS

log = logging.getLogger(__name__)

MOST_GROUPS = 100
"""The most groups that `analyze.by` makes; rows with further values share one group, OTHERS."""

OTHERS = "(others)"


@dataclass(frozen=True)
class Thinking:
    """The thinking before the answers."""

    unclosed: int
    """Responses whose thinking never closed: they have no answer."""
    tokens: Distribution | None
    """The tokens of the thinking of each response."""


@dataclass(frozen=True)
class Analysis:
    """Counts are of samples unless they say rows. Distributions are without failed samples, and None without values."""

    rows: int
    rows_with_errors: int
    samples: int
    failed: int
    finish_reasons: dict[str, int]
    truncated_fraction: float | None
    """Share of the responses cut off by max_tokens (finish reason `length`), of those whose finish reason is known.
    None where there are responses and no reason is known.
    """
    empty: int
    """Responses of nothing but white space."""
    duplicates: int
    """Responses equal to an earlier one of the same row."""
    looping: int
    """Responses that end in a loop, of those without an answer the thinking; see `rollout.postprocess.repetition`."""
    characters: Distribution | None
    tokens: Distribution | None
    distinct_responses: Distribution | None
    """Different responses per row."""
    scores: ScoreSummary | None
    errors: dict[str, int]
    """The ten most frequent errors."""
    thinking: "Thinking | None" = None
    """None where the run has not told thinking from answers."""
    estimates: dict[str, Estimate] = field(default_factory=dict)
    """Shares of the responses with their error bars, `truncated_fraction`, `stop_fraction` (and so on for each finish
    reason), `empty_fraction`, `duplicate_fraction`, `looping_fraction`, `unclosed_fraction`, and of the samples
    `failed_fraction`. Those of finish reasons are of the responses whose reason is known.
    """
    clusters: str = "rows"
    """What the error bars take as independent: `rows`, or `groups` (those of `by`)."""
    by: str | None = None
    groups: "dict[str, Analysis]" = field(default_factory=dict)
    """The analysis of the rows with each value of `by`."""


def analyze(
    source: Source, output_dir: Path, config: AnalyzeConfig, score: ScoreConfig, early: Estimator | None = None
) -> Analysis:
    """As `analysis_of`, and write it to `analysis.json`."""
    analysis = analysis_of(source, config, score.pass_score, early)
    write_json(output_dir / ANALYSIS, dataclasses.asdict(analysis))
    return analysis


def analysis_of(source: Source, config: AnalyzeConfig, pass_score: float, early: Estimator | None = None) -> Analysis:
    """The numbers of `source`, read once. Memory grows with different lengths, not with responses.

    `early` is for the scores of rows that a rule has stopped.

    With `config.clusters`, error bars are over the groups of `config.by`; those of a group are over its rows.
    """
    total, groups = _Counts(pass_score, config.clusters, early), dict[str, _Counts]()
    for batch in source.batches():
        values = None if config.by is None else pa.array(texts_at(batch, config.by), pa.string())
        total.add(batch, _groups(batch, values) if config.clusters else None)
        for value, part in _by_value(batch, values):
            name = value if value in groups or len(groups) < MOST_GROUPS else OTHERS
            groups.setdefault(name, _Counts(pass_score, early=early)).add(part)
    return dataclasses.replace(
        total.analysis(), by=config.by, groups={name: groups[name].analysis() for name in sorted(groups)}
    )


def all_estimates(analysis: Analysis) -> dict[str, Estimate]:
    """Its scores and shares by their names in tables of several runs, where the mean is `mean_score`."""
    scores = {} if analysis.scores is None else analysis.scores.estimates
    return {**{"mean_score" if name == "mean" else name: it for name, it in scores.items()}, **analysis.estimates}


def read_analysis(folder: Path) -> Analysis:
    """The content of `analysis.json` in `folder`."""
    return msgspec.json.decode((folder / ANALYSIS).read_bytes(), type=Analysis)


def _by_value(batch: pa.RecordBatch, values: pa.Array | None) -> Iterator[tuple[str, pa.RecordBatch]]:
    for value in () if values is None else values.unique():
        yield value.as_py(), batch.filter(pc.equal(values, value))


def _groups(batch: pa.RecordBatch, values: pa.Array | None) -> dict[int, str]:
    """The group of each row."""
    return {} if values is None else dict(zip(batch.column("row_id").to_pylist(), values.to_pylist(), strict=True))


class _Counts:
    """What is known of the responses seen so far."""

    def __init__(self, pass_score: float, grouped: bool = False, early: Estimator | None = None) -> None:
        self._rows = self._rows_with_errors = self._samples = self._failed = 0
        self._empty = self._duplicates = self._looping = 0
        self._reasons, self._errors = Counter[str](), Counter[str]()
        self._characters, self._tokens, self._distinct = ValueCounts(), ValueCounts(), ValueCounts()
        self._grouped, self._scores = grouped, ScoreCounts(pass_score, grouped, early)
        self._of_samples, self._of_responses, self._of_ended = Shares(grouped), Shares(grouped), Shares(grouped)
        self._thinks, self._unclosed, self._thinking_tokens = False, 0, ValueCounts()

    def add(self, batch: pa.RecordBatch, groups: Mapping[int, str] | None = None) -> None:
        """Count whole rows, whose samples are all in `batch`; `groups` has the group of each row."""
        is_there = batch.column("response").is_valid()
        answered = batch.filter(is_there)
        self._samples += batch.num_rows
        self._failed += batch.num_rows - answered.num_rows
        self._of_samples.add(batch, {"failed_fraction": ~as_flags(is_there)}, groups)
        self._rows += len(batch.column("row_id").unique())
        self._rows_with_errors += len(batch.filter(batch.column("error").is_valid()).column("row_id").unique())
        self._errors.update(_counts(batch.column("error").drop_null()))
        self._reasons.update(_counts(answered.column("finish_reason").drop_null()))
        self._tokens.add(answered.column("num_generated_tokens").drop_null().to_numpy())
        ended = answered.filter(answered.column("finish_reason").is_valid())
        if ended.num_rows:
            self._of_ended.add(ended, reason_flags(ended), groups)
        flags = self._add_texts(answered)
        if "score" in batch.schema.names:
            self._scores.add(batch, groups)
        if has_thinking(batch.schema):
            flags["unclosed_fraction"] = self._add_thinking(answered)
        self._of_responses.add(answered, flags, groups)

    def _add_texts(self, answered: pa.RecordBatch) -> dict[str, Flags]:
        response = answered.column("response")
        self._characters.add(pc.utf8_length(response).to_numpy())
        repeated = repeats(answered)
        first = answered.filter(pc.invert(repeated))
        self._distinct.add(pc.struct_field(first.column("row_id").value_counts(), "counts").to_numpy())
        empty = as_flags(pc.equal(pc.utf8_trim_whitespace(response), ""))
        looping = np.array([is_looping(text) for text in _ends(answered)], bool)
        self._empty += int(empty.sum())
        self._looping += int(looping.sum())
        self._duplicates += answered.num_rows - first.num_rows
        return {"empty_fraction": empty, "duplicate_fraction": as_flags(repeated), "looping_fraction": looping}

    def _add_thinking(self, answered: pa.RecordBatch) -> Flags:
        self._thinks = True
        self._thinking_tokens.add(answered.column("num_reasoning_tokens").drop_null().to_numpy())
        unclosed = ~as_flags(answered.column("reasoning_closed").fill_null(True))
        self._unclosed += int(unclosed.sum())
        return unclosed

    def analysis(self) -> Analysis:
        """The numbers."""
        responses = self._samples - self._failed
        return Analysis(
            rows=self._rows,
            rows_with_errors=self._rows_with_errors,
            samples=self._samples,
            failed=self._failed,
            finish_reasons=dict(self._reasons.most_common()),
            truncated_fraction=self._truncated(responses),
            empty=self._empty,
            duplicates=self._duplicates,
            looping=self._looping,
            characters=self._characters.distribution(),
            tokens=self._tokens.distribution(),
            distinct_responses=self._distinct.distribution(),
            scores=self._scores.summary(),
            errors=dict(self._errors.most_common(10)),
            thinking=Thinking(self._unclosed, self._thinking_tokens.distribution()) if self._thinks else None,
            estimates={
                **self._of_ended.estimates(),
                **(self._of_responses.estimates() if responses else {}),
                **(self._of_samples.estimates() if self._samples else {}),
            },
            clusters="groups" if self._grouped else "rows",
        )

    def _truncated(self, responses: int) -> float | None:
        if known := self._reasons.total():
            return self._reasons["length"] / known
        return None if responses else 0.0


def _ends(responses: pa.RecordBatch) -> Iterator[str]:
    """The text at the end of each response: the answer or, if there is none, the thinking."""
    texts = responses.column("response").to_pylist()
    thought = responses.column("reasoning").to_pylist() if has_thinking(responses.schema) else [None] * len(texts)
    for text, thinking in zip(texts, thought, strict=True):
        yield text or thinking or ""


def _counts(column: pa.Array) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in column.value_counts().to_pylist()}


def _problems(plan: Plan) -> Iterator[str]:
    if (by := plan.config.analyze.by) is not None:
        yield from plan.path_problems("postprocess.analyze.by", by)
    elif plan.config.analyze.clusters:
        yield "postprocess.analyze.clusters=true: says that groups are independent, not rows; name their column in by"


def _run(work: Work) -> Work:
    repeated = RepeatedPrompts()
    source = repeated.counting(work.source)
    found = analyze(source, work.output_dir, work.config.analyze, work.config.score, work.early)
    if note := repeated.note():
        log.warning("analyze: %s", note)
    return dataclasses.replace(work, analysis=found)


ANALYZE = Step("analyze", _run, outputs=lambda _: [ANALYSIS], problems=_problems)

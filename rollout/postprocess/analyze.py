"""The numbers that say whether a run is worth using: lengths, how responses ended, repetition, scores, errors."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from rollout.config import AnalyzeConfig, ScoreConfig
from rollout.data.column_path import values_at
from rollout.data.text import as_text
from rollout.files import write_json
from rollout.postprocess.filter import repeats
from rollout.postprocess.repetition import is_looping
from rollout.postprocess.source import Source
from rollout.postprocess.step import Plan, Step, Work
from rollout.records import has_thinking
from rollout.scoring.distribution import Distribution, ValueCounts
from rollout.scoring.summary import ScoreCounts, ScoreSummary
from rollout.store.layout import ANALYSIS

MOST_GROUPS = 100
"""Groups that `analyze.by` makes; the values that come later share one group, OTHERS."""

OTHERS = "(others)"


@dataclass(frozen=True)
class Thinking:
    """What came before the answers."""

    unclosed: int
    """Responses whose thinking never closed: they have no answer."""
    tokens: Distribution | None
    """Of the thinking, for each response."""


@dataclass(frozen=True)
class Analysis:
    """Counts are of samples unless they say rows. Distributions leave failed samples out; None of nothing."""

    rows: int
    rows_with_errors: int
    samples: int
    failed: int
    finish_reasons: dict[str, int]
    truncated_fraction: float
    """Share of the responses cut off by max_tokens (finish reason `length`)."""
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
    by: str | None = None
    groups: "dict[str, Analysis]" = field(default_factory=dict)
    """The same of the rows of each value of `by`."""


def analyze(source: Source, output_dir: Path, config: AnalyzeConfig, score: ScoreConfig) -> Analysis:
    """The same as `analysis_of`, and written to `analysis.json`."""
    analysis = analysis_of(source, config.by, score.pass_score)
    write_json(output_dir / ANALYSIS, dataclasses.asdict(analysis))
    return analysis


def analysis_of(source: Source, by: str | None, pass_score: float) -> Analysis:
    """The numbers of `source`, read once. Memory grows with different lengths, not with responses."""
    total, groups = _Counts(pass_score), dict[str, _Counts]()
    for batch in source.batches():
        total.add(batch)
        for value, part in _by_value(batch, by):
            name = value if value in groups or len(groups) < MOST_GROUPS else OTHERS
            groups.setdefault(name, _Counts(pass_score)).add(part)
    return dataclasses.replace(
        total.analysis(), by=by, groups={name: groups[name].analysis() for name in sorted(groups)}
    )


def read_analysis(folder: Path) -> Analysis:
    """The content of `analysis.json` in `folder`."""
    return msgspec.json.decode((folder / ANALYSIS).read_bytes(), type=Analysis)


def _by_value(batch: pa.RecordBatch, path: str | None) -> Iterator[tuple[str, pa.RecordBatch]]:
    if path is None:
        return
    values = pa.array([as_text(value) for value in values_at(batch, path)], pa.string())
    for value in values.unique():
        yield value.as_py(), batch.filter(pc.equal(values, value))


class _Counts:
    """What is known of the responses seen so far."""

    def __init__(self, pass_score: float) -> None:
        self._rows = self._rows_with_errors = self._samples = self._failed = 0
        self._empty = self._duplicates = self._looping = 0
        self._reasons, self._errors = Counter[str](), Counter[str]()
        self._characters, self._tokens, self._distinct = ValueCounts(), ValueCounts(), ValueCounts()
        self._scores = ScoreCounts(pass_score)
        self._thinks, self._unclosed, self._thinking_tokens = False, 0, ValueCounts()

    def add(self, batch: pa.RecordBatch) -> None:
        """Count whole rows, whose samples are all in `batch`."""
        answered = batch.filter(batch.column("response").is_valid())
        self._samples += batch.num_rows
        self._failed += batch.num_rows - answered.num_rows
        self._rows += len(batch.column("row_id").unique())
        self._rows_with_errors += len(batch.filter(batch.column("error").is_valid()).column("row_id").unique())
        self._errors.update(_counts(batch.column("error").drop_null()))
        self._reasons.update(_counts(answered.column("finish_reason").drop_null()))
        self._tokens.add(answered.column("num_generated_tokens").drop_null().to_numpy())
        self._add_texts(answered)
        if "score" in batch.schema.names:
            self._scores.add(batch)
        if has_thinking(batch.schema):
            self._add_thinking(answered)

    def _add_texts(self, answered: pa.RecordBatch) -> None:
        response = answered.column("response")
        self._characters.add(pc.utf8_length(response).to_numpy())
        self._empty += pc.sum(pc.equal(pc.utf8_trim_whitespace(response), "")).as_py() or 0
        self._looping += sum(map(is_looping, _ends(answered)))
        first = answered.filter(pc.invert(repeats(answered)))
        self._duplicates += answered.num_rows - first.num_rows
        self._distinct.add(pc.struct_field(first.column("row_id").value_counts(), "counts").to_numpy())

    def _add_thinking(self, answered: pa.RecordBatch) -> None:
        self._thinks = True
        self._unclosed += pc.sum(pc.invert(answered.column("reasoning_closed"))).as_py() or 0
        self._thinking_tokens.add(answered.column("num_reasoning_tokens").drop_null().to_numpy())

    def analysis(self) -> Analysis:
        """The numbers."""
        responses = self._samples - self._failed
        return Analysis(
            rows=self._rows,
            rows_with_errors=self._rows_with_errors,
            samples=self._samples,
            failed=self._failed,
            finish_reasons=dict(self._reasons.most_common()),
            truncated_fraction=self._reasons["length"] / responses if responses else 0.0,
            empty=self._empty,
            duplicates=self._duplicates,
            looping=self._looping,
            characters=self._characters.distribution(),
            tokens=self._tokens.distribution(),
            distinct_responses=self._distinct.distribution(),
            scores=self._scores.summary(),
            errors=dict(self._errors.most_common(10)),
            thinking=Thinking(self._unclosed, self._thinking_tokens.distribution()) if self._thinks else None,
        )


def _ends(responses: pa.RecordBatch) -> Iterator[str]:
    """What each response ends with: the answer, and where there is none the thinking."""
    texts = responses.column("response").to_pylist()
    thought = responses.column("reasoning").to_pylist() if has_thinking(responses.schema) else [None] * len(texts)
    for text, thinking in zip(texts, thought, strict=True):
        yield text or thinking or ""


def _counts(column: pa.Array) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in column.value_counts().to_pylist()}


def _problems(plan: Plan) -> Iterator[str]:
    if (by := plan.config.analyze.by) is not None:
        yield from plan.path_problems("postprocess.analyze.by", by)


def _run(work: Work) -> Work:
    found = analyze(work.source, work.output_dir, work.config.analyze, work.config.score)
    return dataclasses.replace(work, analysis=found)


ANALYZE = Step("analyze", _run, outputs=lambda _: [ANALYSIS], problems=_problems)

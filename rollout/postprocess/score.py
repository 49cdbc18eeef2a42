"""Score every response against the ground truth: `scores.parquet`, which the later steps read beside the responses."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rollout.config import PostprocessConfig, ScoreConfig
from rollout.data.parquet_output import write_parquet
from rollout.errors import UserError
from rollout.postprocess.analyze import Analysis
from rollout.postprocess.origin import Origin, Scoring, origin_of, with_scoring
from rollout.postprocess.source import Source
from rollout.postprocess.step import JournalScores, Plan, Step, Work, log_counts
from rollout.records import EXTRAS, RESERVED_COLUMNS, SCORE_FIELDS
from rollout.scoring.check import NAMES, scorer_problems
from rollout.scoring.inputs import inputs_of, lacks_truth, truths_of
from rollout.scoring.processes import Item
from rollout.scoring.scorers import BUILT_IN, Scored
from rollout.scoring.workers import scoring
from rollout.store.digest import source_of_scorer
from rollout.store.layout import SCORES

log = logging.getLogger(__name__)

_KEY = (pa.field("row_id", pa.int64(), nullable=False), pa.field("sample_idx", pa.int32(), nullable=False))
_CHECKSUM = pa.field("response_crc32", pa.int64())
SCHEMA = pa.schema([*_KEY, *SCORE_FIELDS, _CHECKSUM])

_SHOWN = 3
"""Reasons why responses have no score, on screen; `score_error` has all."""

_DISTINCT = 1000  # that are counted, for a scorer that names its row in each


class ScoreFailed(UserError):
    """No response could be scored, so the steps that need scores cannot be done; all others can."""

    analysis: Analysis | None = None
    """The result of `analyze`, if that was done."""
    missing: Sequence[str] = ("score",)
    """The steps that were not done."""


def score_responses(
    source: Source, output_dir: Path, score: ScoreConfig, known: JournalScores | None = None
) -> dict[str, int]:
    """Write `scores.parquet`: SCHEMA, one row per response of `source`, in its order. Nothing is scored where the
    scores are `known`.

    Returns how many responses were `scored`, how many of these had `no_answer`, how many could not be scored
    (`unscored`), and how many samples `failed`. Raises ScoreFailed, and writes nothing, if none could be scored.
    """
    counts = ScoringCounts()
    scored = _scored(source, score, counts) if known is None else _known(source, score, counts, known)
    schema = SCHEMA.with_metadata(Origin(scoring=Scoring.of(score)).footer())
    write_parquet(output_dir / SCORES, schema, (scores for _, scores in scored))
    counts.warn()
    return counts.values


def newly_scored(source: Source, score: ScoreConfig, counts: "ScoringCounts") -> Source:
    """`source`, which has no scores, with the columns of SCORE_FIELDS. Reading it scores, and adds to `counts`.

    Reading raises ScoreFailed at the end if no response could be scored.
    """
    schema = pa.schema([*source.schema, *SCORE_FIELDS])

    def batches() -> Iterator[pa.RecordBatch]:
        for batch, scores in _scored(source, score, counts):
            columns = [scores.column(column.name) for column in SCORE_FIELDS]
            yield pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=schema)

    origin = replace(source.origin, scoring=Scoring.of(score))
    return replace(source, schema=schema, batches=batches, origin=origin)


class ScoringCounts:
    """What became of the responses that were to be scored."""

    def __init__(self) -> None:
        self.values = {"scored": 0, "no_answer": 0, "unscored": 0, "failed": 0}
        """As `score_responses` returns them."""
        self._reasons = Counter[str]()
        self._has_answers = False

    def add(self, batch: pa.RecordBatch, scores: pa.RecordBatch) -> None:
        """Count the responses of `batch`, whose scores are `scores`."""
        counts, reasons = self.values, self._reasons
        failed = batch.column("response").null_count
        counts["failed"] += failed
        counts["unscored"] += scores.column("score").null_count - failed
        counts["scored"] += batch.num_rows - scores.column("score").null_count
        self._has_answers |= scores.column("extracted_answer").null_count < scores.num_rows
        is_scored = scores.column("score").is_valid()
        counts["no_answer"] += scores.filter(is_scored).column("score_error").is_valid().sum().as_py() or 0
        for reason in scores.filter(pc.invert(is_scored)).column("score_error").drop_null().to_pylist():
            if reason in reasons or len(reasons) < _DISTINCT:
                reasons[reason] += 1

    def refuse_none(self, scorer: str | None) -> None:
        """Raise ScoreFailed if there were responses, none could be scored and none has an answer."""
        if not self.values["scored"] and not self._has_answers and self._reasons:
            reason, times = self._reasons.most_common(1)[0]
            raise ScoreFailed(
                f"postprocess.score.scorer={scorer}: no response could be scored, {times:,} of them because: "
                f"{reason}; fix that"
            )

    def warn(self) -> None:
        """Log the most frequent reasons why some of them have no score."""
        for reason, times in self._reasons.most_common(_SHOWN):
            log.warning("score: %d without a score: %s", times, reason)


def _scored(
    source: Source, score: ScoreConfig, counts: ScoringCounts
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Every batch of `source` and its scores, of SCHEMA."""
    with scoring(score) as score_all:
        for batch in source.batches():
            scores = _scores(batch, score, score_all)
            counts.add(batch, scores)
            yield batch, scores
    counts.refuse_none(score.scorer)  # before existing scores are replaced by a file without any


def _known(
    source: Source, score: ScoreConfig, counts: ScoringCounts, known: JournalScores
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """The same with scores that were made while sampling. A batch has consecutive rows."""
    for batch in source.batches():
        first, last = (batch.column("row_id")[place].as_py() for place in (0, batch.num_rows - 1))
        found = known.of(first, last + 1 - first)
        values = found.column("score").fill_null(float("nan")).to_numpy()
        told = (found.column(name).combine_chunks() for name in ("extracted_answer", "score_error"))
        scores = _of_schema(batch, values, score.pass_score, *told)
        counts.add(batch, scores)
        yield batch, scores
    counts.refuse_none(score.scorer)


def with_scores(source: Source, scores: Path) -> Source:
    """`source` with the columns of SCORE_FIELDS. Raises UserError for a file that holds no scores; reading does when
    they belong to other responses.
    """
    try:
        is_ours = pq.read_schema(scores).equals(SCHEMA)
    except pa.ArrowInvalid:
        is_ours = False
    if not is_ours:
        raise UserError(f"{scores}: is no file of scores, or damaged; delete it, and run the step score again")
    schema = pa.schema([*source.schema, *SCORE_FIELDS])

    def add(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(scores, pre_buffer=False, buffer_size=1 << 20) as file:
            to_come, held = file.iter_batches(), SCHEMA.empty_table()
            for batch in batches:
                while held.num_rows < batch.num_rows and (more := next(to_come, None)) is not None:
                    held = pa.concat_tables([held, pa.Table.from_batches([more])])
                here, held = held.slice(0, batch.num_rows), held.slice(batch.num_rows)
                is_same = all(_equal(batch.column(column.name), here.column(column.name)) for column in _KEY)
                if not (is_same and here.column(_CHECKSUM.name).combine_chunks().equals(_checksums(batch))):
                    raise UserError(f"{scores}: made from other responses; run the step score again")
                columns = [here.column(column.name).combine_chunks() for column in SCORE_FIELDS]
                yield pa.RecordBatch.from_arrays([*batch.columns, *columns], schema=schema)

    return replace(source.then(schema, add), origin=with_scoring(source.origin, scores))


def has_old_scores(config: PostprocessConfig, output_dir: Path) -> bool:
    """Whether the function of the user's that has scored has been written anew since."""
    if "score" not in config.steps:
        return False
    scoring = origin_of(output_dir / SCORES).scoring
    return scoring is not None and scoring.source not in (None, source_of_scorer(config.score))


def _equal(left: pa.Array, right: pa.ChunkedArray) -> bool:
    return bool(np.array_equal(left.to_numpy(zero_copy_only=False), right.to_numpy()))


def _checksums(batch: pa.RecordBatch) -> pa.Array:
    """Checksums of the responses, so that scores are never read beside others; null for a failed sample."""
    texts = batch.column("response").to_pylist()
    return pa.array([None if text is None else crc32(text.encode()) for text in texts], pa.int64())


def _scores(
    batch: pa.RecordBatch, score: ScoreConfig, score_all: Callable[[Sequence[Item]], list[Scored]]
) -> pa.RecordBatch:
    responses = batch.column("response").to_pylist()
    truths = truths_of(batch, score)
    inputs = inputs_of(batch, score)
    scored = [Scored(None)] * batch.num_rows
    ready = []
    for position, response in enumerate(responses):
        if response is None:
            continue
        if lacks_truth(truths[position], score):
            scored[position] = Scored(None, error=score.no_truth)
        else:
            ready.append(position)
    items = [(responses[position], truths[position], inputs[position]) for position in ready]
    for position, result in zip(ready, score_all(items), strict=True):
        scored[position] = result
    values = np.array([np.nan if result.score is None else result.score for result in scored], np.float64)
    answers = pa.array([result.answer for result in scored], pa.string())
    return _of_schema(
        batch, values, score.pass_score, answers, pa.array([result.error for result in scored], pa.string())
    )


def _of_schema(
    batch: pa.RecordBatch, values: Any, pass_score: float, answers: pa.Array, errors: pa.Array
) -> pa.RecordBatch:
    """The scores of `batch`, of SCHEMA; `values` are of shape (responses,), NaN for none."""
    columns = [
        batch.column("row_id"),
        batch.column("sample_idx"),
        pa.array(values, from_pandas=True),  # NaN, also a scorer's own, is null
        pa.array(_pass_rates(batch, values, pass_score), from_pandas=True),
        answers,
        errors,
        _checksums(batch),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _pass_rates(batch: pa.RecordBatch, scores: Any, pass_score: float) -> Any:
    """The pass rate of each response's row, float64 of shape (responses,); NaN where the row has no score at all."""
    _, row = np.unique(batch.column("row_id").to_numpy(zero_copy_only=False), return_inverse=True)
    is_scored = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        rates = np.bincount(row, is_scored & (scores >= pass_score)) / np.bincount(row, is_scored)
    return rates[row]


def _problems(plan: Plan) -> Iterator[str]:
    score = plan.config.score
    if plan.scored:
        yield "postprocess.steps=score: the input has scores already; leave the step out, or give the file without"
    if score.scorer is None:
        why = "postprocess.steps=score" if plan.until is None else f"adaptive.until={plan.until}"
        yield f"{why}: no scorer is set; set postprocess.score.scorer to {', '.join(NAMES)} or module:function"
        return
    yield from scorer_problems(score)
    if score.ground_truth is not None:
        yield from plan.path_problems("postprocess.score.ground_truth", score.ground_truth)
    elif score.scorer in BUILT_IN and plan.until != "agree":  # for which answers are enough
        others = {*RESERVED_COLUMNS, *EXTRAS, plan.data.prompt_key}
        own = [name for name in plan.schema.names if name not in others]
        which = f" to their column, one of {', '.join(own)}" if own else ""
        key = "postprocess.score.ground_truth"
        yield f"postprocess.score.scorer={score.scorer}: needs the right answers; set {key}{which}"


def _run(work: Work) -> Work:
    log_counts("score", score_responses(work.source, work.output_dir, work.config.score, work.journal_scores))
    return replace(work, source=with_scores(work.source, work.output_dir / SCORES))


SCORE = Step("score", _run, outputs=lambda _: [SCORES], problems=_problems)

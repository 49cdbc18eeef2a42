"""Samples scored while others are generated, and rows that have more of them only where the rule asks (`adaptive`).

The loop does not wait for a score: a sample that has finished goes to the processes that score, and what follows from
its score is asked for when that is there. Meanwhile the engine works on other rows.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

import pyarrow as pa

from rollout.config import RunConfig, ScoreConfig
from rollout.data.prompts import ReadScoredWith
from rollout.engine.protocol import Engine
from rollout.generation.loop import TAKE_SECONDS, Queued
from rollout.generation.requests import RowRequests, requests_of
from rollout.records import Prompt, Request, Sample, SampleKey, ScoredWith
from rollout.scoring.inputs import inputs_of, truths_of
from rollout.scoring.scorers import Scored
from rollout.scoring.workers import Background, scoring_beside
from rollout.store.journal_reader import Unscored
from rollout.store.judged import Asked, Judged, no_truth

MOST_UNSCORED = 16
"""Samples that may wait for their scores before no new row is begun, as a multiple of max_num_seqs: where scoring is
slower than generating, memory has an end and not the scorer."""


def scored_with(score: ScoreConfig) -> ReadScoredWith:
    """For `read_prompts`: what the responses to each row are scored with."""

    def of(batch: pa.RecordBatch) -> list[ScoredWith]:
        return list(map(ScoredWith, truths_of(batch, score), inputs_of(batch, score)))

    return of


def scores_beside(run: RunConfig) -> AbstractContextManager[Background | None]:
    """What scores samples while others are generated, or None without a rule. To be opened before the engine is loaded,
    which gives its processes the time to start, and closed once nothing is timed any more.
    """
    return nullcontext() if run.adaptive.until is None else scoring_beside(run.postprocess.score)


class Scorer:
    """Has samples scored, and says when they are."""

    def __init__(self, background: Background, run: RunConfig, keep: Callable[[Sample], None]) -> None:
        """`keep` gets every sample once it has its score."""
        self._background, self._no_truth, self._keep = background, no_truth(run), keep
        self._waiting: dict[SampleKey, Sample] = {}
        self._ready: list[Sample] = []

    @property
    def num_waiting(self) -> int:
        """Samples that were given, and not kept yet."""
        return len(self._waiting) + len(self._ready)

    def give(self, sample: Sample, scored_with: ScoredWith | None) -> None:
        """Have a sample that has a response scored; `scored_with` is its prompt's."""
        assert scored_with is not None
        if self._no_truth is not None and scored_with.truth is None:
            self._ready.append(_with(sample, Scored(None, error=self._no_truth)))
            return
        self._waiting[sample.key] = sample
        self._background.give(sample.key, (sample.response or "", scored_with.truth, scored_with.row))

    def listen(self, seconds: float = 0.0) -> None:
        """Keep what has its score by now; waits at most `seconds` for the first."""
        ready, self._ready = self._ready, []
        scores = self._background.scored(0.0 if ready else seconds)
        for sample in (*ready, *(_with(self._waiting.pop(key), scored) for key, scored in scores)):
            self._keep(sample)


def _with(sample: Sample, scored: Scored) -> Sample:
    return replace(sample, is_scored=True, score=scored.score, extracted_answer=scored.answer, score_error=scored.error)


@dataclass(slots=True)
class Row:
    """A row that is asked for round by round."""

    requests: RowRequests
    scored_with: ScoredWith | None
    asked: Asked
    """At first."""
    unscored: dict[int, Sample] = field(default_factory=dict)
    """What the journal has of it without scores, by number."""
    unfinished: int = 0
    """Samples that were asked for, and are neither scored nor failed."""


def rows(
    prompts: Iterable[Prompt],
    engine: Engine,
    run: RunConfig,
    judged: Judged,
    unscored: Unscored,
    given_up: Collection[SampleKey],
) -> Iterator[Row]:
    """The rows for which something is to be done, rendered.

    Samples in `given_up` are not tried again.
    """
    for prompt in prompts:
        asked, before = judged.begin(prompt.row_id), unscored.of(prompt.row_id)
        to_generate = [index for index in asked.to_generate if (prompt.row_id, index) not in given_up]
        if to_generate or asked.to_score:
            found = {sample.sample_idx: sample for sample in before}
            asked = asked._replace(to_generate=to_generate)
            yield Row(requests_of(prompt, engine, run), prompt.scored_with, asked, found)


class Rounds:
    """A source for the loop: rows, begun one after the other, and what their rounds ask for.

    What a row that has begun asks for comes before new rows. `listen` has to be called again and again.
    """

    def __init__(
        self, queued: Queued[Row], judged: Judged, scorer: Scorer, max_num_seqs: int, settle: Callable[[int, int], None]
    ) -> None:
        """`settle` is told when a row has enough, as `Progress.settle` wants it."""
        self._queued, self._judged, self._scorer = queued, judged, scorer
        self._most_unscored, self._settle = MOST_UNSCORED * max_num_seqs, settle
        self._rows: dict[int, Row] = {}
        self._ready: deque[Request | Sample] = deque()

    @property
    def ended(self) -> bool:
        """As of a source: what still waits for its score may have more asked for."""
        return self._queued.ended and not self._ready and not self._scorer.num_waiting

    def take(self, wait: bool) -> Request | Sample | None:
        """The next item; with `wait`, None only after a moment."""
        self._begin_rows(wait)
        if wait and not self._ready and self._scorer.num_waiting:
            self._scorer.listen(TAKE_SECONDS)
        return self._ready.popleft() if self._ready else None

    def _begin_rows(self, wait: bool) -> None:
        """New rows, until there is something to take."""
        while not self._ready and self._scorer.num_waiting < self._most_unscored:
            row = self._queued.take(wait and not self._scorer.num_waiting)
            if row is None:
                return
            self._rows[row.requests.row_id] = row
            self._ask(row, row.asked)

    def hear(self, sample: Sample) -> None:
        """A sample has finished: it is scored, or has failed."""
        if sample.error is None:
            self._scorer.give(sample, self._rows[sample.row_id].scored_with)
        else:
            self.judge(sample)

    def listen(self) -> None:
        """Let what has its score by now be judged."""
        self._scorer.listen()

    def judge(self, sample: Sample) -> None:
        """A sample is scored or has failed: ask for what follows from that."""
        row = self._rows[sample.row_id]
        row.unfinished -= 1
        asked = self._judged.hear(self._judged.telling.outcome(sample))
        self._ask(row, asked)
        if asked.settled:
            self._settle(asked.spared, asked.settled)
        if not row.unfinished:
            del self._rows[sample.row_id]

    def _ask(self, row: Row, asked: Asked) -> None:
        row.unfinished += len(asked.to_generate) + len(asked.to_score)
        self._ready.extend(row.requests.of(asked.to_generate))
        for index in asked.to_score:
            self._scorer.give(row.unscored.pop(index), row.scored_with)


class Scoring:
    """A source for the loop whose samples are scored; what follows from that is somebody else's affair."""

    def __init__(self, queued: Queued[Request | Sample], scorer: Scorer, max_num_seqs: int) -> None:
        self._queued, self._scorer, self._most_unscored = queued, scorer, MOST_UNSCORED * max_num_seqs
        self._scored_with: dict[SampleKey, ScoredWith | None] = {}
        """For every sample that is to come: its prompt's."""

    def expect(self, prompt: Prompt, indices: Iterable[int]) -> None:
        """Samples of this prompt will come out of the queue. May be called in another thread."""
        for index in indices:
            self._scored_with[prompt.row_id, index] = prompt.scored_with

    @property
    def num_unscored(self) -> int:
        """Samples that wait for their scores."""
        return self._scorer.num_waiting

    @property
    def ended(self) -> bool:
        """As of a source."""
        return self._queued.ended and not self._scorer.num_waiting

    def take(self, wait: bool) -> Request | Sample | None:
        """The next item; with `wait`, None only after a moment."""
        item = None
        if self._scorer.num_waiting < self._most_unscored:
            item = self._queued.take(wait and not self._scorer.num_waiting)
        if item is None and wait and self._scorer.num_waiting:
            self._scorer.listen(TAKE_SECONDS)
        return item

    def hear(self, sample: Sample) -> None:
        """A sample has finished: it is scored, unless it has failed."""
        scored_with = self._scored_with.pop(sample.key)
        if sample.error is None:
            self._scorer.give(sample, scored_with)

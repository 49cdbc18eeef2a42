"""Score samples while others are generated, and give a row more of them only while the rule asks for more (`adaptive`).

The loop does not wait for a score: a finished sample goes to the processes that score. Once it has its score, the
samples that the rule then asks for are generated. Meanwhile the engine works on other rows.
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
from rollout.scoring.inputs import inputs_of, lacks_truth, truths_of
from rollout.scoring.scorers import Scored
from rollout.scoring.workers import Background, scoring_beside
from rollout.store.journal_reader import Unscored
from rollout.store.judged import Asked, Judged

MOST_UNSCORED = 16
"""While this many samples (a multiple of max_num_seqs) wait for their scores, no new row begins: this bounds memory if
scoring is slower than generating.
"""


def scored_with(score: ScoreConfig) -> ReadScoredWith:
    """The function with which `read_prompts` fills `Prompt.scored_with`."""

    def of(batch: pa.RecordBatch) -> list[ScoredWith]:
        return list(map(ScoredWith, truths_of(batch, score), inputs_of(batch, score)))

    return of


def scores_beside(run: RunConfig) -> AbstractContextManager[Background | None]:
    """Scores samples in the background; None without a rule that stops rows. To be opened before the engine is loaded,
    so that its processes start meanwhile, and closed after all timing has ended.
    """
    return nullcontext() if run.adaptive.until is None else scoring_beside(run.postprocess.score)


class Scorer:
    """Gets samples scored in the background, and passes them on with their scores.

    A sample whose row has no ground truth gets no score, and an answer only for `until=agree`.
    """

    def __init__(self, background: Background, run: RunConfig, keep: Callable[[Sample], None]) -> None:
        """`keep` is called with every sample once it has its score."""
        self._background, self._score, self._keep = background, run.postprocess.score, keep
        self._needs_answers = run.adaptive.until == "agree"
        self._waiting: dict[SampleKey, Sample] = {}
        self._only_answers = set[SampleKey]()
        """Samples of `_waiting` whose rows have no ground truth."""
        self._ready: list[Sample] = []

    @property
    def num_waiting(self) -> int:
        """Number of samples that were given and have no score yet, or were not passed on."""
        return len(self._waiting) + len(self._ready)

    def give(self, sample: Sample, scored_with: ScoredWith | None) -> None:
        """Get a sample with a response scored; `scored_with` is its prompt's."""
        assert scored_with is not None
        if lacks_truth(scored_with.truth, self._score):
            if not self._needs_answers:
                self._ready.append(_with(sample, self._without_truth(None)))
                return
            self._only_answers.add(sample.key)
        self._waiting[sample.key] = sample
        self._background.give(sample.key, (sample.response or "", scored_with.truth, scored_with.row))

    def listen(self, seconds: float = 0.0) -> None:
        """Pass on the samples that have their scores by now; waits at most `seconds` for the first."""
        ready, self._ready = self._ready, []
        scores = self._background.scored(0.0 if ready else seconds)
        for sample in (*ready, *(self._scored(key, scored) for key, scored in scores)):
            self._keep(sample)

    def _scored(self, key: SampleKey, scored: Scored) -> Sample:
        if key in self._only_answers:
            self._only_answers.remove(key)
            scored = self._without_truth(scored.answer)
        return _with(self._waiting.pop(key), scored)

    def _without_truth(self, answer: str | None) -> Scored:
        return Scored(None, answer, self._score.no_truth)


def _with(sample: Sample, scored: Scored) -> Sample:
    return replace(sample, is_scored=True, score=scored.score, extracted_answer=scored.answer, score_error=scored.error)


@dataclass(slots=True)
class Row:
    """A row that gets its samples in rounds."""

    requests: RowRequests
    scored_with: ScoredWith | None
    asked: Asked
    """What the row asks for when it begins."""
    unscored: dict[int, Sample] = field(default_factory=dict)
    """sample_idx -> sample that is in the journal without a score."""
    unfinished: int = 0
    """Number of samples that were asked for and have neither a score nor an error."""


def rows(
    prompts: Iterable[Prompt],
    engine: Engine,
    run: RunConfig,
    judged: Judged,
    unscored: Unscored,
    given_up: Collection[SampleKey],
) -> Iterator[Row]:
    """The rows that need samples or scores, rendered.

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
    """A source for the loop: begins one row after the other, and takes from each the samples of its rounds.

    Requests of a row that has begun come before new rows. `listen` must be called regularly.
    """

    def __init__(
        self, queued: Queued[Row], judged: Judged, scorer: Scorer, max_num_seqs: int, settle: Callable[[int, int], None]
    ) -> None:
        """`settle` is called when a row has enough, like `Progress.settle`."""
        self._queued, self._judged, self._scorer = queued, judged, scorer
        self._most_unscored, self._settle = MOST_UNSCORED * max_num_seqs, settle
        self._rows: dict[int, Row] = {}
        self._ready: deque[Request | Sample] = deque()

    @property
    def ended(self) -> bool:
        """See `Source`. A sample that still waits for its score may ask for more."""
        return self._queued.ended and not self._ready and not self._scorer.num_waiting

    def take(self, wait: bool) -> Request | Sample | None:
        """The next item; with `wait`, None only after a moment."""
        self._begin_rows(wait)
        if wait and not self._ready and self._scorer.num_waiting:
            self._scorer.listen(TAKE_SECONDS)
        return self._ready.popleft() if self._ready else None

    def _begin_rows(self, wait: bool) -> None:
        """Begin new rows until there is something to take."""
        while not self._ready and self._scorer.num_waiting < self._most_unscored:
            row = self._queued.take(wait and not self._scorer.num_waiting)
            if row is None:
                return
            self._rows[row.requests.row_id] = row
            self._ask(row, row.asked)

    def hear(self, sample: Sample) -> None:
        """A sample has finished: get it scored, or judge its row if it has failed."""
        if sample.error is None:
            self._scorer.give(sample, self._rows[sample.row_id].scored_with)
        else:
            self.judge(sample)

    def listen(self) -> None:
        """Judge the rows of samples that have their scores by now."""
        self._scorer.listen()

    def judge(self, sample: Sample) -> None:
        """A sample has its score or has failed: ask for what the rule now needs for its row."""
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
    """A source for the loop whose samples are scored. The driver decides what is generated next."""

    def __init__(self, queued: Queued[Request | Sample], scorer: Scorer, max_num_seqs: int) -> None:
        self._queued, self._scorer, self._most_unscored = queued, scorer, MOST_UNSCORED * max_num_seqs
        self._scored_with: dict[SampleKey, ScoredWith | None] = {}
        """For every sample that is still to come: the `scored_with` of its prompt."""

    def expect(self, prompt: Prompt, indices: Iterable[int]) -> None:
        """Announce samples of this prompt that will come from the queue. May be called from another thread."""
        for index in indices:
            self._scored_with[prompt.row_id, index] = prompt.scored_with

    @property
    def num_unscored(self) -> int:
        """Number of samples that wait for their scores."""
        return self._scorer.num_waiting

    @property
    def ended(self) -> bool:
        """See `Source`."""
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
        """A sample has finished: get it scored, unless it has failed."""
        scored_with = self._scored_with.pop(sample.key)
        if sample.error is None:
            self._scorer.give(sample, scored_with)

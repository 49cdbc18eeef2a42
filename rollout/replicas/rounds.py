"""What replicas are to generate: all that is owed in one stream, or in rounds where a rule stops rows (`adaptive`).

With a rule, a replica scores what it generates and reports whether it passed; what is generated next is decided here,
as `generation/rounds.py` does for one engine. Only samples that an earlier session left without a score are scored
here, beside the driver.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias

from rollout.data.prompts import read_prompts, watch_chats
from rollout.generation.rounds import Scorer, scored_with
from rollout.generation.session import Session
from rollout.records import Outcome, Prompt, Sample
from rollout.replicas.dispatcher import Dispatcher, Task
from rollout.replicas.longest import order_of
from rollout.scoring.workers import scoring_beside
from rollout.store.journal import Finished, Journal, writer_name
from rollout.store.journal_reader import Unscored
from rollout.store.judged import Asked, Survey, Telling, judged

log = logging.getLogger(__name__)

Settle: TypeAlias = Callable[[int, int], None]
"""See `Progress.settle`."""


def work_of(session: Session, done: Finished | Survey, num_replicas: int, settle: Settle) -> "OneStream | Rounds":
    """What the session still has to generate. `settle` is called when a row has enough, as `Progress.settle`."""
    if isinstance(done, Finished):
        return OneStream(session, done, num_replicas)
    return Rounds(session, done.num_owed, num_replicas, settle)


class OneStream:
    """All that is owed, known from the start: the outcome of a sample asks for nothing more."""

    telling: Telling | None = None
    is_done = True

    def __init__(self, session: Session, done: Finished, num_replicas: int) -> None:
        run = session.run
        prompts = watch_chats(read_prompts(session.table, run.data), run.model.chat_template_kwargs, log.warning)
        self.dispatcher = Dispatcher(prompts, done.owed, done.num_owed, num_replicas, order_of(session))

    def scoring(self) -> AbstractContextManager[None]:
        return nullcontext()

    def listen(self) -> None:
        pass

    def hear(self, outcomes: Iterable[Outcome], prompts: Callable[[], dict[int, Prompt]]) -> None:
        pass

    def forget(self, outcomes: Collection[Outcome], prompts: dict[int, Prompt]) -> None:
        pass


class Rounds:
    """The same with a rule that stops rows: each row gets more samples as long as the rule asks for them."""

    def __init__(self, session: Session, num_owed: int, num_replicas: int, settle: Settle) -> None:
        self._session, self._settle, self._index = session, settle, num_replicas
        self._judged = judged(session.run_dir, session.counts, session.run)
        self.telling = Telling.of(session.run)
        self._unscored = Unscored(session.run_dir, session.run.extra_columns, self._judged)
        self._open: dict[int, Prompt] = {}
        """Rows that have begun and may have more samples."""
        self._left: dict[int, dict[int, Sample]] = {}
        """What the journal has of them without a score, by number."""
        self._scorer: Scorer | None = None
        run = session.run
        prompts = read_prompts(session.table, run.data, scored_with(run.postprocess.score))
        prompts = watch_chats(prompts, run.model.chat_template_kwargs, log.warning)
        self.dispatcher = Dispatcher(self._begun(prompts), self._owed, num_owed, num_replicas, order_of(session))

    @contextmanager
    def scoring(self) -> Iterator[None]:
        """Score in the body what an earlier session left without a score; `listen` has to be called there.

        To be opened before the engines are loaded, as `scores_beside`.
        """
        if not self._judged.has_unscored:
            yield
            return
        run = self._session.run
        journal = Journal(self._session.run_dir, run.store, writer_name(self._index), run.extra_columns)

        def keep(sample: Sample) -> None:
            journal.add(sample)
            self._follow(sample.row_id, self._judged.hear(self._judged.telling.outcome(sample)))

        with scoring_beside(run.postprocess.score) as background:
            self._scorer = Scorer(background, run, keep)
            try:
                yield
            finally:
                journal.flush()

    @property
    def is_done(self) -> bool:
        """Whether nothing is being scored here."""
        return self._scorer is None or not self._scorer.num_waiting

    def listen(self) -> None:
        """Act on what has been scored here."""
        if self._scorer is not None:
            self._scorer.listen()

    def hear(self, outcomes: Iterable[Outcome], prompts: Callable[[], dict[int, Prompt]]) -> None:
        """Act on samples that were scored or have failed; `prompts` gives their prompts by row."""
        for outcome in outcomes:
            asked = self._judged.hear(outcome)
            if asked.settled < 0:
                self._open[outcome.row_id] = prompts()[outcome.row_id]
            self._follow(outcome.row_id, asked)

    def forget(self, outcomes: Collection[Outcome], prompts: dict[int, Prompt]) -> None:
        """Take back samples that were heard of and are lost; the dispatcher owes them again."""
        for outcome in outcomes:
            self._open[outcome.row_id] = prompts[outcome.row_id]
            self._follow(outcome.row_id, self._judged.forget(outcome))

    def _begun(self, prompts: Iterable[Prompt]) -> Iterator[Prompt]:
        for prompt in prompts:
            self._open[prompt.row_id] = prompt
            yield prompt

    def _owed(self, row_id: int) -> list[int]:
        """What to generate first of a row, whose prompt `_begun` has just put into `_open`."""
        asked = self._judged.begin(row_id)
        if before := {sample.sample_idx: sample for sample in self._unscored.of(row_id)}:
            self._left[row_id] = before
        self._score(row_id, asked.to_score)
        if self._judged.verdict(row_id).reason is not None:
            self._close(row_id)
        return asked.to_generate

    def _follow(self, row_id: int, asked: Asked) -> None:
        """Hand on what is asked for of a row."""
        if asked.to_generate:
            self.dispatcher.add(Task(self._open[row_id], asked.to_generate))
        self._score(row_id, asked.to_score)
        if asked.settled:
            self.dispatcher.owe(-asked.spared)
            self._settle(asked.spared, asked.settled)
        if asked.settled > 0:
            self._close(row_id)

    def _score(self, row_id: int, numbers: list[int]) -> None:
        for number in numbers:
            assert self._scorer is not None
            self._scorer.give(self._left[row_id].pop(number), self._open[row_id].scored_with)

    def _close(self, row_id: int) -> None:
        self._open.pop(row_id, None)
        self._left.pop(row_id, None)

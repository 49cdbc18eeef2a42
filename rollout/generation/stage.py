"""One engine generates until nothing more is owed: in one stream of requests, or rows in rounds."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rollout.config import RunConfig
from rollout.data.prompts import read_prompts, watch_chats
from rollout.data.row_sampling import SampleCounts
from rollout.data.tables import Table
from rollout.engine.protocol import Engine
from rollout.generation.loop import drain, generate, read_ahead
from rollout.generation.order import in_order
from rollout.generation.requests import requests
from rollout.generation.rounds import Rounds, Scorer, rows, scored_with
from rollout.records import Sample, SampleKey
from rollout.scoring.workers import Background
from rollout.store.journal import Journal, finished
from rollout.store.journal_reader import Unscored
from rollout.store.judged import judged

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """The source of prompts, the store for samples, and the callbacks of the session."""

    run: RunConfig
    table: Table
    run_dir: Path
    counts: SampleCounts
    """The most samples that each row gets."""
    journal: Journal
    failed: set[SampleKey]
    """Samples that are not tried again."""
    note: Callable[[Sample], None]
    """Called with every sample that has finished or failed."""
    tick: Callable[[], None]
    """Called between the steps of the engine."""
    settle: Callable[[int, int], None]
    """Called when a row has enough; see `Progress.settle`."""


def sample_one_stream(stage: Stage, engine: Engine) -> None:
    """Sample all that is owed, as one stream of requests. Raises what `drain` does."""
    done = finished(stage.run_dir, stage.counts)

    def owed(row_id: int) -> list[int]:
        return [index for index in done.owed(row_id) if (row_id, index) not in stage.failed]

    add, note = stage.journal.add, stage.note

    def keep(sample: Sample) -> None:
        add(sample)
        note(sample)

    prompts = watch_chats(read_prompts(stage.table, stage.run.data), stage.run.model.chat_template_kwargs, log.warning)
    feed = requests(prompts, engine, stage.run, owed)
    order = in_order(stage.run, engine, stage.run_dir, stage.counts)
    generate(engine, feed, keep, stage.tick, order)


def sample_in_rounds(stage: Stage, engine: Engine, background: Background) -> None:
    """Sample each row as often as the rule asks, while `background` scores.

    Raises what `drain` does, and UserError if the scoring processes do not start.
    """
    run, known = stage.run, judged(stage.run_dir, stage.counts, stage.run)
    before = Unscored(stage.run_dir, run.extra_columns, known)

    def keep(sample: Sample) -> None:
        if sample.error is None:
            stage.journal.hold(sample)
        else:
            stage.journal.add(sample)
        stage.note(sample)

    def keep_scored(sample: Sample) -> None:
        stage.journal.add(sample)
        rounds.judge(sample)

    def tick() -> None:
        rounds.listen()
        stage.tick()

    prompts = read_prompts(stage.table, run.data, scored_with(run.postprocess.score))
    watched = watch_chats(prompts, run.model.chat_template_kwargs, log.warning)
    feed = rows(watched, engine, run, known, before, stage.failed)
    with read_ahead(feed) as queued:
        scorer = Scorer(background, run, keep_scored)
        rounds = Rounds(queued, known, scorer, engine.max_num_seqs, stage.settle)
        drain(engine, in_order(run, engine, stage.run_dir, stage.counts)(rounds), keep, tick)

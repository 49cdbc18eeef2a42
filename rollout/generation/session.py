"""One session of the generation stage: the engine, what is owed, and what happens when the engine dies."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from rich.console import Console

from rollout.config import RunConfig
from rollout.data.prompts import read_prompts
from rollout.data.row_sampling import SampleCounts, sample_counts
from rollout.data.tables import Table
from rollout.engine.cache import release
from rollout.engine.content import content_beside
from rollout.engine.protocol import Engine, EngineStats
from rollout.errors import EngineDied, PromptError, UserError
from rollout.files import short
from rollout.generation.engine_start import load
from rollout.generation.rounds import scores_beside
from rollout.generation.stage import Stage, sample_in_rounds, sample_one_stream
from rollout.process.signals import StopRequest
from rollout.process.timer import every
from rollout.records import Outcome, Sample, SampleKey
from rollout.scoring.workers import Background
from rollout.store.journal import Finished, Journal
from rollout.store.judged import Survey
from rollout.store.layout import LOG
from rollout.store.lineage import note_model
from rollout.store.run_record import EngineRecord, RunRecord
from rollout.terminal.progress_line import progress_view
from rollout.terminal.text import resume_command
from rollout.tracking.metrics import metrics_file
from rollout.tracking.progress import Progress, Snapshot, throughput_of
from rollout.tracking.tracker import Tracker

log = logging.getLogger(__name__)

_SHOWN = 2000  # characters shown at each end of a long prompt


@dataclass(frozen=True)
class Session:
    """The objects that one session of a run works with."""

    record: RunRecord
    """The content of run.json; the stages add to it."""
    table: Table
    run_dir: Path
    console: Console
    tracker: Tracker
    stop: StopRequest

    @property
    def run(self) -> RunConfig:
        return self.record.config

    @cached_property
    def counts(self) -> SampleCounts:
        """How many samples each row of the table gets."""
        return sample_counts(self.table, self.run)


@dataclass(frozen=True)
class Failures:
    """What has failed in a session, also before a restart of its engine."""

    check: Callable[[Sample | Outcome], None]
    """Called with every sample; raises UserError once too much has failed (`error_limit`)."""
    samples: set[SampleKey] = field(default_factory=set)
    """Those that are not tried again in this session."""


def generate_owed(session: Session, done: Finished | Survey) -> Snapshot:
    """Load the engine and generate what is owed; an engine that dies is started again. Returns the final numbers.

    `done` is the journal's content at the start. Adds the engine and the seconds to the session's record.
    """
    run, run_dir, record = session.run, session.run_dir, session.record
    record.engine = about_engine = EngineRecord()
    progress = Progress(done.num_owed, done.num_done, done.num_open)
    failures = Failures(error_limit(run, session.table.num_rows))
    with numbers_kept(session, progress.snapshot):
        while True:
            try:
                with scores_beside(run) as background:
                    engine = _load_and_note(session, about_engine)
                    if about_engine.restarts == 0:
                        _log_first_prompt(run, session.table, engine)
                    with record.timed("generate"):
                        return sample_all(session, engine, progress, failures, background)
            except EngineDied as error:
                session.stop.raise_if_requested()  # Ctrl-C in a terminal reaches the engine's own process too
                release()
                if about_engine.restarts == run.engine.max_restarts:
                    raise no_more_restarts(session, f"the engine died once more ({error})", run_dir / LOG) from error
                about_engine.restarts += 1
                log.warning("the engine died (%s), starting it again", error)


@contextmanager
def numbers_kept(session: Session, last: Callable[[], Snapshot]) -> Iterator[None]:
    """Publish and record the `last` numbers of a session that ends early, as is done for one that ends well."""
    try:
        yield
    except BaseException:
        with suppress(OSError, UserError):  # of two errors the first one counts
            if (now := last()).elapsed_seconds:
                session.record.throughput = throughput_of(now)
                session.tracker.log(now)
                with metrics_file(session.run_dir) as write_metrics:
                    write_metrics(now)
        raise


def no_more_restarts(session: Session, died: str, log_file: Path) -> UserError:
    """The error to raise when an engine has been restarted as often as allowed; `log_file` says why it `died`."""
    return UserError(
        f"engine.max_restarts={session.run.engine.max_restarts}: {died}; see {short(log_file)}, then continue with "
        f"`{resume_command(session.run_dir)}`"
    )


def _load_and_note(session: Session, about_engine: EngineRecord) -> Engine:
    run, run_dir, record = session.run, session.run_dir, session.record
    with record.timed("load"), content_beside(run.model) as content:
        loaded = load(run, run_dir / LOG)
        about_engine.reused, about_engine.reloaded = loaded.reused, loaded.reloaded
        about_engine.safer, about_engine.sampler = list(loaded.safer), loaded.engine.sampler
        about_engine.kv_cache_tokens = loaded.engine.kv_cache_tokens
        note_model(run_dir, run.model, content(), record)
    return loaded.engine


def sample_all(
    session: Session,
    engine: Engine,
    progress: Progress,
    failures: Failures,
    background: Background | None = None,
) -> Snapshot:
    """Generate every sample that the session's journal does not hold. Returns the final numbers.

    `background` scores them if a rule needs scores (`scores_beside`). New failures are added to `failures`.

    Raises EngineDied, Interrupted and UserError (too many bad rows), each after a flush of the journal.
    """
    run, table, run_dir = session.run, session.table, session.run_dir
    journal = Journal(run_dir, run.store, extras=run.extra_columns)

    def note(sample: Sample) -> None:
        if sample.error is not None:
            failures.samples.add(sample.key)
        progress.count(sample)
        failures.check(sample)

    with report_progress(session, progress, engine.stats) as poll:

        def tick() -> None:
            poll()
            journal.flush_if_old()

        stage = Stage(run, table, run_dir, session.counts, journal, failures.samples, note, tick, progress.settle)
        try:
            sample_one_stream(stage, engine) if background is None else sample_in_rounds(stage, engine, background)
        finally:
            journal.flush()
    return progress.snapshot()


@contextmanager
def report_progress(
    session: Session, progress: Progress, stats: Callable[[], EngineStats]
) -> Iterator[Callable[[], None]]:
    """Run the clock of `progress` in the body, which must call the yielded function regularly.

    That function shows and records the progress, and raises Interrupted once a signal has come; nowhere else is the
    body interrupted.
    """
    run, stop = session.run, session.stop
    with metrics_file(session.run_dir) as write_metrics, progress_view(session.console) as show:

        def publish(now: Snapshot) -> None:
            write_metrics(now)
            session.tracker.log(now)

        due_to_show, due_to_publish = every(0.5), every(run.tracking.interval_seconds)

        def poll() -> None:
            stop.raise_if_requested()
            if due_to_show():
                show(progress.snapshot())
            if due_to_publish():
                publish(progress.snapshot())

        with progress.watching(stats):
            with stop.deferred():
                yield poll
            stop.raise_if_requested()  # a signal that came with the last samples
            publish(progress.snapshot())


def _log_first_prompt(run: RunConfig, table: Table, engine: Engine) -> None:
    """Log what the model really reads: this shows a wrong template or a doubled token before hours are spent."""
    for prompt in read_prompts(table, run.data):
        if prompt.error is not None:
            continue
        with suppress(PromptError):
            rendered = engine.render(prompt.messages, prompt.tools).text
            log.info("%s", first_prompt_in_words(prompt.row_id, rendered))
            return


def first_prompt_in_words(row_id: int, rendered: str) -> str:
    """The text that the model reads for a row, for the log; a very long prompt without its middle."""
    shown = repr(rendered)
    if (left_out := len(rendered) - 2 * _SHOWN) > 0:
        shown = f"{rendered[:_SHOWN]!r} ... {left_out:,} characters ... {rendered[-_SHOWN:]!r}"
    return f"first prompt, rendered (row {row_id}): {shown}"


def too_many(bad_rows: int, num_rows: int, run: RunConfig) -> bool:
    """Whether so many bad rows are more than `data.max_error_fraction` allows."""
    # a share, as 0.29 * 100 is less than 29
    return bad_rows > 0 and bad_rows / num_rows > run.data.max_error_fraction


def error_limit(run: RunConfig, num_rows: int) -> Callable[[Sample | Outcome], None]:
    """A check for every sample: raises UserError at the first bad row, or once too many rows are bad."""
    bad_rows: set[int] = set()
    limit = run.data.max_error_fraction

    def check(sample: Sample | Outcome) -> None:
        if sample.error is None:
            return
        bad_rows.add(sample.row_id)
        if run.data.on_error == "fail":
            raise UserError(
                f"data.on_error=fail: row {sample.row_id} cannot be sampled ({sample.error}); fix the row, "
                "or set data.on_error=record"
            )
        if too_many(len(bad_rows), num_rows, run):
            raise UserError(
                f"data.max_error_fraction={limit}: {len(bad_rows)} of {num_rows} rows cannot be sampled so far, "
                f"the last is row {sample.row_id} ({sample.error}); fix the input or raise the limit"
            )

    return check

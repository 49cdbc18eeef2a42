"""One session of the generation stage: the engine, what is owed, and what happens when the engine dies."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from rich.console import Console

from rollout.config import RunConfig
from rollout.data.prompts import read_prompts
from rollout.data.row_sampling import SampleCounts, sample_counts
from rollout.data.tables import Table
from rollout.engine import communication
from rollout.engine.cache import EngineSpec, Loaded, acquire, release
from rollout.engine.content import content_beside
from rollout.engine.loading import supervised
from rollout.engine.protocol import Engine, EngineStats
from rollout.engine.startup_errors import explain, failed_process
from rollout.errors import EngineDied, PromptError, UserError
from rollout.files import short
from rollout.generation.context import context_problem
from rollout.generation.rounds import scores_beside
from rollout.generation.stage import Stage, sample_in_rounds, sample_one_stream
from rollout.process.signals import StopRequest
from rollout.records import Outcome, Sample
from rollout.scoring.workers import Background
from rollout.store.journal import Finished, Journal
from rollout.store.judged import Survey
from rollout.store.layout import LOG
from rollout.store.lineage import note_model
from rollout.store.run_record import EngineRecord, RunRecord
from rollout.terminal.progress_line import progress_view
from rollout.terminal.text import duration, resume_command
from rollout.tracking.metrics import metrics_file
from rollout.tracking.progress import Progress, Snapshot
from rollout.tracking.tracker import Tracker

log = logging.getLogger(__name__)

FIRST_PROMPT = "first prompt, rendered (row %d): %r"


@dataclass(frozen=True)
class Session:
    """What the stage works on and whom it tells."""

    record: RunRecord
    """What run.json is going to say; the stages add to it."""
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


def generate_owed(session: Session, done: Finished | Survey) -> Snapshot:
    """Load the engine and generate what is owed, with an engine that died started again. Returns the final numbers.

    `done` is what the journal holds before. Notes engine and seconds in the session's record.
    """
    run, run_dir, record = session.run, session.run_dir, session.record
    record.engine = about_engine = EngineRecord()
    progress, failed = Progress(done.num_owed, done.num_done, done.num_open), set[tuple[int, int]]()
    while True:
        try:
            with scores_beside(run) as background:
                engine = _load_and_note(session, about_engine)
                with record.timed("generate"):
                    return sample_all(session, engine, progress, failed, background)
        except EngineDied as error:
            session.stop.raise_if_requested()  # Ctrl-C in a terminal reaches the engine's own process too
            release()
            if about_engine.restarts == run.engine.max_restarts:
                raise UserError(
                    f"engine.max_restarts={run.engine.max_restarts}: the engine died once more ({error}); "
                    f"see {short(run_dir / LOG)}, then continue with `{resume_command(run_dir)}`"
                ) from error
            about_engine.restarts += 1
            log.warning("the engine died (%s), starting it again", error)


def _load_and_note(session: Session, about_engine: EngineRecord) -> Engine:
    run, run_dir, record = session.run, session.run_dir, session.record
    with record.timed("load"), content_beside(run.model) as content:
        loaded = load(run, run_dir / LOG)
        about_engine.reused, about_engine.reloaded = loaded.reused, loaded.reloaded
        about_engine.safer, about_engine.sampler = list(loaded.safer), loaded.engine.sampler
        about_engine.kv_cache_tokens = loaded.engine.kv_cache_tokens
        note_model(run_dir, run.model, content(), record)
    return loaded.engine


def load(run: RunConfig, log_file: Path) -> Loaded:
    """The engine, ready to sample. Raises UserError, built from what vLLM wrote to `log_file`, when it cannot start.

    Where GPUs cannot exchange data as they were to, it is started again in a safer way.
    """
    loaded = load_engine(run, log_file)
    prepare(loaded.engine, run)
    return loaded


def load_engine(run: RunConfig, log_file: Path, ends_process: bool | None = None) -> Loaded:
    """The same; `prepare` is to be called before it samples. `ends_process`: see `supervised`."""
    log.info("loading %s ...", model_name(run))
    loaded = _started(run, log_file, ends_process)
    log.info("engine %s", how_loaded(loaded.seconds, loaded.reused, loaded.reloaded))
    if loaded.safer and not loaded.reused:
        log.info("its GPUs exchange data in a safer way than vLLM's fastest: %s", " ".join(loaded.safer))
    return loaded


def prepare(engine: Engine, run: RunConfig) -> None:
    """Let an engine that is there sample as `run` asks. Raises UserError where it cannot."""
    if problem := context_problem(run, engine.max_model_len):
        raise UserError(problem)
    engine.use(run.model)
    engine.configure(run.sampling)
    log.info("%s", sampling_in_words(run, engine.describe()))


def how_loaded(seconds: float, reused: bool, reloaded: bool) -> str:
    """How an engine has come about, for the log."""
    if reloaded:
        return f"reused, its weights replaced in {duration(seconds)}"
    return "reused" if reused else f"ready after {duration(seconds)}"


def _started(run: RunConfig, log_file: Path, ends_process: bool | None) -> Loaded:
    for level, next_level in pairwise([*communication.levels(run.hardware), None]):
        assert level is not None
        log_begin = log_file.stat().st_size
        try:
            with supervised(log_file, run.engine.load_timeout, ends_process) as loading:
                return acquire(EngineSpec.of(run), level)
        except UserError:
            raise
        except Exception as error:
            printed = log_file.read_bytes()[log_begin:].decode("utf-8", "replace")
            line = _reason(run, error, printed, loading.timed_out)
            failure = communication.failure(run.hardware, f"{error}\n{printed}")
            if next_level is None or failure is None or line is not None:
                line = line or communication.explain(run.hardware, failure) or failed_process(run, str(error), printed)
                if line is None:
                    error.add_note(f"All of vLLM's output: {short(log_file)}")
                    raise
                raise UserError(f"{line} (all of vLLM's output: {short(log_file)})") from error
            loading.is_tried_again = True
            log.warning("%s", communication.tried_again(run.hardware, failure, next_level))
    raise AssertionError("an engine starts or says why not")


def _reason(run: RunConfig, error: Exception, printed: str, timed_out: bool) -> str | None:
    """The line about a start that no other way of exchanging data would have saved, or None."""
    if timed_out:
        limit = run.engine.load_timeout
        return f"engine.load_timeout={limit:g}: the engine was not ready by then; raise it if it may be"
    return explain(run, f"{error}\n{printed}")


def sampling_in_words(run: RunConfig, described: str) -> str:
    """How a run samples, for the log; `described` is what its engine says."""
    own = "" if run.data.sampling_key is None else f"; column {run.data.sampling_key} says what is otherwise for a row"
    until = "" if run.adaptive.until is None else f" at most, until={run.adaptive.until}"
    return f"sampling: n_samples={run.sampling.n_samples}{until}, {described}, seed={run.sampling.seed}{own}"


def sample_all(
    session: Session,
    engine: Engine,
    progress: Progress,
    failed: set[tuple[int, int]],
    background: Background | None = None,
) -> Snapshot:
    """Generate every sample that the session's journal does not hold. Returns the final numbers.

    `background` scores them where a rule asks for it (`scores_beside`).

    Samples in `failed`, by (row_id, sample_idx), have failed in this session: they are not tried again in it, when an
    engine that died was started anew. What fails here is added.

    Raises EngineDied, Interrupted and UserError (too many bad rows), each after a flush of the journal.
    """
    run, table, run_dir = session.run, session.table, session.run_dir
    _log_first_prompt(run, table, engine)
    journal = Journal(run_dir, run.store, extras=run.extra_columns)
    check_errors = error_limit(run, table.num_rows)

    def note(sample: Sample) -> None:
        if sample.error is not None:
            failed.add((sample.row_id, sample.sample_idx))
        progress.count(sample)
        check_errors(sample)

    with report_progress(session, progress, engine.stats) as poll:

        def tick() -> None:
            poll()
            journal.flush_if_old()

        stage = Stage(run, table, run_dir, session.counts, journal, failed, note, tick, progress.settle)
        try:
            sample_one_stream(stage, engine) if background is None else sample_in_rounds(stage, engine, background)
        finally:
            journal.flush()
    return progress.snapshot()


@contextmanager
def report_progress(
    session: Session, progress: Progress, stats: Callable[[], EngineStats]
) -> Iterator[Callable[[], None]]:
    """The clock of `progress` runs in the body, which calls the function yielded again and again.

    It shows and records how far the run is, and raises Interrupted once a signal has come; the body is not interrupted
    anywhere else.
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
    """What the model really reads, once: a wrong template or a doubled token shows here before hours are spent."""
    for prompt in read_prompts(table, run.data):
        if prompt.error is not None:
            continue
        with suppress(PromptError):
            log.info(FIRST_PROMPT, prompt.row_id, engine.render(prompt.messages, prompt.tools).text)
            return


def model_name(run: RunConfig) -> str:
    """What is being loaded, for the log."""
    return run.model.path if run.engine.kind == "vllm" else "the echo engine"


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
        if len(bad_rows) > limit * num_rows:
            raise UserError(
                f"data.max_error_fraction={limit}: {len(bad_rows)} of {num_rows} rows cannot be sampled so far, "
                f"the last is row {sample.row_id} ({sample.error}); fix the input or raise the limit"
            )

    return check


def every(seconds: float) -> Callable[[], bool]:
    """A function that is true once per `seconds`, beginning `seconds` from now."""
    due = time.monotonic() + seconds

    def is_due() -> bool:
        nonlocal due
        if (now := time.monotonic()) < due:
            return False
        due = now + seconds
        return True

    return is_due

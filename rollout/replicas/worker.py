"""One of several engines of a run, in a process of its own: given tasks, it samples, stores and tells what finished.

The same loop and the same journal as in a run with one engine. Prompts are rendered here, and responses stay here: what
goes back to the driver is how each sample ended, and when it became durable.
"""

import logging
import os
import socket
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from rollout.engine.cache import Loaded, release
from rollout.engine.protocol import Engine, EngineStats
from rollout.errors import EngineDied, PromptError, UserError
from rollout.files import DISK_FULL
from rollout.generation.loop import Queued, Source, drain
from rollout.generation.order import most_held
from rollout.generation.requests import requests
from rollout.generation.rounds import Scorer, Scoring, scores_beside
from rollout.generation.session import every, load_engine, prepare
from rollout.records import Outcome, Request, Sample, outcome_of
from rollout.replicas.dispatcher import Task
from rollout.replicas.messages import Job, Ready, Report
from rollout.scoring.workers import Background
from rollout.store.journal import Journal
from rollout.store.judged import Telling
from rollout.store.layout import LOCK, LOGS
from rollout.terminal.console import screen

log = logging.getLogger(__name__)


_STATS_SECONDS = 0.2
_NEWS = 8  # a replica answers early once this fraction (1/8) of max_num_seqs has finished


class Replica:
    """An engine that lives through the jobs of a sweep, and the one job it works on."""

    def __init__(self) -> None:
        self._work: _Work | None = None
        self._last: _Work | None = None

    def start(self, job: Job) -> None:
        """Begin with a job, in a thread; `exchange` tells how it goes."""
        self.stop()
        self._work = self._last = _Work(job, after=self._last)
        self._work.thread.start()

    def exchange(self, tasks: list[Task], flush: bool, seconds: float) -> Report:
        """Take more tasks, wait at most `seconds` for news, and tell them. With `flush`, make all durable soon."""
        assert self._work is not None
        self._work.give(tasks, flush)
        return self._work.report(seconds)

    def stop(self) -> list[Exception]:
        """End the job: what has finished is made durable, what has not is dropped. The engine stays.

        Returns what has failed by now and no report has told, also of a job before.
        """
        if self._work is not None:
            self._work.end()
            self._work = None
        return [] if self._last is None else self._last.untold()

    def shutdown(self) -> list[Exception]:
        """The same, and end the engine."""
        untold = self.stop()
        release()
        return untold


class _Stopped(Exception):
    """The driver wants no more of this job."""


@dataclass
class _Work:
    """A job, the thread that works on it, and what they share under `_changed`."""

    job: Job
    after: "_Work | None"
    """That for the job before, which may still be loading the engine for that one and this."""
    thread: threading.Thread = field(init=False)
    _source: Queued[Request | Sample] = field(default_factory=Queued)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _outcomes: list[Outcome] = field(default_factory=list)
    _told_durable: int = 0
    _journal: Journal | None = None
    _scoring: Scoring | None = None
    """In a run that scores while it samples."""
    _engine: Engine | None = None
    _ready: Ready | None = None
    _stats: EngineStats = field(default_factory=lambda: EngineStats(0, 0, 0))
    _error: Exception | None = None
    _is_error_told: bool = False
    _untold: list[Exception] = field(default_factory=list)
    _is_loading: bool = False
    """Whether the engine is being loaded, or has failed to."""
    _flush: bool = False
    _stopping: bool = False

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, name="replica", daemon=True)

    def give(self, tasks: list[Task], flush: bool) -> None:
        """Render the tasks' prompts and queue what comes of them."""
        self._flush = flush
        for task in tasks:
            assert self._engine is not None
            if self._scoring is not None:
                self._scoring.expect(task.prompt, task.sample_indices)
            feed = requests([task.prompt], self._engine, self.job.run, partial(_owed, task))
            self._source.chunks.put(list(feed))

    def report(self, seconds: float) -> Report:
        """Wait for news and collect them."""
        with self._changed:
            self._changed.wait_for(self._has_news, seconds)
            outcomes, self._outcomes = self._outcomes, []
            durable = self._journal.num_durable if self._journal else 0
            newly, self._told_durable = durable - self._told_durable, durable
            unscored = 0 if self._scoring is None else self._scoring.num_unscored
            if self._error is not None:
                self._is_error_told = True
                self._untold = [error for error in self._untold if error is not self._error]
            return Report(self._ready, outcomes, newly, self._stats, self._error, unscored)

    def end(self) -> None:
        """Stop, and wait until what has finished is durable; an engine that is still being loaded is not waited for."""
        self._stopping = True
        if self._ready is not None or self._error is not None:
            self.thread.join()

    def untold(self) -> list[Exception]:
        """What has failed and is in no report, here or in a job before; each once. Of an engine that has died the next
        job hears.
        """
        with self._changed:
            untold, self._untold = self._untold, []
        return [error for error in untold if not isinstance(error, EngineDied)]

    def _has_news(self) -> bool:
        enough = max(1, self._ready.slots // _NEWS) if self._ready else 1
        durable = self._journal.num_durable if self._journal else 0
        return len(self._outcomes) >= enough or durable > self._told_durable or self._error is not None

    def _run(self) -> None:
        logs = self.job.run_dir / LOGS
        if (untold := self._error_of_the_job_before()) is not None:
            self._fail(untold)
            return
        if self._stopping:
            return
        try:
            _check_folder(self.job)
            logs.mkdir(exist_ok=True)
            with screen(logs / f"replica-{self.job.index:03d}.log"):
                self._sample(logs / f"replica-{self.job.index:03d}.log")
        except _Stopped:
            return
        except (UserError, EngineDied) as error:
            self._fail(error)
        except BaseException as error:  # whatever it is, the driver must hear of it
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                self._fail(error)
                return
            where = f"replica {self.job.index} on {socket.gethostname()}"
            self._fail(RuntimeError(f"{where}:\n{traceback.format_exc()}"))

    def _error_of_the_job_before(self) -> Exception | None:
        """Waits for its thread. An engine that fails to load when its job is over fails the next one of that model,
        which would otherwise try again, job after job, without a word. What was wrong with that job only is no affair
        of this one, but an engine that has died is dead for both.
        """
        before, self.after = self.after, None
        if before is None:
            return None
        before.thread.join()
        with self._changed:
            self._untold += before.untold()
        if isinstance(before._error, EngineDied):
            return before._error
        is_same = before._is_loading and before.job.run.model == self.job.run.model
        return before._error if is_same and not before._is_error_told else None

    def _sample(self, log_file: Path) -> None:
        run = self.job.run
        with scores_beside(run) as background:
            self._is_loading = True
            loaded = load_engine(run, log_file, ends_process=True)  # which the driver notices
            self._is_loading = False
            prepare(loaded.engine, run)
            journal = Journal(self.job.run_dir, run.store, self.job.writer, run.extra_columns)
            if background is None:
                self._sample_only(loaded, journal)
            else:
                self._score(loaded, journal, background)

    def _sample_only(self, loaded: Loaded, journal: Journal) -> None:
        def keep(sample: Sample) -> None:
            self._tell(outcome_of(sample))
            journal.add(sample)

        self._drain(loaded, journal, self._source, keep, _nothing)

    def _score(self, loaded: Loaded, journal: Journal, background: Background) -> None:
        """Sample, and tell of a sample once it has its score."""
        telling = Telling.of(self.job.run)

        def keep_final(sample: Sample) -> None:
            self._tell(telling.outcome(sample))
            journal.add(sample)

        def keep(sample: Sample) -> None:
            if sample.error is None:
                journal.hold(sample)
            else:
                keep_final(sample)

        scorer = Scorer(background, self.job.run, keep_final)
        self._scoring = Scoring(self._source, scorer, loaded.engine.max_num_seqs)
        self._drain(loaded, journal, self._scoring, keep, scorer.listen)

    def _tell(self, outcome: Outcome) -> None:
        """Of a sample, before it can be durable: a report never has more durable than finished."""
        with self._changed:
            self._outcomes.append(outcome)
            self._changed.notify()

    def _drain(
        self,
        loaded: Loaded,
        journal: Journal,
        source: Source,
        keep: Callable[[Sample], None],
        listen: Callable[[], None],
    ) -> None:
        """The loop, until the driver wants no more; `listen` is called between its steps."""
        engine = loaded.engine
        due, before = every(_STATS_SECONDS), engine.stats()

        def tick() -> None:
            if self._stopping:
                raise _Stopped
            listen()
            journal.flush_if_old()
            if due() or self._flush:
                stats = engine.stats()
                self._stats = replace(
                    stats,
                    generated_tokens=stats.generated_tokens - before.generated_tokens,
                    preemptions=stats.preemptions - before.preemptions,
                )
            if self._flush:
                journal.flush()
                with self._changed:
                    self._changed.notify()

        ready = _ready(loaded, self.job)
        with self._changed:
            self._engine, self._journal, self._ready = engine, journal, ready
            self._changed.notify()
        try:
            drain(engine, source, keep, tick)
        finally:
            journal.flush()

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._error = error
            if error not in self._untold:
                self._untold.append(error)
            self._changed.notify()


def _nothing() -> None:
    pass


def _owed(task: Task, _row_id: int) -> list[int]:
    return task.sample_indices


def _ready(loaded: Loaded, job: Job) -> Ready:
    engine = loaded.engine
    rendered = None
    if job.first is not None:
        with suppress(PromptError):
            rendered = engine.render(job.first.messages, job.first.tools).text
    return Ready(
        slots=engine.max_num_seqs,
        capacity=most_held(job.run.sampling, engine.max_num_seqs),
        seconds=loaded.seconds,
        reused=loaded.reused,
        reloaded=loaded.reloaded,
        sampling=engine.describe(),
        rendered=rendered,
        host=socket.gethostname(),
        pid=os.getpid(),
        gpus=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        share_of_next=engine.share_of_next,
        safer=loaded.safer,
        sampler=engine.sampler,
        kv_cache_tokens=engine.kv_cache_tokens,
    )


def _check_folder(job: Job) -> None:
    """Raises UserError where this machine does not see the driver's run folder: its lock must say the same here."""
    try:
        holder = (job.run_dir / LOCK).read_text(encoding="utf-8")
    except OSError:
        holder = ""
    if holder != job.holder:
        raise UserError(
            f"hydra.run.dir={job.run_dir}: {socket.gethostname()} does not see this folder; with ray_address the run "
            "folder must be on a file system that all machines share"
        )

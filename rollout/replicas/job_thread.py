"""One job of a replica, and the thread that works on it: given tasks, it samples, stores and reports.

It has the same loop and the same journal as a run with one engine. Prompts are rendered here, and responses stay here:
the driver is told only how each sample ended, and when it became durable.
"""

import os
import socket
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rollout.engine.cache import Loaded
from rollout.engine.protocol import NO_STATS, Engine
from rollout.errors import EngineDied, PromptError, UserError
from rollout.files import DISK_FULL
from rollout.generation.engine_start import load_engine, prepare
from rollout.generation.loop import Queued, drain
from rollout.generation.order import most_held
from rollout.generation.requests import requests
from rollout.generation.rounds import Scorer, Scoring, scores_beside
from rollout.process.timer import every
from rollout.records import Outcome, Request, Sample, outcome_of
from rollout.replicas.dispatcher import Task
from rollout.replicas.messages import Job, Ready, Report
from rollout.scoring.workers import Background
from rollout.store.journal import Journal
from rollout.store.judged import Telling
from rollout.store.layout import LOCK, replica_log
from rollout.terminal.console import screen

_STATS_SECONDS = 0.2
_NEWS = 8  # a replica answers early once this fraction (1/8) of max_num_seqs has finished


class _Stopped(Exception):
    """The driver wants no more of this job."""


@dataclass(frozen=True)
class _Live:
    """What a job works with once its engine is loaded."""

    engine: Engine
    journal: Journal
    ready: Ready
    scoring: Scoring | None = None
    """None unless the run scores while it samples."""

    @property
    def num_unscored(self) -> int:
        """Samples that wait for their scores."""
        return 0 if self.scoring is None else self.scoring.num_unscored


class JobThread:
    """A job, and the thread that works on it; `_changed` guards what they share."""

    def __init__(self, job: Job, after: "JobThread | None") -> None:
        """`after` is the work on the job before, whose thread may still be loading the engine that both jobs need."""
        self.job, self._after = job, after
        self.thread = threading.Thread(target=self._run, name="replica", daemon=True)
        self._queue = Queued[Request | Sample]()
        self._changed = threading.Condition()
        self._live: _Live | None = None
        self._outcomes = list[Outcome]()
        self._told_durable = 0
        self._stats = NO_STATS
        self._error: Exception | None = None
        """Why the thread has failed, if it has."""
        self._untold = list[Exception]()
        """Errors, also of earlier jobs, that neither a report nor `untold` has returned."""
        self._is_loading = False
        """Whether the engine is being loaded, or loading has failed."""
        self._flush = self._stopping = False

    def give(self, tasks: list[Task], flush: bool) -> None:
        """Render the tasks' prompts and queue their requests."""
        self._flush = flush
        for task in tasks:
            assert self._live is not None
            if self._live.scoring is not None:
                self._live.scoring.expect(task.prompt, task.sample_indices)
            feed = requests([task.prompt], self._live.engine, self.job.run, partial(_owed, task))
            self._queue.chunks.put(list(feed))

    def report(self, seconds: float) -> Report:
        """Wait at most `seconds` for news, and report it."""
        with self._changed:
            self._changed.wait_for(self._has_news, seconds)
            outcomes, self._outcomes = self._outcomes, []
            durable = self._num_durable  # once: the other thread counts on
            newly, self._told_durable = durable - self._told_durable, durable
            self._untold = [error for error in self._untold if error is not self._error]
            ready, unscored = (self._live.ready, self._live.num_unscored) if self._live else (None, 0)
            return Report(ready, outcomes, newly, self._stats, self._error, unscored)

    def end(self) -> None:
        """Stop, and wait until what has finished is durable; an engine that is still being loaded is not waited for."""
        self._stopping = True
        if self._live is not None or self._error is not None:
            self.thread.join()

    def untold(self) -> list[Exception]:
        """Errors of this job and of earlier ones that were not told yet; a dead engine is reported by the next job."""
        with self._changed:
            untold, self._untold = self._untold, []
        return [error for error in untold if not isinstance(error, EngineDied)]

    @property
    def _num_durable(self) -> int:
        return self._live.journal.num_durable if self._live else 0

    def _has_news(self) -> bool:
        enough = max(1, self._live.ready.slots // _NEWS) if self._live else 1
        return len(self._outcomes) >= enough or self._num_durable > self._told_durable or self._error is not None

    def _run(self) -> None:
        if (inherited := self._error_of_the_job_before()) is not None:
            self._fail(inherited)
            return
        if self._stopping:
            return
        log_file = replica_log(self.job.run_dir, self.job.index)
        try:
            _check_folder(self.job)
            log_file.parent.mkdir(exist_ok=True)
            with screen(log_file):
                self._sample(log_file)
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
        """Wait for its thread, and return its error if it concerns this job too: the engine has died, or has failed to
        load the same model and nobody was told. Otherwise this job would only try that again, and so would the next.
        """
        before, self._after = self._after, None
        if before is None:
            return None
        before.thread.join()
        untold = before.untold()
        with self._changed:
            self._untold += untold
        if isinstance(before._error, EngineDied):
            return before._error
        is_same = before._is_loading and before.job.run.model == self.job.run.model
        return before._error if is_same and before._error in untold else None

    def _sample(self, log_file: Path) -> None:
        run = self.job.run
        with scores_beside(run) as background:
            self._is_loading = True
            loaded = load_engine(run, log_file, ends_process=True)  # which the driver notices
            self._is_loading = False
            prepare(loaded.engine, run)
            journal = Journal(self.job.run_dir, run.store, self.job.writer, run.extra_columns)
            live = _Live(loaded.engine, journal, _ready(loaded, self.job))
            if background is None:
                self._sample_only(live)
            else:
                self._score(live, background)

    def _sample_only(self, live: _Live) -> None:
        def keep(sample: Sample) -> None:
            self._tell(outcome_of(sample))
            live.journal.add(sample)

        self._drain(live, keep, lambda: None)

    def _score(self, live: _Live, background: Background) -> None:
        """Sample, and report each sample once it has its score."""
        telling, journal = Telling.of(self.job.run), live.journal

        def keep_final(sample: Sample) -> None:
            self._tell(telling.outcome(sample))
            journal.add(sample)

        def keep(sample: Sample) -> None:
            if sample.error is None:
                journal.hold(sample)
            else:
                keep_final(sample)

        scorer = Scorer(background, self.job.run, keep_final)
        scoring = Scoring(self._queue, scorer, live.engine.max_num_seqs)
        self._drain(replace(live, scoring=scoring), keep, scorer.listen)

    def _tell(self, outcome: Outcome) -> None:
        """To be called before a sample can be durable: a report must never have more durable samples than finished."""
        with self._changed:
            self._outcomes.append(outcome)
            self._changed.notify()

    def _drain(self, live: _Live, keep: Callable[[Sample], None], listen: Callable[[], None]) -> None:
        """Run the loop until the driver stops the job; `listen` is called between its steps."""
        engine, journal = live.engine, live.journal
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

        with self._changed:
            self._live = live
            self._changed.notify()
        try:
            drain(engine, self._queue if live.scoring is None else live.scoring, keep, tick)
        finally:
            journal.flush()

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self._error = error
            if error not in self._untold:
                self._untold.append(error)
            self._changed.notify()


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

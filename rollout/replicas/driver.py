"""The generation stage of one session on several engines: hand out work, add up the reports, replace what dies.

It does what `generation/session.py` does for one engine in this process. One call to a replica brings new tasks there
and a report back; nothing else is sent, and no response passes through here.
"""

import logging
import time
from dataclasses import replace
from functools import partial

from rollout.data.prompts import read_prompts
from rollout.engine import models
from rollout.engine.cache import EngineSpec, acquire_replicas
from rollout.engine.content import content_beside
from rollout.engine.protocol import EngineStats, GpuShare
from rollout.errors import EngineDied, UserError
from rollout.files import short
from rollout.generation.engine_start import model_name
from rollout.generation.session import Session, error_limit, no_more_restarts, numbers_kept, report_progress
from rollout.records import Outcome, Prompt
from rollout.replicas.log import ReplicaLog, log_idle, log_quiet
from rollout.replicas.messages import Job, ReplicaLost, Replicas, Report
from rollout.replicas.one_engine import one_engine
from rollout.replicas.rounds import work_of
from rollout.replicas.state import ReplicaState, total_stats
from rollout.store.journal import Finished, writer_name
from rollout.store.judged import Survey, how_far, outcomes_of
from rollout.store.layout import LOCK, replica_log
from rollout.store.lineage import note_model
from rollout.store.run_record import EngineRecord, ReplicaRecord
from rollout.terminal.text import resume_command
from rollout.tracking.progress import Progress, Snapshot

log = logging.getLogger(__name__)

_WAIT_SECONDS = 0.1  # for a replica's report; a signal waits no longer than this
_MAX_ASKED = 200  # calls per second, all replicas together, while nothing finishes
_SHARED_SECONDS = 120.0  # for a file that another machine wrote to be seen here; NFS may take 60


def generate_on_replicas(session: Session, done: Finished | Survey) -> Snapshot:
    """`session.generate_owed` on the engines that `hardware` asks for; the record has an entry for each."""
    from rollout.replicas.ray_replicas import RayReplicas  # ray takes a second to import

    session.record.engine = about_engine = EngineRecord()
    log.info("loading %s ...", model_name(session.run))
    with session.record.timed("load"):
        if session.run.engine.kind == "vllm":
            models.resolve(session.run.model.path)  # unpacks the embedded model once, not in every replica
        spec = EngineSpec.of(session.run)
        replicas, reused = acquire_replicas(spec, lambda: RayReplicas(session.run.hardware))
    about_engine.reused = reused
    driver = Driver(session, replicas, done)
    try:
        return driver.run()
    finally:
        about_engine.replicas = driver.about()
        about_engine.reused = driver.reused(reused)
        about_engine.reloaded = any(replica.reloaded for replica in about_engine.replicas)
        about_engine.restarts = sum(replica.restarts for replica in about_engine.replicas)


class Driver:
    """One run on the replicas that are there."""

    def __init__(self, session: Session, replicas: Replicas, done: Finished | Survey) -> None:
        self._session, self._replicas, self._record = session, replicas, session.record
        self._progress = Progress(done.num_owed, done.num_done, done.num_open)
        self._work = work_of(session, done, replicas.count, self._progress.settle)
        self._dispatcher = self._work.dispatcher
        self._check_errors = error_limit(session.run, session.table.num_rows)
        self._wait = max(_WAIT_SECONDS, replicas.count / _MAX_ASKED)
        self._share_of_next: GpuShare | None = None
        self._lock_holder = (session.run_dir / LOCK).read_text(encoding="utf-8")
        self._first = _first_prompt(session)
        self._log = ReplicaLog(session.run, self._first)
        self._states = [ReplicaState(self._job(index)) for index in range(replicas.count)]

    def run(self) -> Snapshot:
        """Generate everything that is owed. Returns the final numbers.

        Raises Interrupted and UserError; what has finished is durable then.
        """
        with numbers_kept(self._session, self._last):
            try:
                with self._work.scoring():
                    self._load()
                    self._generate()
            except BaseException as error:
                self._stop(said=str(error))
                raise
        self._stop()
        log_idle(self._states)
        self._await_parts()
        return self._progress.snapshot()

    def _last(self) -> Snapshot:
        """The numbers once all have stopped: what they made durable after their last reports is done, too."""
        session, now = self._session, self._progress.snapshot()
        num_done = how_far(session.run_dir, session.counts, session.run).num_done
        return replace(now, samples_done=num_done, samples_total=max(num_done, now.samples_total))

    def _stop(self, said: str = "") -> None:
        """End the job everywhere and log errors that no report has told; `said` is the error that ends it, if any."""
        for index, error in self._replicas.stop():
            if str(error) not in said:
                log.warning("replica %d has failed: %s", index, error)

    def _load(self) -> None:
        session, model = self._session, self._session.run.model
        with self._record.timed("load"), content_beside(model) as content:
            with session.stop.deferred():
                self._load_first()
            note_model(session.run_dir, model, content(), self._record)

    def _generate(self) -> None:
        with self._record.timed("generate"), report_progress(self._session, self._progress, self._stats) as poll:
            self._load_others()
            while not (self._dispatcher.is_done and self._work.is_done):
                poll()
                self._listen()

    def about(self) -> list[ReplicaRecord]:
        """What run.json says of each engine."""
        seconds = self._progress.snapshot().elapsed_seconds
        return [state.record(seconds) for state in self._states]

    def reused(self, otherwise: bool) -> bool:
        """Whether any engine was loaded before this run; `otherwise` if none was ready."""
        known = [state.newest.reused for state in self._states if state.newest is not None]
        return any(known) if known else otherwise

    def _load_first(self) -> None:
        """Wait until one engine is ready: it begins, and the others join when they are.

        All are started now, but where engines share a GPU only the first, see `_load_others`.
        """
        for index in range(1 if self._shares_gpus() else self._replicas.count):
            self._start(index)
        if not self._shares_gpus():
            self._log.all_started()
        while not any(state.ready for state in self._states):
            self._session.stop.raise_if_requested()
            self._listen()

    def _load_others(self) -> None:
        """Where engines share a GPU, start the others with the share of memory that the first one has measured.

        vLLM measures by watching the GPU's memory; engines that load at the same time would see each other.
        """
        if not self._shares_gpus():
            return
        ready = self._states[0].ready
        self._share_of_next = ready.share_of_next if ready else None
        for index in range(1, self._replicas.count):
            self._states[index].job = self._job(index)
            self._start(index)
        self._log.all_started()

    def _shares_gpus(self) -> bool:
        return self._session.run.hardware.replicas_per_gpu > 1

    def _job(self, index: int) -> Job:
        session = self._session
        return Job(
            run=one_engine(session.run, self._share_of_next, self._replicas.count),
            run_dir=session.run_dir.absolute(),
            index=index,
            writer=writer_name(index),
            holder=self._lock_holder,
            first=self._first,
        )

    def _start(self, index: int) -> None:
        self._replicas.start(index, self._states[index].job)
        self._ask(index)

    def _ask(self, index: int) -> None:
        ready = self._states[index].ready
        capacity = 0 if ready is None else ready.capacity + self._states[index].unscored
        tasks = self._dispatcher.take(index, capacity, self._replicas.num_connected) if ready else []
        self._replicas.ask(index, tasks, self._dispatcher.all_finished, self._wait)

    def _listen(self) -> None:
        self._work.listen()
        self._log.places(self._replicas)
        for index, answer in self._replicas.answers(_WAIT_SECONDS):
            if isinstance(answer, ReplicaLost):
                self._replace(index, answer.reason)
            else:
                self._take_in(index, answer)
        for index, state in enumerate(self._states):
            log_quiet(index, state, self._dispatcher.held(index) - state.unscored)

    def _take_in(self, index: int, report: Report) -> None:
        state = self._states[index]
        if report.ready is not None and state.ready is None:
            self._dispatcher.join(index, report.ready.slots)
            self._log.ready(index, report.ready)
        state.hear(report)
        self._dispatcher.finished(index, report.outcomes)
        self._work.hear(report.outcomes, partial(self._dispatcher.prompts_of, index))
        self._dispatcher.durable(index, report.durable)
        for outcome in report.outcomes:
            self._count(state, outcome)
            self._check_errors(outcome)
        if isinstance(report.error, EngineDied):
            self._replace(index, str(report.error))
        elif report.error is not None:
            raise self._explained(report.error)
        else:
            self._ask(index)

    def _explained(self, error: Exception) -> Exception:
        """An error about a replica's share of the GPU, in terms of the key that the user has set."""
        if not self._shares_gpus() or not isinstance(error, UserError):
            return error
        key = f"hardware.replicas_per_gpu={self._session.run.hardware.replicas_per_gpu}"
        part = f"{key}: each engine has that part of the memory; lower it, or: "
        return UserError(*(part + line if "gpu_memory_utilization" in line else line for line in error.problems))

    def _count(self, state: ReplicaState, outcome: Outcome, times: int = 1) -> None:
        state.count(outcome, times)
        self._progress.count(outcome, times)

    def _replace(self, index: int, reason: str) -> None:
        """A replica is gone: start another in its place."""
        state, log_file = self._states[index], replica_log(self._session.run_dir, index)
        self._session.stop.raise_if_requested()  # Ctrl-C in a terminal may have reached the engine too
        self._replicas.replace(index)
        found = self._requeue(index)
        if state.restarts == self._session.run.engine.max_restarts:
            raise no_more_restarts(self._session, f"replica {index} died once more ({reason})", log_file)
        log.warning("replica %d died (%s), starting it again; see %s", index, reason, short(log_file))
        state.restart(self._job(index))
        self._start(index)
        for outcome in found:
            self._check_errors(outcome)

    def _requeue(self, index: int) -> list[Outcome]:
        """Owe again what a replica had not made durable. Returns what it had made durable but not reported yet."""
        state, prompts = self._states[index], self._dispatcher.prompts_of(index)
        stored = outcomes_of(self._session.run_dir, state.job.writer, self._work.telling)
        lost, found = self._dispatcher.requeue(index, stored)
        self._work.forget(lost, prompts)
        self._work.hear(found, lambda: prompts)
        for outcome in lost:
            self._count(state, outcome, -1)
        for outcome in found:
            self._count(state, outcome)
        return found

    def _stats(self) -> EngineStats:
        return total_stats(self._states, map(self._dispatcher.held, range(self._replicas.count)))

    def _await_parts(self) -> None:
        """Wait until this machine sees all samples that the replicas have stored. Raises UserError if it never does."""
        run_dir = self._session.run_dir
        deadline = time.monotonic() + _SHARED_SECONDS
        while not how_far(run_dir, self._session.counts, self._session.run, failed_too=True).is_complete:
            if time.monotonic() > deadline:
                raise UserError(
                    f"{short(run_dir)}: what other machines wrote does not appear here; check the shared file system, "
                    f"then `{resume_command(run_dir)}`"
                )
            time.sleep(1.0)


def _first_prompt(session: Session) -> Prompt | None:
    return next((prompt for prompt in read_prompts(session.table, session.run.data) if prompt.error is None), None)

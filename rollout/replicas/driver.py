"""The generation stage of one session on several engines: hand out, listen, add up, replace what dies.

What `generation/session.py` is for one engine in this process. Replicas are asked in turn for what is new and given
more with the same call; nothing is sent to them otherwise, and no response passes through here.
"""

import logging
import time
from contextlib import nullcontext
from functools import partial

from rollout.data.prompts import read_prompts, watch_chats
from rollout.engine import models
from rollout.engine.cache import EngineSpec, acquire_replicas
from rollout.engine.content import content_beside
from rollout.engine.protocol import EngineStats, GpuShare
from rollout.errors import EngineDied, UserError
from rollout.files import short
from rollout.generation.session import (
    FIRST_PROMPT,
    Session,
    error_limit,
    how_loaded,
    model_name,
    report_progress,
    sampling_in_words,
)
from rollout.records import Outcome, Prompt
from rollout.replicas.dispatcher import Dispatcher
from rollout.replicas.longest import order_of
from rollout.replicas.messages import Job, Ready, ReplicaLost, Replicas, Report
from rollout.replicas.one_engine import one_engine
from rollout.replicas.rounds import Rounds
from rollout.replicas.state import ReplicaState
from rollout.store.journal import Finished, writer_name
from rollout.store.judged import Survey, Telling, how_far, outcomes_of
from rollout.store.layout import LOCK, LOGS
from rollout.store.lineage import note_model
from rollout.store.run_record import EngineRecord, ReplicaRecord
from rollout.terminal.text import resume_command
from rollout.tracking.progress import Progress, Snapshot

log = logging.getLogger(__name__)

_WAIT_SECONDS = 0.1  # for a replica's news; between two looks for signals
_MAX_ASKED = 200  # times per second, all replicas together, while nothing finishes
_PLACE_SECONDS = 60.0  # for Ray to begin a process for each replica, before somebody is told that it has no room
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
        run, table = session.run, session.table
        self._session, self._replicas, self._record = session, replicas, session.record
        self._progress = Progress(done.num_owed, done.num_done, done.num_open)
        self._rounds: Rounds | None = None
        if isinstance(done, Finished):
            prompts = watch_chats(read_prompts(table, run.data), run.model.chat_template_kwargs, log.warning)
            self._dispatcher = Dispatcher(prompts, done.owed, done.num_owed, replicas.count, order_of(session))
        else:
            self._rounds = Rounds(session, done.num_owed, replicas.count, self._progress.settle)
            self._dispatcher = self._rounds.dispatcher
        self._check_errors = error_limit(run, table.num_rows)
        self._wait = max(_WAIT_SECONDS, replicas.count / _MAX_ASKED)
        self._share_of_next: GpuShare | None = None
        self._holder = (session.run_dir / LOCK).read_text(encoding="utf-8")
        self._first, self._is_sampling_logged = _first_prompt(session), False
        self._place_due: float | None = None
        self._states = [ReplicaState(self._job(index)) for index in range(replicas.count)]

    def run(self) -> Snapshot:
        """Generate everything that is owed. Returns the final numbers.

        Raises Interrupted and UserError; what has finished is durable then.
        """
        try:
            with nullcontext() if self._rounds is None else self._rounds.scoring():
                self._load()
                self._generate()
        except BaseException as error:
            self._stop(said=str(error))
            raise
        self._stop()
        self._log_idle()
        self._await_parts()
        return self._progress.snapshot()

    def _stop(self, said: str = "") -> None:
        """End the job everywhere, and tell what nobody has told; `said` is why it ends, if it fails."""
        for index, error in self._replicas.stop():
            if str(error) not in said:
                log.warning("replica %d has failed: %s", index, error)

    def _log_idle(self) -> None:
        for index, state in enumerate(self._states):
            if state.ready is None:
                log.info("replica %d was not ready when all was done", index)

    def _load(self) -> None:
        session, model = self._session, self._session.run.model
        with self._record.timed("load"), content_beside(model) as content:
            with session.stop.deferred():
                self._load_first()
            note_model(session.run_dir, model, content(), self._record)

    def _generate(self) -> None:
        with self._record.timed("generate"), report_progress(self._session, self._progress, self._stats) as poll:
            self._load_others()
            while not self._is_done:
                poll()
                self._listen()

    @property
    def _is_done(self) -> bool:
        return self._dispatcher.is_done and (self._rounds is None or self._rounds.is_done)

    def about(self) -> list[ReplicaRecord]:
        """What run.json says of each engine."""
        seconds = self._progress.snapshot().elapsed_seconds
        return [state.record(seconds) for state in self._states]

    def reused(self, otherwise: bool) -> bool:
        """Whether an engine was there already; `otherwise` as long as none is ready."""
        known = [state.newest.reused for state in self._states if state.newest is not None]
        return any(known) if known else otherwise

    def _load_first(self) -> None:
        """Until one engine is ready: it begins, and the others join when they are."""
        for index in range(1 if self._shares_gpus() else self._replicas.count):
            self._start(index)
        self._place_due = None if self._shares_gpus() else time.monotonic() + _PLACE_SECONDS
        while not any(state.ready for state in self._states):
            self._session.stop.raise_if_requested()
            self._listen()

    def _load_others(self) -> None:
        """Where engines share a GPU, give the others what the first one has found to be left for each.

        vLLM measures that by watching the GPU's memory; engines that load at the same time would see each other.
        """
        if not self._shares_gpus():
            return
        ready = self._states[0].ready
        self._share_of_next = ready.share_of_next if ready else None
        for index in range(1, self._replicas.count):
            self._states[index].job = self._job(index)
            self._start(index)
        self._place_due = time.monotonic() + _PLACE_SECONDS

    def _shares_gpus(self) -> bool:
        return self._session.run.hardware.replicas_per_gpu > 1

    def _job(self, index: int) -> Job:
        session = self._session
        return Job(
            run=one_engine(session.run, self._share_of_next, self._replicas.count),
            run_dir=session.run_dir.absolute(),
            index=index,
            writer=writer_name(index),
            holder=self._holder,
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
        if self._rounds is not None:
            self._rounds.listen()
        if self._place_due is not None and time.monotonic() > self._place_due:
            self._place_due = None
            self._log_places()
        for index, answer in self._replicas.answers(_WAIT_SECONDS):
            if isinstance(answer, ReplicaLost):
                self._replace(index, answer.reason)
            else:
                self._take_in(index, answer)
        self._log_quiet()

    def _log_quiet(self) -> None:
        for index, state in enumerate(self._states):
            owed = self._dispatcher.held(index) - state.unscored
            if state.falls_quiet(owed) and (ready := state.ready) is not None:
                cure = f"if it hangs, `kill -9 {ready.pid}` on {ready.host} ends it, and it is started again"
                log.warning(
                    "replica %d has made no token for two minutes, with %d samples to make; %s", index, owed, cure
                )

    def _log_places(self) -> None:
        there, count = self._replicas.num_connected, self._replicas.count
        if there < count:
            log.warning(
                "Ray has found a place for %d of %d replicas; the others wait for CPUs or GPUs that others hold",
                there,
                count,
            )

    def _take_in(self, index: int, report: Report) -> None:
        state = self._states[index]
        if report.ready is not None and state.ready is None:
            self._dispatcher.join(index, report.ready.slots)
            self._log_ready(index, report.ready)
        state.hear(report)
        self._dispatcher.finished(index, report.outcomes)
        if self._rounds is not None:
            self._rounds.hear(report.outcomes, partial(self._dispatcher.prompts_of, index))
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
        """What a replica says of its part of the GPU, in terms of what the user has set."""
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
        run, run_dir, state = self._session.run, self._session.run_dir, self._states[index]
        self._session.stop.raise_if_requested()  # Ctrl-C in a terminal may have reached the engine too
        self._replicas.replace(index)
        found = self._requeue(index)
        where = short(run_dir / LOGS / f"replica-{index:03d}.log")
        if state.restarts == run.engine.max_restarts:
            raise UserError(
                f"engine.max_restarts={run.engine.max_restarts}: replica {index} died once more ({reason}); "
                f"see {where}, then continue with `{resume_command(run_dir)}`"
            )
        log.warning("replica %d died (%s), starting it again; see %s", index, reason, where)
        state.restart(self._job(index))
        self._start(index)
        for outcome in found:
            self._check_errors(outcome)

    def _requeue(self, index: int) -> list[Outcome]:
        """Owe again what a replica had not made durable. Returns what it had, and not reported yet."""
        session, state, prompts = self._session, self._states[index], self._dispatcher.prompts_of(index)
        telling = None if self._rounds is None else Telling.of(session.run)
        lost, found = self._dispatcher.requeue(index, outcomes_of(session.run_dir, state.job.writer, telling))
        if self._rounds is not None:
            self._rounds.forget(lost, prompts)
            self._rounds.hear(found, lambda: prompts)
        for outcome in lost:
            self._count(state, outcome, -1)
        for outcome in found:
            self._count(state, outcome)
        return found

    def _log_ready(self, index: int, ready: Ready) -> None:
        took = how_loaded(ready.seconds, ready.reused, ready.reloaded)
        log.info("replica %d on %s%s: %s", index, ready.host, f", GPU {ready.gpus}" if ready.gpus else "", took)
        if ready.safer and not ready.reused:
            log.info("its GPUs exchange data in a safer way than vLLM's fastest: %s", " ".join(ready.safer))
        if not self._is_sampling_logged:  # by whichever is ready first: number 0 may never be
            self._is_sampling_logged = True
            log.info("%s", sampling_in_words(self._session.run, ready.sampling))
            if self._first is not None and ready.rendered is not None:
                log.info(FIRST_PROMPT, self._first.row_id, ready.rendered)

    def _stats(self) -> EngineStats:
        tokens = tuple(state.generated_tokens for state in self._states)
        held = map(self._dispatcher.held, range(self._replicas.count))  # known here at once, unlike what engines tell
        running = sum(min(state.stats.running, most) for state, most in zip(self._states, held, strict=True))
        waiting = sum(state.stats.waiting for state in self._states) if running else 0
        preemptions = sum(state.preemptions for state in self._states)
        return EngineStats(running, waiting, sum(tokens), preemptions, tokens)

    def _await_parts(self) -> None:
        """Until this machine sees every sample that the replicas have stored. Raises UserError when it does not."""
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

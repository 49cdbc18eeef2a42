"""What the log says of the replicas: when each is ready, and when somebody should look at one."""

import logging
import time
from collections.abc import Iterable

from rollout.config import RunConfig
from rollout.data.text import counted
from rollout.generation.engine_start import log_start, sampling_in_words
from rollout.generation.session import first_prompt_in_words
from rollout.records import Prompt
from rollout.replicas.messages import Ready, Replicas
from rollout.replicas.state import QUIET_IN_WORDS, ReplicaState

log = logging.getLogger(__name__)

_PLACE_SECONDS = 60.0  # for Ray to begin a process for each replica, before the log says that it has no room


class ReplicaLog:
    """Logs each of these once: how the run samples, that replicas wait for a place, and what happens to each."""

    def __init__(self, run: RunConfig, first: Prompt | None) -> None:
        """`first` is the prompt that a replica renders for the log (`Job.first`)."""
        self._run, self._first = run, first
        self._is_sampling_logged = False
        self._places_due: float | None = None

    def ready(self, index: int, ready: Ready) -> None:
        """A replica has loaded its engine."""
        log_start(f"replica {index} on {ready.host}{f', GPU {ready.gpus}' if ready.gpus else ''}:", ready)
        if not self._is_sampling_logged:  # by whichever is ready first: number 0 may never be
            self._is_sampling_logged = True
            log.info("%s", sampling_in_words(self._run, ready.sampling))
            if self._first is not None and ready.rendered is not None:
                log.info("%s", first_prompt_in_words(self._first.row_id, ready.rendered))

    def all_started(self) -> None:
        """Ray has been asked for every replica; `places` warns if they do not all get a process in time."""
        self._places_due = time.monotonic() + _PLACE_SECONDS

    def places(self, replicas: Replicas) -> None:
        """To be called again and again."""
        if self._places_due is None or time.monotonic() <= self._places_due:
            return
        self._places_due = None
        if replicas.num_connected < replicas.count:
            log.warning(
                "Ray has found a place for %d of %d replicas; the others wait for CPUs or GPUs that others hold",
                replicas.num_connected,
                replicas.count,
            )


def log_quiet(index: int, state: ReplicaState, num_owed: int) -> None:
    """Warn of a replica that has just become quiet, with `num_owed` samples to generate."""
    if state.falls_quiet(num_owed) and (ready := state.ready) is not None:
        cure = f"if it hangs, `kill -9 {ready.pid}` on {ready.host} ends it, and it is started again"
        log.warning(
            "replica %d has made no token for %s, with %s to make; %s",
            index,
            QUIET_IN_WORDS,
            counted(num_owed, "sample"),
            cure,
        )


def log_idle(states: Iterable[ReplicaState]) -> None:
    """Name the replicas that were still loading when the run had ended."""
    for index, state in enumerate(states):
        if state.ready is None:
            log.info("replica %d was not ready when all was done", index)

"""metrics.jsonl always, with Weights & Biases beside it.

The file is the source of truth. W&B is a guest: it works in its own thread, for which the run waits only at its end,
and only for a limited time. Any failure there is one warning, and the run continues.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rollout.files import as_argument
from rollout.store.layout import METRICS
from rollout.store.run_record import RunRecord
from rollout.tracking import wandb_run
from rollout.tracking.progress import Snapshot

log = logging.getLogger(__name__)

_GRACE_SECONDS = 4.0  # for W&B's own time limits to take effect before ours do, once at the start and once at the end
_MAX_BEHIND = 1000  # points that W&B may be behind: more than an hour
_LAST_SECONDS = 1.0  # for the thread to end after W&B's service was killed


@contextmanager
def tracked(run_dir: Path, record: RunRecord) -> Iterator["Tracker"]:
    """Yield a Tracker whose W&B run is closed at the end, as failed if the body raises.

    It uses the config and the W&B identity in `record` and, in `summarise`, the results of the run. The end comes at
    most `tracking.init_timeout`, 1.5 times `tracking.finish_timeout` and nine seconds later than without W&B.
    """
    tracker = Tracker(run_dir, record)
    try:
        yield tracker
    except BaseException:
        tracker.finish(exit_code=1)
        raise
    tracker.finish(exit_code=0)


class Tracker:
    """One W&B run. No method raises and only `finish` waits: the first failure is a warning and ends the tracking."""

    def __init__(self, run_dir: Path, record: RunRecord) -> None:
        self._run_dir, self._record = run_dir, record
        self._tracking = tracking = record.config.tracking
        self._run: Any = None
        self._broken = self._warned = False
        self._exit_code = 0
        self._actions: queue.SimpleQueue[tuple[str, Callable[[], object]] | None] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None
        self._started_by = time.monotonic() + tracking.init_timeout + _GRACE_SECONDS
        if tracking.mode != "disabled":
            self._attempt("be imported", self._begin)

    def log(self, now: Snapshot) -> None:
        """Add a point to the series."""
        if self._actions.qsize() < _MAX_BEHIND:
            self._enqueue("log", lambda: self._run.log(wandb_run.point(now)))

    def summarise(self, files: list[Path], estimates: Mapping[str, Mapping[str, float | None]] | None = None) -> None:
        """Write totals, a table of samples and, if asked for, a reference to the output `files`, the result first.

        `estimates` are the scores and shares by name, each with its value, se, low and high.
        """
        results = wandb_run.Results.of(self._record, files, estimates or {})
        self._enqueue("summarise", lambda: wandb_run.log_results(self._run, self._tracking, results))

    def finish(self, exit_code: int) -> None:
        """Close the W&B run; give up if that takes longer than the time limits allow."""
        if self._worker is None:
            return
        self._exit_code = exit_code
        self._actions.put(None)
        starting = max(0.0, self._started_by - time.monotonic())
        try:
            self._worker.join(starting + 1.5 * self._tracking.finish_timeout + _GRACE_SECONDS)
        finally:  # also if a signal ends the waiting
            if self._worker.is_alive():
                self._give_up(self._worker)

    def _begin(self) -> None:
        # here and not in the thread: the engine is imported next, and two threads that import packages with common
        # dependencies can see each other's half-made modules
        wandb_run.prepare()
        self._worker = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._worker.start()

    def _work(self) -> None:
        self._attempt("start", self._start)
        while (item := self._actions.get()) is not None:
            if not self._broken:
                self._attempt(*item)
        if self._run is not None:
            self._attempt("finish", lambda: self._run.finish(exit_code=self._exit_code))
        self._attempt("stop", wandb_run.close)

    def _start(self) -> None:
        self._run = wandb_run.start(self._run_dir, self._record, self._warn)

    def _enqueue(self, what: str, action: Callable[[], object]) -> None:
        if self._worker is not None:
            self._actions.put((what, action))

    def _attempt(self, what: str, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # by contract, no failure of W&B may end a rollout
            self._broken = True
            self._warn(f"W&B failed to {what} ({type(error).__name__}: {error}), {self._what_is_left()}")

    def _give_up(self, worker: threading.Thread) -> None:
        self._broken = True
        self._warn(f"W&B does not come to an end, {self._what_is_left()}")
        wandb_run.kill_service()
        worker.join(_LAST_SECONDS)

    def _what_is_left(self) -> str:
        folder = as_argument(self._run_dir)
        return (
            f"going on without it; {folder}/{METRICS} has every number, and `wandb sync {folder}/wandb/*run-*` "
            "uploads what W&B had kept"
        )

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning("%s", message)

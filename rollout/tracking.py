"""metrics.jsonl always, Weights & Biases beside it.

The file is the source of truth. W&B is an adapter: whatever goes wrong there is one warning, and the run goes on.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rollout.config import TrackingConfig
from rollout.progress import Snapshot
from rollout.records import PREVIEW_COLUMNS

log = logging.getLogger(__name__)

METRICS = "metrics.jsonl"


@contextmanager
def metrics_file(run_dir: Path) -> Iterator[Callable[[Snapshot], None]]:
    """Yield a function that appends a snapshot to metrics.jsonl, one JSON object per line."""
    with (run_dir / METRICS).open("a", encoding="utf-8") as file:

        def write(now: Snapshot) -> None:
            numbers = {
                name: round(value, 3) if isinstance(value, float) else value
                for name, value in dataclasses.asdict(now).items()
            }
            file.write(json.dumps({"time": round(time.time(), 3)} | numbers) + "\n")
            file.flush()

        yield write


@contextmanager
def wandb_run(
    run_dir: Path, tracking: TrackingConfig, config: dict[str, Any], group: str | None
) -> Iterator["WandbRun"]:
    """Yield a W&B run that is closed at the end, as failed when the body raises."""
    run = WandbRun(run_dir, tracking, config, group)
    try:
        yield run
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish(exit_code=0)


class WandbRun:
    """One W&B run. No method raises: the first failure is logged and ends the tracking, not the run."""

    def __init__(self, run_dir: Path, tracking: TrackingConfig, config: dict[str, Any], group: str | None) -> None:
        self._run: Any = None
        self._broken = self._warned = False
        if tracking.mode != "disabled":
            self._attempt("start", lambda: self._start(run_dir, tracking, config, group))

    def log(self, now: Snapshot) -> None:
        """Add a point to the series."""
        rates = ("output_tok_s", "output_tok_s_now", "running", "waiting")
        progress = ("samples_done", "samples_failed", "generated_tokens", "elapsed_seconds")
        point = {f"throughput/{name}": getattr(now, name) for name in rates}
        point |= {f"progress/{name}": getattr(now, name) for name in progress}
        self._attempt("log", lambda: self._run.log(point))  # never with step=: W&B drops steps that do not grow

    def summarise(self, summary: dict[str, Any], samples: list[list[Any]]) -> None:
        """Write totals and a table of samples (rows of PREVIEW_COLUMNS)."""
        self._attempt("summarise", lambda: self._summarise(summary, samples))

    def finish(self, exit_code: int) -> None:
        """Close the run, so that the next job of a sweep gets one of its own."""
        self._broken = False  # whatever failed before: a run left open would swallow the next job's
        self._attempt("finish", lambda: self._run.finish(exit_code=exit_code))
        self._run = None

    def _start(self, run_dir: Path, tracking: TrackingConfig, config: dict[str, Any], group: str | None) -> None:
        import wandb

        options: dict[str, Any] = {
            "mode": tracking.mode,
            "dir": str(run_dir),
            "project": tracking.project,
            "entity": tracking.entity,
            "tags": tracking.tags,
            "config": config,
            "group": group,
            "name": run_dir.name,
        }
        settings = wandb.Settings(
            silent=True,
            console="off",  # rollout.log has it already
            init_timeout=tracking.init_timeout,
            finish_timeout=tracking.init_timeout,
            # W&B's own answer to the stop button of its web page is to interrupt the main thread
            stop_fn=lambda: log.warning("W&B: the stop button does not stop a rollout; press Ctrl-C here"),
        )
        try:
            self._run = wandb.init(settings=settings, **options)
        except wandb.errors.Error as error:
            if tracking.mode != "online":
                raise
            log.warning("W&B cannot be reached, tracking offline (%s)", str(error).splitlines()[0])
            self._run = wandb.init(settings=settings, **(options | {"mode": "offline"}))
        self._run.define_metric("progress/samples_done")
        self._run.define_metric("throughput/*", step_metric="progress/samples_done")

    def _summarise(self, summary: dict[str, Any], samples: list[list[Any]]) -> None:
        import wandb

        self._run.summary.update(summary)
        if samples:
            self._run.log({"samples": wandb.Table(columns=PREVIEW_COLUMNS, data=samples)})

    def _attempt(self, what: str, action: Callable[[], None]) -> None:
        if self._broken or (self._run is None and what != "start"):
            return
        try:
            action()
        except Exception as error:  # by contract: nothing that W&B does may end a rollout
            if not self._warned:
                log.warning("W&B failed to %s, going on without it: %s: %s", what, type(error).__name__, error)
            self._broken = self._warned = True

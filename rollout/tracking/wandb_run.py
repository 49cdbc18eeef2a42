"""The content of a run in Weights & Biases (W&B). All of this may raise or hang; `tracker.py` protects the run.

W&B's own settings limit the time that its server can take (`init_timeout`, `finish_timeout`). They do not limit its
service, a process called wandb-core on this machine, for which every call waits; `kill_service` ends that.
"""

import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rollout.config import TrackingConfig
from rollout.files import as_argument
from rollout.process import watchdog
from rollout.records import Totals
from rollout.store.layout import CONFIG
from rollout.store.run_record import RunRecord, Throughput, WandbIdentity
from rollout.store.samples import ShownSample, samples_of
from rollout.tracking.progress import Snapshot

log = logging.getLogger(__name__)

_SAMPLES_PER_ROW = 4  # so that the table shows several prompts, and how the samples of each differ
_NAME_LENGTH = 120  # W&B refuses a display name of more than 128 characters


def identity(run_dir: Path, group: str | None) -> WandbIdentity:
    """A new W&B run for the run in `run_dir`.

    A job of a sweep (a run with a group) is named by its number and by those of its overrides that the sweeper has set:
    the overrides that were typed are the same for all jobs.
    """
    words = [run_dir.name]
    overrides = run_dir / CONFIG.with_name("overrides.yaml")
    if group is not None and overrides.is_file():
        words += [str(override) for override in OmegaConf.load(overrides) if override not in sys.argv]
    return WandbIdentity(
        id=secrets.token_hex(4), name=" ".join(words)[:_NAME_LENGTH], group=group and group[-_NAME_LENGTH:]
    )


def prepare() -> None:
    """Import wandb, which takes a second."""
    # its reports about itself go to the same server, and at exit it waits up to 30 s for that to take them (0.31)
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    os.environ.pop("WANDB_SERVICE", None)  # a service that another program has started is not ours to stop
    import wandb  # noqa: F401


def start(run_dir: Path, record: RunRecord, warn: Callable[[str], None]) -> Any:
    """Begin or continue the W&B run that `record` names.

    Continues offline, after a warning, if the server refuses access. Returns W&B's run; raises any error of W&B.
    """
    import wandb

    tracking, known_as = record.config.tracking, record.wandb
    options: Any = {
        "mode": tracking.mode,
        "dir": str(run_dir),
        "project": tracking.project,
        "entity": tracking.entity,
        "tags": tracking.tags,
        "config": asdict(record.config),
        "resume": "allow",
        # jobs of a sweep share a process: each gets its own run, whatever happened to the one before
        "reinit": "create_new",
        "settings": wandb.Settings(
            silent=True,
            console="off",  # rollout.log has it already
            init_timeout=tracking.init_timeout,
            finish_timeout=tracking.finish_timeout,
            finish_timeout_raises=True,
            # W&B's own answer to the stop button of its web page is to interrupt the main thread
            stop_fn=lambda: log.warning("W&B: the stop button does not stop a rollout; press Ctrl-C here"),
        ),
        **({} if known_as is None else asdict(known_as)),
    }
    try:
        run = wandb.init(**options)
    except wandb.errors.Error as error:
        if tracking.mode != "online":
            raise
        close()  # until then the service holds the id of the run that could not begin
        sync = f"wandb sync {as_argument(run_dir)}/wandb/offline-run-*"
        warn(f"{_reason(error)}; tracking offline, upload later with `{sync}`")
        run = wandb.init(**options | {"mode": "offline"})
    if known_as is not None and run.id != known_as.id:
        record.wandb = replace(known_as, id=run.id)
    run.define_metric("progress/samples_done")
    for series in ("throughput/*", "progress/*"):
        run.define_metric(series, step_metric="progress/samples_done")
    return run


def _reason(error: Exception) -> str:
    import wandb

    if isinstance(error, wandb.errors.UsageError):
        return "W&B has no API key for tracking.mode=online (run `wandb login` or set WANDB_API_KEY)"
    return f"W&B cannot be reached ({str(error).splitlines()[0]})"


def point(now: Snapshot) -> dict[str, float]:
    """A snapshot as one point of all series. Never log it with step=: W&B drops steps that do not grow."""
    rates = ("output_tok_s", "output_tok_s_now", "running", "waiting")
    progress = ("samples_done", "samples_failed", "generated_tokens", "elapsed_seconds", "preemptions")
    return (
        {f"throughput/{name}": getattr(now, name) for name in rates}
        | {f"throughput/replica_{index:03d}": rate for index, rate in enumerate(now.replica_tok_s_now)}
        | {f"progress/{name}": getattr(now, name) for name in progress}
    )


@dataclass(frozen=True)
class Results:
    """What W&B gets at the end of a session."""

    totals: Totals | None
    throughput: Throughput | None
    seconds: dict[str, float]
    prompt_key: str
    files: list[Path]
    """The files that the run has written, rollouts.parquet first."""
    analysis: Mapping[str, Mapping[str, float | None]]
    """Name of a score or share -> its value, se, low and high."""

    @classmethod
    def of(cls, record: RunRecord, files: list[Path], analysis: Mapping[str, Mapping[str, float | None]]) -> "Results":
        prompt_key = record.config.data.prompt_key
        return cls(record.totals, record.throughput, dict(record.seconds), prompt_key, files, analysis)


def log_results(run: Any, tracking: TrackingConfig, results: Results) -> None:
    """Log totals, scores, the table of samples and, if asked for, a reference to the files.

    Raises TimeoutError if W&B does not accept them within half of `tracking.finish_timeout`.
    """
    run.summary.update({name: asdict(results)[name] for name in ("totals", "throughput", "seconds", "analysis")})
    samples = samples_of(results.files[0], results.prompt_key, _SAMPLES_PER_ROW)
    rows = [list(sample) for sample in islice(samples, tracking.sample_rows)]
    files = results.files if tracking.artifact else []
    _within(tracking.finish_timeout / 2, lambda: _log_artifacts(run, rows, files))


def _log_artifacts(run: Any, rows: list[list[Any]], files: list[Path]) -> None:
    import wandb

    if rows:
        run.log({"samples": wandb.Table(columns=list(ShownSample._fields), data=rows)})
    if files:
        artifact = wandb.Artifact(f"rollouts-{run.id}", type="rollouts")
        for file in files:
            # no checksum: it would read every byte of an output that may have hundreds of GB
            artifact.add_reference(file.absolute().as_uri(), name=file.name, checksum=False)
        run.log_artifact(artifact)


def _within(seconds: float, action: Callable[[], object]) -> None:
    """Wait for `action` at most this long: for an artifact, which a table is too, W&B asks the server for 19 s (wandb
    0.31).

    The action continues in its thread until the service ends. Meanwhile the run can be finished properly, which killing
    the service would prevent.
    """
    failures: list[Exception] = []

    def work() -> None:
        try:
            action()
        except Exception as error:  # raised below, in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work, name="artifacts", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError("the server does not answer")
    if failures:
        raise failures[0]


def close() -> None:
    """Stop the service, which a finished run no longer needs; at exit it would be too late to limit its time."""
    import wandb

    if not _is_used_by_others():
        wandb.teardown()


def kill_service() -> None:
    """Kill wandb-core, so that all that waits for it fails. Data not yet written, a few seconds' worth, is lost."""
    for pid in [] if _is_used_by_others() else watchdog.children_named("wandb-core", os.getpid()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_used_by_others() -> bool:
    """Whether the program that calls us has a W&B run of its own; ours is never `wandb.run` (reinit=create_new)."""
    import wandb

    return wandb.run is not None

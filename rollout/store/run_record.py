"""run.json: what ran, how far it came and how it ended."""

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import msgspec

from rollout.config import RunConfig
from rollout.errors import UserError
from rollout.files import write_json
from rollout.process.signals import Interrupted, StopRequest
from rollout.records import SCHEMA_VERSION, Totals
from rollout.store import provenance
from rollout.store.digest import Digest
from rollout.store.layout import MANIFEST, RESERVE, SWEEP_CONFIG
from rollout.store.provenance import Provenance, Reproducibility
from rollout.store.times import now

STAGES = ("load", "generate", "finalize", "postprocess")
"""The stages whose seconds a session keeps, in the order in which they happen."""

_RESERVE_BYTES = 256 * 1024


@dataclass(kw_only=True)
class ReplicaRecord:
    """One of several engines. For one that was never ready, what is not known is None."""

    host: str | None = None
    gpus: str | None = None
    """As CUDA numbers them on the host; empty without one."""
    reloaded: bool = False
    safer: list[str] = field(default_factory=list)
    """`safer`, `reloaded`, `sampler` and `kv_cache_tokens` are as in EngineRecord."""
    sampler: str | None = None
    kv_cache_tokens: int | None = None
    load_seconds: float | None = None
    restarts: int = 0
    samples: int = 0
    generated_tokens: int = 0
    output_tok_s: float | None = None
    """Over the whole time that the session generated."""


@dataclass(kw_only=True)
class EngineRecord:
    """The engine, or engines, of a session."""

    reused: bool = False
    """Whether an earlier job of this process had loaded it."""
    reloaded: bool = False
    """Whether it then had the weights of another model, which were replaced."""
    restarts: int = 0
    safer: list[str] = field(default_factory=list)
    """What was switched off so that GPUs which share the model can exchange data, as overrides."""
    sampler: str | None = None
    """What drew the tokens: `rollout` or `vllm`; None if there are `replicas` (see there), or no engine."""
    kv_cache_tokens: int | None = None
    """How many tokens its KV cache has room for; None as `sampler`."""
    replicas: list[ReplicaRecord] = field(default_factory=list)
    """In the order of their numbers; empty where the run's own process had the engine."""

    def least_kv_cache_tokens(self) -> int | None:
        """The least of all engines that say it."""
        told = (self.kv_cache_tokens, *(replica.kv_cache_tokens for replica in self.replicas))
        return min((tokens for tokens in told if tokens is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """What one session generated and how fast; loading, merging and post-processing are not in the rates."""

    samples: int
    generated_tokens: int
    output_tok_s: float
    samples_s: float
    preemptions: int = 0
    """How often a sample was put back because the KV cache was full, and computed again."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """What rollouts.parquet holds where a rule stops rows (`adaptive`), against the full budget of every row."""

    samples: int
    full_samples: int
    generated_tokens: int
    full_tokens: int
    """An estimate: each row's further samples are taken to be as long as its existing ones on average."""
    saved: float
    """Share of the full budget's tokens that were not generated."""
    saved_samples: float
    stopped: dict[str, int]
    """Reason -> rows."""
    rows_without_truth: int
    """Rows without ground truth: none of their samples can pass, so they got their full budget. 0 for `until=agree`."""


@dataclass(kw_only=True)
class ReplayOf:
    """The run that is repeated."""

    run_dir: str
    started: str
    """When its newest session started, ISO 8601."""
    differences: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class WandbIdentity:
    """What W&B knows a run by."""

    id: str
    name: str
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Steps of post-processing that could not be done, and can be tried again."""

    steps: list[str]
    reason: str


@dataclass(kw_only=True)
class SessionRecord:
    """One process that worked on a run."""

    status: str
    """running, done, interrupted or failed; or killed, for an earlier session that ended without a word."""
    started: str
    """ISO 8601, as `ended`, which is None while it runs."""
    ended: str | None = None
    error: str | None = None
    """Why it failed or was interrupted."""
    engine: EngineRecord | None = None
    """None where nothing was generated."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds of each of STAGES so far."""
    throughput: Throughput | None = None
    provenance: Provenance | None = None
    missing: Missing | None = None
    """None if everything was done, or the session did not come that far."""

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time that the body takes to the seconds of `stage`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - start, 3)


@dataclass(kw_only=True)
class RunRecord(SessionRecord):
    """The content of run.json: the newest session, facts about the whole run, and the earlier sessions."""

    schema_version: int = SCHEMA_VERSION
    config: RunConfig
    digest: Digest
    provenance: Provenance
    reproducibility: Reproducibility | None = None
    replay_of: ReplayOf | None = None
    totals: Totals | None = None
    """None before the first rollouts.parquet."""
    adaptive: Saving | None = None
    """What the rule that stops rows has saved; None without one, or before the first rollouts.parquet."""
    wandb: WandbIdentity | None = None
    sessions: list[SessionRecord] = field(default_factory=list)
    """Oldest first."""


def exists(run_dir: Path) -> bool:
    """Whether a run has begun in `run_dir`."""
    return (run_dir / MANIFEST).exists()


def read(run_dir: Path) -> RunRecord:
    """The content of run.json. Raises UserError when `run_dir` is not a run folder, or that of a newer version.

    Keys that an older version did not write have their defaults; unknown keys are ignored.
    """
    path = run_dir / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["schema_version"] > SCHEMA_VERSION:
            raise UserError(
                f"{path}: schema_version={values['schema_version']} is newer than this program's {SCHEMA_VERSION}; "
                f"use rollout {values['provenance']['packages'].get('rollout')} or later"
            )
        return msgspec.convert(values, RunRecord)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if (run_dir / SWEEP_CONFIG).exists():
            raise UserError(
                f"{run_dir}: a sweep's folder; give the sweep's command again with hydra.sweep.dir={run_dir}, or the "
                "folder of one of its jobs"
            ) from error
        raise UserError(
            f"{run_dir}: not a run folder (no readable {MANIFEST} in it); give the folder of a run"
        ) from error


@dataclass(frozen=True, kw_only=True)
class _Began:
    """What `origin` reads of a record, and of each of its sessions."""

    started: str
    sessions: list["_Began"] = field(default_factory=list)


def origin(run_dir: Path) -> str | None:
    """When the first session of a run started, by which the parts of its journal name it; None where no run.json says.

    A copy of a run's folder has the same origin.
    """
    path = run_dir / MANIFEST
    try:
        state = path.stat()
        return _origin(path, state.st_mtime_ns, state.st_ino)
    except (OSError, msgspec.DecodeError):  # who needs more of run.json says what is wrong with it
        return None


@lru_cache(maxsize=64)  # asked for each part of a journal
def _origin(path: Path, *_state: int) -> str:
    began = msgspec.json.decode(path.read_bytes(), type=_Began)
    return (began.sessions[0] if began.sessions else began).started


def write(run_dir: Path, record: RunRecord) -> None:
    """Replace run.json."""
    write_json(run_dir / MANIFEST, dataclasses.asdict(record))


def begun(
    run: RunConfig, digest: Digest, wandb: WandbIdentity | None = None, replay_of: ReplayOf | None = None
) -> RunRecord:
    """The record of a new run that starts now, on this machine."""
    return RunRecord(
        status="running",
        started=now(),
        config=run,
        digest=digest,
        provenance=provenance.collect(run.model),
        reproducibility=provenance.reproducibility(run),
        replay_of=replay_of,
        wandb=wandb,
    )


@contextmanager
def recorded(
    run_dir: Path,
    run: RunConfig,
    digest: Digest,
    wandb: WandbIdentity,
    stop: StopRequest,
    replay_of: ReplayOf | None = None,
) -> Iterator[RunRecord]:
    """Yield the record of a session for the body to add to. `replay_of` is the run that a new run repeats.

    run.json says `running` from the start, and at the end how the session ended: done, interrupted or failed. Earlier
    sessions of a resumed run are kept under `sessions`; one that was killed gets the status `killed`. `wandb` is the
    W&B run of a new run; a resumed run keeps its own. A signal that comes while the end is being written is raised
    after it: the run is then done.
    """
    record = begun(run, digest, wandb, replay_of)
    if exists(run_dir):
        before = read(run_dir)
        record.replay_of, record.wandb = before.replay_of, before.wandb or wandb
        record.sessions = [*before.sessions, _session(before)]
    _begin(run_dir, record)
    with ExitStack() as closing:
        try:
            yield record
            closing.enter_context(stop.deferred())
            record.status = "done"
        except BaseException as error:
            closing.enter_context(stop.deferred())
            record.status = "interrupted" if isinstance(error, Interrupted) else "failed"
            record.error = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            with suppress(OSError):  # of two errors the first one counts
                _close(run_dir, record)
            raise
        _close(run_dir, record)
    stop.raise_if_requested()


def _begin(run_dir: Path, record: RunRecord) -> None:
    try:
        (run_dir / RESERVE).write_bytes(b"\0" * _RESERVE_BYTES)
        write(run_dir, record)
    except BaseException:
        (run_dir / RESERVE).unlink(missing_ok=True)
        raise


def _close(run_dir: Path, record: RunRecord) -> None:
    (run_dir / RESERVE).unlink(missing_ok=True)
    record.ended = now()
    write(run_dir, record)


def _session(before: RunRecord) -> SessionRecord:
    """The newest session of a run that another one continues."""
    session = SessionRecord(**{item.name: getattr(before, item.name) for item in dataclasses.fields(SessionRecord)})
    if session.status == "running":  # nobody is running it now: its lock was free
        session.status = "killed"
    return session

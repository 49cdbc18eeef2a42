"""What the driver and a replica send each other."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rollout.config import RunConfig
from rollout.engine.protocol import EngineStats, GpuShare
from rollout.records import Outcome, Prompt
from rollout.replicas.dispatcher import Task


@dataclass(frozen=True)
class Job:
    """One run, for one replica. `writer` names its journal; `holder` is what the run folder's lock says."""

    run: RunConfig
    run_dir: Path
    index: int
    writer: str
    holder: str
    first: Prompt | None = None
    """A prompt to render for the log."""


@dataclass(frozen=True)
class Ready:
    """What a replica reports once its engine is loaded."""

    slots: int
    """Samples it generates at a time."""
    capacity: int
    """Samples it may hold: those being generated, and some that wait."""
    seconds: float
    reused: bool
    sampling: str
    """The sampling parameters that differ from vLLM's defaults, for the log."""
    rendered: str | None
    """`Job.first` as the model reads it."""
    host: str
    gpus: str
    """The GPUs of this process, as CUDA numbers them; empty without one."""
    share_of_next: GpuShare | None
    """What engines that are loaded later may take of its GPU."""
    safer: tuple[str, ...] = ()
    """What was switched off so that its GPUs can exchange data, as overrides."""
    sampler: str | None = None
    """What draws its tokens."""
    kv_cache_tokens: int | None = None
    """How many tokens its KV cache has room for."""
    pid: int = 0
    """Its process on `host`."""
    reloaded: bool = False
    """Whether the engine is kept from an earlier job, with its weights replaced."""


@dataclass(frozen=True)
class Report:
    """What has happened in a replica since its last report."""

    ready: Ready | None
    """None until the engine is there."""
    outcomes: list[Outcome]
    """Samples that finished, in this order."""
    durable: int
    """How many more samples are durable now, in the order in which they finished."""
    stats: EngineStats
    error: Exception | None
    """Why it has stopped: a UserError, an OSError of its disk, EngineDied, or RuntimeError with a bug's traceback."""
    unscored: int = 0
    """Samples that have their response and wait for their score; not among `outcomes`."""


@dataclass(frozen=True)
class ReplicaLost:
    """What comes instead of a report from a replica whose process has ended."""

    reason: str


class Replicas(Protocol):
    """Engines in other processes, numbered from 0; see `ray_replicas.RayReplicas`, which is documented there."""

    @property
    def count(self) -> int: ...
    @property
    def num_connected(self) -> int: ...
    def start(self, index: int, job: Job) -> None: ...
    def ask(self, index: int, tasks: list[Task], flush: bool, seconds: float) -> None: ...
    def answers(self, seconds: float) -> Iterator[tuple[int, Report | ReplicaLost]]: ...
    def replace(self, index: int) -> None: ...
    def stop(self) -> list[tuple[int, Exception]]: ...
    def shutdown(self) -> None: ...

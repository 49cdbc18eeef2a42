"""One engine, kept alive across the jobs of a sweep."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from rollout.config import EngineConfig, HardwareConfig, ModelConfig, RunConfig
from rollout.engine import adapters, communication
from rollout.engine.content import stamps
from rollout.engine.protocol import Engine
from rollout.process import watchdog


@dataclass(frozen=True)
class EngineSpec:
    """All that an engine is built from. Two jobs with equal specs can share one engine."""

    model: ModelConfig
    """But for what `Engine.use` takes: adapters and parsers come and go."""
    hardware: HardwareConfig
    engine: EngineConfig
    logprobs: str
    """`sampling.logprobs`; an engine that is asked for none has vLLM's default, `raw`."""
    lora_rank: int | None = None
    """The largest rank of an adapter that the engine has room for; None for one without adapters."""

    @classmethod
    def of(cls, run: RunConfig) -> "EngineSpec":
        logprobs = "processed" if run.sampling.logprobs == "processed" else "raw"
        model = dataclasses.replace(run.model, lora=None, reasoning_parser=None)
        asked = run.hardware.engine_kwargs.get("max_lora_rank", 0)
        room = adapters.room(run.model) if run.engine.kind == "vllm" else None
        return cls(model, run.hardware, run.engine, logprobs, None if room is None else max(room, asked))

    def key(self) -> str:
        """Equal for equal specs, as long as nobody puts other files in the model's folder."""
        return json.dumps([dataclasses.asdict(self), stamps(self.model.path)], sort_keys=True, default=vars)


@dataclass(frozen=True)
class Loaded:
    """An engine ready for work, and what it took: 0 seconds when it was there already."""

    engine: Engine
    seconds: float
    reused: bool
    safer: tuple[str, ...] = ()
    """What was left out so that its GPUs can exchange data, as overrides; see `communication`."""


class _HasShutdown(Protocol):
    def shutdown(self) -> None: ...


Kept = TypeVar("Kept", bound=_HasShutdown)
"""An engine, or several behind one name."""


class EngineCache:
    """At most one engine, or one group of replicas: two have no room on the same GPUs.

    It lives here and in no caller's local variable: Hydra keeps a failed job's exception, whose frames would keep the
    engine and its GPU memory alive.
    """

    def __init__(self) -> None:
        self._key = ""
        self._kept: Any = None
        self.level = 0
        """Of `communication.LADDER`, with which what is kept was built."""
        self.environment = ExitStack()
        """Undoes what the engine's `hardware.env` changed."""

    def get(self, spec: EngineSpec, build: Callable[[], Kept]) -> tuple[Kept, bool]:
        """What was built for an equal `spec`, and True; else `build()` and False, after what was kept has been shut
        down. Equal specs are built by the same function: `hardware` says whether by one engine or by several.
        """
        key = spec.key()
        if self._kept is not None and self._key == key:
            kept: Kept = self._kept
            return kept, True
        self.release()
        built = build()
        self._key, self._kept = key, built
        return built, False

    def release(self) -> None:
        """Shut down what is kept, if there is something."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.shutdown()
        self.environment.close()


_cache = EngineCache()

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # sends nothing about a run to anyone
    # compiling it takes 100 s at the first start, and vLLM does not use it for requests with a seed, as all of ours are
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # W&B's threads are running by now, and a fork would copy their locks
}
"""What vLLM finds in its environment unless the user has set it: the shell's value or `hardware.env` counts more."""


def acquire(spec: EngineSpec, level: int = 0) -> Loaded:
    """The engine for `spec`: the current one if it was built from an equal spec, else a new one, after the old one
    has been shut down. A new one leaves out `level` ways of exchanging data between GPUs, see `communication.LADDER`.
    Raises UserError when it cannot be built as asked.
    """
    start = time.monotonic()
    engine, reused = _cache.get(spec, lambda: _load(spec, level))
    safer = tuple(communication.as_overrides(spec.hardware, _cache.level))
    return Loaded(engine, 0.0 if reused else time.monotonic() - start, reused, safer)


def acquire_replicas(spec: EngineSpec, build: Callable[[], Kept]) -> tuple[Kept, bool]:
    """The same for several engines behind the object that `build` makes, and whether they were there."""
    return _cache.get(spec, build)


def release() -> None:
    """Shut the current engine or replicas down, if there are any."""
    _cache.release()


@contextmanager
def environment(hardware: HardwareConfig) -> Iterator[None]:
    """The environment that an engine would find, while the body runs: vLLM reads some of it when it is imported."""
    with ExitStack() as stack:
        _set_environment(hardware, stack)
        yield


def _set_environment(hardware: HardwareConfig, undone_by: ExitStack) -> None:
    """Until `undone_by` is closed: vLLM reads its switches whenever it needs them, not only when it starts."""
    defaults = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    asked = {"VLLM_BATCH_INVARIANT": "1"} if hardware.batch_invariant else {}
    for name, value in (defaults | hardware.env | asked).items():
        undone_by.callback(_restore, name, os.environ.get(name))
        os.environ[name] = value


def _restore(name: str, value: str | None) -> None:
    if value is None:
        del os.environ[name]
    else:
        os.environ[name] = value


def _load(spec: EngineSpec, level: int) -> Engine:
    hardware, _cache.level = communication.safer(spec.hardware, level), level
    _set_environment(hardware, _cache.environment)
    # imported here: vllm takes 5 to 14 seconds, which an error in the command must not wait for
    if spec.engine.kind == "echo":
        from rollout.engine.echo_engine import EchoEngine

        return EchoEngine(spec.engine.echo, hardware)
    from rollout.engine.vllm_engine import VLLMEngine

    watchdog.start()
    return VLLMEngine(spec.model, hardware, spec.logprobs, spec.lora_rank)

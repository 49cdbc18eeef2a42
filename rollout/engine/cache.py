"""One engine, kept alive across the jobs of a sweep."""

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from rollout.config import EngineConfig, HardwareConfig, ModelConfig, RunConfig
from rollout.engine import adapters, checkpoints, communication, models
from rollout.engine.checkpoints import Checkpoint
from rollout.engine.content import stamps
from rollout.engine.protocol import Engine, WeightsNotPut
from rollout.process import watchdog

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineSpec:
    """Everything that an engine is built from. Two jobs with equal specs can share one engine."""

    model: ModelConfig
    """Without its adapter, which `Engine.use` sets, and which may change."""
    hardware: HardwareConfig
    engine: EngineConfig
    logprobs: str
    """`sampling.logprobs`, or vLLM's default `raw` if no log-probabilities are asked for."""
    lora_rank: int | None = None
    """The largest rank of an adapter that the engine has room for; None for an engine without adapters."""

    @classmethod
    def of(cls, run: RunConfig) -> "EngineSpec":
        logprobs = "processed" if run.sampling.logprobs == "processed" else "raw"
        model = dataclasses.replace(run.model, lora=None)
        asked = run.hardware.engine_kwargs.get("max_lora_rank", 0)
        room = adapters.room(run.model) if run.engine.kind == "vllm" else None
        return cls(model, run.hardware, run.engine, logprobs, None if room is None else max(room, asked))

    def key(self) -> str:
        """Equal for equal specs, and for specs whose models differ only in weights that an engine can replace.

        It changes when the chat template does, or a file in the tokenizer's folder; and when one in the model's does,
        unless only its weights are others and can be replaced.
        """
        form, spec = self._form(), self
        if form is not None:
            spec = dataclasses.replace(self, model=dataclasses.replace(self.model, path=""))
        files = stamps(self.model.path) if form is None else form
        tokenizer = [] if self.model.tokenizer is None else stamps(self.model.tokenizer)
        parts = [dataclasses.asdict(spec), files, tokenizer, models.own_template(self.model)]
        return json.dumps(parts, sort_keys=True, default=vars)

    def checkpoint(self) -> Checkpoint | None:
        """The weights that an engine for this spec must have; None if `key` covers them already.

        Raises UserError for files that are cut off or missing.
        """
        return None if self._form() is None else checkpoints.checkpoint(self.model)

    def _form(self) -> str | None:
        # vLLM finds the tensors of a model under other names once adapters can be put on it
        return None if self.lora_rank is not None else checkpoints.form(self.model, self.hardware)


@dataclass(frozen=True)
class Loaded:
    """An engine, and its loading time: 0 seconds if it was loaded already, with these weights."""

    engine: Engine
    seconds: float
    reused: bool
    reloaded: bool = False
    """Whether it was loaded already, with weights that were replaced by those of this model."""
    safer: tuple[str, ...] = ()
    """Overrides that switch off what kept its GPUs from exchanging data; see `communication`."""


class _HasShutdown(Protocol):
    def shutdown(self) -> None: ...


Kept = TypeVar("Kept", bound=_HasShutdown)
"""An engine, or several behind one name."""

Origin = Literal["loaded", "reused", "reloaded"]
"""Where the engine comes from: built now, kept unchanged, or kept with its weights replaced."""


class EngineCache:
    """At most one engine, or one group of replicas: two have no room on the same GPUs.

    It lives here and in no caller's local variable: Hydra keeps a failed job's exception, whose frames would keep the
    engine and its GPU memory alive.
    """

    def __init__(self) -> None:
        self._key = ""
        self._kept: Any = None
        self._checkpoint: Checkpoint | None = None
        self.level = 0
        """The level of `communication.LADDER` with which the kept engine was built."""
        self.environment = ExitStack()
        """Undoes what the engine's `hardware.env` changed."""

    def get(
        self, spec: EngineSpec, build: Callable[[], Kept], reload: Callable[[Kept], None] | None = None
    ) -> tuple[Kept, Origin]:
        """The kept engine or replicas, if they were built for an equal `spec`; else shut those down and `build()`.

        If only the weights differ, the kept engine gets them by `reload`; replicas have no `reload` here and replace
        their weights themselves. Raises UserError for weights that no engine could take; the kept engine is then
        unchanged. Equal specs have the same type of engine: `hardware` says whether there are several.
        """
        key, checkpoint = spec.key(), None if reload is None else spec.checkpoint()
        if self._kept is not None and self._key == key:
            kept: Kept = self._kept
            if reload is None or checkpoint == self._checkpoint:
                return kept, "reused"
            if self._reloaded(checkpoint, lambda: reload(kept)):
                return kept, "reloaded"
        self.release()
        built = build()
        self._key, self._kept, self._checkpoint = key, built, checkpoint
        return built, "loaded"

    def _reloaded(self, new: Checkpoint | None, reload: Callable[[], None]) -> bool:
        """Whether the kept engine now has the weights `new`. If not, it must not be used any more."""
        assert new is not None
        assert self._checkpoint is not None
        reason = checkpoints.why_anew(new, self._checkpoint)
        if reason is None:
            key, self._key = self._key, ""  # whatever happens, nobody gets an engine with half of the new weights
            try:
                reload()
            except WeightsNotPut as error:
                reason = str(error)
            else:
                self._key, self._checkpoint = key, new
                return True
        log.warning("the weights of %s cannot be put in place (%s): the engine is loaded anew", new.path, reason)
        return False

    def release(self) -> None:
        """Shut down the kept engine or replicas, if there are any."""
        kept, self._kept = self._kept, None
        try:
            if kept is not None:
                kept.shutdown()
        finally:
            self.environment.close()


_cache = EngineCache()

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # sends nothing about a run to anyone
    # compiling it takes 100 s at the first start, and vLLM does not use it for requests with a seed, as all of ours are
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # W&B's threads are running by now, and a fork would copy their locks
}
"""Environment variables for vLLM. A value from the shell or `hardware.env` takes precedence."""


def acquire(spec: EngineSpec, level: int = 0) -> Loaded:
    """The engine for `spec`, see `EngineCache.get`. A new one is built at this `level` of `communication.LADDER`.

    Raises UserError when it cannot be built as asked, and for weights that no engine could take.
    """
    start = time.monotonic()
    engine, origin = _cache.get(spec, lambda: _load(spec, level), lambda engine: engine.reload(spec.model))
    seconds = 0.0 if origin == "reused" else time.monotonic() - start
    safer = tuple(communication.as_overrides(spec.hardware, _cache.level))
    return Loaded(engine, seconds, origin != "loaded", origin == "reloaded", safer)


def acquire_replicas(spec: EngineSpec, build: Callable[[], Kept]) -> tuple[Kept, bool]:
    """As `acquire`, for several engines behind the object that `build` makes. Also returns whether they were loaded
    already. Each replaces its weights itself.
    """
    kept, origin = _cache.get(spec, build)
    return kept, origin != "loaded"


def release() -> None:
    """Shut down the current engine or replicas, if there are any."""
    _cache.release()


@contextmanager
def environment(hardware: HardwareConfig) -> Iterator[None]:
    """Set the environment variables of an engine in the body: vLLM reads some of them when it is imported."""
    with ExitStack() as stack:
        _set_environment(hardware, stack)
        yield


def _set_environment(hardware: HardwareConfig, undone_by: ExitStack) -> None:
    """Set them until `undone_by` is closed: vLLM reads them whenever it needs them, not only when it starts."""
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

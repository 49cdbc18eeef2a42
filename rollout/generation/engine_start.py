"""Load the engine of a run and set it up to sample; say in the log how that went, and in one line why it failed."""

import logging
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from rollout.config import RunConfig
from rollout.engine import communication
from rollout.engine.cache import EngineSpec, Loaded, acquire
from rollout.engine.loading import supervised
from rollout.engine.protocol import Engine
from rollout.engine.startup_errors import explain, failed_process
from rollout.errors import UserError
from rollout.files import short
from rollout.generation.context import context_problem
from rollout.terminal.text import duration

log = logging.getLogger(__name__)


class Start(Protocol):
    """How an engine became available: the fields that `Loaded` and a replica's `Ready` have in common."""

    @property
    def seconds(self) -> float: ...
    @property
    def reused(self) -> bool: ...
    @property
    def reloaded(self) -> bool: ...
    @property
    def safer(self) -> tuple[str, ...]: ...


def load(run: RunConfig, log_file: Path) -> Loaded:
    """Load the engine of `run`, ready to sample. Raises UserError, made from what vLLM wrote to `log_file`, when it
    cannot start.

    If its GPUs fail to exchange data, it is started again with safer settings.
    """
    loaded = load_engine(run, log_file)
    prepare(loaded.engine, run)
    return loaded


def load_engine(run: RunConfig, log_file: Path, ends_process: bool | None = None) -> Loaded:
    """Load the engine only; call `prepare` before it samples. `ends_process`: see `supervised`."""
    log.info("loading %s ...", model_name(run))
    loaded = _started(run, log_file, ends_process)
    log_start("engine", loaded)
    return loaded


def prepare(engine: Engine, run: RunConfig) -> None:
    """Set up a loaded engine to sample as `run` asks. Raises UserError when it cannot."""
    if problem := context_problem(run, engine.max_model_len):
        raise UserError(problem)
    engine.use(run.model)
    engine.configure(run.sampling)
    log.info("%s", sampling_in_words(run, engine.describe()))


def log_start(who: str, start: Start) -> None:
    """Log how the engine called `who` became available."""
    log.info("%s %s", who, _how_loaded(start))
    if start.safer and not start.reused:
        log.info("its GPUs exchange data in a safer way than vLLM's fastest: %s", " ".join(start.safer))


def _how_loaded(start: Start) -> str:
    if start.reloaded:
        return f"reused, its weights replaced in {duration(start.seconds)}"
    return "reused" if start.reused else f"ready after {duration(start.seconds)}"


def _started(run: RunConfig, log_file: Path, ends_process: bool | None) -> Loaded:
    """Try one level of `communication.LADDER` after the other, as long as only the exchange of data fails."""
    for level, next_level in pairwise([*communication.levels(run.hardware), None]):
        assert level is not None
        log_begin = log_file.stat().st_size
        try:
            with supervised(log_file, run.engine.load_timeout, ends_process) as loading:
                return acquire(EngineSpec.of(run), level)
        except UserError:
            raise
        except Exception as error:
            printed = log_file.read_bytes()[log_begin:].decode("utf-8", "replace")
            line = _reason(run, error, printed, loading.timed_out)
            failure = communication.failure(run.hardware, f"{error}\n{printed}")
            if next_level is None or failure is None or line is not None:
                line = line or communication.explain(run.hardware, failure) or failed_process(run, str(error), printed)
                if line is None:
                    error.add_note(f"All of vLLM's output: {short(log_file)}")
                    raise
                raise UserError(f"{line} (all of vLLM's output: {short(log_file)})") from error
            loading.is_tried_again = True
            log.warning("%s", communication.tried_again(run.hardware, failure, next_level))
    raise AssertionError("an engine starts or says why not")


def _reason(run: RunConfig, error: Exception, printed: str, timed_out: bool) -> str | None:
    """Why the start failed, if that has nothing to do with how GPUs exchange data; else None."""
    if timed_out:
        limit = run.engine.load_timeout
        return f"engine.load_timeout={limit:g}: the engine was not ready by then; raise it if it may be"
    return explain(run, f"{error}\n{printed}")


def sampling_in_words(run: RunConfig, described: str) -> str:
    """How a run samples, for the log; `described` is the engine's own description."""
    own = "" if run.data.sampling_key is None else f"; column {run.data.sampling_key} says what is otherwise for a row"
    until = "" if run.adaptive.until is None else f" at most, until={run.adaptive.until}"
    return f"sampling: n_samples={run.sampling.n_samples}{until}, {described}, seed={run.sampling.seed}{own}"


def model_name(run: RunConfig) -> str:
    """What is being loaded, for the log."""
    return run.model.path if run.engine.kind == "vllm" else "the echo engine"

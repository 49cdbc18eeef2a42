"""The process that calls stays as it was: signals, logs, streams, environment, folder, Hydra."""

import asyncio
import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from omegaconf import OmegaConf
from omegaconf.basecontainer import BaseContainer

import rollout
from rollout.data.row_sampling import SampleCounts
from rollout.engine.cache import ENVIRONMENT
from rollout.engine.echo_engine import EchoEngine
from rollout.store.journal import finished
from tests.api.state import state
from tests.commands import ECHO
from tests.processes import wait_until

pytestmark = pytest.mark.long

QUICK = (*ECHO, "sampling.n_samples=2", "sampling.max_tokens=8")
SLOW = (*QUICK, "engine.echo.max_steps=200", "engine.echo.step_seconds=0.02", "hardware.max_num_seqs=4")
PROMPTS = [f"question {number}" for number in range(40)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    rollout.release()
    yield tmp_path
    rollout.release()


@pytest.fixture
def of_the_caller(here: Path) -> Iterator[None]:
    """A program that uses logging, signals and Hydra itself, under the names that we use."""
    Plugins.instance()
    registers = dict(Singleton._instances), dict(BaseContainer._resolvers), deepcopy(ConfigStore.instance().repo)
    ours, handler = logging.getLogger("rollout"), logging.StreamHandler(io.StringIO())
    before = signal.signal(signal.SIGINT, lambda *_: None), signal.signal(signal.SIGTERM, lambda *_: None)
    ours.addHandler(handler)
    ours.setLevel(logging.ERROR)
    (here / "conf").mkdir()
    (here / "conf/config.yaml").write_text("a: 1e3\nb: ${now:%H}\n")
    ConfigStore.instance().store(name="schema", node={"mine": True})
    OmegaConf.register_new_resolver("default_hardware", lambda: "mine", replace=True)
    OmegaConf.register_new_resolver("now", lambda _: "mine", replace=True)
    with hydra.initialize_config_dir(str(here / "conf"), version_base="1.2"):
        OmegaConf.register_new_resolver("now", lambda _: "mine", replace=True)
        yield
        assert dict(hydra.compose("config")) == {"a": 1000.0, "b": "mine"}
    ours.removeHandler(handler)
    ours.setLevel(logging.NOTSET)
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])
    # Hydra puts a copy in the place of a GlobalHydra that was there, and leaves the one of before initialised
    now = {kind: one for kind, one in Singleton._instances.items() if kind is GlobalHydra}
    Singleton._instances = {kind: one for kind, one in registers[0].items() if kind is not GlobalHydra} | now
    BaseContainer._resolvers, ConfigStore.instance().repo = registers[1:]


def mistaken() -> None:
    with pytest.raises(rollout.UserError):
        rollout.run(*QUICK, "sampling.temperature=9", "sampling=hot", input=PROMPTS)


def failing() -> None:
    with pytest.raises(rollout.UserError, match=r"data.on_error=fail"):
        rollout.run(*QUICK, "engine.echo.refuse_word=question", "data.on_error=fail", input=PROMPTS)


def dying() -> None:
    with pytest.raises(rollout.UserError, match=r"engine.max_restarts=0"):
        rollout.run(*QUICK, "engine.echo.die_after=5", "engine.max_restarts=0", input=PROMPTS)


def interrupted() -> None:
    with pytest.raises(KeyboardInterrupt), signalled(signal.SIGINT):
        rollout.run(*SLOW, input=PROMPTS)


def resumed() -> None:
    rollout.run(*QUICK, input=PROMPTS).resume("sampling.n_samples=3")


def tracked() -> None:
    rollout.run(*QUICK, "tracking=offline", input=PROMPTS)


CALLS = [
    lambda: rollout.run(*QUICK, input=PROMPTS),
    resumed,
    mistaken,
    failing,
    dying,
    interrupted,
    pytest.param(tracked, marks=pytest.mark.long),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.usefixtures("of_the_caller")
def test_a_call_leaves_the_process_as_it_was(call: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SERVICE", "of the caller")
    before = state()
    call()
    rollout.release()
    after = state()
    for name, value in before.items():
        assert after[name] == value, name


class signalled:  # noqa: N801 - reads as a statement
    """A signal comes once a run has samples, and another one `again` seconds later."""

    def __init__(self, signum: signal.Signals, again: float | None = None) -> None:
        self._thread = threading.Thread(target=self._send, args=(signum, again))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _send(self, signum: signal.Signals, again: float | None) -> None:
        wait_until(lambda: any(Path().glob("outputs/*/*/samples")), 20)
        time.sleep(0.3)
        os.kill(os.getpid(), signum)
        if again is not None:
            time.sleep(again)
            os.kill(os.getpid(), signum)


def test_an_interrupted_call_keeps_what_is_finished_and_says_how_to_continue() -> None:
    with pytest.raises(KeyboardInterrupt) as stopped, signalled(signal.SIGINT):
        rollout.run(*SLOW, "store.flush_samples=1", input=PROMPTS)
    run = rollout.open_run("latest")
    assert str(stopped.value) == (
        f"stopped cleanly, what is finished is kept; continue with rollout.open_run({str(run.path)!r}).resume()"
    )
    assert run.record.status == "interrupted"
    assert "interrupted" in repr(run)
    done = finished(run.path, SampleCounts.equal(len(PROMPTS), 2)).num_done
    assert 0 < done < 80
    with pytest.raises(rollout.UserError, match=r"the run is interrupted; finish it with resume\(\)"):
        run.dataframe()
    assert len(run.resume("engine.echo.step_seconds=0").flat()) == 80


def test_sigterm_ends_the_program_once_the_run_has_stopped_cleanly() -> None:
    with pytest.raises(SystemExit) as stopped, signalled(signal.SIGTERM):
        rollout.run(*SLOW, input=PROMPTS)
    assert stopped.value.code == 143
    assert rollout.open_run("latest").record.status == "interrupted"


def test_a_second_signal_ends_the_call_at_once_and_not_the_process() -> None:
    slow_step = ("engine.echo.step_seconds=3", "engine.echo.max_steps=1", "hardware.max_num_seqs=1")
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), signalled(signal.SIGINT, again=0.2):
        rollout.run(*QUICK, *slow_step, input=PROMPTS)
    assert time.monotonic() - began < 3
    run = rollout.open_run("latest")
    assert run.record.status == "interrupted"
    assert not run.resume("engine.echo.step_seconds=0").record.engine.reused  # type: ignore[union-attr]


def test_it_works_where_an_event_loop_runs() -> None:
    async def cell() -> rollout.Run:
        return rollout.run(*QUICK, input=PROMPTS)

    assert len(asyncio.run(cell()).flat()) == 80


def test_calls_from_several_threads_come_one_after_the_other() -> None:
    before = state()
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda number: rollout.run(*QUICK, f"sampling.seed={number}", input=PROMPTS), range(3)))
    rollout.release()
    assert [run.record.config.sampling.seed for run in runs] == [0, 1, 2]
    assert all(len(run.flat()) == 80 for run in runs)
    assert state() == before


def test_the_engine_stays_until_another_one_is_asked_for_or_it_is_released() -> None:
    def is_reused(*overrides: str) -> bool:
        engine = rollout.run(*QUICK, *overrides, input=PROMPTS[:2]).record.engine
        assert engine is not None
        return engine.reused

    assert not is_reused()
    assert is_reused("sampling.temperature=0.2")
    assert not is_reused("engine.echo.max_steps=3")
    assert is_reused("engine.echo.max_steps=3", "sampling.seed=3")
    rollout.release()
    rollout.release()
    assert not is_reused("engine.echo.max_steps=3")


def test_what_an_engine_needs_in_the_environment_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:  # a test that imports vLLM leaves some
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    run = rollout.run(*QUICK, "hardware.env.OMP_NUM_THREADS='3'", input=PROMPTS)
    added = {name: value for name, value in os.environ.items() if before.get(name) != value}
    assert added == {**ENVIRONMENT, **run.record.config.hardware.env}
    assert added["OMP_NUM_THREADS"] == "3"
    rollout.release()
    assert dict(os.environ) == before


class Notebook(io.StringIO):
    """A stream that is not the process's own, as a notebook's."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def test_a_notebook_sees_few_lines_and_none_of_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Notebook()
    monkeypatch.setenv("FORCE_COLOR", "1")  # as its kernel does
    monkeypatch.setattr(sys, "stdout", cell)
    monkeypatch.setattr(sys, "stderr", cell)

    def step(engine: EchoEngine) -> Any:
        print("a library's chatter")
        logging.StreamHandler(sys.stdout).emit(logging.makeLogRecord({"msg": "a library's log"}))
        return original(engine)

    original = EchoEngine.step
    monkeypatch.setattr(EchoEngine, "step", step)
    run = rollout.run(*QUICK, input=PROMPTS)
    assert sys.stdout is cell
    lines = cell.getvalue().splitlines()
    assert len(lines) <= 7
    assert "\x1b" not in cell.getvalue()
    assert "80 samples of 40 prompts" in cell.getvalue()
    assert "python -m" not in cell.getvalue()
    assert "library" not in cell.getvalue()
    log = (run.path / "rollout.log").read_text(encoding="utf-8")
    assert "a library's chatter" in log
    assert "a library's log" in log


@pytest.mark.long
def test_a_wandb_run_of_the_program_goes_on(here: Path) -> None:
    import wandb

    with wandb.init(mode="offline", dir=str(here), settings=wandb.Settings(silent=True)) as theirs:
        run = rollout.run(*QUICK, "tracking=offline", input=PROMPTS)
        assert wandb.run is theirs
        wandb.log({"loss": 1.0})
    assert [*run.path.glob("wandb/offline-run-*/*.wandb")]
    assert [*here.glob("wandb/offline-run-*/*.wandb")]
    wandb.teardown()

"""An engine that cannot start: the command ends soon after vLLM has failed, and nothing that it started is left.

Most tests have processes of their own instead of vLLM's, named as those are; one has vLLM's.
"""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rollout.engine import loading
from rollout.engine.loading import supervised
from tests.commands import command
from tests.processes import alive, family, wait_until
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.long

HANGS = """
import sys, time
from pathlib import Path
from rollout.engine import loading
loading._GRACE_SECONDS = loading._END_SECONDS = 0.0
with loading.supervised(Path(sys.argv[1]), 0.1, ends_process=True):
    time.sleep(60)
"""

NAMED = (  # as vLLM's processes are, a moment after they began; see prctl(2)
    "import ctypes, os, subprocess, sys, time\ntime.sleep(0.3)\nctypes.CDLL(None).prctl(15, b'VLLM::Worker', 0, 0, 0)\n"
)


@pytest.fixture
def log_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the engine writes to; the waits are shortened, so that a test takes a second or two."""
    monkeypatch.setattr(loading, "_GRACE_SECONDS", 0.5)
    monkeypatch.setattr(loading, "_LEAVE_SECONDS", 0.5)
    (tmp_path / "rollout.log").write_text("EngineCore failed to start\n")  # of an earlier session, which does not count
    return tmp_path / "rollout.log"


def test_a_start_that_does_not_come_back_from_its_failure_ends_the_process_that_may_be_ended(log_file: Path) -> None:
    """As that of a replica, whose driver would wait for ever and start another now."""
    ended = subprocess.run([sys.executable, "-c", HANGS, str(log_file)], timeout=30, check=False, capture_output=True)
    assert ended.returncode == 1
    assert b"the engine failed to start and does not end" in ended.stderr


def start(code: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", NAMED + code])


def load(*codes: str, limit: float | None = None, log_file: Path) -> float:
    """What vLLM does: start processes and wait for all to end. Returns how long that took; none of them is left."""
    began, started = time.monotonic(), list[subprocess.Popen[bytes]]()

    def load_engine() -> None:
        with supervised(log_file, limit):
            started.extend(map(start, codes))
            for process in started:
                process.wait()
            raise RuntimeError("Engine core initialization failed")

    with pytest.raises(RuntimeError, match="failed"):
        load_engine()
    took = time.monotonic() - began
    wait_until(lambda: all(process.poll() is not None for process in started), 5)
    return took


FOREVER = "time.sleep(60)"


def test_what_waits_for_a_process_that_has_died_is_ended(log_file: Path) -> None:
    assert load(FOREVER, "time.sleep(0.6); os.abort()", log_file=log_file) < 10


def test_a_process_that_has_died_counts_also_while_a_child_of_it_holds_its_pipes(log_file: Path) -> None:
    forks = "os.fork() or time.sleep(60); time.sleep(0.6); os.kill(os.getpid(), 9)"
    assert load(FOREVER, forks, log_file=log_file) < 10


def test_a_failure_that_is_only_in_the_log_counts(log_file: Path) -> None:
    says = f"open({str(log_file)!r}, 'a').write('ERROR WorkerProc hit an exception.'); {FOREVER}"
    assert load(says, FOREVER, log_file=log_file) < 10


def test_an_engine_that_takes_longer_than_it_may_is_ended(log_file: Path) -> None:
    assert load(FOREVER, limit=0.5, log_file=log_file) < 10


def test_a_process_without_a_parent_is_ended_too(log_file: Path, tmp_path: Path) -> None:
    orphan = (
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))\n"
        "os._exit(3)"
    )
    load(orphan, log_file=log_file)
    pid = int((tmp_path / "child").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split(), 5)


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_whatever_ends_the_loading_ends_its_processes(raised: type[BaseException], log_file: Path) -> None:
    started = list[subprocess.Popen[bytes]]()

    def interrupted() -> None:
        with supervised(log_file, None):
            started.append(start(FOREVER))
            raise raised

    with pytest.raises(raised):
        interrupted()
    (process,) = started
    assert process.wait(5) < 0


def test_processes_that_were_there_before_and_those_of_an_engine_that_starts_stay(log_file: Path) -> None:
    before = start(FOREVER)
    with pytest.raises(ValueError, match="no"), supervised(log_file, None):
        raise ValueError("no")
    with supervised(log_file, None):
        engine = start(FOREVER)
        time.sleep(0.6)
    try:
        assert before.poll() is None
        assert engine.poll() is None
    finally:
        for process in (before, engine):
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "how", "reason"),
    [("determine_available_memory", "raises and does not end", "an illegal memory access was encountered")],
)
def test_the_command_ends_with_the_reason_and_leaves_no_process(
    stage: str, how: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_model(tmp_path / "model")
    monkeypatch.setenv("FAIL_STAGE", stage)
    monkeypatch.setenv("FAIL_HOW", how)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    arguments = (
        *("model.path=model", "hardware=cpu", "hardware.env.VLLM_CPU_KVCACHE_SPACE='1'", "tracking=disabled"),
        *("hardware.env.VLLM_ENABLE_V1_MULTIPROCESSING='1'", "hardware.engine_kwargs.distributed_executor_backend=mp"),
        *("hardware.engine_kwargs.worker_cls=tests.failing_worker.FailingWorker", "hydra.run.dir=run"),
        "sampling.max_tokens=8",
    )
    log = tmp_path / "run/rollout.log"
    process = subprocess.Popen(command(*arguments), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    members: dict[int, str] = {}

    def has_failed() -> bool:
        members.update(family(process.pid))
        return log.exists() and "WorkerProc hit an exception" in log.read_text()

    wait_until(has_failed, 120)
    failed = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - failed < 20
    assert process.returncode == 1
    assert errors.startswith("error: hardware, model: vLLM cannot start model: ")
    assert reason in errors
    wait_until(lambda: not alive(members), 5)

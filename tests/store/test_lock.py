"""One process per run folder, whatever happens to it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from rollout.errors import UserError
from rollout.store.lock import locked

HOLDS_WITH_A_CHILD = """
import os, sys, time
from pathlib import Path
from rollout.store.lock import locked
with locked(Path("run")):
    if os.fork() == 0:  # has the same lock, as the kernel has it while it takes back a killed process's memory
        time.sleep(1)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> subprocess.Popen[str]:
    """A process that holds the folder `run` for a minute, and a child of it that does for a second."""
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    monkeypatch.chdir(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", HOLDS_WITH_A_CHILD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_whose_process_was_killed_is_free_once_the_kernel_has_ended_it(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with locked(Path("run")):
        pass


def test_a_folder_that_is_in_use_is_refused_at_once(holder: subprocess.Popen[str]) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=f"^run: in use by process {holder.pid} on "), locked(Path("run")):
        pass
    assert time.monotonic() - began < 10
    holder.kill()
    holder.wait()

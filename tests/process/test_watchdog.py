"""Nothing that a run started outlives it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import wait_until

PARENT = """
import subprocess, sys, time
from rollout.process import watchdog
sys.argv[0] = "{program}"
watchdog.start()
named = "import ctypes, os; ctypes.CDLL(None).prctl(15, b'{name}'); os.system('sleep 600 & echo $!; wait')"
child = subprocess.Popen([sys.executable, "-c", named], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline().strip(), flush=True)
time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def family_of(program: str, name: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A `program` that is watched, with a child of this `name` and a grandchild; their ids."""
    code = PARENT.format(program=program, name=name)
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    family = [int(pid) for pid in parent.stdout.readline().split()]
    time.sleep(2.5)  # the watchdog looks once a second
    assert len(family) == 2
    assert all(map(is_alive, family))
    return parent, family


def end(parent: subprocess.Popen[str]) -> None:
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()


@pytest.mark.long
@pytest.mark.parametrize(("program", "name"), [("rollout", "worker"), ("program.py", "VLLM::EngineCor")])
def test_children_and_their_children_end_with_a_parent_that_is_killed(program: str, name: str) -> None:
    bystander = subprocess.Popen(["sleep", "600"])
    parent, family = family_of(program, name)
    end(parent)
    wait_until(lambda: not any(map(is_alive, family)), 10)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


@pytest.mark.long
def test_processes_that_a_program_started_itself_are_not_ours_to_end() -> None:
    parent, family = family_of("program.py", "server")
    end(parent)
    time.sleep(2)
    assert all(map(is_alive, family))
    for pid in family:
        os.kill(pid, signal.SIGKILL)

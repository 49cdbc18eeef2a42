"""Which processes a command has started, for tests that kill some of them and see that none is left."""

import time
from collections.abc import Callable

from rollout.process import watchdog

REPLICA = "ray::Replica"


def family(parent: int, name: str = "") -> dict[int, str]:
    """Process id -> start time of what `parent` and its children have started, of those whose name begins so."""
    members = watchdog.Family(parent)
    members.look()
    return {pid: process.started for pid, process in members.members.items() if process.name.startswith(name)}


def alive(members: dict[int, str]) -> list[str]:
    """The names of those that still run."""
    there = watchdog.processes()
    return [there[pid].name for pid, since in members.items() if pid in there and there[pid].started == since]


def wait_until(happened: Callable[[], object], seconds: float) -> None:
    """Return once it has; fail if it takes longer."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)

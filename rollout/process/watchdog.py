"""Ends the engine's processes when this one has ended, even by SIGKILL.

vLLM's engine core is a separate process, and it does not notice that nobody listens any more: after a SIGKILL it keeps
the GPU's memory, and a resume finds none free. A small process waits on a pipe that only the run holds; when the pipe
closes, it kills what the run has started. A program that calls us has its own processes, which are not ours to end:
there it only kills engines, and what they have started.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_EXITING = 0x4  # PF_EXITING of the kernel's include/linux/sched.h, in the flags of stat
_POLL_SECONDS = 1.0  # how often to look for processes
_SPARED = ("wandb", "gpu_stats")  # W&B's own processes end by themselves, after writing what they hold

_ENGINES = ("VLLM::", "ray", "gcs_server")
"""The first characters in the names of engines' processes, and of those that Ray starts for them."""

ALL, ENGINES = "all", "engines"
"""What is killed at the end."""

_pipe: list[int] = []  # the write end; open as long as this process lives


def start() -> None:
    """Start watching this process; once is enough, and twice is harmless."""
    if _pipe:
        return
    killed = ALL if is_our_command() else ENGINES
    read_end, write_end = os.pipe()
    _pipe.append(write_end)
    os.register_at_fork(after_in_child=lambda: os.close(write_end))  # a forked child must not keep it open
    # its own session: a Ctrl-C in the terminal, or a signal to our process group, must not end it
    subprocess.Popen(
        [sys.executable, __file__, str(os.getpid()), killed],
        stdin=read_end,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(read_end)


def is_our_command() -> bool:
    """Whether this process is one of our commands; a program that uses this package decides itself how it ends."""
    spec = sys.modules["__main__"].__spec__
    return (Path(sys.argv[0]).name if spec is None else spec.name).split(".")[0] == "rollout"


def children_named(name: str, parent: int) -> list[int]:
    """The ids of the processes called `name` that the process `parent` itself has started."""
    return [pid for pid, process in processes().items() if process.name == name and process.parent == parent]


@dataclass(frozen=True)
class Process:
    """One process, as /proc shows it."""

    name: str
    parent: int
    started: str
    """In clock ticks since the machine's start: distinguishes a process from a later one with the same id."""
    is_dead: bool
    """Whether it has ended and only waits for its parent to notice."""
    is_exiting: bool
    """Whether it was killed or has returned, and the kernel takes back what it held."""


class Family:
    """The processes that a process has started, directly or through others, even if their parents have ended.

    Only processes that exist when `look` is called become known.
    """

    def __init__(self, parent: int, without: Collection[int] = ()) -> None:
        """`without` are ids of processes to leave out, with all that they start."""
        self._parent, self._without = parent, frozenset(without)
        self.members: dict[int, Process] = {}

    def look(self) -> None:
        """Find new members, and new names of the others."""
        there = processes()
        present = {pid: there[pid] for pid, member in self.members.items() if _is_same(there.get(pid), member)}
        self.members |= present
        known = {*present, self._parent}
        while True:
            new = {pid for pid, process in there.items() if process.parent in known} - known - self._without
            if not new:
                return
            self.members |= {pid: there[pid] for pid in new}
            known |= new

    def alive(self) -> dict[int, Process]:
        """The members that have not ended."""
        there = processes()
        return {
            pid: there[pid]
            for pid, member in self.members.items()
            if _is_same(there.get(pid), member) and not there[pid].is_dead
        }

    def kill(self, only_engines: bool = False) -> None:
        """End all members except those of W&B, or only engines and what they have started."""
        for pid, process in self.alive().items():
            if not process.name.startswith(_SPARED) and (not only_engines or self._is_of_an_engine(pid)):
                with suppress(ProcessLookupError):  # it ended together with one that was killed before
                    os.kill(pid, signal.SIGKILL)

    def _is_of_an_engine(self, pid: int) -> bool:
        member = self.members.get(pid)
        return member is not None and (member.name.startswith(_ENGINES) or self._is_of_an_engine(member.parent))


def _is_same(process: Process | None, member: Process) -> bool:
    return process is not None and process.started == member.started


def processes() -> dict[int, Process]:
    """Process id -> process."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {pid: found for pid in pids if (found := process(pid)) is not None}


def process(pid: int) -> Process | None:
    """One process as /proc shows it (see proc(5): fields 2, 3, 4, 9 and 22 of stat); None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:  # it has ended meanwhile
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    return Process(name, int(fields[1]), fields[19], fields[0] in "ZX", bool(int(fields[6]) & _EXITING))


def _watch(parent: int, killed: str) -> None:
    family = Family(parent, without=[os.getpid()])
    while not select.select([0], [], [], _POLL_SECONDS)[0]:
        family.look()
    family.kill(only_engines=killed == ENGINES)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), sys.argv[2])

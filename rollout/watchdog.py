"""Ends the engine's processes when this one is gone, even by SIGKILL.

vLLM's engine core is a process of its own, and it does not notice that nobody listens any more: after a SIGKILL it
keeps the GPU's memory, and a resume finds none free. A small process waits on a pipe that only the run holds; when the
pipe closes, it kills what the run had started.
"""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_POLL_SECONDS = 1.0  # how often to look which processes there are
_SPARED = ("wandb", "gpu_stats")  # W&B's own processes end by themselves, after writing what they hold

_pipe: list[int] = []  # the write end; open as long as this process lives


def start() -> None:
    """Start watching this process; once is enough, and twice is harmless."""
    if _pipe:
        return
    read_end, write_end = os.pipe()
    _pipe.append(write_end)
    os.register_at_fork(after_in_child=lambda: os.close(write_end))  # a forked child must not keep it open
    # a session of its own: a Ctrl-C in the terminal, or a signal to our process group, must not end it
    subprocess.Popen(
        [sys.executable, __file__, str(os.getpid())],
        stdin=read_end,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(read_end)


def children_named(name: str, parent: int) -> list[int]:
    """The ids of the processes called `name` that the process `parent` has started itself."""
    return [pid for pid, (called, started_by, _) in _processes().items() if called == name and started_by == parent]


def _watch(parent: int) -> None:
    seen: dict[int, str] = {}  # process id -> when it was started, which tells it from a later one of that id
    while not select.select([0], [], [], _POLL_SECONDS)[0]:
        seen |= _descendants(parent)
    alive = _processes()
    for pid, started in seen.items():
        if pid in alive and alive[pid][2] == started and not alive[pid][0].startswith(_SPARED):
            with suppress(ProcessLookupError):  # it ended with one that was killed before it
                os.kill(pid, signal.SIGKILL)


def _descendants(parent: int) -> dict[int, str]:
    """The processes that `parent` and its children have started, without this one."""
    processes = _processes()
    family = {parent}
    while True:
        children = {pid for pid, (_, ppid, _) in processes.items() if ppid in family} - {os.getpid()}
        if children <= family:
            return {pid: processes[pid][2] for pid in family - {parent}}
        family |= children


def _processes() -> dict[int, tuple[str, int, str]]:
    """Process id -> name, parent's id, start time, out of /proc (see proc(5): fields 2, 4 and 22 of stat)."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text(errors="replace").partition("(")[2].rpartition(")")
            except OSError:  # it has ended meanwhile
                continue
            fields = rest.split()
            found[int(entry.name)] = (name, int(fields[1]), fields[19])
    return found


if __name__ == "__main__":
    _watch(int(sys.argv[1]))

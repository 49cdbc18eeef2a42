"""Which thread of which process was busy: CPU seconds from /proc, of this process and all it has started; the GPU too.

The kernel counts a thread that has ended in its process only: that is `ended threads`.
"""

import os
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean

_TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds() -> dict[str, float]:
    """CPU seconds so far, user and system, by "process/thread"."""
    found = defaultdict[str, float](float)
    for pid in (os.getpid(), *_descendants(os.getpid())):
        name = _name(Path(f"/proc/{pid}")).partition(".")[0]  # Ray's workers append what they are doing
        owner = "front end" if pid == os.getpid() else f"{name} ({pid})"
        alive = 0.0
        for task in _tasks(pid):
            thread = "main" if task.name == str(pid) else f"{_name(task)} ({task.name})"
            found[f"{owner}/{thread}"] += (seconds := _seconds(task))
            alive += seconds
        found[f"{owner}/ended threads"] += max(0.0, _seconds(Path(f"/proc/{pid}")) - alive)
    return found


def busy(before: dict[str, float], after: dict[str, float], seconds: float, at_least: float = 0.02) -> dict[str, float]:
    """Cores that each thread kept busy between the two counts, the busiest first; those below `at_least` left out."""
    shares = {name: (after[name] - before.get(name, 0.0)) / seconds for name in after}
    return {
        name: round(share, 2) for name, share in sorted(shares.items(), key=lambda item: -item[1]) if share >= at_least
    }


def by_process(threads: dict[str, float]) -> dict[str, float]:
    """The same numbers, added up by process."""
    total = defaultdict[str, float](float)
    for name, share in threads.items():
        total[name.split("/")[0]] += share
    return {name: round(share, 2) for name, share in sorted(total.items(), key=lambda item: -item[1])}


@contextmanager
def gpu_shares() -> Iterator[list[float]]:
    """For each fifth of a second of the body, the share in which a kernel was running (nvidia-smi's utilization). The
    list is filled afterwards, and stays empty without that program.
    """
    shares = list[float]()
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    try:
        process = subprocess.Popen([*query, "-i", _visible()], stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        yield shares
        return
    try:
        yield shares
    finally:
        process.terminate()
        printed, _ = process.communicate()
        shares += [int(line) / 100 for line in printed.splitlines() if line.strip().isdigit()]


def _visible() -> str:
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] or "0"


def share_of(shares: list[float]) -> float | None:
    """The mean; None for an empty list."""
    return round(mean(shares), 3) if shares else None


def _descendants(pid: int) -> Iterator[int]:
    parents = {int(folder.name): _parent(folder) for folder in Path("/proc").glob("[0-9]*")}
    found = [pid]
    for parent in found:  # which grows during the loop
        found += [child for child, its_parent in parents.items() if its_parent == parent]
    yield from found[1:]


def _parent(folder: Path) -> int:
    fields = _stat(folder)
    return int(fields[1]) if fields else 0


def _tasks(pid: int) -> list[Path]:
    """The threads of a process; none when it has ended meanwhile."""
    folder = Path(f"/proc/{pid}/task")
    return list(folder.iterdir()) if folder.exists() else []


def _name(folder: Path) -> str:
    return _read(folder / "comm").strip()


def _seconds(task: Path) -> float:
    fields = _stat(task)
    return (int(fields[11]) + int(fields[12])) / _TICK if fields else 0.0


def _stat(folder: Path) -> list[str]:
    """The fields of proc(5)'s stat from the third on: the name before them may contain blanks."""
    return _read(folder / "stat").rpartition(")")[2].split()


def _read(path: Path) -> str:
    """A file of /proc; empty when its process has ended meanwhile."""
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""

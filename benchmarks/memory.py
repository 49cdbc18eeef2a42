"""How much memory this process has taken."""

import re
from pathlib import Path


def peak_mib() -> float:
    """MiB that were in use at most since the process's program began: VmHWM of proc(5).

    getrusage's ru_maxrss begins with what the process had from which this one was started, which can be more.
    """
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024

"""One process per run folder.

The lock is the kernel's (flock on `.lock`), so it ends with the process that holds it, however that ends; the content
of the file only says who that is. `is_held` finds out without taking the lock, because a resume at that moment would be
refused.
"""

import errno
import fcntl
import json
import logging
import math
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from rollout.errors import UserError
from rollout.files import as_argument
from rollout.process import watchdog
from rollout.store.layout import LOCK

log = logging.getLogger(__name__)


_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
_KERNEL_LOCKS = Path("/proc/locks")

_ENDING_SECONDS = 30.0
"""How long a killed process may take to end; one with 6 GB took 0.7 seconds."""

_LOOK_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who took the lock last, in its own words; the process may have ended since."""

    pid: int
    host: str
    since: str
    """For people: the date and time there."""
    began: float = 0.0
    """`since` in seconds since 1970. An older version wrote neither this nor the following fields."""
    process: str | None = None
    """When the process was started, as `watchdog.Process` has it."""
    pids: str | None = None
    """The namespace in which `pid` is a process."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    @classmethod
    def here(cls) -> "Holder":
        """The process that calls, from now on."""
        began, me = time.time(), watchdog.process(os.getpid())
        return cls(
            pid=os.getpid(),
            host=socket.gethostname(),
            since=time.strftime("%F %T", time.localtime(began)),
            began=math.floor(began * 1000) / 1000,  # never later than what run.json says of its session
            process=None if me is None else me.started,
            pids=_namespace(),
        )

    @property
    def is_neighbour(self) -> bool:
        """Whether this process could see the holder's process, if it still exists."""
        return self.host == socket.gethostname() and self.pids in (None, _namespace())

    @property
    def is_alive(self) -> bool:
        """Whether a neighbour's process still exists, and not only another process with its number."""
        found = watchdog.process(self.pid)
        if found is None or found.is_dead or found.is_exiting:
            return False
        return self.process in (None, found.started)


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold `run_dir`, which is created if needed. Raises UserError, naming the holder, when another process has it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / LOCK).open("a+", encoding="utf-8") as file:
        try:
            _take(file.fileno(), run_dir)
        except BlockingIOError as error:
            raise UserError(
                f"{run_dir}: in use by {_holder(run_dir)}; wait for it or stop it (to look at it: `python -m rollout "
                f"watch {as_argument(run_dir)}`)"
            ) from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            log.warning("%s: this file system has no locks; do not start a second run here", run_dir)
        file.truncate(0)
        json.dump(asdict(Holder.here()), file)
        file.flush()
        yield


def _take(descriptor: int, run_dir: Path) -> None:
    """Take the lock. Raises BlockingIOError while another process has it, unless that one has ended: a killed process
    keeps its locks until the kernel has taken back its memory, and its children theirs until they have noticed.
    """
    end = time.monotonic() + _ENDING_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = holder_of(run_dir)
            is_ending = holder is not None and holder.is_neighbour and not holder.is_alive
            if not is_ending or time.monotonic() > end:
                raise
        time.sleep(_LOOK_SECONDS)


def is_of_a_run(run_dir: Path) -> bool:
    """Whether a run has ever held `run_dir`, even if it left nothing else there."""
    return holder_of(run_dir) is not None


def is_unwritten(path: Path) -> bool:
    """Whether it is the lock of a run that was ended before it could say who it is."""
    return path.name == LOCK and path.is_file() and not path.stat().st_size


def is_held(run_dir: Path) -> bool | None:
    """Whether a process holds `run_dir` now, found without taking the lock. None if that cannot be found: the last
    holder is on another machine, whose locks are not visible here.
    """
    try:
        with (run_dir / LOCK).open("rb") as file:
            about = os.fstat(file.fileno())
            if _conflicts(file.fileno()) or _is_listed(about):
                return True
    except FileNotFoundError:
        return False
    except OSError:
        return None
    holder = holder_of(run_dir)
    if holder is None or not holder.is_neighbour:
        return None
    # some file systems without a device have no locks, or list them under another number
    return holder.is_alive and os.major(about.st_dev) == 0


def _conflicts(descriptor: int) -> bool:
    """Whether another process has a POSIX lock on the whole file: NFS turns a flock into one."""
    asked = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    try:
        found: int = struct.unpack("hhqqi4x", fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))[0]
    except OSError:
        return False
    return found != fcntl.F_UNLCK


def _is_listed(file: os.stat_result) -> bool:
    """Whether the kernel lists a lock of this file."""
    try:
        lines = _KERNEL_LOCKS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    name = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    return any(line.split()[1:2] == ["FLOCK"] and f" {name} " in line for line in lines)


def _namespace() -> str | None:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _holder(run_dir: Path) -> str:
    """Who has the lock; it may not have written yet who it is."""
    return str(holder_of(run_dir) or "another process")


def holder_of(run_dir: Path) -> Holder | None:
    """Who has taken the lock last; None where nobody has, or it does not say."""
    try:
        return msgspec.json.decode((run_dir / LOCK).read_bytes(), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return None

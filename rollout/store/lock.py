"""One process per run folder.

The lock is the kernel's (flock on `.lock`), so that it ends with the process that holds it, however that ends; the
file's content only says who it is.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rollout.errors import UserError
from rollout.store.layout import LOCK

log = logging.getLogger(__name__)


_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold `run_dir`, which is made if need be. Raises UserError, naming the holder, when another process has it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{run_dir}: in use by {_holder(run_dir)}; wait for it or stop it") from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            log.warning("%s: this file system has no locks; do not start a second run here", run_dir)
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}, file)
        file.flush()
        yield


def is_of_a_run(run_dir: Path) -> bool:
    """Whether a run has held `run_dir`, be it that nothing else came of it."""
    return _read(run_dir) is not None


def _holder(run_dir: Path) -> str:
    """Who has the lock; it may not have written yet who it is."""
    return _read(run_dir) or "another process"


def _read(run_dir: Path) -> str | None:
    try:
        holder = json.loads((run_dir / LOCK).read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return None

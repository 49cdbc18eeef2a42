"""The state of a run, found from outside while others may work on it: takes no lock and writes nothing."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rollout.store import run_record
from rollout.store.layout import JOBS, JOURNAL, LOCK, LOGS
from rollout.store.lock import Holder, holder_of, is_held
from rollout.store.run_record import RunRecord
from rollout.store.times import moment

SILENT_SECONDS = 600.0
"""How long a run on another machine may write nothing, as while it loads a large model, until it is called silent."""

_TAKING_SECONDS = 10.0
"""More than it takes from creating the lock's file to writing who has the lock."""


@dataclass(frozen=True)
class Seen:
    """The state of a run at one moment."""

    record: RunRecord | None
    """What run.json says; None where nothing has begun yet."""
    status: str
    """As run.json says: done, interrupted, failed or running. Or `preparing`: a process has the folder and has not
    begun its session; `killed`: no process has it, and its session has not ended; `silent`: it runs on another machine
    and has written nothing for a while, so it may have been killed.
    """
    holder: Holder | None
    """Who has the folder, or had it last."""

    @property
    def goes_on(self) -> bool:
        """Whether it may still change by itself."""
        return self.status in ("preparing", "running", "silent")


def look(run_dir: Path) -> Seen:
    """The state of the run in `run_dir`. Raises UserError if it is not a run folder, or that of a newer version."""
    while True:
        record, held = _record(run_dir), is_held(run_dir)
        if held is not False or record is None or record.status != "running":
            break
        after = _record(run_dir)
        if after is not None and (after.status, after.started) == (record.status, record.started):
            break  # else a session has ended or begun meanwhile
    holder = holder_of(run_dir)
    return Seen(record, _status(run_dir, record, held, holder), holder)


def seconds_since_written(run_dir: Path) -> float:
    """How long nothing was written in the folder of a run or a sweep; infinite if nothing ever was."""
    return time.time() - max(_times(run_dir), default=float("-inf"))


def _record(run_dir: Path) -> RunRecord | None:
    if not run_record.exists(run_dir) and (run_dir / LOCK).exists():
        return None
    return run_record.read(run_dir)


def _status(run_dir: Path, record: RunRecord | None, held: bool | None, holder: Holder | None) -> str:
    if held and (record is None or _is_newer(holder, record)):
        return "preparing"
    if record is None:  # the lock may be there and not taken yet
        return "killed" if holder or seconds_since_written(run_dir) > _TAKING_SECONDS else "preparing"
    if record.status != "running":
        return record.status
    if held is False:
        return "killed"
    return "running" if held or seconds_since_written(run_dir) < SILENT_SECONDS else "silent"


def _is_newer(holder: Holder | None, record: RunRecord) -> bool:
    """Whether the folder was taken after the record's session had begun, or ended if it has."""
    if holder is None:
        return False
    return holder.began > moment(record.ended or record.started).timestamp()


def _times(run_dir: Path) -> Iterator[float]:
    for folder in (run_dir, run_dir / JOURNAL, run_dir / LOGS, run_dir / JOBS):
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
        except OSError:
            continue
        for entry in found:
            try:
                yield entry.stat().st_mtime
            except OSError:  # it has another name now
                continue

"""run.json: what ran, how far it came and how it ended."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rollout import provenance
from rollout.config import RunConfig
from rollout.errors import UserError
from rollout.files import write_json
from rollout.interrupt import Interrupted
from rollout.records import SCHEMA_VERSION

MANIFEST = "run.json"

_RESERVE = ".reserve"  # space given back when the disk is full, so that run.json can still say `failed`
_RESERVE_BYTES = 256 * 1024
_SESSION_KEYS = ("status", "started", "ended", "error", "engine", "seconds", "throughput")


def read(run_dir: Path) -> dict[str, Any]:
    """The content of run.json. Raises UserError when `run_dir` is not a run folder."""
    path = run_dir / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        _ = manifest["status"], manifest["config"], manifest["digest"], manifest["sessions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{run_dir}: not a run folder (no readable {MANIFEST} in it); give the folder of a run"
        ) from error
    return manifest


@contextmanager
def recorded(
    run_dir: Path, run: RunConfig, digest: dict[str, Any], wandb: dict[str, str | None]
) -> Iterator[dict[str, Any]]:
    """Yield the content of run.json for the body to add to.

    The file says `running` from the start and at the end how it ended: done, interrupted or failed. The sessions of a
    run that was resumed are kept under `sessions`, oldest first, one that was killed with the status `killed`.
    `wandb` identifies the W&B run of a new run; a resumed one goes on with the one it had.
    """
    before = read(run_dir) if (run_dir / MANIFEST).exists() else None
    manifest: dict[str, Any] = {
        "status": "running",
        "schema_version": SCHEMA_VERSION,
        "started": _now(),
        "config": dataclasses.asdict(run),
        "digest": digest,
        "provenance": provenance.collect(),
        "engine": None,
        "seconds": {},
        "totals": None,
        "throughput": None,
        "wandb": (before or {}).get("wandb") or wandb,
        "sessions": _earlier_sessions(before),
    }
    (run_dir / _RESERVE).write_bytes(b"\0" * _RESERVE_BYTES)
    write_json(run_dir / MANIFEST, manifest)
    try:
        yield manifest
        manifest["status"] = "done"
    except BaseException as error:
        manifest["status"] = "interrupted" if isinstance(error, Interrupted) else "failed"
        manifest["error"] = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        with suppress(OSError):  # of two errors the first one counts
            _close(run_dir, manifest)
        raise
    _close(run_dir, manifest)


def _close(run_dir: Path, manifest: dict[str, Any]) -> None:
    (run_dir / _RESERVE).unlink(missing_ok=True)
    manifest["ended"] = _now()
    write_json(run_dir / MANIFEST, manifest)


def _earlier_sessions(before: dict[str, Any] | None) -> list[dict[str, Any]]:
    if before is None:
        return []
    if before["status"] == "running":  # nobody is running it now: its lock was free
        before["status"] = "killed"
    return [*before["sessions"], {key: before[key] for key in _SESSION_KEYS if key in before}]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

"""run.json: what ran, how far it came and how it ended."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rollout.config import RunConfig
from rollout.errors import UserError
from rollout.files import write_json
from rollout.process.signals import Interrupted
from rollout.records import SCHEMA_VERSION
from rollout.store import provenance
from rollout.store.layout import MANIFEST, RESERVE

_RESERVE_BYTES = 256 * 1024
_SESSION_KEYS = ("status", "started", "ended", "error", "engine", "seconds", "throughput", "provenance")


def read(run_dir: Path) -> dict[str, Any]:
    """The content of run.json. Raises UserError when `run_dir` is not a run folder, or that of a newer version."""
    path = run_dir / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        for key in ("status", "started", "config", "digest", "provenance", "sessions"):
            _ = manifest[key]
        is_newer = manifest["schema_version"] > SCHEMA_VERSION
    except (OSError, ValueError, KeyError, TypeError) as error:
        if (run_dir / "multirun.yaml").exists():  # which Hydra writes
            raise UserError(
                f"{run_dir}: a sweep's folder; give the sweep's command again with hydra.sweep.dir={run_dir}, or the "
                "folder of one of its jobs"
            ) from error
        raise UserError(
            f"{run_dir}: not a run folder (no readable {MANIFEST} in it); give the folder of a run"
        ) from error
    if is_newer:
        raise UserError(
            f"{path}: schema_version={manifest['schema_version']} is newer than this program's {SCHEMA_VERSION}; "
            f"use rollout {manifest['provenance']['packages'].get('rollout')} or later"
        )
    return manifest


@contextmanager
def recorded(
    run_dir: Path,
    run: RunConfig,
    digest: dict[str, Any],
    wandb: dict[str, str | None],
    replay_of: dict[str, Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield the content of run.json for the body to add to. `replay_of` is the run that a new one repeats.

    The file says `running` from the start and at the end how it ended: done, interrupted or failed. The sessions of a
    run that was resumed are kept under `sessions`, oldest first, one that was killed with the status `killed`.
    `wandb` identifies the W&B run of a new run; a resumed one goes on with the one it had.
    """
    before = read(run_dir) if (run_dir / MANIFEST).exists() else {}
    manifest: dict[str, Any] = {
        "status": "running",
        "schema_version": SCHEMA_VERSION,
        "started": _now(),
        "config": dataclasses.asdict(run),
        "digest": digest,
        "provenance": provenance.collect(run.model),
        "reproducibility": provenance.reproducibility(run),
        "replay_of": before.get("replay_of", replay_of),
        "engine": None,
        "seconds": {},
        "totals": None,
        "throughput": None,
        "wandb": before.get("wandb") or wandb,
        "sessions": _earlier_sessions(before),
    }
    (run_dir / RESERVE).write_bytes(b"\0" * _RESERVE_BYTES)
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
    (run_dir / RESERVE).unlink(missing_ok=True)
    manifest["ended"] = _now()
    write_json(run_dir / MANIFEST, manifest)


def _earlier_sessions(before: dict[str, Any]) -> list[dict[str, Any]]:
    if not before:
        return []
    session = {key: before[key] for key in _SESSION_KEYS if key in before}
    if session["status"] == "running":  # nobody is running it now: its lock was free
        session["status"] = "killed"
    return [*before["sessions"], session]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

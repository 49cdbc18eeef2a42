"""The last run with a model and hardware, for an estimate of the next one."""

from dataclasses import dataclass
from pathlib import Path

from rollout.cli.latest import run_folders
from rollout.config import RunConfig
from rollout.engine import models
from rollout.engine.devices import gpu_names
from rollout.errors import UserError
from rollout.store import run_record
from rollout.store.layout import JOURNAL, MANIFEST, OUTPUT, RESULTS
from rollout.store.run_record import RunRecord, SessionRecord, Throughput

_NEWEST = 200


@dataclass(frozen=True)
class PastRun:
    """What is known from a past run for an estimate."""

    folder: Path
    throughput: Throughput
    load_seconds: float | None
    tokens_of_sample: float
    """Mean length of a response."""
    bytes_of_token: float
    """Bytes on disk per generated token, in the journal and all results."""


def last_like(run: RunConfig, folder: Path) -> PastRun | None:
    """The newest run under `folder` that has generated something with this model on this hardware.

    A machine without GPUs takes a run of the same `hardware` elsewhere for its own: it may be the one to start from.
    """
    for run_dir in _newest_first(folder)[:_NEWEST]:
        try:
            record = run_record.read(run_dir)
        except UserError:
            continue
        session = _last_that_generated(record)
        if session is not None and _is_like(run, record):
            return _told(run_dir, record, session)
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(run_folders(folder), key=lambda run_dir: (run_dir / MANIFEST).lstat().st_mtime, reverse=True)


def _last_that_generated(record: RunRecord) -> SessionRecord | None:
    sessions = (record, *reversed(record.sessions))
    return next((one for one in sessions if one.throughput is not None and one.throughput.output_tok_s > 0), None)


def _is_like(run: RunConfig, record: RunRecord) -> bool:
    before, here = record.config, list(gpu_names())
    return (
        record.totals is not None
        and record.provenance.model is not None
        and record.provenance.model.path == models.absolute(run.model.path)
        and (before.model.revision, before.model.quantization) == (run.model.revision, run.model.quantization)
        and (before.engine.kind, before.hardware) == (run.engine.kind, run.hardware)
        and (not here or record.provenance.gpus == here)
    )


def _told(run_dir: Path, record: RunRecord, session: SessionRecord) -> PastRun:
    assert session.throughput is not None
    assert record.totals is not None
    generated = max(1, record.totals.generated_tokens)
    return PastRun(
        folder=run_dir,
        throughput=session.throughput,
        load_seconds=session.seconds.get("load"),
        tokens_of_sample=generated / max(1, record.totals.samples - record.totals.failed),
        bytes_of_token=_bytes_in(run_dir) / generated,
    )


def _bytes_in(run_dir: Path) -> int:
    written = [*map(run_dir.joinpath, (OUTPUT, *RESULTS)), *(run_dir / JOURNAL).glob("*")]
    return sum(path.stat().st_size for path in written if path.is_file())

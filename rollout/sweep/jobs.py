"""A sweep: many jobs, some of which may fail; what came of them in sweep.csv and sweep.html, rewritten after each.

Each job leaves a note in `jobs/` of the sweep's folder, from its start on: jobs may run in one process or in many, and
the same command may be given again, to do what is not done yet.
"""

import dataclasses
import json
import sys
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from rollout.errors import UserError, did_you_mean
from rollout.files import same_file, write_json
from rollout.process.signals import Interrupted
from rollout.store.layout import CSV, HTML, JOBS

_started: list[Path] = []
"""The folder of the sweep that this process has started, if it has, and since when."""
_begun: list[str] = []


class NoteSweep(Callback):
    """Tells this process which folder its sweep has; Hydra makes it, as conf/config.yaml asks."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Before the first job."""
        _started[:] = [Path(config.hydra.sweep.dir).absolute()]
        _begun[:] = [_now()]


def name() -> str | None:
    """The W&B group of a sweep's jobs: the sweep's folder, as in outputs/. None for a job of no sweep."""
    hydra_cfg = HydraConfig.get()
    return "/".join(Path(hydra_cfg.sweep.dir).parts[-2:]) if hydra_cfg.mode == RunMode.MULTIRUN else None


def job(run_dir: Path, config: DictConfig, do: Callable[[], None]) -> float | None:
    """Do one job of a sweep, note how it went, and return what `config.objective` (of SweepConfig) names.

    A failure is printed here and now and does not stop the other jobs, unless an optimizer waits for the objective: it
    gets the exception, for its own policy about failed trials.
    """
    hydra_cfg = HydraConfig.get()
    sweep_dir = Path(hydra_cfg.sweep.dir).absolute()
    note: dict[str, Any] = {
        "num": hydra_cfg.job.num,
        "run_dir": str(run_dir.absolute()),
        "overrides": list(hydra_cfg.overrides.task),
        "status": "running",
        "error": None,
        "started": _now(),
    }
    (sweep_dir / JOBS).mkdir(parents=True, exist_ok=True)
    path = sweep_dir / JOBS / f"{note['num']}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, note)
    try:
        if config.objective is not None:
            _check_objective(config.objective)
        do()
        note["status"] = "done"
    except Interrupted as error:
        note |= {"status": "interrupted", "error": str(error)}
        print(f"continue the sweep with its own command and hydra.sweep.dir={sweep_dir}", file=sys.stderr)
        raise
    except Exception as error:
        note |= {"status": "failed", "error": _explained(error)}
        _print_failure(note, error)
        if before.get("status") == "done" and isinstance(error, UserError):  # the folder keeps the job it has
            note = before | {"started": note["started"], "refused": note["error"], "asked": note["overrides"]}
        if config.objective is not None:
            raise
    finally:
        write_json(path, note)
        _write_comparison(sweep_dir, config.rows)
    return None if config.objective is None else _objective(run_dir, config.objective)


def refuse_as_input(path: Path) -> None:
    """Raise UserError for an input that the sweep's own table or page would replace."""
    folder = Path(HydraConfig.get().sweep.dir)
    for name in (CSV, HTML):
        if same_file(path, folder / name):
            raise UserError(f"hydra.sweep.dir={folder}: {name} in it is the input; choose another folder")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _explained(error: Exception) -> str:
    return "; ".join(error.problems) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _print_failure(note: dict[str, Any], error: Exception) -> None:
    if not isinstance(error, UserError):
        traceback.print_exception(error)
    print(f"error: job {_title(note)}: {note['error']}", file=sys.stderr)


def _title(note: dict[str, Any]) -> str:
    return f"{note['num']} ({' '.join(note.get('asked', note['overrides']))})"


def _write_comparison(sweep_dir: Path, num_rows: int) -> None:
    """A job that is done is done, whatever keeps it from being compared with the others."""
    from rollout.sweep.comparison import write_comparison  # reads tables, which most commands need not load

    try:
        write_comparison(sweep_dir, notes(sweep_dir), num_rows)
    except Exception as error:
        print(f"warning: sweep.csv and sweep.html are not up to date: {_explained(error)}", file=sys.stderr)


def notes(sweep_dir: Path) -> list[dict[str, Any]]:
    """What each job has left, in the order of their numbers."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (sweep_dir / JOBS).glob("*.json")]
    return sorted(found, key=lambda note: int(note["num"]))


def finish() -> None:
    """At the end of a sweep that this process has started: say where it is, and exit with 1 if jobs failed."""
    if not _started or not (_started[0] / JOBS).is_dir():
        return
    from rollout.files import short

    sweep_dir = _started[0]
    here = [note for note in notes(sweep_dir) if note["started"] >= _begun[0]]
    failed = [note for note in here if note["status"] != "done" or "refused" in note]
    done = [note for note in here if note not in failed]
    print(f"sweep: {len(done)} of {len(done) + len(failed)} jobs done: {short(sweep_dir / 'sweep.html')}, sweep.csv")
    for note in failed:
        how, why = ("refused", note["refused"]) if "refused" in note else (note["status"], note["error"])
        print(f"error: job {_title(note)}: {how}: {why}", file=sys.stderr)
    if any("refused" not in note for note in failed):
        print("run the same command with the same hydra.sweep.dir to do what is not done", file=sys.stderr)
    if failed:
        sys.exit(1)


def _check_objective(path: str) -> None:
    """Raise UserError for a name that no job can have, before hours are spent on one."""
    from rollout.postprocess.analyze import Analysis
    from rollout.scoring.summary import ScoreSummary

    first, _, rest = path.partition(".")
    names = {"throughput", "totals", "seconds", "score", *(field.name for field in dataclasses.fields(Analysis))}
    if first not in names:
        raise UserError(f"sweep.objective={path}: no such number, {did_you_mean(first, names)}")
    of_scores = {field.name for field in dataclasses.fields(ScoreSummary)}
    if first in ("score", "scores") and rest.partition(".")[0] not in of_scores:
        raise UserError(f"sweep.objective={path}: no such number, {did_you_mean(rest, of_scores)}")


def _objective(run_dir: Path, path: str) -> float:
    """The number at the dotted `path` in run.json or analysis.json. Raises UserError when there is none."""
    known: dict[str, Any] = {}
    for file in ("run.json", "analysis.json"):
        if (run_dir / file).exists():
            known |= json.loads((run_dir / file).read_text(encoding="utf-8"))
    value: Any = known | {"score": known.get("scores")}
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"sweep.objective={path}: neither run.json nor analysis.json has such a number; check the name")
    return float(value)

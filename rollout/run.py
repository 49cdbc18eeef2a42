"""One run, top to bottom: prompts -> engine -> store -> postprocess -> summary."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from rollout import config, devices, models, provenance
from rollout.config import RunConfig
from rollout.engine import Engine, EngineSpec, acquire
from rollout.errors import UserError
from rollout.files import write_json
from rollout.finalize import finalize
from rollout.generate import generate, requests
from rollout.postprocess import run_steps
from rollout.progress import Progress, Snapshot
from rollout.prompts import open_input, read_prompts
from rollout.records import SCHEMA_VERSION, Sample
from rollout.screen import duration, progress_view, screen, short
from rollout.store import JOURNAL, Journal
from rollout.summary import preview, show_summary
from rollout.tables import Table
from rollout.tracking import WandbRun, metrics_file

log = logging.getLogger(__name__)

MANIFEST = "run.json"
LOG = "rollout.log"


def preflight(run: RunConfig) -> Table:
    """Open the input and check what can be checked without loading anything. Raises UserError with every problem."""
    problems = list(config.check(run))
    if run.engine.kind == "vllm":
        problems += [*models.check(run.model), *devices.check(run.hardware)]
    try:
        table = open_input(run.data)
    except UserError as error:
        raise UserError(*problems, *error.problems) from error
    if problems:
        raise UserError(*problems)
    return table


def claim(run_dir: Path) -> None:
    """Refuse a folder that holds a run already; nothing in it is touched. Raises UserError."""
    if (run_dir / MANIFEST).exists() or (run_dir / JOURNAL).exists():
        raise UserError(f"hydra.run.dir={run_dir}: holds a run already; choose another folder or leave the key out")
    run_dir.mkdir(parents=True, exist_ok=True)


def execute(run: RunConfig, table: Table, run_dir: Path, group: str | None = None) -> dict[str, Any]:
    """Do the whole run in `run_dir`, a claimed folder. Returns what run.json says at its end.

    `group` is the W&B group. Raises UserError when the input or the engine turns out not to serve.
    """
    with screen(run_dir / LOG) as console, _manifest(run_dir, run) as manifest:
        log.info("run folder: %s", short(run_dir))
        wandb_run = WandbRun(run_dir, run.tracking, dataclasses.asdict(run), group)
        seconds = manifest["seconds"]
        with _timed(seconds, "load"):
            engine = _load(run, manifest)
        with _timed(seconds, "generate"):
            final = sample_all(run, table, engine, run_dir, console, wandb_run)
        manifest["totals"] = {"rows": table.num_rows, **_totals(final)}
        manifest["throughput"] = _throughput(final)
        with _timed(seconds, "finalize"):
            rollouts = finalize(run_dir, table, run.sampling.n_samples, _footer())
        with _timed(seconds, "postprocess"):
            analysis = run_steps(rollouts, run_dir, run.postprocess)
        samples = preview(rollouts, run.data.prompt_key, max(run.tracking.sample_rows, 1))
        wandb_run.finish(
            {key: manifest[key] for key in ("totals", "throughput", "seconds")}, samples[: run.tracking.sample_rows]
        )
        show_summary(console, run_dir, manifest, analysis, samples)
    return manifest


def _load(run: RunConfig, manifest: dict[str, Any]) -> Engine:
    spec = EngineSpec.of(run)
    log.info("loading %s ...", run.model.path if run.engine.kind == "vllm" else "the echo engine")
    loaded = acquire(spec)
    manifest["engine"] = {"reused": loaded.reused}
    log.info("engine %s", "reused" if loaded.reused else f"ready after {duration(loaded.seconds)}")
    used = loaded.engine.use(run.sampling)
    log.info("sampling: n_samples=%d, %s, seed=%d", run.sampling.n_samples, used, run.sampling.seed)
    return loaded.engine


def sample_all(
    run: RunConfig, table: Table, engine: Engine, run_dir: Path, console: Console, wandb_run: WandbRun
) -> Snapshot:
    """The generation stage: every sample ends in the journal. Returns the final numbers."""
    _log_first_prompt(run, table, engine)
    n_samples = run.sampling.n_samples
    journal = Journal(run_dir, run.store)
    progress = Progress(table.num_rows * n_samples, engine.stats)
    check_errors = _error_limit(run.data.max_error_fraction, table.num_rows)
    feed = requests(read_prompts(table, run.data), engine, run.sampling, lambda _row_id: list(range(n_samples)))

    with metrics_file(run_dir) as write_metrics, progress_view(console) as show:

        def record(sample: Sample) -> None:
            journal.add(sample)
            progress.count(sample)
            check_errors(sample)

        def publish(now: Snapshot) -> None:
            write_metrics(now)
            wandb_run.log(now)

        due_to_show, due_to_publish = _every(0.5), _every(run.tracking.interval_seconds)

        def tick() -> None:
            journal.flush_if_old()
            if due_to_show():
                now = progress.snapshot()
                show(now)
                if due_to_publish():
                    publish(now)

        try:
            generate(engine, feed, record, tick)
        finally:
            journal.flush()
        final = progress.snapshot()
        publish(final)
    return final


def _log_first_prompt(run: RunConfig, table: Table, engine: Engine) -> None:
    """What the model really reads, once: a wrong template or a doubled token shows here before hours are spent."""
    for prompt in read_prompts(table, run.data):
        if prompt.error is None:
            log.info("first prompt, rendered (row %d): %r", prompt.row_id, engine.render(prompt.messages).text)
            return


def _error_limit(max_fraction: float, num_rows: int) -> Callable[[Sample], None]:
    """A check for every sample: raises UserError once too many rows have an error."""
    bad_rows: set[int] = set()

    def check(sample: Sample) -> None:
        if sample.error is None:
            return
        bad_rows.add(sample.row_id)
        if len(bad_rows) > max_fraction * num_rows:
            raise UserError(
                f"data.max_error_fraction={max_fraction}: {len(bad_rows)} of {num_rows} rows cannot be sampled, "
                f"the last is row {sample.row_id} ({sample.error}); mend the input or raise the limit"
            )

    return check


@contextmanager
def _manifest(run_dir: Path, run: RunConfig) -> Iterator[dict[str, Any]]:
    """Yield the content of run.json. The file says `running` from the start and how it ended at the end."""
    manifest: dict[str, Any] = {
        "status": "running",
        "schema_version": SCHEMA_VERSION,
        "started": _now(),
        "config": dataclasses.asdict(run),
        "provenance": provenance.collect(),
        "seconds": {},
    }
    write_json(run_dir / MANIFEST, manifest)
    try:
        yield manifest
        manifest["status"] = "done"
    except BaseException as error:
        manifest["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        manifest["error"] = f"{type(error).__name__}: {error}"
        raise
    finally:
        manifest["ended"] = _now()
        write_json(run_dir / MANIFEST, manifest)


def _totals(final: Snapshot) -> dict[str, Any]:
    return {
        "samples": final.samples_done,
        "failed": final.samples_failed,
        "prompt_tokens": final.prompt_tokens,
        "generated_tokens": final.generated_tokens,
    }


def _throughput(final: Snapshot) -> dict[str, Any]:
    """Rates over the generation stage: loading, merging and post-processing are not in them."""
    samples_s = final.samples_done / final.elapsed_seconds
    return {"output_tok_s": round(final.output_tok_s, 1), "samples_s": round(samples_s, 3)}


def _footer() -> dict[str, str]:
    """Metadata of rollouts.parquet: nothing in it may differ between two equal runs."""
    versions = {f"rollout.version.{name}": version for name, version in provenance.package_versions().items()}
    return {"rollout.schema_version": str(SCHEMA_VERSION), **versions}


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note how long the body took, in seconds."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[stage] = round(time.monotonic() - start, 3)


def _every(seconds: float) -> Callable[[], bool]:
    """A function that is true once per `seconds`, beginning `seconds` from now."""
    due = time.monotonic() + seconds

    def is_due() -> bool:
        nonlocal due
        if (now := time.monotonic()) < due:
            return False
        due = now + seconds
        return True

    return is_due


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

"""One run, top to bottom: prompts -> engine -> store -> postprocess -> summary."""

import dataclasses
import logging
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from rollout import config, devices, manifest, models, provenance
from rollout.config import RunConfig
from rollout.digest import digest
from rollout.engine import Engine, EngineSpec, acquire, release
from rollout.errors import EngineDied, PromptError, UserError
from rollout.finalize import OUTPUT, finalize
from rollout.generate import generate, requests
from rollout.interrupt import Interrupted, StopRequest, stop_on_signal
from rollout.postprocess import OUTPUTS, run_steps
from rollout.progress import Progress, Snapshot
from rollout.prompts import open_input, read_prompts
from rollout.records import SCHEMA_VERSION, Sample
from rollout.screen import duration, progress_view, screen, short
from rollout.startup import advice
from rollout.store import JOURNAL, Journal, finished, remove_partial_files
from rollout.summary import preview, show_summary
from rollout.tables import Table
from rollout.tracking import WandbRun, metrics_file, wandb_run

log = logging.getLogger(__name__)

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


def refuse_used(run_dir: Path) -> None:
    """Raise UserError for a folder that holds a run already, or anything that a run would overwrite."""
    if (run_dir / manifest.MANIFEST).exists() or (run_dir / JOURNAL).exists():
        raise UserError(
            f"hydra.run.dir={short(run_dir)}: holds a run already; continue it with `{resume_command(run_dir)}`, "
            "or choose another folder"
        )
    results = (OUTPUT, *(name for names in OUTPUTS.values() for name in names))
    if found := [name for name in results if (run_dir / name).exists()]:
        raise UserError(f"hydra.run.dir={short(run_dir)}: {found[0]} is there already; choose another folder")


def resume_command(run_dir: Path) -> str:
    """What to type to continue the run in `run_dir`."""
    return f"python -m rollout.resume {shlex.quote(short(run_dir))}"


def is_complete(run: RunConfig, table: Table, run_dir: Path, before: dict[str, Any]) -> bool:
    """Whether the run in `run_dir`, whose run.json says `before`, has everything that `run` asks for."""
    config_before = before["config"]
    return (
        before["status"] == "done"
        and all((run_dir / name).exists() for name in _outputs(run))
        and config_before["sampling"]["n_samples"] == run.sampling.n_samples
        and config_before["data"]["limit"] == run.data.limit
        and config_before["postprocess"] == dataclasses.asdict(run.postprocess)
        and finished(run_dir, table.num_rows, run.sampling.n_samples).num_owed == 0
    )


def _outputs(run: RunConfig) -> list[str]:
    return [OUTPUT, *(name for step in run.postprocess.steps for name in OUTPUTS[step])]


def execute(
    run: RunConfig, table: Table, run_dir: Path, group: str | None = None, digest_now: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Do what `run` still owes in `run_dir`, a folder this process has locked: all of it, when the folder is new.

    `group` is the W&B group, `digest_now` the digest of `run` and `table` if it is known. Returns what run.json says at
    its end. Raises UserError when the input, the engine or the disk turns out not to serve, and Interrupted after a
    signal; whatever it raises, what has finished is kept.
    """
    with (
        stop_on_signal() as stop,
        screen(run_dir / LOG) as console,
        _disk_full_explained(run_dir),
        _interruption_explained(run_dir, console),
        manifest.recorded(run_dir, run, digest_now or digest(run, table)) as record,
        wandb_run(run_dir, run.tracking, record["config"], group) as tracker,
    ):
        log.info("run folder: %s", short(run_dir))
        remove_partial_files(run_dir)
        if finished(run_dir, table.num_rows, run.sampling.n_samples).num_owed:
            final = _generation(run, table, run_dir, console, tracker, stop, record)
            record["throughput"] = _throughput(final)
        with _timed(record, "finalize"):
            record["totals"] = finalize(run_dir, table, run.sampling.n_samples, _footer())
        with _timed(record, "postprocess"):
            analysis = run_steps(run_dir / OUTPUT, run_dir, run.postprocess)
        samples = preview(run_dir / OUTPUT, run.data.prompt_key, max(run.tracking.sample_rows, 1))
        tracker.summarise(
            {key: record[key] for key in ("totals", "throughput", "seconds")}, samples[: run.tracking.sample_rows]
        )
        show_summary(console, run_dir, record, analysis, samples)
    return record


def _generation(
    run: RunConfig,
    table: Table,
    run_dir: Path,
    console: Console,
    tracker: WandbRun,
    stop: StopRequest,
    record: dict[str, Any],
) -> Snapshot:
    """The generation stage, with an engine that died started again. Returns the final numbers."""
    record["engine"] = {"reused": False, "restarts": 0}
    done = finished(run_dir, table.num_rows, run.sampling.n_samples)
    progress = Progress(done.num_owed, done.num_done)
    while True:
        with _timed(record, "load"):
            engine = _load(run, run_dir, record["engine"])
        try:
            with _timed(record, "generate"):
                return sample_all(run, table, engine, run_dir, console, tracker, stop, progress)
        except EngineDied as error:
            stop.raise_if_requested()  # Ctrl-C in a terminal reaches the engine's own process too
            release()
            if record["engine"]["restarts"] == run.engine.max_restarts:
                raise UserError(
                    f"engine.max_restarts={run.engine.max_restarts}: the engine died once more ({error}); "
                    f"see {short(run_dir / LOG)}, then continue with `{resume_command(run_dir)}`"
                ) from error
            record["engine"]["restarts"] += 1
            log.warning("the engine died (%s), starting it again", error)


def _load(run: RunConfig, run_dir: Path, about_engine: dict[str, Any]) -> Engine:
    """The engine, ready to sample. Raises UserError, built from vLLM's own reason, when it cannot start."""
    log.info("loading %s ...", run.model.path if run.engine.kind == "vllm" else "the echo engine")
    log_begin = (run_dir / LOG).stat().st_size
    try:
        loaded = acquire(EngineSpec.of(run))
    except UserError:
        raise
    except Exception as error:
        printed = (run_dir / LOG).read_bytes()[log_begin:].decode("utf-8", "replace")
        if (line := advice(run, f"{error}\n{printed}")) is None:
            error.add_note(f"All of vLLM's output: {short(run_dir / LOG)}")
            raise
        raise UserError(f"{line} (all of vLLM's output: {short(run_dir / LOG)})") from error
    about_engine["reused"] = loaded.reused
    log.info("engine %s", "reused" if loaded.reused else f"ready after {duration(loaded.seconds)}")
    engine, sampling = loaded.engine, run.sampling
    if sampling.max_tokens >= engine.max_model_len and run.data.too_long != "reduce_max_tokens":
        raise UserError(
            f"sampling.max_tokens={sampling.max_tokens}: the context holds {engine.max_model_len} tokens, prompt "
            "included; lower it, or set data.too_long=reduce_max_tokens"
        )
    log.info("sampling: n_samples=%d, %s, seed=%d", sampling.n_samples, engine.use(sampling), sampling.seed)
    return engine


def sample_all(
    run: RunConfig,
    table: Table,
    engine: Engine,
    run_dir: Path,
    console: Console,
    tracker: WandbRun,
    stop: StopRequest,
    progress: Progress,
) -> Snapshot:
    """Generate every sample that the journal in `run_dir` does not hold. Returns the final numbers.

    Raises EngineDied, Interrupted and UserError (too many bad rows), each after a flush of the journal.
    """
    _log_first_prompt(run, table, engine)
    done = finished(run_dir, table.num_rows, run.sampling.n_samples)
    journal = Journal(run_dir, run.store)
    check_errors = _error_limit(run, table.num_rows)
    feed = requests(read_prompts(table, run.data), engine, run.sampling, done.owed, run.data.too_long)

    with metrics_file(run_dir) as write_metrics, progress_view(console) as show:

        def keep(sample: Sample) -> None:
            journal.add(sample)
            progress.count(sample)
            check_errors(sample)

        def publish(now: Snapshot) -> None:
            write_metrics(now)
            tracker.log(now)

        due_to_show, due_to_publish = _every(0.5), _every(run.tracking.interval_seconds)

        def tick() -> None:
            stop.raise_if_requested()
            journal.flush_if_old()
            if due_to_show():
                show(progress.snapshot())
            if due_to_publish():
                publish(progress.snapshot())

        with progress.watching(engine.stats):
            with stop.deferred():
                try:
                    generate(engine, feed, keep, tick)
                finally:
                    journal.flush()
            stop.raise_if_requested()  # a signal that came with the last samples
            final = progress.snapshot()
        publish(final)
    return final


def _log_first_prompt(run: RunConfig, table: Table, engine: Engine) -> None:
    """What the model really reads, once: a wrong template or a doubled token shows here before hours are spent."""
    for prompt in read_prompts(table, run.data):
        if prompt.error is not None:
            continue
        with suppress(PromptError):
            log.info("first prompt, rendered (row %d): %r", prompt.row_id, engine.render(prompt.messages).text)
            return


def _error_limit(run: RunConfig, num_rows: int) -> Callable[[Sample], None]:
    """A check for every sample: raises UserError at the first bad row, or once too many rows are bad."""
    bad_rows: set[int] = set()
    limit = run.data.max_error_fraction

    def check(sample: Sample) -> None:
        if sample.error is None:
            return
        bad_rows.add(sample.row_id)
        if run.data.on_error == "fail":
            raise UserError(
                f"data.on_error=fail: row {sample.row_id} cannot be sampled ({sample.error}); mend the row, "
                "or set data.on_error=record"
            )
        if len(bad_rows) > limit * num_rows:
            raise UserError(
                f"data.max_error_fraction={limit}: {len(bad_rows)} of {num_rows} rows cannot be sampled, "
                f"the last is row {sample.row_id} ({sample.error}); mend the input or raise the limit"
            )

    return check


@contextmanager
def _disk_full_explained(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in manifest.DISK_FULL:
            raise
        raise UserError(
            f"{short(run_dir)}: the disk is full ({error.strerror or error}); what was written is complete. "
            f"Free some space, then `{resume_command(run_dir)}`"
        ) from error


@contextmanager
def _interruption_explained(run_dir: Path, console: Console) -> Iterator[None]:
    try:
        yield
    except Interrupted as error:
        console.print(Text(f"{error}: stopped in order. Continue with\n  {resume_command(run_dir)}"), soft_wrap=True)
        raise


def _throughput(final: Snapshot) -> dict[str, Any]:
    """What this session generated and how fast: loading, merging and post-processing are not in the rates."""
    return {
        "samples": final.samples_generated,
        "generated_tokens": final.generated_tokens,
        "output_tok_s": round(final.output_tok_s, 1),
        "samples_s": round(final.samples_generated / final.elapsed_seconds, 3),
    }


def _footer() -> dict[str, str]:
    """Metadata of rollouts.parquet: nothing in it may differ between two equal runs."""
    versions = {f"rollout.version.{name}": version for name, version in provenance.package_versions().items()}
    return {"rollout.schema_version": str(SCHEMA_VERSION), **versions}


@contextmanager
def _timed(record: dict[str, Any], stage: str) -> Iterator[None]:
    """Note how long the body took, in seconds, beside what the stage took before."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds = record["seconds"].get(stage, 0.0) + time.monotonic() - start
        record["seconds"][stage] = round(seconds, 3)


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

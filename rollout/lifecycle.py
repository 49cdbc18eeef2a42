"""One run, top to bottom: prompts -> engine -> store -> postprocess -> summary."""

import dataclasses
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.text import Text

from rollout.config import RunConfig, fields
from rollout.data.prompts import open_input, shard_in_words
from rollout.data.tables import Table
from rollout.engine import devices, models
from rollout.engine.content import MODEL, TOKENIZER, content_of
from rollout.engine.model_files import context_length
from rollout.errors import UserError
from rollout.files import disk_full_explained, short
from rollout.generation.context import context_problem
from rollout.generation.session import Session, generate_owed, timed
from rollout.postprocess import check
from rollout.postprocess.analyze import Analysis
from rollout.postprocess.outputs import claim, files_read, outputs, own, remove_own
from rollout.postprocess.outputs import problems as output_problems
from rollout.postprocess.source import flat_schema, open_source
from rollout.postprocess.steps import run_steps
from rollout.process.signals import Interrupted, stop_on_signal
from rollout.replicas.driver import generate_on_replicas
from rollout.store import provenance, run_record
from rollout.store.digest import differences, digest, is_older
from rollout.store.finalize import finalize
from rollout.store.journal import finished, remove_partial_files
from rollout.store.layout import CONFIG_FILES, JOURNAL, LOCK, LOG, MANIFEST, METRICS, OUTPUT, RESERVE, RESULTS, WRITTEN
from rollout.store.lineage import note_differences
from rollout.store.lock import is_of_a_run
from rollout.terminal.console import byte_progress, screen
from rollout.terminal.summary import preview, show_summary
from rollout.terminal.text import resume_command
from rollout.tracking.progress import Snapshot
from rollout.tracking.tracker import tracked
from rollout.tracking.wandb_run import identity

log = logging.getLogger(__name__)


def preflight(run: RunConfig, run_dir: Path | None = None) -> Table:
    """Open the input and check what can be checked without loading anything. Raises UserError with every problem.

    `run_dir` is where the results go; None where there will be none.
    """
    problems = [*fields.check(run), *devices.check_ray(run.hardware)]
    if run.engine.kind == "vllm":
        problems += [*models.check(run.model), *_context_problems(run), *devices.check(run.hardware)]
    try:
        table = open_input(run.data)
    except UserError as error:
        raise UserError(*problems, *error.problems) from error
    problems += check.problems(run.postprocess, run.data, check.Given(flat_schema(table.schema)))
    if run_dir is not None:
        before = run_record.read(run_dir) if (run_dir / MANIFEST).exists() else None
        own_files, inputs = own(run_dir, before), [table.path, *files_read(run)]
        problems += output_problems(run.postprocess, run_dir, "hydra.run.dir", inputs, own_files)
    if problems:
        raise UserError(*problems)
    return table


def _context_problems(run: RunConfig) -> Iterator[str]:
    """Loading would find the same, a minute or more later."""
    known = None if "hf_overrides" in run.hardware.engine_kwargs else context_length(run.model)
    if known is not None and (problem := context_problem(run, known)):
        yield problem


def refuse_used(run: RunConfig, run_dir: Path) -> None:
    """Raise UserError for a folder that holds a run already, or anything that a run would overwrite or add to."""
    if (run_dir / MANIFEST).exists() or (run_dir / JOURNAL).exists():
        raise UserError(
            f"hydra.run.dir={short(run_dir)}: holds a run already; continue it with `{resume_command(run_dir)}`, "
            "or choose another folder"
        )
    # a run that failed before it began has left its own
    kept = [] if is_of_a_run(run_dir) else [LOCK, LOG, METRICS, RESERVE, *map(str, CONFIG_FILES)]
    results = [] if run.postprocess.overwrite else [*RESULTS, *outputs(run.postprocess)]
    names = [OUTPUT, *(name for name in results if not Path(name).is_absolute()), *kept]
    if found := [name for name in names if os.path.lexists(run_dir / name)]:
        raise UserError(f"hydra.run.dir={short(run_dir)}: {found[0]} already exists there; choose another folder")


def to_continue(run: RunConfig, table: Table, run_dir: Path) -> dict[str, Any] | None:
    """The digest with which the run in `run_dir` goes on as `run`; None when it has everything that `run` asks for.

    Raises UserError when it is another experiment, or larger.
    """
    before, now = run_record.read(run_dir), digest(run, table)
    with byte_progress("comparing the model's files with the run's") as report:
        now |= content_of(run.model, report)
    if problems := [*differences(before["digest"], now), *_shrunk(before["config"], run)]:
        raise UserError(*problems)
    if is_older(before["digest"], now):
        print(_OLDER, file=sys.stderr)
    # of a hub model that is to be downloaded again the content is compared once it is here
    now = {key: value for key, value in before["digest"].items() if key in (MODEL, TOKENIZER)} | now
    return None if _is_complete(run, table, run_dir, before) else now


_OLDER = (
    "warning: this run was made by an older version, which did not record the content of the model's files and "
    "hardware.engine_kwargs: they are not compared"
)


def _shrunk(before: dict[str, Any], run: RunConfig) -> Iterator[str]:
    """A run keeps what it has: fewer samples or rows than before are a mistake, and for a shard other rows."""
    for key, now, then in (
        ("sampling.n_samples", run.sampling.n_samples, before["sampling"]["n_samples"]),
        ("data.limit", run.data.limit, before["data"]["limit"]),
    ):
        if key == "data.limit" and run.data.num_shards > 1 and now != then:
            yield f"{key}={now}: it decides which rows are this shard's, and was {then}; leave it as it was"
        elif now is not None and (then is None or now < then):
            yield f"{key}={now}: this run has {'all' if then is None else then}; give that many or more"


def _is_complete(run: RunConfig, table: Table, run_dir: Path, before: dict[str, Any]) -> bool:
    config_before = before["config"]
    return (
        before["status"] == "done"
        and all(_is_whole(run_dir / name) for name in _results(run))
        and config_before["sampling"]["n_samples"] == run.sampling.n_samples
        and config_before["data"]["limit"] == run.data.limit
        and _asked(config_before["postprocess"]) == _asked(dataclasses.asdict(run.postprocess))
        and finished(run_dir, table.num_rows, run.sampling.n_samples, table.first_row).num_owed == 0
    )


def _asked(postprocess: dict[str, Any]) -> dict[str, Any]:
    """What decides the results."""
    return {key: value for key, value in postprocess.items() if key != "overwrite"}


def _is_whole(path: Path) -> bool:
    """Whether a result is there, and if it is a Parquet file, has an end that can be read."""
    try:
        if path.suffix == ".parquet":
            pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid):
        return False
    return path.exists()


def _results(run: RunConfig) -> list[str]:
    return [OUTPUT, *outputs(run.postprocess)]


def execute(
    run: RunConfig,
    table: Table,
    run_dir: Path,
    group: str | None = None,
    digest_now: dict[str, Any] | None = None,
    replay_of: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Do what `run` still owes in `run_dir`, a folder this process has locked: all of it, when the folder is new.

    `group` is the W&B group, `digest_now` the digest of `run` and `table` if it is known, `replay_of` what
    `lineage.origin` says of the run that this one repeats. Returns what run.json says at its end. Raises UserError when
    the input, the engine or the disk turns out not to serve, and Interrupted after a signal; whatever it raises, what
    has finished is kept.
    """
    with (
        stop_on_signal() as stop,
        screen(run_dir / LOG) as console,
        disk_full_explained(
            short(run_dir), f"what was written is complete. Free some space, then `{resume_command(run_dir)}`"
        ),
        _interruption_explained(run_dir, console),
        run_record.recorded(
            run_dir, run, digest_now or digest(run, table), identity(run_dir, group), replay_of
        ) as record,
        tracked(run_dir, run.tracking, record) as tracker,
    ):
        if not record["sessions"]:
            claim(run_dir, outputs(run.postprocess))
        log.info("run folder: %s", short(run_dir))
        for doubt in fields.doubts(run):
            log.warning("%s", doubt)
        if run.data.num_shards > 1:
            log.info("%s", shard_in_words(table, run.data))
        note_differences(record)
        written = [MANIFEST, *map(str, CONFIG_FILES), OUTPUT, WRITTEN, *own(run_dir, record)]
        remove_partial_files(run_dir, written)
        done = finished(run_dir, table.num_rows, run.sampling.n_samples, table.first_row)
        if done.num_owed:
            generation = generate_on_replicas if devices.is_distributed(run.hardware) else generate_owed
            final = generation(Session(run, table, run_dir, console, tracker, stop), done, record)
            record["throughput"] = _throughput(final)
        with timed(record, "finalize"):
            record["totals"] = finalize(run_dir, table, run.sampling.n_samples, provenance.footer(record))
        with timed(record, "postprocess"):
            analysis = _postprocess(run, run_dir, record)
        summary = {key: record[key] for key in ("totals", "throughput", "seconds")}
        files = [run_dir / name for name in _results(run)]
        tracker.summarise(summary, run.data.prompt_key, files)
        show_summary(console, run_dir, record, analysis, preview(run_dir / OUTPUT, run.data.prompt_key, 1))
    return record


def _postprocess(run: RunConfig, run_dir: Path, record: dict[str, Any]) -> Analysis | None:
    remove_own(run_dir, RESULTS, record, files_read(run))  # made from fewer samples
    return run_steps(open_source(run_dir / OUTPUT), run_dir, run.postprocess, run.data, record | {"status": "done"})


@contextmanager
def _interruption_explained(run_dir: Path, console: Console) -> Iterator[None]:
    try:
        yield
    except Interrupted as error:
        begun = (run_dir / MANIFEST).exists()
        cure = f"Continue with\n  {resume_command(run_dir)}" if begun else "Nothing was begun; give the command again."
        console.print(Text(f"{error}: stopped in order. {cure}"), soft_wrap=True)
        raise


def _throughput(final: Snapshot) -> dict[str, Any]:
    """What this session generated and how fast: loading, merging and post-processing are not in the rates."""
    return {
        "samples": final.samples_generated,
        "generated_tokens": final.generated_tokens,
        "output_tok_s": round(final.output_tok_s, 1),
        "samples_s": round(final.samples_generated / final.elapsed_seconds, 3),
    }

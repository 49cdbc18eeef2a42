"""One run, top to bottom: prompts -> engine -> store -> postprocess -> summary."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from rollout.config import RunConfig
from rollout.config.check import config_warnings
from rollout.data.prompts import shard_in_words
from rollout.data.tables import Table
from rollout.engine import devices
from rollout.files import disk_full_explained, short
from rollout.generation.session import Session, generate_owed, timed
from rollout.postprocess.analyze import Analysis
from rollout.postprocess.outputs import claim, files_read, outputs, own, remove_own
from rollout.postprocess.source import open_source
from rollout.postprocess.steps import run_steps
from rollout.preflight import _results
from rollout.process.signals import Interrupted, stop_on_signal
from rollout.replicas.driver import generate_on_replicas
from rollout.store import provenance, run_record
from rollout.store.digest import digest
from rollout.store.finalize import finalize
from rollout.store.journal import finished, remove_partial_files
from rollout.store.layout import CONFIG_FILES, LOG, MANIFEST, OUTPUT, RESULTS, WRITTEN
from rollout.store.lineage import note_differences
from rollout.terminal.console import screen
from rollout.terminal.summary import preview, show_summary
from rollout.terminal.text import resume_command
from rollout.tracking.progress import Snapshot
from rollout.tracking.tracker import tracked
from rollout.tracking.wandb_run import identity

log = logging.getLogger(__name__)


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
    `lineage.replay_source` says of the run that this one repeats. Returns what run.json says at its end. Raises
    UserError when the input, the engine or the disk cannot be used, and Interrupted after a signal; whatever it raises,
    what has finished is kept.
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
        for warning in config_warnings(run):
            log.warning("%s", warning)
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
        console.print(Text(f"{error}: stopped cleanly. {cure}"), soft_wrap=True)
        raise


def _throughput(final: Snapshot) -> dict[str, Any]:
    """What this session generated and how fast: loading, merging and post-processing are not in the rates."""
    return {
        "samples": final.samples_generated,
        "generated_tokens": final.generated_tokens,
        "output_tok_s": round(final.output_tok_s, 1),
        "samples_s": round(final.samples_generated / final.elapsed_seconds, 3),
    }

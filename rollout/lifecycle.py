"""One run, top to bottom: prompts -> engine -> store -> postprocess -> summary."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rollout.config import RunConfig
from rollout.config.check import column_warnings, config_warnings
from rollout.data.prompts import shard_in_words
from rollout.data.tables import Table
from rollout.data.text import counted
from rollout.engine import devices
from rollout.engine.cache import release
from rollout.errors import UserError
from rollout.files import disk_full_explained, short
from rollout.generation.session import Session, generate_owed
from rollout.postprocess import second_place
from rollout.postprocess.analyze import Analysis, all_estimates
from rollout.postprocess.outputs import claim, files_read, log_removed, own, remove_own
from rollout.postprocess.score import ScoreFailed
from rollout.postprocess.source import open_source
from rollout.postprocess.step import Work
from rollout.postprocess.steps import outputs, run_steps
from rollout.preflight import preflight, refuse_used, results, scorer_warnings, to_continue
from rollout.process.signals import Interrupted, stop_on_signal
from rollout.replicas.driver import generate_on_replicas
from rollout.store import run_record
from rollout.store.digest import Digest, digest, is_same_input
from rollout.store.finalize import finalize
from rollout.store.footer import footer
from rollout.store.journal import remove_partial_files
from rollout.store.journal_reader import Scores
from rollout.store.judged import Selection, how_far, judged
from rollout.store.layout import CONFIG, CONFIG_FILES, LOG, MANIFEST, OUTPUT, RESULTS, WRITTEN
from rollout.store.lineage import note_differences
from rollout.store.lock import locked
from rollout.store.run_record import Missing, ReplayOf, RunRecord
from rollout.store.samples import samples_of
from rollout.store.saved_config import save
from rollout.store.saving import saving
from rollout.store.times import now
from rollout.terminal.console import screen
from rollout.terminal.summary import show_summary, show_totals
from rollout.terminal.text import resume_command
from rollout.tracking.progress import Snapshot, throughput_of
from rollout.tracking.tracker import tracked
from rollout.tracking.wandb_run import identity

log = logging.getLogger(__name__)

_MANY_PREEMPTIONS = 1 / 20
"""The share of samples from which on preemptions get a warning."""


@dataclass(frozen=True)
class Asked:
    """How a run was started, beside its config."""

    group: str | None = None
    """The sweep that it is a job of, as W&B's group."""
    replay_of: ReplayOf | None = None
    hydra_files: Mapping[str, str] = field(default_factory=dict)
    """Name -> text of the files that Hydra keeps of a command, without the config."""
    is_call: bool = False
    """Whether a program started it: it gets the numbers as values, and has no use for commands to type."""


def start(run: RunConfig, run_dir: Path, asked: Asked = Asked()) -> RunRecord:
    """Do a new run in `run_dir`, which is created if needed. Returns the final content of run.json.

    Raises UserError when a check fails, when `run_dir` has a run already, or when the input, the engine or the disk
    cannot be used, and Interrupted after a signal. In any case, what has finished is kept.
    """
    table = preflight(run, run_dir)
    refuse_used(run, run_dir)
    with _mishaps_explained(run_dir), locked(run_dir):
        refuse_used(run, run_dir)  # once more: another process may have come first
        return _execute(run, table, run_dir, asked)


def resume(run: RunConfig, run_dir: Path, asked: Asked = Asked()) -> RunRecord | None:
    """Generate, as `run`, what the run in `run_dir` still owes; None when it has everything.

    Raises as `start` does, and UserError when `run` is not the experiment of that run, or smaller.
    """
    with _mishaps_explained(run_dir), locked(run_dir):
        table = preflight(run, run_dir)
        digest_now = to_continue(run, table, run_dir)
        return None if digest_now is None else _execute(run, table, run_dir, asked, digest_now)


def _execute(run: RunConfig, table: Table, run_dir: Path, asked: Asked, digest_now: Digest | None = None) -> RunRecord:
    """Do what `run` still owes in `run_dir`, which this process has locked, and record it in run.json."""
    save(run, run_dir)
    for name, text in asked.hydra_files.items():
        (run_dir / CONFIG).with_name(name).write_text(text, encoding="utf-8")
    try:
        with (
            stop_on_signal(ends_process=not asked.is_call) as stop,
            screen(run_dir / LOG) as console,
            _mishaps_explained(run_dir),
            nullcontext() if asked.is_call else _interruption_explained(run_dir, console),
            run_record.recorded(
                run_dir, run, digest_now or digest(run, table), identity(run_dir, asked.group), stop, asked.replay_of
            ) as record,
            tracked(run_dir, record) as tracker,
        ):
            _stages(Session(record, table, run_dir, console, tracker, stop), asked.is_call)
    except UserError:
        raise
    except Exception:
        release()  # the next job of a sweep must not get an engine in an unknown state
        raise
    return record


def _stages(session: Session, is_call: bool) -> None:
    run, run_dir, record = session.run, session.run_dir, session.record
    if not record.sessions:
        claim(run_dir, outputs(run.postprocess))
    _log_beginning(session)
    written = [MANIFEST, *map(str, CONFIG_FILES), OUTPUT, WRITTEN, *own(run_dir, record)]
    remove_partial_files(run_dir, written)
    _generate(session)
    _refuse_changed_input(session)
    with record.timed("finalize"):
        selected = _finalize(session)
    with record.timed("postprocess"):
        analysis = _postprocess(session, selected)
        second_place.write(run, run_dir, record)
    bars = {} if analysis is None else {name: bar.figures() for name, bar in all_estimates(analysis).items()}
    session.tracker.summarise([path for name in results(run) if (path := run_dir / name).exists()], bars)
    if is_call:
        show_totals(session.console, run_dir, record, analysis)
        return
    samples = samples_of(run_dir / OUTPUT, run.data.prompt_key, of_each_row=1)
    first = next((sample for sample in samples if sample.response is not None), None)
    show_summary(session.console, run_dir, record, analysis, first)


def _log_beginning(session: Session) -> None:
    run = session.run
    log.info("run folder: %s", short(session.run_dir))
    known = (*config_warnings(run), *column_warnings(run, session.table.schema.names))
    for warning in (*known, *scorer_warnings(run, session.table)):
        log.warning("%s", warning)
    if run.data.num_shards > 1:
        log.info("%s", shard_in_words(session.table, run.data))
    note_differences(session.record, is_loaded=False)


def _refuse_changed_input(session: Session) -> None:
    """Raises UserError where the rows of the input are others by now: they would stand beside these responses."""
    if not is_same_input(session.record.digest, session.table):
        raise UserError(
            f"data.path={session.table.path}: has changed since the run began; put it back as it was, then "
            f"`{resume_command(session.run_dir)}`: the samples are kept (if it was written over in place, "
            "`rollout verify` tells whether some are of other prompts)"
        )


def _finalize(session: Session) -> Selection | None:
    """Write rollouts.parquet. Returns which samples the rule has selected, if there is a rule."""
    run, run_dir, record = session.run, session.run_dir, session.record
    found = None if run.adaptive.until is None else judged(run_dir, session.counts, run).selection()
    counts, stopped = (session.counts, []) if found is None else (found.counts, found.stopped)
    record.totals = finalize(run_dir, session.table, counts, footer(record), run.extra_columns, stopped)
    record.adaptive = None if found is None else saving(run_dir / OUTPUT, session.counts, found)
    return found


def _generate(session: Session) -> None:
    done = how_far(session.run_dir, session.counts, session.run)
    if done.num_done or session.record.sessions:
        at_most = "" if session.run.adaptive.until is None else "at most "
        log.info("%s of %s exist already", f"{done.num_done:,}", f"{at_most}{counted(session.counts.total, 'sample')}")
    if not done.is_complete:
        generation = generate_on_replicas if devices.is_distributed(session.run.hardware) else generate_owed
        final = generation(session, done)
        session.record.throughput = throughput_of(final)
        _warn_of_preemptions(session, final)


def _warn_of_preemptions(session: Session, final: Snapshot) -> None:
    if final.preemptions <= final.samples_generated * _MANY_PREEMPTIONS:
        return
    room = None if session.record.engine is None else session.record.engine.least_kv_cache_tokens()
    tokens = final.prompt_tokens + final.generated_tokens
    log.warning(
        "hardware.max_num_seqs=%d: the KV cache ran full: %s times a sample was put back and computed again "
        "(preemptions), for %s; %sfewer at a time may be faster",
        session.run.hardware.max_num_seqs,
        f"{final.preemptions:,}",
        counted(final.samples_generated, "sample"),
        "" if room is None else f"it holds {room * final.samples_generated // tokens:,} of their mean length, and ",
    )


def _postprocess(session: Session, selected: Selection | None) -> Analysis | None:
    run, run_dir, record = session.run, session.run_dir, session.record
    removed = remove_own(run_dir, RESULTS, record, files_read(run))  # made from fewer samples
    log_removed([name for name in removed if name not in outputs(run.postprocess)])
    as_done = dataclasses.replace(record, status="done", ended=now())
    try:
        scores = None if selected is None else Scores(run_dir, selected.counts)
        return run_steps(Work(open_source(run_dir / OUTPUT), run_dir, run.postprocess, run.data, as_done, scores))
    except ScoreFailed as error:  # the samples are there, and can be scored again
        record.missing = Missing(steps=list(error.missing), reason=str(error))
        return error.analysis


@contextmanager
def _mishaps_explained(run_dir: Path) -> Iterator[None]:
    """A full disk, or a folder that somebody takes away, is a line that says how the run goes on."""
    try:
        with disk_full_explained(short(run_dir), lambda: _with_more_space(run_dir)):
            yield
    except FileNotFoundError as error:
        if error.filename is None or not Path(error.filename).is_relative_to(run_dir):
            raise
        if not run_dir.is_dir():
            raise UserError(
                f"{short(run_dir)}: was moved or deleted while the run went on; what was written is where it is now: "
                "continue there with `python -m rollout resume FOLDER`"
            ) from error
        raise UserError(
            f"{short(Path(error.filename).parent)}: was moved or deleted while the run went on; put it back, then "
            f"`{resume_command(run_dir)}`, which generates what is missing"
        ) from error


def _with_more_space(run_dir: Path) -> str:
    if run_record.exists(run_dir):
        return f"what was written is complete. Free some space, then `{resume_command(run_dir)}`"
    return "nothing was begun. Free some space, then give the command again"


@contextmanager
def _interruption_explained(run_dir: Path, console: Console) -> Iterator[None]:
    try:
        yield
    except Interrupted as error:
        console.print(Text(f"{error}: {_how_it_stopped(run_dir)}"), soft_wrap=True)
        raise


def _how_it_stopped(run_dir: Path) -> str:
    """What a run that a signal has ended says, with the cure."""
    if not run_record.exists(run_dir):
        return "stopped cleanly. Nothing was begun; give the command again."
    if run_record.read(run_dir).status == "done":
        return "came when everything was done."
    return f"stopped cleanly. Continue with\n  {resume_command(run_dir)}"

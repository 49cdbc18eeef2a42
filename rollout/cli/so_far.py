"""The responses of a run that has no result yet: it works, was stopped, or was killed."""

from dataclasses import dataclass
from pathlib import Path

from rollout.config import RunConfig
from rollout.data.prompts import open_input
from rollout.data.row_sampling import sample_counts
from rollout.data.tables import Table
from rollout.errors import UserError
from rollout.postprocess.durable import Durable, durable_source
from rollout.postprocess.source import Source
from rollout.store.digest import is_same_input
from rollout.store.run_record import RunRecord


@dataclass(frozen=True)
class SoFar:
    """The responses that are durable."""

    run: RunConfig
    source: Source
    problem: str | None = None
    """Why they are without the columns of the input; None if they have them."""
    asked: int | None = None
    """How many samples the run is to have, at most; None if that cannot be told here."""


def responses_so_far(durable: Durable, record: RunRecord) -> SoFar:
    """The responses of the run with this record that are `durable`."""
    run, problem, table = record.config, None, None
    try:
        run, table = input_of(durable.run_dir)
        if not is_same_input(record.digest, table):
            problem, table = f"data.path={table.path}: has changed since the run began", None
    except (UserError, OSError) as error:
        problem = str(error)
    counts = durable.counts(run.sampling.n_samples) if table is None else sample_counts(table, run)
    asked = None if table is None else counts.total
    return SoFar(run, durable_source(durable, run, table, counts), problem, asked)


def input_of(run_dir: Path) -> tuple[RunConfig, Table]:
    """The config that a run was saved with, whose paths mean the same everywhere, and its input. Raises UserError or
    OSError where it is not on this machine.
    """
    from rollout.cli import saved_config  # which takes Hydra

    run = saved_config.read(run_dir)
    return run, open_input(run.data)

"""Rows of a finished run, generated again; each sample is compared with the recorded one when it finishes.

Memory does not grow with the run: a recorded row is only held while its samples are generated.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from rollout.config import RunConfig
from rollout.data.prompts import read_prompts
from rollout.data.row_sampling import sample_counts
from rollout.data.stopping import round_ends
from rollout.data.tables import Table
from rollout.data.text import counted
from rollout.errors import EngineDied, UserError
from rollout.generation.engine_start import load
from rollout.generation.loop import generate
from rollout.generation.requests import requests
from rollout.process.signals import StopRequest
from rollout.process.timer import every
from rollout.records import EXTRAS, Prompt, Sample, extras_of
from rollout.store.layout import LOG
from rollout.terminal.progress_line import progress_view
from rollout.terminal.text import resume_command
from rollout.tracking.progress import Progress
from rollout.verify.compare import Comparison, difference

COMPARED = ("responses", "finish_reasons", "num_generated_tokens", "error")
"""Columns of rollouts.parquet that say how a sample came out; so do these, where the run has kept them:"""

_COMPARED_EXTRAS = ("prompt_token_ids", "response_token_ids", "reasoning")


def is_chosen(position: int, rows: int, total: int) -> bool:
    """Whether the row at `position` is one of `rows` rows spread evenly over `total`, at `i * total // rows`."""
    return -(-(position + 1) * rows // total) > -(-position * rows // total)


def regenerate(
    run: RunConfig, table: Table, recorded: Table, rows: int, scratch: Path, console: Console, stop: StopRequest
) -> Comparison:
    """Generate `rows` rows of `table` as `run` says and compare them with those of `recorded`, a rollouts.parquet.

    `scratch` is the folder of the log. Raises Interrupted, and UserError if the engine cannot start or dies, or if a
    row has another number of responses than the run.
    """
    engine = load(run, scratch / LOG).engine
    counts = sample_counts(table, run)
    chosen = [row for row in range(table.num_rows) if is_chosen(row, rows, table.num_rows)]
    most = sum(counts.of(table.first_row + row) for row in chosen)
    progress = Progress(most, 0, most)
    compared, waiting, taken = Comparison(), dict[int, dict[str, Any]](), Counter[int]()

    def prompts() -> Iterator[Prompt]:  # called in the feeder's thread, ahead of the engine
        for prompt, row in zip(read_prompts(table, run.data), _recorded_rows(recorded, rows), strict=True):
            if row is not None:
                most, found = counts.of(prompt.row_id), len(row["responses"] or [])
                if found not in _may_have(run, most):
                    raise UserError(
                        f"{recorded.path}: row {prompt.row_id} has not the run's {counted(most, 'response')}; "
                        f"delete the file and `{resume_command(recorded.path.parent)}`, which writes it again"
                    )
                progress.settle(most - found, most)
                waiting[prompt.row_id] = row
                yield prompt

    def take(sample: Sample) -> None:
        progress.count(sample)
        row = waiting[sample.row_id]
        compared.add(difference(sample, row))
        taken[sample.row_id] += 1
        if taken[sample.row_id] == len(row["responses"]):
            del waiting[sample.row_id], taken[sample.row_id]

    def owed(row_id: int) -> list[int]:
        return [*range(len(waiting[row_id]["responses"]))]

    feed = requests(prompts(), engine, run, owed)
    with progress_view(console) as show, progress.watching(engine.stats), stop.deferred():
        due_to_show = every(0.5)

        def tick() -> None:
            stop.raise_if_requested()
            if due_to_show():
                show(progress.snapshot())

        try:
            generate(engine, feed, take, tick)
        except EngineDied as error:
            raise UserError(f"the engine died ({error}); see {scratch / LOG}, then verify again") from error
    return compared


def _may_have(run: RunConfig, most: int) -> tuple[int, ...]:
    """How many responses a row may have, up to `most`: with a rule that stops rows, the totals after each of its
    rounds.
    """
    return (most,) if run.adaptive.until is None else round_ends(tuple(run.adaptive.rounds), most)


def _recorded_rows(recorded: Table, rows: int) -> Iterator[dict[str, Any] | None]:
    """The recorded values of each row; None for a row that was not chosen."""
    position = 0  # the row_id minus the first row_id of the run
    kept = [EXTRAS[name].of_row.name for name in extras_of(recorded.schema) if name in _COMPARED_EXTRAS]
    for batch in recorded.batches():
        columns = batch.select([*COMPARED, *kept])
        for place in range(batch.num_rows):
            chosen = is_chosen(position, rows, recorded.num_rows)
            yield columns.slice(place, 1).to_pylist()[0] if chosen else None
            position += 1

"""Responses in the order of their rows: all of a row together, each once, and to one prompt."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from rollout.data.arrow import equal, joined
from rollout.errors import UserError


def ascending(batches: Iterator[pa.RecordBatch], path: Path, strictly: bool) -> Iterator[pa.RecordBatch]:
    """The same batches. Raises UserError when their row_ids do not ascend: rows would be taken for one another."""
    last = -1
    for batch in batches:
        row_ids = np.concatenate([[last], batch.column("row_id").to_numpy(zero_copy_only=False)])
        if (np.diff(row_ids) < (1 if strictly else 0)).any():
            what = "row_id repeats or does not ascend" if strictly else "row_id does not ascend"
            cure = (
                "drop the column row_id"
                if strictly
                else "sort the file by row_id if each stands for one prompt, else drop row_id and sample_idx"
            )
            raise UserError(f"{path}: {what}, so rows cannot be told apart; {cure}")
        last = row_ids[-1]
        yield batch


def whole_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows, cut between two row_ids."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        if not batch.num_rows:
            continue
        row_ids = batch.column("row_id").to_numpy(zero_copy_only=False)
        cut = int(np.flatnonzero(row_ids != row_ids[-1])[-1]) + 1 if (row_ids != row_ids[-1]).any() else 0
        if cut:
            yield joined([*held, batch.slice(0, cut)])
            held = []
        elif held and held[-1].column("row_id")[-1].as_py() != row_ids[0]:
            yield joined(held)
            held = []
        held.append(batch.slice(cut))
    if held:
        yield joined(held)


def samples_of_one_prompt(
    batches: Iterator[pa.RecordBatch], path: Path, prompt: str | None
) -> Iterator[pa.RecordBatch]:
    """The same batches, of whole rows. Raises UserError where a row_id stands for two prompts (those in the column
    `prompt`, if there is one), or has a sample_idx twice: two files were put together, or one has lines twice.
    """
    for batch in batches:
        row_ids = batch.column("row_id").to_numpy()
        goes_on = row_ids[1:] == row_ids[:-1]
        if prompt is not None:
            prompts = batch.column(prompt)
            differs = goes_on & ~equal(prompts.slice(0, len(prompts) - 1), prompts.slice(1))
            if differs.any():
                raise UserError(
                    f"{path}: row_id {row_ids[differs.argmax()]} stands for two prompts; number the rows of each file "
                    "anew, or drop row_id and sample_idx"
                )
        numbers = batch.column("sample_idx").to_numpy()
        if (goes_on & (np.diff(numbers) <= 0)).any():
            _refuse_repeated(row_ids, numbers, path)
        yield batch


def _refuse_repeated(row_ids: np.ndarray, numbers: np.ndarray, path: Path) -> None:
    """Samples of a row may stand in any order, the best first for example, but none may come twice."""
    order = np.lexsort((numbers, row_ids))
    repeats = (np.diff(row_ids[order]) == 0) & (np.diff(numbers[order]) == 0)
    if repeats.any():
        at = order[repeats.argmax()]
        raise UserError(
            f"{path}: row_id {row_ids[at]} has sample_idx {numbers[at]} twice; drop responses that are there twice or, "
            "if they are different ones, the column sample_idx"
        )

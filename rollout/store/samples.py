"""The samples of rollouts.parquet, one by one, as a person looks at them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from rollout.data.chat import last_message
from rollout.data.json_text import rows_of

_LISTS = ("responses", "finish_reasons", "num_generated_tokens", "seeds")


class ShownSample(NamedTuple):
    """A row of flat.parquet, with the last message of the prompt in place of the prompt."""

    row_id: int
    sample_idx: int
    prompt: str
    response: str | None
    finish_reason: str
    num_prompt_tokens: int | None
    num_generated_tokens: int
    seed: int
    error: str | None
    """Of the row, where there is no response."""


def samples_of(rollouts: Path, prompt_key: str, of_each_row: int) -> Iterator[ShownSample]:
    """The samples in order, but of each row only the first `of_each_row`. Reads no further than is asked for."""
    columns = [prompt_key, "row_id", *_LISTS, "num_prompt_tokens", "error"]
    with pq.ParquetFile(rollouts) as file:
        for batch in file.iter_batches(16, columns=columns):
            for row in rows_of(batch):
                lists = zip(*(row[name] for name in _LISTS), strict=True)
                for index, (response, reason, num_tokens, seed) in enumerate(islice(lists, of_each_row)):
                    error = row["error"] if response is None else None
                    prompt, prompt_tokens = last_message(row[prompt_key]), row["num_prompt_tokens"]
                    yield ShownSample(
                        row["row_id"], index, prompt, response, reason, prompt_tokens, num_tokens, seed, error
                    )

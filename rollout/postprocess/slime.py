"""slime's dump of a rollout, for its option `--load-debug-rollout-data`: one object, saved by torch."""

import logging
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from rollout.data.arrow import plain_values
from rollout.data.json_text import rows_of
from rollout.postprocess.tokens import FORMATS

log = logging.getLogger(__name__)

_STATUS = {"length": "truncated", "repetition": "truncated", "abort": "aborted"}
"""How a response ended -> slime's word for it; for any other `completed`."""

_TOKEN_BYTES = 110
"""Of memory for a token, as measured: its id, log-probability and place in the mask as Python has them, and torch."""
_MUCH = 1 << 30


def write_dump(path: Path, batches: Iterable[pa.RecordBatch]) -> int:
    """Write records of `rollout.postprocess.tokens.FORMATS["slime"]`. Returns the number of samples.

    The format is one object: all samples are in memory at once, and a warning says so where they are many.
    """
    import torch  # takes seconds, and nothing else here needs it

    samples = list(_samples(batches))
    _warn(samples)
    with path.open("wb") as file:  # given a path, torch writes its name into the file
        try:
            torch.save({"rollout_id": 0, "samples": samples}, file, pickle_module=_Pickling)
        except RuntimeError as error:  # torch's last words hide that the disk is full
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
    return len(samples)


class _Pickling:
    """What torch takes for the module `pickle`: as there, but torch's question of every number whether it is a tensor
    is never asked. It takes nine tenths of the time, and there are none.
    """

    class Pickler:
        def __init__(self, file: IO[bytes], protocol: int) -> None:
            self.dump = pickle.Pickler(file, protocol).dump


def _samples(batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    """As `Sample.to_dict` of slime writes them; a field that is left out has its default there."""
    index = size = 0
    for batch in batches:
        metadata = rows_of(batch.select([name for name in batch.schema.names if name not in _NAMES]))
        columns = [_lists(batch.column(name)) for name in _NAMES]
        before = size
        for cells, beside in zip(zip(*columns, strict=True), metadata, strict=True):
            sample = _sample(dict(zip(_NAMES, cells, strict=True)), beside, index)
            index, size = index + 1, size + _TOKEN_BYTES * len(sample["tokens"])
            yield sample
        if before < _MUCH <= size:
            log.warning(
                "export: format=slime cannot be streamed: more than %d GiB of memory for the samples so far; "
                "format=tokens needs none",
                _MUCH >> 30,
            )


_NAMES = [field.name for field in FORMATS["slime"]]


def _lists(column: pa.Array) -> list[Any]:
    return [value.tolist() if isinstance(value, np.ndarray) else value for value in plain_values(column)]


def _sample(row: dict[str, Any], beside: dict[str, Any], index: int) -> dict[str, Any]:
    ids: list[int] = row["response_token_ids"]
    return {
        "group_index": row["row_id"],
        "index": index,
        "tokens": row["prompt_token_ids"] + ids,
        "response": row["response"],
        "response_length": len(ids),
        "loss_mask": [1] * len(ids),
        "rollout_log_probs": row["response_logprobs"],
        "reward": row["reward"],
        "label": row["label"],
        "status": _STATUS.get(row["finish_reason"], "completed"),
        "metadata": {"row_id": row["row_id"], "sample_idx": row["sample_idx"], **beside},
    }


def _warn(samples: list[dict[str, Any]]) -> None:
    """Say what slime would normalise otherwise than was meant."""
    sizes = set(Counter(sample["group_index"] for sample in samples).values())
    if len(sizes) > 1:
        log.warning(
            "export: rows have from %d to %d samples here; slime normalises rewards by row only where all have as many",
            min(sizes),
            max(sizes),
        )

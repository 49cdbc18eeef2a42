"""What determines a run's samples, key by key, so that a resumed run cannot quietly mix two experiments.

Of hardware only what changes the arithmetic is in it; the rest decides how fast samples come, not which. Nor are
`sampling.n_samples` and `data.limit`: more samples or rows are added to the ones that are there.
"""

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rollout.config import RunConfig
from rollout.knobs import knobs
from rollout.model_files import folder_hash
from rollout.models import is_local
from rollout.tables import Table

_NOT_SAMPLES = {"n_samples"}  # of sampling


def digest(run: RunConfig, table: Table) -> dict[str, Any]:
    """Config key -> what must be the same when the run goes on. Reads the whole input file."""
    sampling = dataclasses.asdict(run.sampling)
    values = {
        "model.path": _identity(run.model.path),
        "model.revision": run.model.revision,
        "model.tokenizer": None if run.model.tokenizer is None else _identity(run.model.tokenizer),
        "model.quantization": run.model.quantization,
        "model.max_model_len": run.model.max_model_len,
        "model.load_format": run.model.load_format,
        "model.chat_template": _file_hash(run.model.chat_template),
        "model.chat_template_kwargs": run.model.chat_template_kwargs,
        "hardware.dtype": run.hardware.dtype,
        "hardware.kv_cache_dtype": run.hardware.kv_cache_dtype,
        "hardware.batch_invariant": run.hardware.batch_invariant,
        **{f"sampling.{name}": value for name, value in sampling.items() if name not in _NOT_SAMPLES},
        "data.path": _file_hash(str(table.path)),
        "data.prompt_key": run.data.prompt_key,
        "data.system_prompt": run.data.system_prompt,
        "data.drop_columns": run.data.drop_columns,
        "data.too_long": run.data.too_long,
        "data.num_shards": run.data.num_shards,
        "data.shard_index": run.data.shard_index,
        "engine.kind": run.engine.kind,
    }
    as_saved: dict[str, Any] = json.loads(json.dumps(values))  # as it comes back from run.json
    return as_saved


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """One line for each key that differs, with both values."""
    for key, (then, here) in aligned(before, now):
        if then != here:
            yield f"{key}={here}: this run was made with {then}; leave it as it was, or start a new run for it"


def aligned(*digests: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """(key, its value in each of `digests`), by key. A run older than a key was made with its default."""
    defaults = {key: knob.value for key, knob in knobs()}
    for key in sorted(set().union(*digests)):
        yield key, [digest.get(key, defaults.get(key)) for digest in digests]


def _identity(model: str) -> str:
    """What tells one model from another: the name of a hub or embedded one, the hash of a folder's files."""
    return folder_hash(Path(model).expanduser()) if is_local(model) else model


def _file_hash(path: str | None) -> str | None:
    """BLAKE2b of a file's bytes, whatever the file is called."""
    if path is None:
        return None
    digest = blake2b(digest_size=16)
    with Path(path).expanduser().open("rb") as file:
        for block in iter(partial(file.read, 1 << 20), b""):
            digest.update(block)
    return f"blake2b:{digest.hexdigest()}"

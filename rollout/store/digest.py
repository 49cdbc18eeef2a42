"""What determines a run's samples, key by key, so that a resumed run cannot quietly mix two experiments.

Of `hardware` it has only what changes the arithmetic; the rest, like `sampling.order`, decides how fast samples come,
not which. It does not have `sampling.n_samples` and `data.limit` either: more samples or rows are added to the existing
ones.
"""

import importlib.util
import json
from collections.abc import Iterator, Mapping
from functools import cache, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rollout.config import RunConfig, SamplingConfig, ScoreConfig, constraints
from rollout.config.keys import config_fields
from rollout.data.tables import Table
from rollout.engine import content
from rollout.engine.model_files import folder_hash
from rollout.engine.models import is_local
from rollout.files import user_path

Digest = dict[str, Any]
"""Config key -> its value as JSON keeps it, or a hash of what the value names."""

_NOT_SAMPLES = {"sampling.n_samples", "sampling.order"}
_SCHEMA = f"{constraints.KEY}.json"

ENGINE_KWARGS = "hardware.engine_kwargs"

_SAMPLER = "hardware.fast_sampler"
"""Part of the digest only with batch_invariant, where a sample must not depend on its batch."""

_SCORE = "postprocess.score"
_SOURCE = f"{_SCORE}.source"
_OF_SCORER = {
    *(f"{_SCORE}.{name}" for name in ("scorer", "ground_truth", "pattern", "pass_score", "after")),
    _SOURCE,
}
"""Keys that decide which samples there are only if a rule stops rows; other digests do not have them."""

_MEMORY_ONLY = {"kv_cache_memory_bytes", "max_cudagraph_capture_size", "cudagraph_capture_sizes"}
"""Arguments of vLLM's engine that only decide about memory and speed."""

_MADE_LATER = {content.MODEL, content.TOKENIZER, ENGINE_KWARGS}
"""Keys that older digests lack although the run had a value, which is not known any more."""

_BEFORE = {_SAMPLER: "off"}
"""Values that older runs were made with and that are not today's defaults."""

_SUPERSEDED = {content.MODEL: ("model.path", "model.revision"), content.TOKENIZER: ("model.tokenizer",)}
"""Keys that need not be compared where the contents are known: names and sizes, and the name of a commit."""


_HASH = "blake2b:"
_SAME_CONTENT = "give what it was made with, wherever it lies, or start a new run for it"


class Unknown:
    """Stands for the value of a key in a digest that is older than the key."""


UNKNOWN = Unknown()


def digest(run: RunConfig, table: Table) -> Digest:
    """Config key -> what must be the same when the run continues. Reads the whole input file.

    The content of the model is added once it is known, see `rollout.engine.content`.
    """
    values = {
        "model.path": _identity(run.model.path),
        "model.revision": run.model.revision,
        "model.tokenizer": None if run.model.tokenizer is None else _identity(run.model.tokenizer),
        "model.quantization": run.model.quantization,
        "model.max_model_len": run.model.max_model_len,
        "model.load_format": run.model.load_format,
        "model.chat_template": _file_hash(run.model.chat_template),
        "model.chat_template_kwargs": run.model.chat_template_kwargs,
        "model.reasoning_parser": run.model.reasoning_parser,
        "model.lora": None if run.model.lora is None else content.folder_content(user_path(run.model.lora)),
        "hardware.dtype": run.hardware.dtype,
        "hardware.kv_cache_dtype": run.hardware.kv_cache_dtype,
        "hardware.batch_invariant": run.hardware.batch_invariant,
        **({_SAMPLER: run.hardware.fast_sampler} if run.hardware.batch_invariant else {}),
        ENGINE_KWARGS: _without_memory(run.hardware.engine_kwargs),
        **_of_sampling(run.sampling),
        "data.path": _file_hash(str(table.path)),
        "data.prompt_key": run.data.prompt_key,
        "data.sampling_key": run.data.sampling_key,
        "data.tools_key": run.data.tools_key,
        "data.system_prompt": run.data.system_prompt,
        "data.drop_columns": run.data.drop_columns,
        "data.too_long": run.data.too_long,
        "data.num_shards": run.data.num_shards,
        "data.shard_index": run.data.shard_index,
        "store.token_ids": run.keeps_token_ids,
        "engine.kind": run.engine.kind,
        **({} if run.adaptive.until is None else _of_scorer(run.postprocess.score)),
    }
    as_saved: Digest = json.loads(json.dumps(values))  # as it comes back from run.json
    return as_saved


def is_same_input(began_with: Digest, table: Table) -> bool:
    """Whether the input is there and has the content that it had for this digest. Reads it only if it was touched."""
    try:
        return began_with.get("data.path", UNKNOWN) in (UNKNOWN, _file_hash(str(table.path)))
    except FileNotFoundError:
        return False


def differences(before: Digest, now: Digest) -> Iterator[str]:
    """One line for each key that differs, with both values."""
    for key, (then, here) in aligned(before, now):
        if UNKNOWN in (then, here) or then == here:
            continue
        if key == ENGINE_KWARGS:
            yield from _different_arguments(then, here)
        elif key in _SUPERSEDED:
            yield _different_content(key, then, here)
        elif key == _SOURCE:
            yield (
                f"{config_key(key)}={now.get(config_key(key))}: its source is not what this run was made with; restore "
                "it, or start a new run for it"
            )
        elif str(here).startswith(_HASH) and str(then).startswith(_HASH):
            yield f"{key}: the content is not what this run was made with ({here}, not {then}); {_SAME_CONTENT}"
        else:
            yield f"{key}={here}: this run was made with {then}; leave it as it was, or start a new run for it"


def aligned(*digests: Digest) -> Iterator[tuple[str, list[Any]]]:
    """(key, its value in each of `digests`), by key.

    A run older than a key was made with its default, or with a value that is UNKNOWN. Keys that the contents of the
    models make superfluous are left out, if the contents are known in all digests.
    """
    defaults = {key: field.value for key, field in config_fields()}
    defaults |= dict.fromkeys(_MADE_LATER | _OF_SCORER, UNKNOWN) | _BEFORE
    told_better = {old for key, keys in _SUPERSEDED.items() if all(key in digest for digest in digests) for old in keys}
    for key in sorted(set().union(*digests) - told_better):
        yield key, [digest.get(key, defaults.get(key)) for digest in digests]


def is_older(before: Digest, now: Digest) -> bool:
    """Whether `before` is from a version whose digests did not have the keys that were made later. The contents of the
    model alone are also missing if a run failed before they were known.
    """
    return ENGINE_KWARGS in now and ENGINE_KWARGS not in before


def config_key(key: str) -> str:
    """The config key that changes the value of `key`."""
    names = {content.MODEL: "model.path", content.TOKENIZER: "model.tokenizer", _SOURCE: f"{_SCORE}.scorer"}
    return names.get(key, key)


def _different_arguments(then: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*then, *here}):
        if then.get(name) != here.get(name):
            yield (
                f"{ENGINE_KWARGS}.{name}={here.get(name)}: this run was made with {then.get(name)}; leave it as it "
                "was, or start a new run for it"
            )


def _different_content(key: str, then: str, here: str) -> str:
    kind, _, commit = then.partition(":")
    cure = f"set model.revision={commit}" if kind == "commit" else "give the model that it was made with"
    return (
        f"{config_key(key)}: the files there are {here}, and this run was "
        f"made with {then}; {cure}, or start a new run for it"
    )


def _of_scorer(score: ScoreConfig) -> Digest:
    """What decides whether a response passes. A built-in scorer is identified by the version of the program."""
    values = {key: getattr(score, key.rpartition(".")[2]) for key in _OF_SCORER - {_SOURCE}}
    return values | {_SOURCE: source_of_scorer(score)}


def source_of_scorer(score: ScoreConfig) -> str | None:
    """The hash of the file that has a function of the user's; None for a scorer that comes with us."""
    module, _, function = (score.scorer or "").partition(":")
    found = None if not function else importlib.util.find_spec(module)
    return None if found is None or not found.has_location else _file_hash(found.origin)


def _of_sampling(sampling: SamplingConfig) -> Digest:
    """Every key of `sampling`; a JSON schema by its content, wherever it is."""
    values = {key: field.value for key, field in config_fields(sampling, "sampling.") if key not in _NOT_SAMPLES}
    return values | {_SCHEMA: constraints.constraint(sampling.structured_outputs).get("json")}


def _without_memory(values: Mapping[str, Any]) -> Digest:
    """`values` without arguments that only decide about memory, and without groups that hold only such arguments."""
    kept = {name: value for name, value in values.items() if name not in _MEMORY_ONLY}
    nested = {name: _without_memory(value) if isinstance(value, Mapping) else value for name, value in kept.items()}
    return {name: value for name, value in nested.items() if value != {} or kept[name] == {}}


def _identity(model: str) -> str:
    """What identifies a model: its name on the hub or if embedded, or the hash of its folder's files."""
    return folder_hash(user_path(model)) if is_local(model) else model


def _file_hash(path: str | None) -> str | None:
    """BLAKE2b of a file's bytes, whatever the file is called."""
    if path is None:
        return None
    file = user_path(path)
    state = file.stat()
    return _content_hash(file.absolute(), state.st_size, state.st_mtime_ns, state.st_ino)


@cache  # all jobs of a sweep have one input
def _content_hash(path: Path, *_state: int) -> str:
    """The hash of a file as long as its size, time and inode stay."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        for block in iter(partial(file.read, 1 << 20), b""):
            digest.update(block)
    return f"{_HASH}{digest.hexdigest()}"

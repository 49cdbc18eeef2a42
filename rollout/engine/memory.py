"""How much memory a model takes, from its config.json and the sizes of its files, and what is left for a KV cache.

    KV cache of a token   2 x layers x key/value heads x head size x bytes of a number; with multi-head latent attention
                          layers x (kv_lora_rank + qk_rope_head_dim) x bytes: `page_size_bytes` in vLLM's
                          `v1/kv_cache_interface.py`, for a block of one token
    left for it           GPU memory x gpu_memory_utilization - weights - what vLLM takes to work: how its
                          `determine_available_memory` (v1/worker/gpu_worker.py) divides it, which measures the last

Nothing here looks at a GPU; an estimate says what it is made from.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rollout.config import HardwareConfig, ModelConfig
from rollout.engine import models
from rollout.engine.model_files import language_config

GIB = 1 << 30

_WORKING_BYTES = 5 * GIB // 2
"""Activations, CUDA graphs, CUDA itself: 2.2 to 2.6 GiB for the 8B shape on an H200, whatever the preset."""

_CPU_SPACE = "VLLM_CPU_KVCACHE_SPACE"
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_MIXED = {
    "attn_layer_period",
    "attn_layer_indices",
    "hybrid_override_pattern",
    "state_size",
    "ssm_cfg",
    "full_attn_idxs",
}
"""Keys in the configs of models in which some layers keep no keys and values."""

_GATED = {"llama", "mistral", "qwen2", "qwen3"}
"""Model types whose weights can be counted from their config: attention and three matrices in every layer."""


@dataclass(frozen=True)
class ModelSize:
    """Memory that a model takes, in bytes, on all its GPUs together; None for what its files do not say."""

    weights: int | None
    kv_of_token: int | None
    """The KV cache of one token."""


def model_size(model: ModelConfig, hardware: HardwareConfig) -> ModelSize:
    """The size of the model, from its files on this machine."""
    folder = models.local_folder(model.path, model.revision)
    if folder is None:
        return ModelSize(None, None)
    config = language_config(folder)
    return ModelSize(_weights(folder, config, model, hardware), _kv_of_token(config, hardware))


def kv_space(size: ModelSize, hardware: HardwareConfig, gpu_bytes: int | None) -> int | None:
    """Bytes for the KV cache of one engine, on all its GPUs of `gpu_bytes` each; negative if the model does not fit.

    None if it is not known. On the CPU, `hardware.env` or the environment sets it.
    """
    if hardware.device == "cpu":
        space = hardware.env.get(_CPU_SPACE) or os.environ.get(_CPU_SPACE)
        return int(space) * GIB if space is not None and space.isdigit() else None
    if isinstance(given := hardware.engine_kwargs.get("kv_cache_memory_bytes"), int):
        return given * gpus_of_engine(hardware)
    if gpu_bytes is None or size.weights is None:
        return None
    share = gpu_bytes * hardware.gpu_memory_utilization / hardware.replicas_per_gpu
    return int((share - _WORKING_BYTES) * gpus_of_engine(hardware)) - size.weights


def gpus_of_engine(hardware: HardwareConfig) -> int:
    """GPUs that work on one copy of the model."""
    return hardware.tensor_parallel_size * hardware.pipeline_parallel_size


def _kv_of_token(config: dict[str, Any], hardware: HardwareConfig) -> int | None:
    layers, size = config.get("num_hidden_layers"), _number_bytes(config, hardware.dtype)
    kinds = set(config.get("layer_types") or ["full_attention"])
    if not isinstance(layers, int) or size is None or kinds != {"full_attention"} or _MIXED & config.keys():
        return None
    if hardware.kv_cache_dtype.startswith("fp8"):
        size = 1
    if isinstance(rank := config.get("kv_lora_rank"), int):
        return layers * (rank + int(config.get("qk_rope_head_dim") or 0)) * size
    heads = config.get("num_attention_heads")
    kv_heads = config.get("num_key_value_heads") or heads
    if not isinstance(heads, int) or not isinstance(config.get("hidden_size"), int):
        return None
    # every GPU that shares a layer keeps at least one head
    kv_heads = max(int(kv_heads or 1), hardware.tensor_parallel_size)
    return 2 * layers * kv_heads * _head_size(config) * size


def _head_size(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _number_bytes(config: dict[str, Any], dtype: str) -> int | None:
    """Bytes per number in computations; `dtype` as in `hardware.dtype`."""
    stored = str(config.get("dtype") or config.get("torch_dtype"))
    if dtype == "auto":
        return min(_BYTES.get(stored, 2), 2)  # vLLM computes 32-bit weights in 16 bits
    return _BYTES.get(dtype)


def _weights(folder: Path, config: dict[str, Any], model: ModelConfig, hardware: HardwareConfig) -> int | None:
    stored, computed = (
        _BYTES.get(str(config.get("dtype") or config.get("torch_dtype"))),
        _number_bytes(config, hardware.dtype),
    )
    found = sum(_weight_files(folder)) or None
    if found is None and (numbers := _numbers(config)) is not None and computed is not None:
        found, stored = numbers * computed, computed
    if found is None or config.get("quantization_config") or stored is None or computed is None:
        return found
    if model.quantization == "fp8":
        return found // stored
    return found * computed // stored


def _weight_files(folder: Path) -> Iterator[int]:
    """Sizes in bytes of the files that vLLM would read: those in an index, if there is one."""
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
        names = {str(name) for name in index["weight_map"].values()}
        yield from ((folder / name).stat().st_size for name in names)
    except (OSError, ValueError, KeyError, AttributeError):
        for pattern in ("*.safetensors", "pytorch_model*.bin"):
            if sizes := [
                path.stat().st_size for path in folder.glob(pattern) if not path.name.startswith("consolidated")
            ]:
                yield from sizes
                return


def _numbers(config: dict[str, Any]) -> int | None:
    """How many weights the model has, for model types that are built alike; norms and biases are left out."""
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    if config.get("model_type") not in _GATED or not all(isinstance(config.get(key), int) for key in keys):
        return None
    hidden, layers, heads, inner, vocabulary = (int(config[key]) for key in keys)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    attention = hidden * _head_size(config) * 2 * (heads + kv_heads)
    embeddings = vocabulary * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return layers * (attention + 3 * hidden * inner) + embeddings

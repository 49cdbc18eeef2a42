"""Models of real shape: a config and a tokenizer in a folder, for `model.load_format=dummy` or with random weights."""

import json
import math
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
_VOCABULARY = 49152
"""Vocabulary size of the embedded model, whose tokenizer all shapes use."""
_CONTEXT = 8192


@dataclass(frozen=True)
class Shape:
    """A Llama: numbers of features, heads and layers."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int = _VOCABULARY

    @property
    def head_dim(self) -> int:
        """Features of one head."""
        return self.hidden // self.heads

    @property
    def matrix_weights(self) -> int:
        """Numbers in the matrices with which every token is multiplied: all layers and the output head, not the
        embedding.
        """
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + self.vocabulary * self.hidden

    @property
    def kv_numbers(self) -> int:
        """Numbers that one token keeps in the KV cache."""
        return 2 * self.layers * self.kv_heads * self.head_dim


SHAPES = {
    "8b": Shape(hidden=4096, layers=32, heads=32, kv_heads=8, intermediate=14336),
    "70b": Shape(hidden=8192, layers=80, heads=64, kv_heads=8, intermediate=28672),
    "0.5b": Shape(hidden=896, layers=24, heads=14, kv_heads=2, intermediate=4864),
    "8b_qwen": Shape(hidden=4096, layers=36, heads=32, kv_heads=8, intermediate=12288, vocabulary=151_936),
    "8b_llama": Shape(hidden=4096, layers=32, heads=32, kv_heads=8, intermediate=14336, vocabulary=128_256),
    "0.5b_qwen": Shape(hidden=896, layers=24, heads=14, kv_heads=2, intermediate=4864, vocabulary=151_936),
    "tiny": Shape(hidden=64, layers=2, heads=2, kv_heads=2, intermediate=128),
}
"""8b and 70b are Llama 3's, 0.5b is Qwen 2.5's, but for the vocabulary; tiny is for trying the benchmark on a CPU.
8b_qwen, 8b_llama and 0.5b_qwen have the whole vocabularies of Qwen3, Llama 3 and Qwen 2.5."""


def write_model(folder: Path, shape: Shape, tokenizer: Path, context: int = _CONTEXT) -> Path:
    """Write the config of `shape` and the tokenizer's files to `folder`, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": context,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in _TOKENIZER_FILES:
        shutil.copy(tokenizer / name, folder / name)
    if shape.vocabulary > _VOCABULARY:
        _pad(folder / "tokenizer.json", shape.vocabulary)
    return folder


def _pad(path: Path, size: int) -> None:
    """Give the tokenizer an entry for every id below `size`, so that every token drawn has a text."""
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = content["model"]["vocab"]
    first = 1 + max(*entries.values(), *(token["id"] for token in content["added_tokens"]))
    entries.update({f"<{number}>": number for number in range(first, size)})
    path.write_text(json.dumps(content), encoding="utf-8")


def write_checkpoint(folder: Path, shape: Shape, seed: int) -> None:
    """Write random weights for the config in `folder` to files like a real model's, about as fast as the disk allows.

    Few numbers are drawn: every tensor is a section of them that begins at another place. The output head leaves about
    two nats of choice for the next token: logits with a standard deviation of 6 leave 1.9 (mean of 40 draws), and as
    features are normalised, that deviation is that of the head's numbers times the square root of the number of
    features. vLLM's `dummy` weights are within 0.001 of zero: all tokens are equally likely, whatever came before and
    however it was rounded.
    """
    import torch
    from safetensors.torch import save_file

    drawn = (_STD * torch.randn(_DRAWN, generator=torch.Generator().manual_seed(seed))).to(torch.bfloat16)
    files = [
        {name: size for name, size in _tensors(shape).items() if f"layers.{layer}." in name}
        for layer in range(shape.layers)
    ]
    files.append({name: size for name, size in _tensors(shape).items() if ".layers." not in name})

    def write(number: int) -> None:
        content = {name: _stretch(drawn, name, size) for name, size in files[number].items()}
        save_file(content, folder / _file(number, len(files)), metadata={"format": "pt"})

    with ThreadPoolExecutor(_FILES_AT_A_TIME) as pool:
        list(pool.map(write, range(len(files))))
    places = {name: _file(number, len(files)) for number, names in enumerate(files) for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


_DRAWN = (1 << 26) + 12345  # not a multiple of a row, so that no row of a tensor repeats
_STD = 0.02
_FILES_AT_A_TIME = 8


def _file(number: int, count: int) -> str:
    return f"model-{number + 1:05d}-of-{count:05d}.safetensors"


def _tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Name -> size of each tensor in such a Llama."""
    hidden, wide = shape.hidden, shape.intermediate
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    of_layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    outer: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (shape.vocabulary, hidden),
        "lm_head.weight": (shape.vocabulary, hidden),
        "model.norm.weight": (hidden,),
    }
    layers = range(shape.layers)
    return outer | {f"model.layers.{n}.{name}.weight": size for n in layers for name, size in of_layer.items()}


def _stretch(drawn: Any, name: str, size: tuple[int, ...]) -> Any:
    """As many of the numbers in `drawn` (a tensor) as `size` needs, scaled like weights with that name."""
    import torch

    start, count = zlib.crc32(name.encode()) % len(drawn), math.prod(size)
    parts = [drawn[start : start + count]]
    while (left := count - sum(map(len, parts))) > 0:
        parts.append(drawn[:left])
    numbers = torch.cat(parts).reshape(size)
    if len(size) == 1:
        return 1 + numbers
    return numbers.mul_(6 / _STD / math.sqrt(size[1])) if name.startswith("lm_head") else numbers

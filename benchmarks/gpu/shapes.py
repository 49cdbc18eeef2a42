"""Models of real shape: a config and a tokenizer in a folder, for `model.load_format=dummy` or with random weights."""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
_VOCABULARY = 49152
"""Of the embedded model, whose tokenizer all shapes use."""
_CONTEXT = 8192


@dataclass(frozen=True)
class Shape:
    """A Llama: sizes in numbers of features, heads and layers."""

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
        """Numbers in the matrices every token is multiplied with: all layers and the output head, not the embedding."""
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
    """Give the tokenizer an entry for every id below `size`, so that whatever is drawn has a text."""
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = content["model"]["vocab"]
    first = 1 + max(*entries.values(), *(token["id"] for token in content["added_tokens"]))
    entries.update({f"<{number}>": number for number in range(first, size)})
    path.write_text(json.dumps(content), encoding="utf-8")


def write_weights(folder: Path) -> None:
    """Random weights for the config in `folder`, whose output head leaves about two nats of choice for the next token.

    vLLM's `dummy` weights are within 0.001 of zero: all tokens are as likely, whatever came before and however it was
    rounded. Logits with a standard deviation of 6 leave 1.9 nats (mean of 40 draws); as features are normalised, theirs
    is that of the head's numbers times the square root of the features.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.lm_head.weight, std=6 / math.sqrt(config.hidden_size))
    partial = folder / "unfinished"
    model.to(torch.bfloat16).save_pretrained(partial)
    (partial / "model.safetensors").rename(folder / "model.safetensors")

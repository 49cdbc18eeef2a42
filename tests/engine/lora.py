"""LoRA adapters of the tiny model, made by hand as PEFT writes them, and the same put into its weights."""

import json
import shutil
from pathlib import Path
from typing import Any

RANK, ALPHA = 5, 20
_MODULES = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")


def write_adapter(folder: Path, model_folder: Path, seed: int = 0, **changes: Any) -> Path:
    """An adapter of the model in `model_folder`; `changes` are those of its config."""
    import torch
    from safetensors.torch import load_file, save_file

    generator, tensors = torch.Generator().manual_seed(seed), {}
    for name, weight in load_file(model_folder / "model.safetensors").items():
        if name.removesuffix(".weight").endswith(_MODULES):
            place = f"base_model.model.{name.removesuffix('.weight')}"
            for part, shape in (("lora_A", (RANK, weight.shape[1])), ("lora_B", (weight.shape[0], RANK))):
                tensors[f"{place}.{part}.weight"] = torch.randn(shape, generator=generator) * 0.1
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    modules = [name.split(".")[1] for name in _MODULES]
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": modules, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    return folder


def write_merged(folder: Path, model_folder: Path, adapter: Path) -> Path:
    """The model with the adapter in its weights: W + B A alpha / r."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(model_folder, folder)
    weights, parts = load_file(model_folder / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    for name in [name for name in parts if ".lora_A." in name]:
        place = name.removeprefix("base_model.model.").replace(".lora_A.", ".")
        weights[place] += parts[name.replace("lora_A", "lora_B")] @ parts[name] * (ALPHA / RANK)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def greedy(model_folder: Path, prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
    """The tokens that transformers takes after each of `prompts`, the end token included."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    found = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        with torch.no_grad():
            output = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, pad_token_id=1
            )
        found.append(output[0, len(prompt) :].tolist())
    return found

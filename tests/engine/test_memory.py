"""How much memory a model and its KV cache take, against what vLLM found on real GPUs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.shapes import SHAPES
from rollout.cli.compose import compose_run
from rollout.config import HardwareConfig, ModelConfig
from rollout.engine.memory import GIB, ModelSize, kv_space, model_size

PAGE = (Path(__file__).parents[2] / "docs/performance.md").read_text("utf-8")
H200 = 143_771 << 20  # what nvidia-smi says of one
LLAMA_8B = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 49152,
    "dtype": "bfloat16",
}
KV_OF_8B = 2 * 32 * 8 * 128 * 2
MLA = {"kv_lora_rank": 512, "qk_rope_head_dim": 64}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model without weights."""
    return with_config(tmp_path)


def with_config(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(LLAMA_8B | changes))
    return folder


def size(folder: Path, quantization: str | None = None, **hardware: Any) -> ModelSize:
    return model_size(ModelConfig(str(folder), quantization=quantization), HardwareConfig(**hardware))


def documented(preset: str) -> tuple[str, int]:
    """Of the table of presets: how the preset was asked for, and the tokens that vLLM's KV cache held."""
    (row,) = re.findall(rf"^\| (`{preset}`[^|]*) \|(?:[^|\n]*\|){{4}} ([\d,]+) \|$", PAGE, re.MULTILINE)
    return row[0], int(row[1].replace(",", ""))


@pytest.mark.parametrize("preset", ["throughput", "single_gpu", "low_mem", "debug", "fp8"])
def test_the_kv_cache_is_as_large_as_vllm_found_it_on_an_h200(preset: str, folder: Path) -> None:
    asked, tokens = documented(preset)
    words = re.findall(r"model\.quantization=\w+", asked)
    run = compose_run(f"hardware={preset}", f"model.path={folder}", *words)
    found = model_size(run.model, run.hardware)
    space = kv_space(found, run.hardware, H200)
    assert space is not None
    assert found.kv_of_token is not None
    assert space // found.kv_of_token == pytest.approx(tokens, rel=0.01)


def test_the_numbers_of_a_llama_are_counted_where_its_weights_are_not_here(folder: Path) -> None:
    shape = SHAPES["8b"]
    assert size(folder).weights == 2 * (shape.matrix_weights + LLAMA_8B["vocab_size"] * shape.hidden)  # type: ignore[operator]
    assert size(with_config(folder, model_type="mamba2")).weights is None


@pytest.mark.parametrize(
    ("changes", "hardware", "kv"),
    [
        ({}, {}, KV_OF_8B),
        ({}, {"kv_cache_dtype": "fp8"}, KV_OF_8B // 2),
        ({}, {"dtype": "float32"}, KV_OF_8B * 2),
        ({"dtype": "float32"}, {}, KV_OF_8B),  # which vLLM computes in 16 bits
        ({"head_dim": 256}, {}, KV_OF_8B * 2),
        ({}, {"tensor_parallel_size": 4}, KV_OF_8B),
        ({}, {"tensor_parallel_size": 16}, KV_OF_8B * 2),  # each GPU keeps a head
        ({"num_key_value_heads": None}, {}, KV_OF_8B * 4),
        (MLA, {}, 32 * (512 + 64) * 2),
        ({"text_config": {"num_hidden_layers": 16}}, {}, KV_OF_8B // 2),
        ({"layer_types": ["full_attention"] * 32}, {}, KV_OF_8B),
        ({"layer_types": ["sliding_attention", "full_attention"] * 16}, {}, None),
        ({"attn_layer_period": 8}, {}, None),
        ({"hidden_size": None}, {}, None),
    ],
)
def test_what_a_token_keeps(changes: dict[str, Any], hardware: dict[str, Any], kv: int | None, tmp_path: Path) -> None:
    assert size(with_config(tmp_path, **changes), **hardware).kv_of_token == kv


def test_the_weights_are_the_files_that_vllm_would_read(folder: Path) -> None:
    for name, length in {"model-1.safetensors": 100, "model-2.safetensors": 60, "pytorch_model.bin": 160}.items():
        (folder / name).write_bytes(b"\0" * length)
    (folder / "consolidated.safetensors").write_bytes(b"\0" * 160)
    assert size(folder).weights == 160
    assert size(folder, dtype="float32").weights == 320
    assert size(folder, quantization="fp8").weights == 80
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    assert size(folder).weights == 100
    assert size(with_config(folder, quantization_config={"bits": 4}), dtype="float16").weights == 100
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    assert size(folder).weights == 160


def test_a_model_that_is_not_here_and_a_config_that_says_nothing_are_not_known(tmp_path: Path) -> None:
    unknown = ModelSize(None, None)
    assert model_size(ModelConfig("nobody/nothing"), HardwareConfig()) == unknown
    (tmp_path / "config.json").write_text("{}")
    assert size(tmp_path) == unknown


def test_several_gpus_share_the_weights_and_engines_share_a_gpu() -> None:
    known = ModelSize(20 * GIB, 1 << 17)
    one = kv_space(known, HardwareConfig(), 80 * GIB)
    assert one == pytest.approx((0.9 * 80 - 2.5 - 20) * GIB)
    assert kv_space(known, HardwareConfig(tensor_parallel_size=2), 80 * GIB) == pytest.approx(
        2 * (72 - 2.5) * GIB - 20 * GIB
    )
    assert kv_space(known, HardwareConfig(replicas_per_gpu=2), 80 * GIB) == pytest.approx((36 - 2.5 - 20) * GIB)
    assert kv_space(known, HardwareConfig(), None) is None
    assert kv_space(ModelSize(None, 1), HardwareConfig(), 80 * GIB) is None
    given = HardwareConfig(engine_kwargs={"kv_cache_memory_bytes": GIB}, tensor_parallel_size=2)
    assert kv_space(ModelSize(None, 1), given, None) == 2 * GIB


def test_on_the_cpu_it_is_what_the_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    known = ModelSize(GIB, 1)
    assert kv_space(known, compose_run("hardware=cpu").hardware, None) == 4 * GIB
    assert kv_space(known, HardwareConfig(device="cpu"), None) is None

"""LoRA adapters before anything is loaded: what is wrong with one is a line, and an engine has room for several."""

import json
from pathlib import Path
from typing import Any

import pytest

from rollout.cli import saved_config
from rollout.config import ModelConfig
from rollout.engine import adapters
from rollout.engine.adapters import problems, room
from rollout.engine.cache import EngineSpec
from rollout.errors import UserError
from rollout.lifecycle import resume
from rollout.preflight import preflight
from tests.conftest import Rollout, chat, composed

SIZES = {"hidden_size": 128, "num_hidden_layers": 2}


def adapter(folder: Path, layer: int = 1, hidden: int = 128, **config: Any) -> Path:
    """A folder with an adapter of two matrices."""
    import numpy as np
    from safetensors.numpy import save_file

    place = f"base_model.model.model.layers.{layer}.self_attn"
    q, o = np.zeros((4, hidden), np.float32), np.zeros((hidden, 4), np.float32)
    folder.mkdir(exist_ok=True)
    save_file(
        {f"{place}.q_proj.lora_A.weight": q, f"{place}.o_proj.lora_B.weight": o}, folder / "adapter_model.safetensors"
    )
    (folder / adapters.CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, **config}))
    return folder


def lines(folder: Path | str) -> list[str]:
    return [line.replace(str(folder), "FOLDER") for line in problems(ModelConfig(lora=str(folder)), SIZES)]


def test_a_sound_adapter_has_no_problems(tmp_path: Path) -> None:
    assert lines(adapter(tmp_path / "a")) == []
    assert [*problems(ModelConfig())] == []


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"r": 0}, "model.lora=FOLDER: r=0 in adapter_config.json is no rank"),
        ({"r": 600}, "model.lora=FOLDER: its rank is 600, and vLLM takes at most 512"),
        ({"rank_pattern": {"q_proj": 1024}}, "model.lora=FOLDER: its rank is 1024, and vLLM takes at most 512"),
        (
            {"peft_type": "IA3"},
            "model.lora=FOLDER: peft_type=IA3 in adapter_config.json; vLLM takes adapters of type LORA",
        ),
        ({"use_dora": True}, "model.lora=FOLDER: it is a DoRA adapter, which vLLM does not support; merge it"),
        ({"bias": "all"}, "model.lora=FOLDER: it has biases, which vLLM does not support"),
        ({"modules_to_save": ["lm_head"]}, "model.lora=FOLDER: it replaces whole modules (modules_to_save=lm_head)"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "model.lora=FOLDER: it changes the base model (init_lora_weights=pissa",
        ),
    ],
)
def test_what_an_adapter_says_of_itself_may_be_a_line(config: dict[str, Any], line: str, tmp_path: Path) -> None:
    (problem,) = lines(adapter(tmp_path / "a", **config))
    assert problem.startswith(line)


def test_a_folder_without_an_adapter_is_a_line(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a")
    assert lines(tmp_path / "none")[0].startswith("model.lora=FOLDER: no such folder")
    (folder / "adapter_model.safetensors").unlink()
    assert lines(folder)[0].startswith(
        "model.lora=FOLDER: no weights in it (adapter_model.safetensors or adapter_model.bin)"
    )
    (folder / adapters.CONFIG).write_text("{")
    assert lines(folder)[0].startswith("model.lora=FOLDER: adapter_config.json is no JSON")
    (folder / adapters.CONFIG).unlink()
    assert lines(folder)[0].startswith("model.lora=FOLDER: no adapter_config.json in it; give the folder that PEFT's")


def test_an_adapter_of_another_base_model_is_a_line(tmp_path: Path) -> None:
    wide, deep = adapter(tmp_path / "wide", hidden=256), adapter(tmp_path / "deep", layer=7)
    (of_wide,), (of_deep,) = lines(wide), lines(deep)
    assert "made for another model than model.path=embedded:SmolLM2-135M-Instruct: its base_model" in of_wide
    assert "the shape [256, 4], and the model's hidden_size is 128; give its own" in of_wide
    assert "it has a layer 7, and the model has 2 layers; give its own" in of_deep
    assert [*problems(ModelConfig(lora=str(wide)), None)] == []  # nothing is known of the model


@pytest.mark.parametrize(("rank", "expected"), [(1, 8), (8, 8), (9, 16), (65, 128), (300, 320), (512, 512)])
def test_an_engine_has_room_for_the_next_rank_that_vllm_knows(rank: int, expected: int, tmp_path: Path) -> None:
    assert room(ModelConfig(lora=str(adapter(tmp_path / "a", r=rank)))) == expected
    assert room(ModelConfig(lora=str(adapter(tmp_path / "a", r=2, rank_pattern={"q_proj": rank})))) == expected
    assert room(ModelConfig()) is None


def test_adapters_share_an_engine_where_their_ranks_have_the_same_room(tmp_path: Path) -> None:
    small, other, large = (adapter(tmp_path / f"{rank}", r=rank) for rank in (3, 7, 9))

    def key(folder: Path | None, *overrides: str) -> str:
        return EngineSpec.of(composed(f"model.lora={folder or 'null'}", *overrides)).key()

    assert key(small) == key(other)
    assert len({key(small), key(large), key(None), key(small, "model.reasoning_parser=qwen3")}) == 4
    wide = "hardware.engine_kwargs.max_lora_rank=64"
    assert key(small, wide) == key(large, wide)


def test_an_adapter_is_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.lora=.*none: no such folder"):
        preflight(composed("hardware=cpu", f"model.lora={tmp_path / 'none'}", "data.limit=1"))


def test_a_run_continues_with_its_adapter_wherever_that_is_and_with_no_other(rollout: Rollout, tmp_path: Path) -> None:
    first, same, other = adapter(tmp_path / "a"), adapter(tmp_path / "b"), adapter(tmp_path / "c", lora_alpha=9)
    run_dir = rollout([{"prompt": chat("hi")}], f"model.lora={first}")
    resume(saved_config.load(run_dir, [f"model.lora={same}", "sampling.n_samples=9"]), run_dir)
    for now in (other, "null"):
        with pytest.raises(UserError, match=r"model\.lora=.*: this run was made with blake3:"):
            resume(saved_config.load(run_dir, [f"model.lora={now}", "sampling.n_samples=10"]), run_dir)
    about = json.loads((run_dir / "run.json").read_text())["provenance"]["model"]["adapter"]
    assert about == {"path": str(same), "rank": 4, "alpha": 8, "base_model": None}

"""Every hardware preset starts and samples."""

from pathlib import Path

import pytest

from tests.gpu.conftest import assert_complete, needs_gpu, needs_two_gpus, rows_of, write_model

pytestmark = [pytest.mark.gpu, needs_gpu]


@pytest.mark.parametrize("preset", ["single_gpu", "throughput", "low_mem", "debug", "fp8"])
def test_a_preset_starts_and_samples(preset: str, tmp_path: Path) -> None:
    assert_complete(rows_of(tmp_path, "run", write_model(tmp_path / "model"), f"hardware={preset}"))


@needs_two_gpus
def test_two_gpus_give_what_one_gives(tmp_path: Path) -> None:
    """Greedy, in float32, with the same weights on the disk: dummy weights would differ between the halves."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = write_model(tmp_path / "model", num_attention_heads=4, dtype="float32", initializer_range=0.2)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    same = ("model.load_format=auto", "hardware.dtype=float32", "hardware.enforce_eager=true")
    greedy = ("sampling.temperature=0", "sampling.n_samples=1")
    one = rows_of(tmp_path, "one", folder, "hardware=single_gpu", *same, *greedy)
    two = rows_of(tmp_path, "two", folder, "hardware=dual_gpu", *same, *greedy)
    assert_complete(two, n_samples=1)
    assert len({tuple(row["responses"]) for row in one}) > 1
    assert [row["responses"] for row in two] == [row["responses"] for row in one]

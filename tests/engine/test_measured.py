"""The speeds that an estimate may use are those of the page."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from rollout.cli.compose import compose_run
from rollout.config import HardwareConfig
from rollout.engine.measured import MEASURED, SOURCE, Measured, measured_like

PAGE = (Path(__file__).parents[2] / SOURCE).read_text("utf-8")
WEIGHTS_8B, WEIGHTS_32B = 16_000_000_000, 65_000_000_000
H200, H100 = "NVIDIA H200", "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize("one", MEASURED, ids=lambda one: f"{one.shape}-{one.preset}")
def test_every_figure_stands_in_a_row_of_the_page_with_its_preset_or_shape(one: Measured) -> None:
    rows = [
        row for row in PAGE.splitlines() if row.startswith("|") and re.search(rf"(?<!\d,)\b{one.tok_s:,}\b(?!,\d)", row)
    ]
    assert any(f"`{one.preset}`" in row or row.startswith(f"| {one.shape} | equal | rollout") for row in rows)


@pytest.mark.parametrize("one", MEASURED, ids=lambda one: f"{one.shape}-{one.preset}")
def test_the_hardware_of_every_figure_is_that_of_its_preset(one: Measured) -> None:
    preset = compose_run(f"hardware={one.preset}").hardware
    names = ("max_num_seqs", "tensor_parallel_size", "enforce_eager", "kv_cache_dtype")
    assert [getattr(one.hardware, name) for name in names] == [getattr(preset, name) for name in names]
    assert preset.replicas in (None, one.hardware.replicas)


def preset_for(weights: int, hardware: HardwareConfig, gpus: tuple[str, ...]) -> str | None:
    found = measured_like(weights, hardware, gpus)
    return None if found is None else found.preset


def test_a_figure_is_taken_for_the_same_gpu_size_and_way_of_computing_only() -> None:
    one = HardwareConfig(max_num_seqs=1024)
    assert preset_for(WEIGHTS_8B, one, (H200,)) == "throughput"
    assert preset_for(WEIGHTS_8B, replace(one, max_num_seqs=700), (H200,)) == "throughput"
    assert preset_for(WEIGHTS_8B, replace(one, max_num_seqs=200), (H200,)) == "single_gpu"
    assert preset_for(WEIGHTS_8B, one, (H100,)) is None
    assert preset_for(WEIGHTS_8B, one, ()) is None
    assert preset_for(WEIGHTS_32B, one, (H200,)) is None
    assert preset_for(WEIGHTS_8B, replace(one, tensor_parallel_size=2), (H200, H200)) == "dual_gpu"
    assert preset_for(WEIGHTS_8B, replace(one, replicas=None), (H200, H200)) == "multi_gpu"
    assert preset_for(WEIGHTS_8B, replace(one, replicas=None), (H200,) * 4) is None
    assert preset_for(WEIGHTS_8B, replace(one, replicas_per_gpu=2), (H200,)) is None
    assert preset_for(WEIGHTS_8B, replace(one, device="cpu"), (H200,)) is None
    assert preset_for(WEIGHTS_8B // 2, replace(one, kv_cache_dtype="fp8"), (H200,)) == "fp8"

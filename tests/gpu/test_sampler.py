"""The sampler's kernels on a GPU, against the definition of what they draw."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rollout.engine import nucleus
from rollout.store.layout import LOG
from tests.gpu.conftest import ROWS, needs_gpu, needs_two_gpus, rows_of, write_model

pytestmark = [pytest.mark.gpu, needs_gpu]

BATCH, VOCABULARY = 256, 151_936


def drawn_and_defined(std: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of a batch of greedy rows, rows with top_k, with top_p and with neither."""
    from rollout.engine.nucleus_kernel import Draw, NucleusSampler

    generator = torch.Generator("cuda").manual_seed(0)
    logits = (torch.randn(BATCH, VOCABULARY, generator=generator, device="cuda") * std).to(dtype)
    seeds = torch.randint(-(2**62), 2**62, (BATCH,), generator=generator, device="cuda")
    rows = torch.arange(BATCH, device="cuda")
    t = torch.where(rows % 5 == 0, 0.0, 1.0)
    p = torch.where(rows % 3 == 0, 1.0, 0.95)
    k = torch.where(rows % 4 == 0, 20, VOCABULARY).to(torch.int32)
    tokens = NucleusSampler(BATCH, VOCABULARY, "cuda").draw(logits, Draw(rows.to(torch.int32), rows, t, p, k, seeds))
    return tokens, nucleus.draw(logits, t, p, k, seeds, rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("std", [6.0, 0.5])
def test_the_kernels_draw_what_is_defined(std: float, dtype: torch.dtype) -> None:
    drawn, defined = drawn_and_defined(std, dtype)
    assert int((drawn != defined).sum()) <= 1  # a sum in float32 may fall on the other side of the edge


OF_ROWS: list[dict[str, float]] = [
    {"temperature": 0.0, "n_samples": 1},
    {"top_k": 20},
    {"top_p": 1.0},
    {"top_p": 0.5, "temperature": 0.7},
    {"min_p": 0.05},
    {},
]
MIXED_ROWS = [row | {"own": OF_ROWS[number % len(OF_ROWS)]} for number, row in enumerate(ROWS)]
MIXED = (
    "hardware.batch_invariant=true",
    "data.sampling_key=own",
    "sampling.max_tokens=16",
    "sampling.logprobs=raw",
)


def drawn(
    folder: Path, name: str, *overrides: str, rows: list[dict[str, Any]] = MIXED_ROWS
) -> list[tuple[list[str], list[list[float]]]]:
    """The responses and log-probabilities of each row, drawn with our sampler by a run in `folder/name`."""
    found = rows_of(folder, name, folder / "model", *overrides, *MIXED, rows=rows)
    assert json.loads((folder / name / "run.json").read_text())["engine"]["sampler"] == "rollout"
    assert [len(row["responses"]) for row in found] == [row["own"].get("n_samples", 3) for row in rows]
    assert all(row["error"] is None for row in found)
    return [(row["responses"], row["response_logprobs"]) for row in found]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_checked_before_a_run_is_right(dtype: torch.dtype) -> None:
    from rollout.engine.nucleus_kernel import NucleusSampler

    assert NucleusSampler(1, VOCABULARY, "cuda").draws_as_defined(dtype)


def test_rows_of_a_mixed_batch_are_what_each_is_alone(tmp_path: Path) -> None:
    """Greedy rows, rows with top_k, without top_p and with a sharper one, and their log-probabilities."""
    write_model(tmp_path / "model")
    many, alone = (
        drawn(tmp_path, f"{count}-at-a-time", "hardware=debug", f"hardware.max_num_seqs={count}") for count in (128, 1)
    )
    assert many == alone


@needs_two_gpus
def test_gpus_that_each_draw_for_a_part_of_a_batch_draw_what_each_draws_for_all(tmp_path: Path) -> None:
    """The same engine draws for 64 samples, in parts, and for the first 29 of them: too few to be divided."""
    write_model(tmp_path / "model")
    both = ("hardware=dual_gpu", "hardware.enforce_eager=true", "hardware.max_num_seqs=128")
    in_parts = drawn(tmp_path, "in-parts", *both)
    few = MIXED_ROWS[:11]
    assert drawn(tmp_path, "for-all", *both, rows=few) == in_parts[: len(few)]
    assert "each GPU draws the tokens of a part of the batch" in (tmp_path / "in-parts" / LOG).read_text()

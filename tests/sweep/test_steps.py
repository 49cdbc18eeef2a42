"""A checkpoint's step is read from its path."""

import pytest

from rollout.sweep.steps import step_of


@pytest.mark.parametrize(
    ("path", "step", "of"),
    [
        ("out/checkpoint-1200", 1200, "out/checkpoint-*"),
        ("checkpoint-1200/", 1200, "checkpoint-*"),
        ("step_300", 300, "step_*"),
        ("run/global_step_20/actor", 20, "run/global_step_*/actor"),
        ("run/global_step20/actor/huggingface", 20, "run/global_step*/actor/huggingface"),
        ("iter_0000500", 500, "iter_*"),
        ("ckpt-100", 100, "ckpt-*"),
        ("ckpts/800", 800, "ckpts/*"),
        ("weights/step-10k", 10000, "weights/step-*"),
        ("epoch=3-step=1500", 1500, "epoch=3-step=*"),
        ("stage2/epoch_4", 4, "stage2/epoch_*"),
        ("step1000-tokens4B", 1000, "step*-tokens4B"),
        ("Qwen3-8B-step100", 100, "Qwen3-8B-step*"),
        ("a/checkpoint-5/b/checkpoint-7", 7, "a/checkpoint-5/b/checkpoint-*"),
    ],
)
def test_the_last_part_with_a_step_counts_and_the_rest_says_of_what(path: str, step: int, of: str) -> None:
    found = step_of(path)
    assert found is not None
    assert (found.step, found.of) == (step, of)


@pytest.mark.parametrize("path", ["Qwen/Qwen3-8B", "models/final", "embedded:SmolLM2-135M-Instruct", "misstep4", "v2"])
def test_other_paths_have_none(path: str) -> None:
    assert step_of(path) is None

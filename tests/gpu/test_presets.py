"""Every hardware preset starts and samples."""

from pathlib import Path
from statistics import median

import pytest

from tests.gpu.conftest import assert_complete, needs_gpu, needs_two_gpus, rows_of, write_model

pytestmark = [pytest.mark.gpu, needs_gpu]


@pytest.mark.parametrize("preset", ["single_gpu", "throughput", "low_mem", "debug", "fp8"])
def test_a_preset_starts_and_samples(preset: str, tmp_path: Path) -> None:
    assert_complete(rows_of(tmp_path, "run", write_model(tmp_path / "model"), f"hardware={preset}"))


@needs_two_gpus
def test_two_gpus_give_what_one_gives(tmp_path: Path) -> None:
    """Greedy, in float32: the halves of a matrix add up in another order, which must not decide about a token. Triton's
    default for float32 is TF32, which keeps 11 bits of a number instead of 24: there it can. The middle difference of
    log-probabilities on two H200s is 5e-6; single ones reach 3e-4, where large numbers cancel.
    """
    model = write_model(tmp_path / "model", dtype="float32")
    same = ("hardware.dtype=float32", "hardware.enforce_eager=true", "hardware.env.TRITON_F32_DEFAULT=ieee")
    greedy = ("sampling.temperature=0", "sampling.n_samples=1", "sampling.logprobs=raw")
    one = rows_of(tmp_path, "one", model, "hardware=single_gpu", *same, *greedy)
    two = rows_of(tmp_path, "two", model, "hardware=dual_gpu", *same, *greedy)
    assert_complete(two, n_samples=1)
    assert len({tuple(row["responses"]) for row in one}) > 1
    apart = [
        abs(mine - theirs)
        for row, other in zip(one, two, strict=True)
        for mine, theirs in zip(row["response_logprobs"][0], other["response_logprobs"][0], strict=False)
    ]
    assert median(apart) < 3e-5
    assert [row["responses"] for row in two] == [row["responses"] for row in one]

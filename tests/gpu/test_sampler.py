"""The sampler's kernels on a GPU, against the definition of what they draw."""

import pytest
import torch

from rollout.engine import nucleus
from tests.gpu.conftest import needs_gpu

pytestmark = [pytest.mark.gpu, needs_gpu]

ROWS, VOCABULARY = 256, 151_936


def drawn_and_defined(std: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of a batch of greedy rows, rows with top_k, with top_p and with neither."""
    from rollout.engine.nucleus_kernel import Draw, NucleusSampler

    generator = torch.Generator("cuda").manual_seed(0)
    logits = (torch.randn(ROWS, VOCABULARY, generator=generator, device="cuda") * std).to(dtype)
    seeds = torch.randint(-(2**62), 2**62, (ROWS,), generator=generator, device="cuda")
    rows = torch.arange(ROWS, device="cuda")
    t = torch.where(rows % 5 == 0, 0.0, 1.0)
    p = torch.where(rows % 3 == 0, 1.0, 0.95)
    k = torch.where(rows % 4 == 0, 20, VOCABULARY).to(torch.int32)
    tokens = NucleusSampler(ROWS, VOCABULARY, "cuda").draw(logits, Draw(rows.to(torch.int32), rows, t, p, k, seeds))
    return tokens, nucleus.draw(logits, t, p, k, seeds, rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("std", [6.0, 0.5])
def test_the_kernels_draw_what_is_defined(std: float, dtype: torch.dtype) -> None:
    drawn, defined = drawn_and_defined(std, dtype)
    assert int((drawn != defined).sum()) <= 1  # a sum in float32 may fall on the other side of the edge

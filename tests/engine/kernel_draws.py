"""Draws of the Triton kernels in Triton's interpreter, beside the definition's.

    TRITON_INTERPRET=1 python -m tests.engine.kernel_draws

A process of its own, as Triton reads the variable when it is imported. Prints JSON: for each case of CASES how many
tokens differ from the definition's, from those of a draw with a mask and of rows alone, and in how many rows the mask.
"""

import json
from dataclasses import dataclass

import torch

from rollout.engine import nucleus
from rollout.engine.nucleus_kernel import Draw, NucleusSampler

ROWS = 4


@dataclass(frozen=True)
class Case:
    """Logits of all rows, and their parameters; several values go round over the rows."""

    vocabulary: int
    std: float
    dtype: torch.dtype = torch.float32
    top_p: tuple[float, ...] = (0.95,)
    top_k: tuple[int, ...] = (1 << 30,)
    temperature: tuple[float, ...] = (1.0,)
    masked: bool = False
    """Whether to look at the mask too, which takes the interpreter long."""


CASES = {
    "peaked": Case(5000, 6.0, masked=True),
    "many equal logits": Case(4200, 1.0, torch.bfloat16, top_p=(0.3,)),
    "all equal logits": Case(2100, 0.0, top_p=(0.2003, 0.9001)),
    "flat, of which the whole row is gone through": Case(4100, 0.001, top_p=(0.8,)),
    "next to no nucleus": Case(3000, 8.0, top_p=(0.001,)),
    "a block that is not full": Case(2049, 3.0, torch.float16),
    "top_k below the number of blocks": Case(5000, 4.0, torch.bfloat16, top_p=(1.0, 0.9), top_k=(1, 3)),
    "top_k above it": Case(2100, 4.0, top_p=(1.0, 0.9), top_k=(20, 700)),
    "equal logits where top_k ends": Case(2100, 0.0, top_p=(1.0,), top_k=(2, 3)),
    "rows of all kinds": Case(
        2100, 6.0, torch.bfloat16, (1.0, 0.95, 0.5), top_k=(1 << 30, 2), temperature=(0.0, 0.7, 1.0), masked=True
    ),
}


def main() -> None:
    """Do all cases."""
    print(json.dumps({name: differences(case) for name, case in CASES.items()}))


def differences(case: Case) -> dict[str, int]:
    """In how many rows something differs."""
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(ROWS, case.vocabulary, generator=generator) * case.std).to(case.dtype)
    states = torch.randperm(ROWS, generator=generator).to(torch.int32)
    t, p, k = (torch.tensor((values * ROWS)[:ROWS]) for values in (case.temperature, case.top_p, case.top_k))
    seeds = torch.randint(-(2**62), 2**62, (ROWS,), generator=generator)
    positions = torch.arange(ROWS) + 2**33 * (torch.arange(ROWS) % 2)
    draw, order = Draw(states, positions, t, p, k.to(torch.int32), seeds), states.long()
    sampler, masked = NucleusSampler(ROWS, case.vocabulary, "cpu"), logits.clone()
    tokens = sampler.draw(logits, draw)
    again = sampler.draw(masked, draw, mask=True) if case.masked else tokens
    alone = sampler.draw(logits[-1:], Draw(states[-1:], positions[-1:], t, p, k.to(torch.int32), seeds))
    kept = nucleus.kept(logits, p[order], k[order])
    defined = nucleus.draw(logits, t[order], p[order], k[order], seeds[order], positions)
    return {
        "defined": int((tokens != defined).sum()),
        "with mask": int((tokens != again).sum()),
        "mask": int(((masked > -torch.inf) != kept).any(dim=1).sum()) if case.masked else 0,
        "alone": int((alone != tokens[-1:]).sum()),
    }


if __name__ == "__main__":
    main()

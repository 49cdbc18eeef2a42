"""Draws of the Triton kernels in Triton's interpreter, beside the definition's.

    TRITON_INTERPRET=1 python -m tests.engine.kernel_draws

A process of its own, as Triton reads the variable when it is imported. Prints JSON: for each case of CASES how many
tokens differ from the definition's, from those of a draw with a mask and of rows alone, in how many rows the mask, and
how many tokens it cuts off though they were drawn.
"""

import json
from collections.abc import Callable
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
    change: Callable[[torch.Tensor], torch.Tensor] = torch.clone
    """From normal logits to those of the case."""


def _a_cluster(logits: torch.Tensor) -> torch.Tensor:
    """A block of nearly equal ones, more than a block has slots for."""
    logits[:, 2048:4096] = 5.0 + logits[:, 2048:4096] / 3000
    return logits


def _no_more_than_half(logits: torch.Tensor) -> torch.Tensor:
    logits[:, ::2] = -torch.inf
    return logits


CASES = {
    "peaked": Case(5000, 6.0, masked=True),
    "many equal logits": Case(4200, 1.0, torch.bfloat16, top_p=(0.3,), masked=True),
    "all equal logits": Case(2100, 0.0, top_p=(0.2003, 0.9001), masked=True),
    "flat, of which the whole row is gone through": Case(4100, 0.001, top_p=(0.8,), masked=True),
    "next to no nucleus": Case(3000, 8.0, top_p=(0.001,)),
    "a block that is not full": Case(2049, 3.0, torch.float16),
    "top_k below the number of blocks": Case(5000, 4.0, torch.bfloat16, top_p=(1.0, 0.9), top_k=(1, 3)),
    "top_k above it": Case(2100, 4.0, top_p=(1.0, 0.9), top_k=(20, 700)),
    "equal logits where top_k ends": Case(2100, 0.0, top_p=(1.0,), top_k=(2, 3)),
    "rows of all kinds": Case(
        2100, 6.0, torch.bfloat16, (1.0, 0.95, 0.5), top_k=(1 << 30, 2), temperature=(0.0, 0.7, 1.0), masked=True
    ),
    "flat rows of all kinds": Case(
        2100, 0.5, torch.bfloat16, (0.9, 0.7, 1.0), top_k=(1 << 30, 50), temperature=(0.0, 1.0, 1.0), masked=True
    ),
    "a few logits in more than nine blocks": Case(
        19000, 1.0, top_p=(0.1, 0.5013, 0.9, 0.99), masked=True, change=lambda logits: (logits * 2).round() / 2
    ),
    "nearly equal logits of one block": Case(9000, 3.0, top_p=(0.9, 0.7, 0.5), masked=True, change=_a_cluster),
    "logits of all sizes": Case(5000, 40.0, top_p=(0.5, 0.9), masked=True, change=lambda logits: 2.0 ** -logits.abs()),
    "tokens that are not allowed": Case(5000, 0.5, top_p=(0.6, 0.999), masked=True, change=_no_more_than_half),
    "nearly all of the mass": Case(4500, 0.5, top_p=(0.9999999, 0.99999), masked=True),
}


class Wrong(NucleusSampler):
    """Two rows get each other's tokens."""

    def draw(self, logits: torch.Tensor, draw: Draw, mask: bool = False) -> torch.Tensor:
        tokens = super().draw(logits, draw, mask)
        return torch.cat([tokens[:2].flip(0), tokens[2:]])


def main() -> None:
    """Do all cases."""
    found = {name: differences(case) for name, case in CASES.items()}
    found["a draw that sums put just outside"] = {"cut off": cut_off_at_the_edge()}
    right, wrong = (kind(8, 5000, "cpu").draws_as_defined(torch.bfloat16) for kind in (NucleusSampler, Wrong))
    found["the check before a run"] = {"refused": int(not right), "let through": int(wrong)}
    print(json.dumps(found))


def differences(case: Case) -> dict[str, int]:
    """In how many rows something differs."""
    generator = torch.Generator().manual_seed(0)
    logits = case.change(torch.randn(ROWS, case.vocabulary, generator=generator) * case.std).to(case.dtype)
    states = torch.randperm(ROWS, generator=generator).to(torch.int32)
    t, p, k = (torch.tensor((values * ROWS)[:ROWS]) for values in (case.temperature, case.top_p, case.top_k))
    seeds = torch.randint(-(2**62), 2**62, (ROWS,), generator=generator)
    positions = torch.arange(ROWS) + 2**33 * (torch.arange(ROWS) % 2)
    draw, order = Draw(states, positions, t, p, k.to(torch.int32), seeds), states.long()
    sampler, masked = NucleusSampler(ROWS, case.vocabulary, "cpu"), logits.clone()
    tokens = sampler.draw(logits, draw)
    again = sampler.draw(masked, draw, mask=True) if case.masked else tokens
    one = logits[-1:].clone()
    alone = sampler.draw(one, Draw(states[-1:], positions[-1:], t, p, k.to(torch.int32), seeds), mask=case.masked)
    kept = nucleus.kept(logits, p[order], k[order]) & (logits > -torch.inf)
    defined = nucleus.draw(logits, t[order], p[order], k[order], seeds[order], positions)
    left = masked > -torch.inf
    return {
        "defined": int((tokens != defined).sum()),
        "with mask": int((tokens != again).sum()),
        "mask": int((left != kept).any(dim=1).sum()) if case.masked else 0,
        "cut off": int((~left.gather(1, again[:, None])).sum()),
        "alone": int((alone != tokens[-1:]).sum()) + int(case.masked and not torch.equal(one, masked[-1:])),
    }


def cut_off_at_the_edge() -> int:
    """How many tokens are lost that were drawn and come right after the nucleus, as by the rounding of a sum."""
    logits = torch.randn(ROWS, 5000, generator=torch.Generator().manual_seed(0)) * 0.3
    logits[1] = 0.0
    rows, p = torch.arange(ROWS, dtype=torch.int32), torch.full((ROWS,), 0.5)
    draw = Draw(rows, rows.long(), torch.ones(ROWS), p, torch.full((ROWS,), 5000, dtype=torch.int32), rows.long())
    sampler, masked = NucleusSampler(ROWS, 5000, "cpu"), logits.clone()
    sampler.draw(masked, draw, mask=True)
    order = logits.sort(dim=1, descending=True, stable=True).indices
    outside = order.gather(1, (masked > -torch.inf).sum(dim=1, keepdim=True))
    sampler.mask_after(logits, draw, outside[:, 0])
    return int((logits.gather(1, outside) == -torch.inf).sum())


if __name__ == "__main__":
    main()

"""Seeded nucleus sampling on a GPU: Triton kernels that give the tokens which `rollout.engine.nucleus` defines.

Most tokens of a vocabulary can neither be in the nucleus nor win against its likeliest token, whatever their noise. So
two passes over the logits find what is left (`nucleus_rows`), usually a few thousand tokens of 150,000, and all that is
costly is done for these only (`nucleus_choice`): noise, the sum of what is likelier than the winner, and, where that is
too much for the winner to be in the nucleus, the same again among the likelier ones. A row of which too much is left
(flat, or with top_p=1) is gone through as a whole; where its nucleus is to be known, `nucleus_last` finds its end.

Sizes of blocks are fixed and every sum has one order, so a row's token does not depend on the other rows of the batch.
The noise is vLLM's: `tl.rand` of (`tl.randint` of the seed and the position) and the token's id.
"""

from dataclasses import dataclass

import torch
import triton

from rollout.engine import nucleus
from rollout.engine.nucleus_choice import choose, mask_rest
from rollout.engine.nucleus_last import BOUNDS, PASSES, PIVOTS, SPAN, collect, find_last, narrow
from rollout.engine.nucleus_rows import BLOCK, SLOTS, block_sums, draw_whole, gather, thresholds

_WARPS = 8
"""Warps of the kernels whose programs have the most work."""


@dataclass(frozen=True)
class Draw:
    """What the rows of a batch are drawn with: vLLM's tensors, with one value for each request that it knows; and for
    each row, its request and the position of its next token.

    top_p=1 and a top_k as large as the vocabulary cut nothing off.
    """

    states: torch.Tensor
    positions: torch.Tensor
    temperature: torch.Tensor
    top_p: torch.Tensor
    top_k: torch.Tensor
    seeds: torch.Tensor

    @property
    def parameters(self) -> tuple[torch.Tensor, ...]:
        """The arguments of the kernels: the request of each row, and the parameters of each request."""
        return self.states.contiguous(), self.temperature, self.top_p, self.top_k


class NucleusSampler:
    """Draws tokens on one device, with its own memory for the tokens left in the rows: about 40 KB for each row.

    A sampler is for one vocabulary and one CUDA stream: each draw overwrites what the one before it has left.
    """

    def __init__(self, rows: int, vocabulary: int, device: torch.device | str) -> None:
        self._vocabulary, self._blocks, self._device = vocabulary, triton.cdiv(vocabulary, BLOCK.value), device
        self._make(rows)

    def draw(self, logits: torch.Tensor, draw: Draw, mask: bool = False) -> torch.Tensor:
        """A token for each row of `logits`, which are already divided by the temperature.

        With `mask`, the logits outside a row's nucleus are -inf afterwards.
        """
        rows = logits.shape[0]
        if rows > self._rows:
            self._make(rows)
        tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
        sizes, grid = (self._vocabulary, self._blocks), (rows, self._blocks)
        padded, (stride, of_token) = triton.next_power_of_2(self._blocks), logits.stride()
        assert of_token == 1
        requests, noise = draw.parameters, (draw.seeds, draw.positions.contiguous())
        of_rows, left = (self._row_max, self._row_sum, self._threshold), (self._counts, self._slots, self._whole)
        best = (self._block_max, self._winners)  # the maxima are not needed any more when it is written
        block_sums[grid](logits, stride, self._block_max, self._block_sum, *sizes)
        thresholds[(rows,)](*requests, self._block_max, self._block_sum, *of_rows, self._whole, *sizes, padded)
        gather[grid](logits, stride, self._block_max, self._threshold, *left, *sizes)
        draw_whole[grid](logits, stride, *requests, *noise, self._whole, *best, *sizes, num_warps=_WARPS)
        last = (self._last_values, self._last_tokens)
        chosen = (*requests, *noise, *of_rows, *left, *best, tokens, *last)
        choose[(rows,)](logits, stride, *chosen, *sizes, padded, mask, num_warps=_WARPS)
        if mask:
            self.mask_after(logits, draw, tokens)
        return tokens

    def draws_as_defined(self, dtype: torch.dtype) -> bool:
        """Whether eight rows of different kinds, with logits of this type, get the tokens that `nucleus` defines.

        The kernels were tested on a few GPUs and compilers only, and wrong tokens would look like any others. One row
        may differ: a sum in float32 may fall on the other side of the nucleus' edge.
        """
        rows, generator = torch.arange(8), torch.Generator().manual_seed(0)
        std = torch.where(rows % 2 == 0, 6.0, 0.5)
        logits = (torch.randn(8, self._vocabulary, generator=generator) * std[:, None]).to(dtype)
        t = torch.where(rows % 4 == 3, 0.0, 1.0)
        p = torch.where(rows % 3 == 2, 1.0, 0.9)
        k = torch.where(rows % 5 == 1, 20, self._vocabulary).to(torch.int32)
        seeds = torch.randint(-(2**62), 2**62, (8,), generator=generator)
        defined = nucleus.draw(logits, t, p, k, seeds, rows)  # on the CPU, as a run may leave no GPU memory for it
        draw = Draw(*(values.to(self._device) for values in (rows.to(torch.int32), rows, t, p, k, seeds)))
        return int((self.draw(logits.to(self._device), draw).cpu() != defined).sum()) <= 1

    def mask_after(self, logits: torch.Tensor, draw: Draw, tokens: torch.Tensor) -> None:
        """Set logits outside the nucleus of their row to -inf, but never those of `tokens`, which `draw` has drawn with
        `mask`.
        """
        rows, sizes = logits.shape[0], (self._vocabulary, self._blocks)
        groups = triton.cdiv(self._blocks, SPAN.value)
        grid, padded = (rows, groups), triton.next_power_of_2(groups)
        row = (logits, logits.stride(0), *draw.parameters)
        sums, bounds = (self._row_max, self._row_sum), (self._bounds, self._sums, self._ends)
        left, last = (self._counts, self._slots), (self._last_values, self._last_tokens)
        for number in range(PASSES.value):
            narrow[grid](*row, *sums, self._threshold, self._whole, *bounds, number, *sizes, padded, num_warps=_WARPS)
        collect[grid](*row, *sums, self._threshold, self._whole, *bounds, *left, *sizes, padded, num_warps=_WARPS)
        found, padded = (self._whole, self._bounds, self._ends, *left, tokens), triton.next_power_of_2(self._blocks)
        find_last[(rows,)](*row, *sums, *found, *last, *sizes, padded, num_warps=_WARPS)
        mask_rest[(rows, self._blocks)](logits, logits.stride(0), *last, self._vocabulary)

    def _make(self, rows: int) -> None:
        """Allocate the memory through which the kernels pass on results, for batches of up to `rows` rows.

        For each block of a row: its largest logit and the sum of exp(logit - largest); how many tokens are left, and in
        `slots` which ones; the token that wins in it. For each row: its largest logit and its sum; the logit from which
        on tokens are left; whether the whole row is read, because too many are; the logit and the id of the last token
        of its nucleus. `bounds`, `sums` and `ends` are for the search for that token, see `nucleus_last`.
        """

        def empty(dtype: torch.dtype, *shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device=self._device)

        self._rows, blocks = rows, self._blocks
        self._block_max, self._block_sum = (empty(torch.float32, rows, blocks) for _ in range(2))
        self._row_max, self._row_sum, self._threshold = (empty(torch.float32, rows) for _ in range(3))
        self._counts, self._winners = (empty(torch.int32, rows, blocks) for _ in range(2))
        self._slots, self._whole = empty(torch.int16, rows, blocks, SLOTS.value), empty(torch.int32, rows)
        groups = triton.cdiv(blocks, SPAN.value)
        self._bounds = empty(torch.float32, rows, PASSES.value + 1, BOUNDS.value)
        self._sums = empty(torch.float32, rows, PASSES.value + 1, groups, PIVOTS.value)
        self._ends = empty(torch.float32, rows, PASSES.value + 1, groups, 2)
        self._last_values, self._last_tokens = empty(torch.float32, rows), empty(torch.int32, rows)

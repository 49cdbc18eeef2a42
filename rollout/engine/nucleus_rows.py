"""The tokens of each row that can still be drawn: the first kernels of `nucleus_kernel`, one program per block."""

import triton
import triton.language as tl
from triton.language.extra import libdevice

BLOCK = tl.constexpr(2048)
SLOTS = tl.constexpr(256)
"""Tokens that can be left in a block before its whole row is read."""
NOBODY = tl.constexpr(0x7FFFFFFF)
_REACH = tl.constexpr(24.4)
"""The noise is at most 21.49 and at least -2.82: a token whose logit is further below the largest cannot win."""
_MARGIN = tl.constexpr(0.01)
"""Far more than the rounding error of logits and sums, so that no token of a nucleus is left out."""
_RAND_MIN = tl.constexpr(4.6566127342e-10)
"""The smallest number above 0 that `tl.rand` gives; vLLM uses it in place of 0."""


if triton.knobs.runtime.interpret:  # Triton's interpreter, on a CPU, lacks CUDA's functions

    @triton.jit
    def _log1p(x):
        return tl.where(x > -0.001, x - x * x * 0.5 + x * x * x / 3, tl.log(1.0 + x))

else:

    @triton.jit
    def _log1p(x):
        return libdevice.log1p(x)


@triton.jit
def noise(seed, idx):
    """Gumbel noise, as vLLM makes it."""
    u = tl.maximum(tl.rand(seed, idx), _RAND_MIN)
    return -tl.log(-_log1p(-u))


@triton.jit
def block_sums(logits, stride, block_max, block_sum, vocabulary, num_blocks):
    """The largest logit of a block, and the sum of exp(logit - largest)."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    idx = block * BLOCK + tl.arange(0, BLOCK)
    logit = tl.load(logits + row * stride + idx, mask=idx < vocabulary, other=float("-inf")).to(tl.float32)
    largest = tl.max(logit, axis=0)
    base = tl.where(largest == float("-inf"), 0.0, largest)
    tl.store(block_max + row * num_blocks + block, largest)
    tl.store(block_sum + row * num_blocks + block, tl.sum(tl.exp(logit - base), axis=0))


@triton.jit
def parameters(state, temperature, top_p, top_k):
    """The parameters of a request; for a row without one, those that give its first token."""
    known = state >= 0
    t = tl.load(temperature + state, mask=known, other=0.0)
    p = tl.load(top_p + state, mask=known, other=1.0)
    k = tl.load(top_k + state, mask=known, other=NOBODY)
    return t, p, k


@triton.jit
def thresholds(
    states,
    temperature,
    top_p,
    top_k,
    block_max,
    block_sum,
    row_max,
    row_sum,
    threshold,
    whole,
    vocabulary,
    num_blocks,
    padded: tl.constexpr,
):
    """The logit from which on a token of a row can be drawn, or is needed to find out which ones can.

    Less than (1 - top_p) of the mass is in tokens with less than (1 - top_p) / vocabulary each, so these are outside.
    At least k tokens are at least as large as the k-th largest of all blocks' maxima, so the first k are among those.
    """
    row = tl.program_id(0).to(tl.int64)
    t, p, k = parameters(tl.load(states + row), temperature, top_p, top_k)
    blocks = tl.arange(0, padded)
    maxima = tl.load(block_max + row * num_blocks + blocks, mask=blocks < num_blocks, other=float("-inf"))
    sums = tl.load(block_sum + row * num_blocks + blocks, mask=blocks < num_blocks, other=0.0)
    largest = tl.max(maxima, axis=0)
    base = tl.where(largest == float("-inf"), 0.0, largest)
    total = tl.sum(sums * tl.exp(maxima - base), axis=0)
    lowest = base - _REACH
    if t == 0.0:
        lowest = base
    if p < 1.0:
        lowest = base + tl.log(total) + tl.log((1.0 - p) / vocabulary) - _MARGIN
    if k <= num_blocks:
        descending = tl.sort(maxima, descending=True)
        lowest = tl.sum(tl.where(blocks == k - 1, descending, 0.0), axis=0)
    tl.store(row_max + row, base)
    tl.store(row_sum + row, total)
    tl.store(threshold + row, lowest)
    tl.store(whole + row, 0)


@triton.jit
def keep(left, slots):
    """How many tokens of a block are left; also which ones, in its slots, if there are enough slots."""
    count = tl.sum(left.to(tl.int32), axis=0)
    if count <= SLOTS:
        position = tl.cumsum(left.to(tl.int32), axis=0) - 1
        tl.store(slots + position, tl.arange(0, BLOCK).to(tl.int16), mask=left)
    return count


@triton.jit
def gather(logits, stride, block_max, threshold, counts, slots, whole, vocabulary, num_blocks):
    """How many tokens of a block reach the threshold, and which ones; marks its row as `whole` if they are many."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    place = row * num_blocks + block
    lowest = tl.load(threshold + row)
    count = 0
    if tl.load(block_max + place) >= lowest:
        idx = block * BLOCK + tl.arange(0, BLOCK)
        logit = tl.load(logits + row * stride + idx, mask=idx < vocabulary, other=float("-inf")).to(tl.float32)
        count = keep((logit >= lowest) & (idx < vocabulary), slots + place * SLOTS)
        if count > SLOTS:
            tl.store(whole + row, 1)
    tl.store(counts + place, count)


@triton.jit
def draw_whole(
    logits, stride, states, temperature, top_p, top_k, seeds, positions, whole, best, tokens, vocabulary, num_blocks
):
    """The winner of each block of a row that is read as a whole, unless top_k leaves little of the row anyway."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(whole + row) != 0:
        state = tl.load(states + row)
        t, _p, k = parameters(state, temperature, top_p, top_k)
        if (t != 0.0) & (k >= vocabulary):
            block = tl.program_id(1)
            idx = block * BLOCK + tl.arange(0, BLOCK)
            logit = tl.load(logits + row * stride + idx, mask=idx < vocabulary, other=float("-inf")).to(tl.float32)
            seed = tl.randint(tl.load(seeds + state), tl.load(positions + row))
            score = tl.where(idx < vocabulary, logit + noise(seed, idx), float("-inf"))
            highest = tl.max(score, axis=0)
            tl.store(best + row * num_blocks + block, highest)
            lowest = tl.min(tl.where((score == highest) & (idx < vocabulary), idx, NOBODY), axis=0)
            tl.store(tokens + row * num_blocks + block, lowest)

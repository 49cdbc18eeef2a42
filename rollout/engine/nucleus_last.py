"""The last token of the nucleus of rows that are read as a whole, for `nucleus_kernel`'s mask.

Its logit is searched for between two bounds. In each of a few passes over the logits, one program for every SPAN blocks
of a row sums the mass above PIVOTS logits between the bounds. The next pass begins with these sums, which give closer
bounds, so each pass is one kernel. So few tokens are left between the last bounds that one program per row finds the
last token.
"""

import triton
import triton.language as tl

from rollout.engine.nucleus_choice import is_before, is_searched, last_token, last_value, ordered_bits, parts
from rollout.engine.nucleus_rows import BLOCK, NOBODY, SLOTS, keep, parameters

PASSES = tl.constexpr(5)
"""The most passes; two or three are enough for logits that are spread like a model's."""
PIVOTS = tl.constexpr(8)
SPAN = tl.constexpr(8)
"""Blocks per program."""
BOUNDS = tl.constexpr(7)
"""Numbers known about a row before a pass, see `_bounds`."""
_FEW = tl.constexpr(32)
"""With this many tokens per block between the bounds, no further pass is needed."""


@triton.jit
def _pivots(bottom, top):
    return bottom + (top - bottom) * ((tl.arange(0, PIVOTS) + 1).to(tl.float32) / (PIVOTS + 1))


@triton.jit
def _store_ends(place, lowest, highest):
    tl.store(place, tl.min(lowest, axis=0))
    tl.store(place + 1, tl.max(highest, axis=0))


@triton.jit
def _load_ends(ends, groups, padded: tl.constexpr):
    group = tl.arange(0, padded)
    lowest = tl.load(ends + group * 2, mask=group < groups, other=float("inf"))
    highest = tl.load(ends + group * 2 + 1, mask=group < groups, other=float("-inf"))
    return tl.min(lowest, axis=0), tl.max(highest, axis=0)


@triton.jit
def _narrowed(known, limit, sums, ends, groups, padded: tl.constexpr):
    """Bounds after a pass. All sums are made in one order, so more is never less, and low stays below high."""
    low, high, mass_low, mass_high, bottom, top = known
    pivots = _pivots(bottom, top)
    group = tl.arange(0, padded)
    each = group[:, None] * PIVOTS + tl.arange(0, PIVOTS)[None, :]
    mass = tl.sum(tl.load(sums + each, mask=group[:, None] < groups, other=0.0), axis=0)
    inside = (mass < limit) & (pivots > low)
    lowest, highest = _load_ends(ends, groups, padded)
    mass_low = tl.min(tl.where(inside | (pivots <= low), mass_low, mass), axis=0)
    mass_high = tl.max(tl.where(inside, mass, mass_high), axis=0)
    low = tl.maximum(low, tl.max(tl.where(inside, low, pivots), axis=0))
    high = tl.min(tl.where(inside, pivots, high), axis=0)
    bottom = tl.where(lowest <= highest, tl.maximum(low, lowest), low)
    top = tl.where(lowest <= highest, tl.minimum(high, highest), high)
    return low, high, mass_low, mass_high, bottom, top


@triton.jit
def _bounds(number, row, group, limit, total, threshold, base, bounds, sums, ends, num_blocks, padded: tl.constexpr):
    """What is known before a pass, and kept for the next: the logit of the last token is above `low` and not above
    `high`, and the mass above each; the logits between these are from `bottom` to `top`; and whether they are few or
    equal.
    """
    low, high, mass_low, mass_high, bottom, top = threshold, base, total, 0.0 * base, threshold, base
    groups = tl.cdiv(num_blocks, SPAN)
    now = bounds + (row * (PASSES + 1) + number) * BOUNDS
    if number > 0:
        before = now - BOUNDS
        low, high, mass_low = tl.load(before), tl.load(before + 1), tl.load(before + 2)
        mass_high, bottom, top = tl.load(before + 3), tl.load(before + 4), tl.load(before + 5)
        if tl.load(before + 6) == 0.0:
            place = (row * (PASSES + 1) + number - 1) * groups
            known = low, high, mass_low, mass_high, bottom, top
            low, high, mass_low, mass_high, bottom, top = _narrowed(
                known, limit, sums + place * PIVOTS, ends + place * 2, groups, padded
            )
    few = (mass_low - mass_high <= num_blocks * _FEW * tl.exp(low - base)) | (bottom == top)
    if group == 0:
        tl.store(now, low)
        tl.store(now + 1, high)
        tl.store(now + 2, mass_low)
        tl.store(now + 3, mass_high)
        tl.store(now + 4, bottom)
        tl.store(now + 5, top)
        tl.store(now + 6, few.to(tl.float32))
    return low, high, bottom, top, few


@triton.jit(do_not_specialize=["number"])
def narrow(
    logits,
    stride,
    states,
    temperature,
    top_p,
    top_k,
    row_max,
    row_sum,
    threshold,
    whole,
    bounds,
    sums,
    ends,
    number,
    vocabulary,
    num_blocks,
    padded: tl.constexpr,
):
    """The mass of some blocks above each pivot, and their lowest and highest logit within the bounds."""
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    _t, p, k = parameters(tl.load(states + row), temperature, top_p, top_k)
    total = tl.load(row_sum + row)
    if is_searched(p, k, total, tl.load(whole + row), vocabulary):
        base, least = tl.load(row_max + row), tl.load(threshold + row)
        low, high, bottom, top, few = _bounds(
            number, row, group, p * total, total, least, base, bounds, sums, ends, num_blocks, padded
        )
        if ~few:
            pivots = _pivots(bottom, top)
            mass = tl.zeros((PIVOTS, BLOCK), tl.float32)
            lowest = tl.full((1, BLOCK), float("inf"), tl.float32)
            highest = tl.full((1, BLOCK), float("-inf"), tl.float32)
            for block in range(group * SPAN, tl.minimum(group * SPAN + SPAN, num_blocks)):
                idx = block * BLOCK + tl.arange(0, BLOCK)[None, :]
                logit = tl.load(logits + row * stride + idx, mask=idx < vocabulary, other=float("-inf")).to(tl.float32)
                mass += tl.where(logit > pivots[:, None], tl.exp(logit - base), 0.0)
                within = (logit > low) & (logit <= high)
                lowest = tl.minimum(lowest, tl.where(within, logit, float("inf")))
                highest = tl.maximum(highest, tl.where(within, logit, float("-inf")))
            place = (row * (PASSES + 1) + number) * tl.cdiv(num_blocks, SPAN) + group
            tl.store(sums + place * PIVOTS + tl.arange(0, PIVOTS), tl.sum(mass, axis=1))
            _store_ends(ends + place * 2, tl.min(lowest, axis=0), tl.max(highest, axis=0))


@triton.jit
def collect(
    logits,
    stride,
    states,
    temperature,
    top_p,
    top_k,
    row_max,
    row_sum,
    threshold,
    whole,
    bounds,
    sums,
    ends,
    counts,
    slots,
    vocabulary,
    num_blocks,
    padded: tl.constexpr,
):
    """How many tokens of each block are within the bounds after the last pass, and which ones; their lowest and highest
    logit.
    """
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    _t, p, k = parameters(tl.load(states + row), temperature, top_p, top_k)
    total = tl.load(row_sum + row)
    if is_searched(p, k, total, tl.load(whole + row), vocabulary):
        base, least = tl.load(row_max + row), tl.load(threshold + row)
        low, high, _bottom, _top, _few = _bounds(
            PASSES, row, group, p * total, total, least, base, bounds, sums, ends, num_blocks, padded
        )
        lowest = tl.full((BLOCK,), float("inf"), tl.float32)
        highest = tl.full((BLOCK,), float("-inf"), tl.float32)
        for block in range(group * SPAN, tl.minimum(group * SPAN + SPAN, num_blocks)):
            idx = block * BLOCK + tl.arange(0, BLOCK)
            logit = tl.load(logits + row * stride + idx, mask=idx < vocabulary, other=float("-inf")).to(tl.float32)
            within = (logit > low) & (logit <= high)
            place = row * num_blocks + block
            tl.store(counts + place, keep(within, slots + place * SLOTS))
            lowest = tl.minimum(lowest, tl.where(within, logit, float("inf")))
            highest = tl.maximum(highest, tl.where(within, logit, float("-inf")))
        place = (row * (PASSES + 1) + PASSES) * tl.cdiv(num_blocks, SPAN) + group
        _store_ends(ends + place * 2, lowest, highest)


@triton.jit
def _of_equals(value, number, logits, counts, vocabulary, num_blocks, padded: tl.constexpr):
    """The id of the `number`-th token with this logit, of which each block has `counts`."""
    blocks = tl.arange(0, padded)
    so_far = tl.cumsum(tl.load(counts + blocks, mask=blocks < num_blocks, other=0), axis=0)
    number = tl.minimum(number, tl.max(so_far, axis=0))
    block = tl.sum((so_far < number).to(tl.int32), axis=0)
    before = tl.max(tl.where(so_far < number, so_far, 0), axis=0)
    idx = block * BLOCK + tl.arange(0, BLOCK)
    logit = tl.load(logits + idx, mask=idx < vocabulary, other=float("-inf")).to(tl.float32)
    equal = (logit == value) & (idx < vocabulary)
    is_it = equal & (tl.cumsum(equal.to(tl.int32), axis=0) == number - before)
    return tl.sum(tl.where(is_it, idx, 0), axis=0)


@triton.jit
def find_last(
    logits,
    stride,
    states,
    temperature,
    top_p,
    top_k,
    row_max,
    row_sum,
    whole,
    bounds,
    ends,
    counts,
    slots,
    tokens,
    last_values,
    last_tokens,
    vocabulary,
    num_blocks,
    padded: tl.constexpr,
):
    """The last token of the nucleus by logit and id, or the drawn one if the sums put it just outside."""
    row = tl.program_id(0).to(tl.int64)
    _t, p, k = parameters(tl.load(states + row), temperature, top_p, top_k)
    total = tl.load(row_sum + row)
    if is_searched(p, k, total, tl.load(whole + row), vocabulary):
        its_logits, its_counts = logits + row * stride, counts + row * num_blocks
        known = bounds + (row * (PASSES + 1) + PASSES) * BOUNDS
        groups, blocks = tl.cdiv(num_blocks, SPAN), tl.arange(0, padded)
        lowest, highest = _load_ends(ends + (row * (PASSES + 1) + PASSES) * groups * 2, groups, padded)
        base = tl.load(row_max + row)
        rest = p * total - tl.load(known + 3)
        value, last = highest, 0
        if lowest == highest:
            number = tl.ceil(tl.minimum(rest / tl.exp(value - base), vocabulary)).to(tl.int32)
            last = _of_equals(value, tl.maximum(number, 1), its_logits, its_counts, vocabulary, num_blocks, padded)
        else:
            most = tl.max(tl.load(its_counts + blocks, mask=blocks < num_blocks, other=0), axis=0)
            its_slots = slots + row * num_blocks * SLOTS
            left = parts(most > SLOTS, most, its_logits, its_counts, its_slots, vocabulary, num_blocks)
            limit = tl.where(most > SLOTS, p * total, rest)
            low = ordered_bits(tl.load(known))
            value = last_value(limit, NOBODY, base, tl.load(known + 1), low, left)
            last = last_token(value, limit, NOBODY, base, left)
        token = tl.load(tokens + row).to(tl.int32)
        drawn = tl.load(its_logits + token).to(tl.float32)
        is_last = is_before(value, last, drawn, token)
        tl.store(last_values + row, tl.where(is_last, drawn, value))
        tl.store(last_tokens + row, tl.where(is_last, token, last))

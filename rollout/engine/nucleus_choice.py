"""The token of each row, drawn from what is left of it: the last kernels of `nucleus_kernel`, one program per row."""

import triton
import triton.language as tl

from rollout.engine.nucleus_rows import BLOCK, NOBODY, SLOTS, noise, parameters

_GROUP = tl.constexpr(32)
_CHUNK = tl.constexpr(64)
"""A tile of the tokens left is _GROUP blocks by _CHUNK slots."""

_TILES, _ALL_OF_IT, _LOGITS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(3)
_VOCABULARY, _NUM_BLOCKS = tl.constexpr(6), tl.constexpr(7)
"""Places in the tuple that `parts` returns, which is the argument `left` of the functions below."""


@triton.jit
def ordered_bits(logit):
    """Integers in the order of the logits; adding 0 makes -0 and 0 equal."""
    bits = (logit + 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)


@triton.jit
def logit_of(ordered):
    """The inverse of `ordered_bits`."""
    return tl.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).to(tl.float32, bitcast=True)


@triton.jit
def _left(logits, counts, slots, whole, k, vocabulary, num_blocks, padded: tl.constexpr):
    """The tokens left in a row, as `parts` returns them."""
    blocks = tl.arange(0, padded)
    left = tl.load(counts + blocks, mask=blocks < num_blocks, other=0)
    too_few = (k > num_blocks) & (k < vocabulary) & (tl.sum(left, axis=0) < k)
    all_of_it = (tl.load(whole) != 0) | too_few
    return parts(all_of_it, tl.max(left, axis=0), logits, counts, slots, vocabulary, num_blocks)


@triton.jit
def parts(all_of_it, most, logits, counts, slots, vocabulary, num_blocks):
    """The tokens left in a row: the number of tiles, whether it is the whole row, the number of chunks of slots, and
    where to read them; `most` is the largest number of tokens left in a block.
    """
    chunks = (most + _CHUNK - 1) // _CHUNK
    tiles = tl.where(all_of_it, tl.cdiv(vocabulary, _GROUP * _CHUNK), tl.cdiv(num_blocks, _GROUP) * chunks)
    return tiles, all_of_it, chunks, logits, counts, slots, vocabulary, num_blocks


@triton.jit
def _tile(number, left):
    """Logits and ids of a tile, and which of its places are filled; in one place, ids rise from tile to tile."""
    _tiles, all_of_it, chunks, logits, counts, slots, vocabulary, num_blocks = left
    group = tl.arange(0, _GROUP)[:, None]
    chunk = tl.arange(0, _CHUNK)[None, :]
    if all_of_it:
        idx = number * (_GROUP * _CHUNK) + group * _CHUNK + chunk
        live = idx < vocabulary
    else:
        block = (number // chunks) * _GROUP + group
        slot = (number % chunks) * _CHUNK + chunk
        live = slot < tl.load(counts + block, mask=block < num_blocks, other=0)
        idx = block * BLOCK + tl.load(slots + block * SLOTS + slot, mask=live, other=0).to(tl.int32)
    logit = tl.load(logits + idx, mask=live, other=float("-inf")).to(tl.float32)
    return logit, idx, live


@triton.jit
def is_before(logit, idx, value, token):
    """Whether a token comes before one with this logit and id."""
    return (logit > value) | ((logit == value) & (idx < token))


@triton.jit
def _before(value, token, base, left):
    """The mass, relative to exp(base), and the number of the tokens that come before one with this logit and id."""
    mass = tl.zeros((_GROUP, _CHUNK), tl.float32)
    count = tl.zeros((_GROUP, _CHUNK), tl.int32)
    for number in range(left[_TILES]):
        logit, idx, live = _tile(number, left)
        hit = live & is_before(logit, idx, value, token)
        mass += tl.where(hit, tl.exp(logit - base), 0.0)
        count += hit.to(tl.int32)
    return tl.sum(tl.sum(mass, axis=1), axis=0), tl.sum(tl.sum(count, axis=1), axis=0)


@triton.jit
def _above(value, base, left):
    """The mass and the number of the tokens above a logit, the lowest logit of these, and the highest of the other
    tokens.
    """
    mass = tl.zeros((_GROUP, _CHUNK), tl.float32)
    count = tl.zeros((_GROUP, _CHUNK), tl.int32)
    lowest = tl.full((_GROUP, _CHUNK), float("inf"), tl.float32)
    highest = tl.full((_GROUP, _CHUNK), float("-inf"), tl.float32)
    for number in range(left[_TILES]):
        logit, _idx, live = _tile(number, left)
        hit = live & (logit > value)
        mass += tl.where(hit, tl.exp(logit - base), 0.0)
        count += hit.to(tl.int32)
        lowest = tl.minimum(lowest, tl.where(hit, logit, float("inf")))
        highest = tl.maximum(highest, tl.where(hit, float("-inf"), logit))
    sums = tl.sum(tl.sum(mass, axis=1), axis=0), tl.sum(tl.sum(count, axis=1), axis=0)
    return sums[0], sums[1], tl.min(tl.min(lowest, axis=1), axis=0), tl.max(tl.max(highest, axis=1), axis=0)


@triton.jit
def _winner(value, token, seed, noisy, left):
    """The token with the largest logit + noise before one with this logit and id; of equal ones, the one with the
    lowest id.
    """
    best = tl.full((_GROUP, _CHUNK), float("-inf"), tl.float32)
    winner = tl.full((_GROUP, _CHUNK), NOBODY, tl.int32)
    for number in range(left[_TILES]):
        logit, idx, live = _tile(number, left)
        score = logit
        if noisy:
            score = logit + noise(seed, idx)
        better = live & is_before(logit, idx, value, token) & ((score > best) | (winner == NOBODY))
        best = tl.where(better, score, best)
        winner = tl.where(better, idx, winner)
    highest = tl.max(tl.max(best, axis=1), axis=0)
    return tl.min(tl.min(tl.where(best == highest, winner, NOBODY), axis=1), axis=0)


@triton.jit
def last_value(limit, k, base, high, low, left):
    """The lowest logit of a token that has less than `limit` of mass and fewer than `k` tokens above it.

    It is not above the logit `high`; `low`, an integer in the order of the logits, is below it. Each step skips the
    logits between two tokens.
    """
    high = ordered_bits(high)
    while high - 1 > low:
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        mass, count, lowest, highest = _above(logit_of(middle), base, left)
        inside = (mass < limit) & (count < k)
        high = tl.where(inside, ordered_bits(highest), high)
        low = tl.where(inside, low, ordered_bits(lowest) - 1)
    return logit_of(high)


@triton.jit
def last_token(value, limit, k, base, left):
    """The largest id with which a token of the last value is still kept."""
    low = -1
    high = left[_VOCABULARY]
    _mass, above = _before(value, -1, base, left)
    _mass, in_all = _before(value, high, base, left)
    if in_all - above <= 1:
        low = high
    while high - 1 > low:
        middle = (low + high) // 2
        mass, count = _before(value, middle, base, left)
        inside = (mass < limit) & (count < k)
        low = tl.where(inside, middle, low)
        high = tl.where(inside, high, middle)
    return low


@triton.jit
def _of_first(k, base, low, left):
    """The mass of the first k tokens, and the logit of the k-th."""
    value = last_value(float("inf"), k, base, base, low, left)
    mass, count = _before(value, -1, base, left)
    return mass + (k - count).to(tl.float32) * tl.exp(value - base), value


@triton.jit
def _inside(token, limit, k, seed, base, left):
    """From a winner among all tokens to the one among those with less than `limit` and fewer than `k` before them.

    A winner with more before it is not one of these, nor is any token after it: the next one is searched for before it.
    """
    outside = token != NOBODY
    while outside:
        value = tl.load(left[_LOGITS] + token).to(tl.float32)
        mass, count = _before(value, token, base, left)
        outside = (count > 0) & ((mass >= limit) | (count >= k))
        if outside:
            token = _winner(value, token, seed, True, left)
    return token


@triton.jit
def _first_winner(value, seed, noisy, best, tokens, is_drawn, left, padded: tl.constexpr):
    """The winner among the tokens with at least this logit, which `draw_whole` may have drawn."""
    if is_drawn:
        blocks = tl.arange(0, padded)
        scores = tl.load(best + blocks, mask=blocks < left[_NUM_BLOCKS], other=float("-inf"))
        winners = tl.load(tokens + blocks, mask=blocks < left[_NUM_BLOCKS], other=NOBODY)
        token = tl.min(tl.where(scores == tl.max(scores, axis=0), winners, NOBODY), axis=0)
    else:
        token = _winner(value, NOBODY, seed, noisy, left)
    return token


@triton.jit
def is_searched(p, k, total, whole, vocabulary):
    """Whether `nucleus_last` finds the last token of a row."""
    return (whole != 0) & (p < 1.0) & (k >= vocabulary) & (total > 0.0)


@triton.jit
def choose(
    logits,
    stride,
    states,
    temperature,
    top_p,
    top_k,
    seeds,
    positions,
    row_max,
    row_sum,
    threshold,
    counts,
    slots,
    whole,
    best,
    winners,
    tokens,
    last_values,
    last_tokens,
    vocabulary,
    num_blocks,
    padded: tl.constexpr,
    with_last: tl.constexpr,
):
    """The token of a row; with `with_last`, unless the row is searched, also the last token that could have been drawn,
    by logit and id.
    """
    row = tl.program_id(0).to(tl.int64)
    place = row * num_blocks
    state = tl.load(states + row)
    t, p, k = parameters(state, temperature, top_p, top_k)
    its_logits, its_counts, its_slots = logits + row * stride, counts + place, slots + place * SLOTS
    left = _left(its_logits, its_counts, its_slots, whole + row, k, vocabulary, num_blocks, padded)
    seed = tl.randint(tl.load(seeds + state, mask=state >= 0, other=0), tl.load(positions + row))
    base, limit, value = tl.load(row_max + row), float("inf"), float("-inf")
    low = tl.where(left[_ALL_OF_IT], ordered_bits(value + 0.0 * base), ordered_bits(tl.load(threshold + row))) - 1
    total = tl.load(row_sum + row)
    mass = total
    if k < vocabulary:
        mass, value = _of_first(k, base, low, left)
    if p < 1.0:
        limit = p * mass
    is_drawn = (tl.load(whole + row) != 0) & (t != 0.0) & (k >= vocabulary)
    token = _first_winner(value, seed, t != 0.0, best + place, winners + place, is_drawn, left, padded)
    if (t != 0.0) & ((p < 1.0) | (k < vocabulary)):
        token = _inside(token, limit, k, seed, base, left)
    tl.store(tokens + row, tl.where(token == NOBODY, 0, token).to(tl.int64))
    if with_last:  # noqa: SIM102 - Triton leaves out what is in it
        if ~is_searched(p, k, total, tl.load(whole + row), vocabulary):
            last = vocabulary
            value = float("-inf")
            if (p < 1.0) | (k < vocabulary):
                value = last_value(limit, k, base, base, low, left)
                last = last_token(value, limit, k, base, left)
            tl.store(last_values + row, value)
            tl.store(last_tokens + row, last)


@triton.jit
def mask_rest(logits, stride, last_values, last_tokens, vocabulary):
    """Set the logits after the last token that could have been drawn to -inf."""
    row = tl.program_id(0).to(tl.int64)
    value = tl.load(last_values + row)
    idx = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    place = logits + row * stride + idx
    logit = tl.load(place, mask=idx < vocabulary, other=float("-inf"))
    kept = is_before(logit.to(tl.float32), idx, value, tl.load(last_tokens + row) + 1)
    tl.store(place, tl.full(logit.shape, float("-inf"), logit.dtype), mask=(idx < vocabulary) & ~kept)

"""Seeded nucleus sampling on a GPU: Triton kernels that give the tokens which `rollout.engine.nucleus` defines.

Most tokens of a vocabulary can neither be in the nucleus nor win against its likeliest token, whatever their noise. So
two passes over the logits find what is left, `_block_sums` and `_gather`, usually a few thousand tokens of 150,000, and
all that is dear is done for these only: noise, the sum of what is likelier than the winner, and, where that is too much
for the winner to be in the nucleus, the same again among the likelier ones. A row of which too much is left (flat, or
with top_p=1) is gone through as a whole.

Sizes of blocks are fixed and every sum has one order, so a row's token does not depend on the other rows of the batch.
The noise is vLLM's: `tl.rand` of (`tl.randint` of the seed and the position) and the token's id.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

_BLOCK = tl.constexpr(2048)
_SLOTS = tl.constexpr(256)
"""Tokens that a block can have left before its row is gone through as a whole."""
_GROUP = tl.constexpr(32)
_CHUNK = tl.constexpr(64)
"""A tile of what is left is so many blocks by so many slots."""
_REACH = tl.constexpr(24.4)
"""The noise is at most 21.49 and at least -2.82: a token whose logit is further below the largest cannot win."""
_MARGIN = tl.constexpr(0.01)
"""Far more than logits and sums are off by rounding, so that nothing of a nucleus is left out."""
_RAND_MIN = tl.constexpr(4.6566127342e-10)
"""The smallest number but 0 that `tl.rand` gives; vLLM puts it in the place of 0."""
_NOBODY = tl.constexpr(0x7FFFFFFF)

_WARPS = 8


@triton.jit
def _log1p(x):  # type: ignore[no-untyped-def]
    return libdevice.log1p(x)


@triton.jit
def _noise(seed, idx):  # type: ignore[no-untyped-def]
    u = tl.maximum(tl.rand(seed, idx), _RAND_MIN)
    return -tl.log(-_log1p(-u))


@triton.jit
def _ordered(logit):  # type: ignore[no-untyped-def]
    """Integers in the order of the logits; adding 0 makes -0 and 0 one."""
    bits = (logit + 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)


@triton.jit
def _logit(ordered):  # type: ignore[no-untyped-def]
    """The other way."""
    return tl.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).to(tl.float32, bitcast=True)


@triton.jit
def _block_sums(logits, stride, block_max, block_sum, vocabulary, num_blocks):  # type: ignore[no-untyped-def]
    """The largest logit of a block, and the sum of exp(logit - largest)."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    idx = block * _BLOCK + tl.arange(0, _BLOCK)
    logit = tl.load(logits + row * stride + idx, mask=idx < vocabulary, other=float("-inf")).to(tl.float32)
    largest = tl.max(logit, axis=0)
    base = tl.where(largest == float("-inf"), 0.0, largest)
    tl.store(block_max + row * num_blocks + block, largest)
    tl.store(block_sum + row * num_blocks + block, tl.sum(tl.exp(logit - base), axis=0))


@triton.jit
def _parameters(state, temperature, top_p, top_k):  # type: ignore[no-untyped-def]
    """Of a request; of a row without one, what gives its first token."""
    known = state >= 0
    t = tl.load(temperature + state, mask=known, other=0.0)
    p = tl.load(top_p + state, mask=known, other=1.0)
    k = tl.load(top_k + state, mask=known, other=_NOBODY)
    return t, p, k


@triton.jit
def _thresholds(  # type: ignore[no-untyped-def]
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
    """From which logit on a token of a row can be drawn, or is needed to say what can.

    Less than (1 - top_p) of the mass is in tokens each of less than (1 - top_p) / vocabulary, so these are outside.
    At least k tokens are at least as large as the k-th largest of all blocks' maxima, so the first k are among those.
    """
    row = tl.program_id(0).to(tl.int64)
    t, p, k = _parameters(tl.load(states + row), temperature, top_p, top_k)
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
def _gather(  # type: ignore[no-untyped-def]
    logits, stride, block_max, threshold, counts, slots, whole, vocabulary, num_blocks
):
    """How many tokens of a block reach the threshold, and which; a note that its row is `whole` where they are many."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    place = row * num_blocks + block
    lowest = tl.load(threshold + row)
    count = 0
    if tl.load(block_max + place) >= lowest:
        offset = tl.arange(0, _BLOCK)
        idx = block * _BLOCK + offset
        logit = tl.load(logits + row * stride + idx, mask=idx < vocabulary, other=float("-inf")).to(tl.float32)
        left = (logit >= lowest) & (idx < vocabulary)
        count = tl.sum(left.to(tl.int32), axis=0)
        if count <= _SLOTS:
            position = tl.cumsum(left.to(tl.int32), axis=0) - 1
            tl.store(slots + place * _SLOTS + position, offset.to(tl.int16), mask=left)
        else:
            tl.store(whole + row, 1)
    tl.store(counts + place, count)


@triton.jit
def _draw_whole(  # type: ignore[no-untyped-def]
    logits, stride, states, temperature, top_p, top_k, seeds, positions, whole, best, tokens, vocabulary, num_blocks
):
    """The winner of each block of a row that is gone through as a whole, unless top_k leaves little of it anyway."""
    row = tl.program_id(0).to(tl.int64)
    if tl.load(whole + row) != 0:
        state = tl.load(states + row)
        t, _p, k = _parameters(state, temperature, top_p, top_k)
        if (t != 0.0) & (k >= vocabulary):
            block = tl.program_id(1)
            idx = block * _BLOCK + tl.arange(0, _BLOCK)
            logit = tl.load(logits + row * stride + idx, mask=idx < vocabulary, other=float("-inf")).to(tl.float32)
            seed = tl.randint(tl.load(seeds + state), tl.load(positions + row))
            score = tl.where(idx < vocabulary, logit + _noise(seed, idx), float("-inf"))
            highest = tl.max(score, axis=0)
            tl.store(best + row * num_blocks + block, highest)
            lowest = tl.min(tl.where((score == highest) & (idx < vocabulary), idx, _NOBODY), axis=0)
            tl.store(tokens + row * num_blocks + block, lowest)


@triton.jit
def _left(logits, counts, slots, whole, k, vocabulary, num_blocks, padded: tl.constexpr):  # type: ignore[no-untyped-def]
    """What is left of a row, for the functions below: in how many tiles, and whether it is the whole row."""
    blocks = tl.arange(0, padded)
    left = tl.load(counts + blocks, mask=blocks < num_blocks, other=0)
    too_few = (k > num_blocks) & (k < vocabulary) & (tl.sum(left, axis=0) < k)
    all_of_it = (tl.load(whole) != 0) | too_few
    chunks = (tl.max(left, axis=0) + _CHUNK - 1) // _CHUNK
    tiles = tl.where(all_of_it, tl.cdiv(vocabulary, _GROUP * _CHUNK), tl.cdiv(num_blocks, _GROUP) * chunks)
    return tiles, all_of_it, chunks, logits, counts, slots, vocabulary, num_blocks


@triton.jit
def _tile(number, left):  # type: ignore[no-untyped-def]
    """Logits and ids of a tile, and which of its places hold any; in a place, ids rise from tile to tile."""
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
        idx = block * _BLOCK + tl.load(slots + block * _SLOTS + slot, mask=live, other=0).to(tl.int32)
    logit = tl.load(logits + idx, mask=live, other=float("-inf")).to(tl.float32)
    return logit, idx, live


@triton.jit
def _is_before(logit, idx, value, token):  # type: ignore[no-untyped-def]
    return (logit > value) | ((logit == value) & (idx < token))


@triton.jit
def _before(value, token, base, left):  # type: ignore[no-untyped-def]
    """The mass, relative to exp(base), and the number of the tokens before one of this logit and id in the order."""
    mass = tl.zeros((_GROUP, _CHUNK), tl.float32)
    count = tl.zeros((_GROUP, _CHUNK), tl.int32)
    for number in range(left[0]):
        logit, idx, live = _tile(number, left)
        hit = live & _is_before(logit, idx, value, token)
        mass += tl.where(hit, tl.exp(logit - base), 0.0)
        count += hit.to(tl.int32)
    return tl.sum(tl.sum(mass, axis=1), axis=0), tl.sum(tl.sum(count, axis=1), axis=0)


@triton.jit
def _above(value, base, left):  # type: ignore[no-untyped-def]
    """The mass and the number of the tokens above a logit, the lowest logit of these, and the highest of the others."""
    mass = tl.zeros((_GROUP, _CHUNK), tl.float32)
    count = tl.zeros((_GROUP, _CHUNK), tl.int32)
    lowest = tl.full((_GROUP, _CHUNK), float("inf"), tl.float32)
    highest = tl.full((_GROUP, _CHUNK), float("-inf"), tl.float32)
    for number in range(left[0]):
        logit, _idx, live = _tile(number, left)
        hit = live & (logit > value)
        mass += tl.where(hit, tl.exp(logit - base), 0.0)
        count += hit.to(tl.int32)
        lowest = tl.minimum(lowest, tl.where(hit, logit, float("inf")))
        highest = tl.maximum(highest, tl.where(hit, float("-inf"), logit))
    sums = tl.sum(tl.sum(mass, axis=1), axis=0), tl.sum(tl.sum(count, axis=1), axis=0)
    return sums[0], sums[1], tl.min(tl.min(lowest, axis=1), axis=0), tl.max(tl.max(highest, axis=1), axis=0)


@triton.jit
def _winner(value, token, seed, noisy, left):  # type: ignore[no-untyped-def]
    """The token of the largest logit + noise of those before one of this logit and id; of equal ones the lowest id."""
    best = tl.full((_GROUP, _CHUNK), float("-inf"), tl.float32)
    winner = tl.full((_GROUP, _CHUNK), _NOBODY, tl.int32)
    for number in range(left[0]):
        logit, idx, live = _tile(number, left)
        score = logit
        if noisy:
            score = logit + _noise(seed, idx)
        better = live & _is_before(logit, idx, value, token) & ((score > best) | (winner == _NOBODY))
        best = tl.where(better, score, best)
        winner = tl.where(better, idx, winner)
    highest = tl.max(tl.max(best, axis=1), axis=0)
    return tl.min(tl.min(tl.where(best == highest, winner, _NOBODY), axis=1), axis=0)


@triton.jit
def _last_value(limit, k, base, low, left):  # type: ignore[no-untyped-def]
    """The lowest logit of a token that has less than `limit` of mass and fewer than `k` tokens above it.

    `low`, an integer in the order of the logits, is below it. Each step leaves out what lies between two tokens.
    """
    high = _ordered(base)
    while high - 1 > low:
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        mass, count, lowest, highest = _above(_logit(middle), base, left)
        inside = (mass < limit) & (count < k)
        high = tl.where(inside, _ordered(highest), high)
        low = tl.where(inside, low, _ordered(lowest) - 1)
    return _logit(high)


@triton.jit
def _last_token(value, limit, k, base, left):  # type: ignore[no-untyped-def]
    """The largest id that a token of the last value can have to be kept."""
    low = -1
    high = left[6]
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
def _of_first(k, base, low, left):  # type: ignore[no-untyped-def]
    """The mass of the first k tokens, and the logit of the k-th."""
    value = _last_value(float("inf"), k, base, low, left)
    mass, count = _before(value, -1, base, left)
    return mass + (k - count).to(tl.float32) * tl.exp(value - base), value


@triton.jit
def _inside(token, limit, k, seed, base, left):  # type: ignore[no-untyped-def]
    """From a winner among all tokens to the one among those with less than `limit` and fewer than `k` before them.

    A winner that has more is not one of these, nor is what comes after it: the next one is looked for before it.
    """
    outside = token != _NOBODY
    while outside:
        value = tl.load(left[3] + token).to(tl.float32)
        mass, count = _before(value, token, base, left)
        outside = (count > 0) & ((mass >= limit) | (count >= k))
        if outside:
            token = _winner(value, token, seed, True, left)
    return token


@triton.jit
def _first_winner(value, seed, noisy, best, tokens, is_drawn, left, padded: tl.constexpr):  # type: ignore[no-untyped-def]
    """The winner among the tokens of at least this logit, which `_draw_whole` may have drawn."""
    if is_drawn:
        blocks = tl.arange(0, padded)
        scores = tl.load(best + blocks, mask=blocks < left[7], other=float("-inf"))
        winners = tl.load(tokens + blocks, mask=blocks < left[7], other=_NOBODY)
        token = tl.min(tl.where(scores == tl.max(scores, axis=0), winners, _NOBODY), axis=0)
    else:
        token = _winner(value, _NOBODY, seed, noisy, left)
    return token


@triton.jit
def _choose(  # type: ignore[no-untyped-def]
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
    """The token of a row; `with_last` also the last token, by logit and id, that could have been it."""
    row = tl.program_id(0).to(tl.int64)
    place = row * num_blocks
    state = tl.load(states + row)
    t, p, k = _parameters(state, temperature, top_p, top_k)
    of_row = logits + row * stride, counts + place, slots + place * _SLOTS, whole + row
    left = _left(of_row[0], of_row[1], of_row[2], of_row[3], k, vocabulary, num_blocks, padded)
    seed = tl.randint(tl.load(seeds + state, mask=state >= 0, other=0), tl.load(positions + row))
    base, limit, value = tl.load(row_max + row), float("inf"), float("-inf")
    low = tl.where(left[1], _ordered(value + 0.0 * base), _ordered(tl.load(threshold + row))) - 1
    mass = tl.load(row_sum + row)
    if k < vocabulary:
        mass, value = _of_first(k, base, low, left)
    if p < 1.0:
        limit = p * mass
    is_drawn = (tl.load(whole + row) != 0) & (t != 0.0) & (k >= vocabulary)
    token = _first_winner(value, seed, t != 0.0, best + place, winners + place, is_drawn, left, padded)
    if (t != 0.0) & ((p < 1.0) | (k < vocabulary)):
        token = _inside(token, limit, k, seed, base, left)
    tl.store(tokens + row, tl.where(token == _NOBODY, 0, token).to(tl.int64))
    if with_last:
        last = left[6]
        value = float("-inf")
        if (p < 1.0) | (k < vocabulary):
            value = _last_value(limit, k, base, low, left)
            last = _last_token(value, limit, k, base, left)
        tl.store(last_values + row, value)
        tl.store(last_tokens + row, last)


@triton.jit
def _mask(logits, stride, last_values, last_tokens, vocabulary):  # type: ignore[no-untyped-def]
    """-inf for what comes after the last token that could have been drawn."""
    row = tl.program_id(0).to(tl.int64)
    value = tl.load(last_values + row)
    idx = tl.program_id(1) * _BLOCK + tl.arange(0, _BLOCK)
    place = logits + row * stride + idx
    logit = tl.load(place, mask=idx < vocabulary, other=float("-inf"))
    kept = _is_before(logit.to(tl.float32), idx, value, tl.load(last_tokens + row) + 1)
    tl.store(place, tl.full(logit.shape, float("-inf"), logit.dtype), mask=(idx < vocabulary) & ~kept)


@dataclass(frozen=True)
class Draw:
    """What the rows of a batch are drawn with: vLLM's tensors, one value for each request that it knows, and for each
    row which request it belongs to and where its next token stands.

    top_p=1 and a top_k as large as the vocabulary are none.
    """

    states: torch.Tensor
    positions: torch.Tensor
    temperature: torch.Tensor
    top_p: torch.Tensor
    top_k: torch.Tensor
    seeds: torch.Tensor


class NucleusSampler:
    """Draws tokens on one device, with memory of its own for what is left of the rows: about 40 KB for each.

    A sampler is for one vocabulary and one stream: the next draw overwrites what the one before has left.
    """

    def __init__(self, rows: int, vocabulary: int, device: torch.device | str) -> None:
        self._vocabulary, self._blocks, self._device = vocabulary, triton.cdiv(vocabulary, _BLOCK.value), device
        self._make(rows)

    def draw(self, logits: torch.Tensor, draw: Draw, mask: bool = False) -> torch.Tensor:
        """A token for each row of `logits`, which have been divided by their temperature.

        With `mask`, what is not in a row's nucleus is -inf in `logits` afterwards.
        """
        rows = logits.shape[0]
        if rows > self._rows:
            self._make(rows)
        tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
        sizes, grid = (self._vocabulary, self._blocks), (rows, self._blocks)
        padded, (stride, of_token) = triton.next_power_of_2(self._blocks), logits.stride()
        assert of_token == 1
        requests = (draw.states.contiguous(), draw.temperature, draw.top_p, draw.top_k)
        drawn = (draw.seeds, draw.positions.contiguous())
        of_rows, left = (self._row_max, self._row_sum, self._threshold), (self._counts, self._slots, self._whole)
        best = (self._block_max, self._winners)  # the maxima are not needed any more when it is written
        _block_sums[grid](logits, stride, self._block_max, self._block_sum, *sizes)
        _thresholds[(rows,)](*requests, self._block_max, self._block_sum, *of_rows, self._whole, *sizes, padded)
        _gather[grid](logits, stride, self._block_max, self._threshold, *left, *sizes)
        _draw_whole[grid](logits, stride, *requests, *drawn, self._whole, *best, *sizes, num_warps=_WARPS)
        last = (self._last_values, self._last_tokens)
        chosen = (*requests, *drawn, *of_rows, *left, *best, tokens, *last)
        _choose[(rows,)](logits, stride, *chosen, *sizes, padded, mask, num_warps=_WARPS)
        if mask:
            _mask[grid](logits, stride, *last, self._vocabulary)
        return tokens

    def _make(self, rows: int) -> None:
        def empty(dtype: torch.dtype, *shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device=self._device)

        self._rows, blocks = rows, self._blocks
        self._block_max, self._block_sum = (empty(torch.float32, rows, blocks) for _ in range(2))
        self._row_max, self._row_sum, self._threshold = (empty(torch.float32, rows) for _ in range(3))
        self._counts, self._winners = (empty(torch.int32, rows, blocks) for _ in range(2))
        self._slots, self._whole = empty(torch.int16, rows, blocks, _SLOTS.value), empty(torch.int32, rows)
        self._last_values, self._last_tokens = empty(torch.float32, rows), empty(torch.int32, rows)

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
_INFINITE = tl.constexpr(-8388608)
"""The bits of -inf."""
_LOWEST = tl.constexpr(-(2**63))

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
def _key(logit, idx):  # type: ignore[no-untyped-def]
    """Integers in the order of the tokens, the first the largest: by logit, and of equal ones the lower id first."""
    return (_ordered(logit).to(tl.int64) << 32) + (idx ^ _NOBODY).to(tl.int64)


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


@triton.jit
def _gather(  # type: ignore[no-untyped-def]
    logits, stride, block_max, threshold, counts, slots, vocabulary, num_blocks
):
    """How many tokens of a block reach the threshold, and, if its slots hold them, which."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    place = row * num_blocks + block
    lowest = tl.load(threshold + row)
    if tl.load(block_max + place) < lowest:
        tl.store(counts + place, 0)
    else:
        offset = tl.arange(0, _BLOCK)
        idx = block * _BLOCK + offset
        logit = tl.load(logits + row * stride + idx, mask=idx < vocabulary, other=float("-inf")).to(tl.float32)
        left = (logit >= lowest) & (idx < vocabulary)
        position = tl.cumsum(left.to(tl.int32), axis=0) - 1
        tl.store(slots + place * _SLOTS + position, offset.to(tl.int16), mask=left & (position < _SLOTS))
        tl.store(counts + place, tl.sum(left.to(tl.int32), axis=0))


@triton.jit
def _left(logits, counts, slots, k, vocabulary, num_blocks, padded: tl.constexpr):  # type: ignore[no-untyped-def]
    """What is left of a row, for the functions below: in how many tiles, and whether it is the whole row."""
    blocks = tl.arange(0, padded)
    left = tl.load(counts + blocks, mask=blocks < num_blocks, other=0)
    most = tl.max(left, axis=0)
    too_few = (k > num_blocks) & (k < vocabulary) & (tl.sum(left, axis=0) < k)
    whole = (most > _SLOTS) | too_few
    chunks = (most + _CHUNK - 1) // _CHUNK
    tiles = tl.where(whole, tl.cdiv(vocabulary, _GROUP * _CHUNK), tl.cdiv(num_blocks, _GROUP) * chunks)
    return tiles, whole, chunks, logits, counts, slots, vocabulary, num_blocks


@triton.jit
def _tile(number, left):  # type: ignore[no-untyped-def]
    """Logits and ids of a tile, and which of its places hold any."""
    _tiles, whole, chunks, logits, counts, slots, vocabulary, num_blocks = left
    group = tl.arange(0, _GROUP)[:, None]
    chunk = tl.arange(0, _CHUNK)[None, :]
    if whole:
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
def _before(key, base, left):  # type: ignore[no-untyped-def]
    """The mass, relative to exp(base), and the number of tokens before `key` in the order."""
    mass = 0.0
    count = 0
    for number in range(left[0]):
        logit, idx, live = _tile(number, left)
        hit = live & (_key(logit, idx) > key)
        mass += tl.sum(tl.sum(tl.where(hit, tl.exp(logit - base), 0.0), axis=1), axis=0)
        count += tl.sum(tl.sum(hit.to(tl.int32), axis=1), axis=0)
    return mass, count


@triton.jit
def _winner(floor, seed, noisy, left):  # type: ignore[no-untyped-def]
    """The token of the largest logit + noise whose key is at least `floor`; of equal ones the lowest id."""
    best = float("-inf")
    token = _NOBODY
    for number in range(left[0]):
        logit, idx, live = _tile(number, left)
        score = logit
        if noisy:
            score = logit + _noise(seed, idx)
        allowed = live & (_key(logit, idx) >= floor)
        score = tl.where(allowed, score, float("-inf"))
        highest = tl.max(tl.max(score, axis=1), axis=0)
        lowest = tl.min(tl.min(tl.where(allowed & (score == highest), idx, _NOBODY), axis=1), axis=0)
        token = tl.where(highest > best, lowest, tl.where(highest == best, tl.minimum(token, lowest), token))
        best = tl.maximum(best, highest)
    return token


@triton.jit
def _last_value(limit, k, base, low, left):  # type: ignore[no-untyped-def]
    """The lowest logit, as an integer, that has less than `limit` of mass and fewer than `k` tokens above it.

    `low`, an integer too, has more.
    """
    high = _ordered(base)
    while high - 1 > low:
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        mass, count = _before((middle.to(tl.int64) << 32) + _NOBODY, base, left)
        inside = (mass < limit) & (count < k)
        high = tl.where(inside, middle, high)
        low = tl.where(inside, low, middle)
    return high


@triton.jit
def _last_key(value, limit, k, base, left):  # type: ignore[no-untyped-def]
    """The key of the last token that is kept among those whose logit is `value`."""
    low = (value.to(tl.int64) << 32) - 1
    high = (value.to(tl.int64) << 32) + _NOBODY
    while high - 1 > low:
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        mass, count = _before(middle, base, left)
        inside = (mass < limit) & (count < k)
        high = tl.where(inside, middle, high)
        low = tl.where(inside, low, middle)
    return high


@triton.jit
def _of_first(k, base, low, left):  # type: ignore[no-untyped-def]
    """The mass of the first k tokens, and the logit of the k-th as an integer."""
    value = _last_value(float("inf"), k, base, low, left)
    mass, count = _before((value.to(tl.int64) << 32) + _NOBODY, base, left)
    bits = tl.where(value >= 0, value, value ^ 0x7FFFFFFF)
    return mass + (k - count).to(tl.float32) * tl.exp(bits.to(tl.float32, bitcast=True) - base), value


@triton.jit
def _inside(floor, limit, k, seed, base, left):  # type: ignore[no-untyped-def]
    """The winner among the tokens that have less than `limit` of mass and fewer than `k` tokens before them.

    A winner that has more is not among them, nor is what comes after it: the next one is looked for before it.
    """
    token = _winner(floor, seed, True, left)
    outside = token != _NOBODY
    while outside:
        key = _key(tl.load(left[3] + token).to(tl.float32), token)
        mass, count = _before(key, base, left)
        outside = (count > 0) & ((mass >= limit) | (count >= k))
        if outside:
            token = _winner(key + 1, seed, True, left)
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
    tokens,
    bounds,
    vocabulary,
    num_blocks,
    padded: tl.constexpr,
    with_bound: tl.constexpr,
):
    """The token of a row; `with_bound` also the key of the last token that could have been it."""
    row = tl.program_id(0).to(tl.int64)
    place = row * num_blocks
    state = tl.load(states + row)
    t, p, k = _parameters(state, temperature, top_p, top_k)
    left = _left(logits + row * stride, counts + place, slots + place * _SLOTS, k, vocabulary, num_blocks, padded)
    seed = tl.randint(tl.load(seeds + state, mask=state >= 0, other=0), tl.load(positions + row))
    base, total = tl.load(row_max + row), tl.load(row_sum + row)
    low = tl.where(left[1], _INFINITE ^ 0x7FFFFFFF, _ordered(tl.load(threshold + row))) - 1
    limit, floor, cut = float("inf"), _LOWEST, (p < 1.0) | (k < vocabulary)
    if k < vocabulary:
        total, value = _of_first(k, base, low, left)
        floor = value.to(tl.int64) << 32
    if p < 1.0:
        limit = p * total
    if cut & (t != 0.0):  # noqa: SIM108  one branch is run, where an expression would run both
        token = _inside(floor, limit, k, seed, base, left)
    else:
        token = _winner(_LOWEST, seed, t != 0.0, left)
    tl.store(tokens + row, tl.where(token == _NOBODY, 0, token).to(tl.int64))
    if with_bound:
        bound = _LOWEST
        if cut:
            bound = _last_key(_last_value(limit, k, base, low, left), limit, k, base, left)
        tl.store(bounds + row, bound)


@triton.jit
def _mask(logits, stride, bounds, vocabulary):  # type: ignore[no-untyped-def]
    """-inf for what comes after the last token that could have been drawn."""
    row = tl.program_id(0).to(tl.int64)
    bound = tl.load(bounds + row)
    idx = tl.program_id(1) * _BLOCK + tl.arange(0, _BLOCK)
    place = logits + row * stride + idx
    logit = tl.load(place, mask=idx < vocabulary, other=float("-inf"))
    out = (idx < vocabulary) & (_key(logit.to(tl.float32), idx) < bound)
    tl.store(place, tl.full(logit.shape, float("-inf"), logit.dtype), mask=out)


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
        of_rows, left = (self._row_max, self._row_sum, self._threshold), (self._counts, self._slots)
        _block_sums[grid](logits, stride, self._block_max, self._block_sum, *sizes)
        _thresholds[(rows,)](*requests, self._block_max, self._block_sum, *of_rows, *sizes, padded)
        _gather[grid](logits, stride, self._block_max, self._threshold, *left, *sizes)
        drawn = (draw.seeds, draw.positions.contiguous(), *of_rows, *left, tokens, self._bounds)
        _choose[(rows,)](logits, stride, *requests, *drawn, *sizes, padded, mask, num_warps=_WARPS)
        if mask:
            _mask[grid](logits, stride, self._bounds, self._vocabulary)
        return tokens

    def _make(self, rows: int) -> None:
        def empty(dtype: torch.dtype, *shape: int) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device=self._device)

        self._rows, blocks = rows, self._blocks
        self._block_max, self._block_sum = (empty(torch.float32, rows, blocks) for _ in range(2))
        self._row_max, self._row_sum, self._threshold = (empty(torch.float32, rows) for _ in range(3))
        self._counts, self._slots = empty(torch.int32, rows, blocks), empty(torch.int16, rows, blocks, _SLOTS.value)
        self._bounds = empty(torch.int64, rows)

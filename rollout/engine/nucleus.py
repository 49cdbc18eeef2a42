"""The definition of a seeded draw from a nucleus, in torch; `nucleus_kernel` is tested against it.

The tokens of a row are ordered: the larger logit first, and of equal ones the lower id. top_k keeps the first k of
them. Of these, top_p keeps the tokens that have less than p of their mass before them, so always the first. The token
drawn is the kept one with the largest logit + noise. The noise of a token is vLLM's, a function of the request's seed,
the position and the token's id. So what is cut off decides which token wins, but not its noise.
"""

import torch

_WORD = 0xFFFFFFFF
_ROUNDS = 10
_ROUND = (0xD2511F53, 0xCD9E8D57)
_RAISE = (0x9E3779B9, 0xBB67AE85)
_RAND_SCALE = 4.6566127342e-10
_RAND_MIN = 4.6566127342e-10


def draw(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_p: torch.Tensor,
    top_k: torch.Tensor,
    seeds: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """A token for each row of `logits`, which are already divided by the temperature; temperature=0 takes the first."""
    scores = logits.float() + noise(seeds, positions, logits.shape[1])
    scores = torch.where(temperature[:, None] == 0, logits.float(), scores)
    return scores.masked_fill(~kept(logits, top_p, top_k), -torch.inf).argmax(dim=1)


def kept(logits: torch.Tensor, top_p: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """Which tokens of each row can be drawn."""
    ordered, tokens = logits.float().sort(dim=1, descending=True, stable=True)
    mass = torch.softmax(ordered.double(), dim=1)
    first = torch.arange(logits.shape[1], device=logits.device)[None] < top_k[:, None]
    mass = torch.where(first, mass, 0.0)
    before = mass.cumsum(dim=1) - mass
    inside = (before < top_p.double()[:, None] * mass.sum(dim=1, keepdim=True)) | (top_p[:, None] >= 1)
    inside[:, 0] = True
    return torch.zeros_like(inside).scatter_(1, tokens, inside & first)


def noise(seeds: torch.Tensor, positions: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """The Gumbel noise of every token, for each pair of a seed and a position."""
    of_row = _philox(seeds, positions)
    words = _philox(of_row[:, None], torch.arange(vocabulary, device=seeds.device)[None])
    signed = torch.where(words > _WORD >> 1, _WORD - words, words)  # -x - 1 of a negative x
    uniform = (signed.float() * torch.tensor(_RAND_SCALE)).clamp(min=_RAND_MIN)
    return -torch.log(-torch.log1p(-uniform))


def _philox(seed: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """The first word of Philox-4x32-10, as Triton's `tl.randint` gives it; 64-bit integers that hold 32 bits."""
    key = [seed & _WORD, seed >> 32 & _WORD]
    c0, c1 = torch.broadcast_tensors(offset & _WORD, (offset >> 32 & _WORD) + 0 * seed)
    c2 = c3 = torch.zeros_like(c1)
    for _ in range(_ROUNDS):
        a, b = c0 * _ROUND[0], c2 * _ROUND[1]  # an overflow keeps its bits
        c0, c2 = (b >> 32 & _WORD) ^ c1 ^ key[0], (a >> 32 & _WORD) ^ c3 ^ key[1]
        c1, c3 = b & _WORD, a & _WORD
        key = [word + step & _WORD for word, step in zip(key, _RAISE, strict=True)]
    return c0

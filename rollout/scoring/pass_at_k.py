"""The success of k samples per prompt: pass@k and majority@k."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import comb

import numpy as np
import numpy.typing as npt


@lru_cache(maxsize=1 << 16)
def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of `k` samples drawn without replacement from `n`, of which `c` pass, passes.

    The unbiased estimator 1 - C(n - c, k) / C(n, k) of Chen et al. 2021, "Evaluating Large Language Models Trained on
    Code" (arXiv:2107.03374), equation 1, in whole numbers: exact up to the last division. `k` is at most `n`.
    """
    return 1.0 - comb(n - c, k) / comb(n, k)


def majority_at_k(answers: Sequence[str | None], passed: Sequence[bool], k: int) -> float:
    """Whether the most frequent answer among the first `k` samples passes: 1.0 or 0.0.

    If several answers are the most frequent, the result is the share of them that pass, as if one were drawn at random.
    Samples without an answer do not vote; without any vote it is 0. Self-consistency, Wang et al. 2022
    (arXiv:2203.11171).
    """
    votes = Counter(answer for answer in answers[:k] if answer is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    is_right = {answer: right for answer, right in zip(answers[:k], passed[:k], strict=True) if answer is not None}
    elected = [answer for answer, count in votes.items() if count == most]
    return sum(is_right[answer] for answer in elected) / len(elected)


def majorities_at_k(answers: npt.NDArray[np.int64], passed: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """`majority_at_k` of many rows. The arrays have shape (rows, k); answers are numbers, -1 for none."""
    votes = (answers[:, :, None] == answers[:, None, :]).sum(axis=2) * (answers >= 0)
    is_elected = (votes == votes.max(axis=1, keepdims=True)) & (votes > 0)
    right = (is_elected & passed).sum(axis=1)
    share = np.zeros(len(answers))
    np.divide(right, is_elected.sum(axis=1), out=share, where=is_elected.any(axis=1))
    return share


def reported_ks(counts: Iterable[int]) -> list[int]:
    """The values of k to report for rows with these numbers of samples: the powers of two, and the largest number."""
    largest = max(counts, default=0)
    powers = [1 << exponent for exponent in range(largest.bit_length())]
    return sorted({*powers, largest} - {0})

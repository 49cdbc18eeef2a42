"""The workloads: how many prompts, and how long the responses to each are."""

import math
import random
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True)
class Workload:
    """Prompts, samples of each, and the tokens of a response: all equal, or long-tailed with `tokens` as the median."""

    prompts: int
    tokens: int
    n_samples: int = 8
    tail: int = 1
    """The longest response, as a multiple of the median; 1 makes all equal."""
    prompt_words: int = 0
    """How many words longer than a short question each prompt is."""
    row_share: float | None = None
    """Set if samples of a prompt differ in length: lengths are lognormal, the standard deviation of their logarithm is
    1, and this share of its variance lies between prompts.
    """

    def lengths(self) -> list[int]:
        """Tokens of a response, for each prompt; the samples of one prompt are equally long without row_share.

        So one request with n samples, as in vLLM's own interfaces, does the same work as our n requests.
        """
        if self.row_share is not None:
            return [max(lengths) for lengths in self.of_samples()]
        return long_tailed(self.prompts, self.tokens, self.tail) if self.tail > 1 else [self.tokens] * self.prompts

    def of_samples(self) -> list[list[int]]:
        """Tokens of each response to each prompt, if they differ; always the same ones."""
        if self.row_share is None:
            return []
        rows, samples = _normal(self.prompts, 1), _normal(self.prompts * self.n_samples, 2)
        between, within = math.sqrt(self.row_share), math.sqrt(1 - self.row_share)
        return [
            [
                max(1, round(self.tokens * math.exp(between * row + within * samples[place * self.n_samples + index])))
                for index in range(self.n_samples)
            ]
            for place, row in enumerate(rows)
        ]


def _normal(count: int, seed: int) -> list[float]:
    """The `count` evenly spaced quantiles of a normal distribution, shuffled."""
    quantiles = [NormalDist().inv_cdf((place + 0.5) / count) for place in range(count)]
    random.Random(seed).shuffle(quantiles)
    return quantiles


def long_tailed(count: int, median: int, tail: int) -> list[int]:
    """The `count` evenly spaced quantiles of a lognormal whose largest is `tail * median`. Their order is shuffled, but
    always the same, so that comparisons do not depend on chance.
    """
    quantiles = _normal(count, seed=0)
    sigma = math.log(tail) / max(quantiles)
    return [max(1, round(median * math.exp(sigma * quantile))) for quantile in quantiles]


WORKLOADS = {
    "equal": Workload(prompts=256, tokens=512),
    "tail": Workload(prompts=384, tokens=128, tail=20),
    "long_prompts": Workload(prompts=128, tokens=256, prompt_words=1000),
    "exact": Workload(prompts=256, tokens=256),
    "seeded": Workload(prompts=256, tokens=160),
    "reload": Workload(prompts=64, tokens=64, prompt_words=60),
    "card": Workload(prompts=1000, tokens=1000),
    "crowded": Workload(prompts=256, tokens=1000),
    "replicas": Workload(prompts=512, tokens=512),
    "shared": Workload(prompts=1536, tokens=256),
    "spread": Workload(prompts=1000, tokens=64, row_share=0.8),
    "waves": Workload(prompts=0, tokens=256),
    "warm_up": Workload(prompts=256, tokens=16, tail=8),
    "tiny_equal": Workload(prompts=6, tokens=8, n_samples=2),
    "tiny_tail": Workload(prompts=12, tokens=4, n_samples=2, tail=10),
    "tiny_long_prompts": Workload(prompts=6, tokens=8, n_samples=2, prompt_words=50),
    "tiny_exact": Workload(prompts=32, tokens=8, n_samples=2),
    "tiny_seeded": Workload(prompts=12, tokens=8, n_samples=2),
    "tiny_reload": Workload(prompts=12, tokens=8, prompt_words=60),
    "tiny_card": Workload(prompts=5, tokens=8, n_samples=2),
    "tiny_crowded": Workload(prompts=12, tokens=8, n_samples=2),
    "tiny_replicas": Workload(prompts=12, tokens=8, n_samples=2),
    "tiny_shared": Workload(prompts=12, tokens=8, n_samples=2),
    "tiny_spread": Workload(prompts=80, tokens=6, n_samples=4, row_share=0.8),
    "tiny_waves": Workload(prompts=0, tokens=6, n_samples=2),
    "tiny_warm_up": Workload(prompts=4, tokens=2, n_samples=2, tail=2),
}
"""`waves` has as many prompts as fill the engine twice; `shared` fills 1, 2, 3, 4 or 6 engines, of 1,024 samples at a
time, to the end.
"""


def named(name: str, max_num_seqs: int) -> Workload:
    """The workload called `name`, for an engine with this many samples at a time."""
    workload = WORKLOADS[name]
    if workload.prompts:
        return workload
    return Workload(max(1, 2 * max_num_seqs // workload.n_samples), workload.tokens, workload.n_samples)

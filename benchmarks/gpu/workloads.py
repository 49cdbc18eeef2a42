"""What is sampled: how many prompts, and how long the responses of each are."""

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
    """How much longer than a short question each prompt is."""

    def lengths(self) -> list[int]:
        """Tokens of a response, for each prompt; the samples of one prompt are equally long.

        So one request with n samples, which is what vLLM's own interfaces take, does the same work as our n requests.
        """
        return long_tailed(self.prompts, self.tokens, self.tail) if self.tail > 1 else [self.tokens] * self.prompts


def long_tailed(count: int, median: int, tail: int) -> list[int]:
    """The `count` evenly spaced quantiles of a lognormal whose largest is `tail * median`, in an order that is shuffled
    but always the same: no luck of the draw in what is compared.
    """
    normal = NormalDist()
    quantiles = [normal.inv_cdf((place + 0.5) / count) for place in range(count)]
    sigma = math.log(tail) / quantiles[-1]
    lengths = [max(1, round(median * math.exp(sigma * quantile))) for quantile in quantiles]
    random.Random(0).shuffle(lengths)
    return lengths


WORKLOADS = {
    "equal": Workload(prompts=256, tokens=512),
    "tail": Workload(prompts=384, tokens=128, tail=20),
    "long_prompts": Workload(prompts=128, tokens=256, prompt_words=1000),
    "exact": Workload(prompts=256, tokens=256),
    "seeded": Workload(prompts=256, tokens=160),
    "reload": Workload(prompts=64, tokens=64, prompt_words=60),
    "card": Workload(prompts=1000, tokens=1000),
    "replicas": Workload(prompts=512, tokens=512),
    "waves": Workload(prompts=0, tokens=256),
    "warm_up": Workload(prompts=256, tokens=16, tail=8),
    "tiny_equal": Workload(prompts=6, tokens=8, n_samples=2),
    "tiny_tail": Workload(prompts=12, tokens=4, n_samples=2, tail=10),
    "tiny_long_prompts": Workload(prompts=6, tokens=8, n_samples=2, prompt_words=50),
    "tiny_exact": Workload(prompts=32, tokens=8, n_samples=2),
    "tiny_seeded": Workload(prompts=12, tokens=8, n_samples=2),
    "tiny_reload": Workload(prompts=12, tokens=8, prompt_words=60),
    "tiny_card": Workload(prompts=5, tokens=8, n_samples=2),
    "tiny_replicas": Workload(prompts=12, tokens=8, n_samples=2),
    "tiny_waves": Workload(prompts=0, tokens=6, n_samples=2),
    "tiny_warm_up": Workload(prompts=4, tokens=2, n_samples=2, tail=2),
}
"""`waves` stands for as many prompts as fill the engine twice."""


def named(name: str, max_num_seqs: int) -> Workload:
    """The workload called `name`, for an engine of that size."""
    workload = WORKLOADS[name]
    if workload.prompts:
        return workload
    return Workload(max(1, 2 * max_num_seqs // workload.n_samples), workload.tokens, workload.n_samples)

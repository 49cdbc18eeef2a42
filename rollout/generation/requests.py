"""Prompts -> requests: one for each sample, with a seed of its own."""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import TypeAlias

import numpy as np

from rollout.config import SamplingConfig
from rollout.engine.protocol import Engine
from rollout.errors import PromptError
from rollout.generation.context import fit_to_context
from rollout.records import Prompt, Request, Sample, TokenIds, failed_sample

Feed: TypeAlias = Iterator[Request | Sample]


def sample_seed(seed: int, row_id: int, sample_idx: int) -> int:
    """The seed of one sample: the first 63 bits of BLAKE2b over "seed:row_id:sample_idx".

    The same on every machine and in every order, and unlike `seed + i` never shared by neighbouring rows.
    """
    digest = blake2b(f"{seed}:{row_id}:{sample_idx}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def requests(
    prompts: Iterable[Prompt],
    engine: Engine,
    sampling: SamplingConfig,
    owed: Callable[[int], list[int]],
    too_long: str,
    keeps_ids: bool = False,
) -> Feed:
    """What is owed of each prompt, as requests; for a prompt that cannot be sampled, as failed samples.

    `owed(row_id)` gives the sample indices still to be generated, `too_long` is `data.too_long`. With `keeps_ids` the
    samples are to have the token ids of prompt and response.
    """
    for prompt in prompts:
        indices = owed(prompt.row_id)
        if not indices:
            continue
        seeds = {index: sample_seed(sampling.seed, prompt.row_id, index) for index in indices}
        try:
            if prompt.error is not None:
                raise PromptError(prompt.error)
            token_ids = engine.render(prompt.messages).token_ids
            ready = fit_to_context(token_ids, sampling, engine.max_model_len, too_long, engine.bos_token_id)
        except PromptError as error:
            yield from (failed_sample(prompt.row_id, index, seed, str(error)) for index, seed in seeds.items())
        else:
            cut = engine.decode(ready.removed) if ready.removed else None
            kept = _kept(ready.token_ids) if keeps_ids else None
            for index, seed in seeds.items():
                yield Request(prompt.row_id, index, seed, ready.token_ids, ready.max_tokens, cut, kept)


def _kept(token_ids: list[int]) -> TokenIds:
    """Token ids in an eighth of the memory, which the samples of a row share until they are durable."""
    return (np.array(token_ids, np.int64) & 0x7FFFFFFF).astype(np.int32)  # the echo engine's made-up ones are larger

"""Prompts -> requests: one for each sample, with its own seed."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from rollout.config import RunConfig
from rollout.data.row_sampling import sampling_of_row
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


def requests(prompts: Iterable[Prompt], engine: Engine, run: RunConfig, owed: Callable[[int], list[int]]) -> Feed:
    """The owed samples of each prompt as requests or, if it cannot be sampled, as failed samples.

    `owed(row_id)` gives the sample indices still to be generated.
    """
    for prompt in prompts:
        if indices := owed(prompt.row_id):
            yield from requests_of(prompt, engine, run).of(indices)


@dataclass(frozen=True, slots=True)
class RowRequests:
    """A rendered prompt, from which the requests of its row are made, at once or round by round."""

    row_id: int
    seed: int
    """The seed of the run."""
    shared: "_Shared | str"
    """The fields that all requests have in common, or why the prompt cannot be sampled."""

    def of(self, indices: Iterable[int]) -> Feed:
        """The samples with these indices as requests or, if the prompt cannot be sampled, as failed samples."""
        row_id, shared = self.row_id, self.shared
        for index in indices:
            seed = sample_seed(self.seed, row_id, index)
            if isinstance(shared, str):
                yield failed_sample(row_id, index, seed, shared)
            else:
                yield Request(row_id, index, seed, *shared)


def requests_of(prompt: Prompt, engine: Engine, run: RunConfig) -> RowRequests:
    """Render a prompt and fit it to the context."""
    try:
        shared: _Shared | str = _shared(prompt, engine, run)
    except PromptError as error:
        shared = str(error)
    return RowRequests(prompt.row_id, run.sampling.seed, shared)


class _Shared(NamedTuple):
    """The fields of Request that all requests of a row have in common."""

    prompt_token_ids: list[int]
    max_tokens: int
    truncated_prompt: str | None
    kept_prompt: TokenIds | None
    parameters: Any


def _shared(prompt: Prompt, engine: Engine, run: RunConfig) -> _Shared:
    """The common fields. Raises PromptError if the prompt cannot be sampled."""
    if prompt.error is not None:
        raise PromptError(prompt.error)
    sampling = sampling_of_row(prompt.sampling, run)
    parameters = engine.prepare(sampling, str(run.data.sampling_key)) if prompt.sampling else None
    token_ids = engine.render(prompt.messages, prompt.tools).token_ids
    ready = fit_to_context(token_ids, sampling, engine.max_model_len, run.data.too_long, engine.bos_token_id)
    cut = engine.decode(ready.removed) if ready.removed else None
    kept = _kept(ready.token_ids) if run.keeps_token_ids else None
    return _Shared(ready.token_ids, ready.max_tokens, cut, kept, parameters)


def _kept(token_ids: list[int]) -> TokenIds:
    """Token ids as an array, in an eighth of a list's memory; the samples of a row share it until they are durable."""
    return (np.array(token_ids, np.int64) & 0x7FFFFFFF).astype(np.int32)  # the echo engine's made-up ids are larger

"""A prompt and the response it asks for, made to fit the context: `data.too_long`."""

from dataclasses import dataclass

from rollout.config import RunConfig, SamplingConfig
from rollout.errors import PromptError


@dataclass(frozen=True)
class Fitted:
    """What to sample: the prompt's tokens, the most tokens of the response, and the tokens cut off the prompt."""

    token_ids: list[int]
    max_tokens: int
    removed: list[int]


def context_problem(run: RunConfig, max_model_len: int) -> str | None:
    """Why no prompt fits into a context of `max_model_len` tokens beside the response that `run` asks for.

    None if each row may ask for another length.
    """
    max_tokens = run.sampling.max_tokens
    if max_tokens < max_model_len or run.data.too_long == "reduce_max_tokens" or run.data.sampling_key is not None:
        return None
    return (
        f"sampling.max_tokens={max_tokens}: the context holds {max_model_len} tokens, prompt included; lower it, or "
        "set data.too_long=reduce_max_tokens"
    )


def fit_to_context(
    token_ids: list[int],
    sampling: SamplingConfig,
    max_model_len: int,
    too_long: str,
    bos_token_id: int | None,
) -> Fitted:
    """Apply `too_long` if prompt and `sampling.max_tokens` together exceed `max_model_len`.

    `truncate_left` cuts the oldest tokens, after the beginning-of-sequence token, and keeps the newest: the generation
    prompt, unless `max_tokens` leaves less room than that. `reduce_max_tokens` leaves the rest of the context to the
    response. Raises PromptError for `error`, and for a prompt that leaves no room for a single token or for
    `sampling.min_tokens`.
    """
    max_tokens = sampling.max_tokens
    if len(token_ids) + max_tokens <= max_model_len:
        return Fitted(token_ids, max_tokens, [])
    if too_long == "truncate_left":
        kept_first = 1 if token_ids[0] == bos_token_id else 0
        excess = len(token_ids) + max_tokens - max_model_len
        cut = kept_first + excess
        if cut < len(token_ids):
            return Fitted(token_ids[:kept_first] + token_ids[cut:], max_tokens, token_ids[kept_first:cut])
    elif too_long == "reduce_max_tokens" and len(token_ids) < max_model_len:
        room = max_model_len - len(token_ids)
        if room < sampling.min_tokens:  # vLLM refuses such a request
            raise PromptError(f"sampling.min_tokens={sampling.min_tokens}, but the prompt leaves room for only {room}")
        return Fitted(token_ids, room, [])
    raise PromptError(
        f"the prompt has {len(token_ids)} tokens and sampling.max_tokens is {max_tokens}; "
        f"the context holds {max_model_len}"
    )

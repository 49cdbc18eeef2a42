"""The text of single tokens of a response, from the tokenizer's file: the engine is gone by then."""

from collections.abc import Callable, Sequence

from rollout.config import ModelConfig
from rollout.engine import models
from rollout.engine.model_files import vocabulary_hash

TokenText = Callable[[Sequence[int], int], str]
"""`text(token_ids, position)`: what the token there adds to the text of those before it."""

_BEFORE = 16  # tokens that decide how one is written: a space, or a character that several tokens make


def token_text(model: ModelConfig, vocabulary: str | None) -> TokenText | None:
    """None where the vocabulary of this hash is not on this machine as a `tokenizer.json`."""
    tokenizer = model.tokenizer or model.path
    folder = models.local_folder(tokenizer, None if model.tokenizer else model.revision)
    if folder is None or vocabulary is None or vocabulary_hash(folder) != vocabulary:
        return None
    try:
        from tokenizers import Tokenizer  # comes with the engine, which a machine that only reads results need not have

        decoder = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # ImportError, or whatever the library says of a file that it cannot read
        return None

    def decode(token_ids: list[int]) -> str:
        return str(decoder.decode(token_ids, skip_special_tokens=False))

    def text(token_ids: Sequence[int], position: int) -> str:
        token, known = token_ids[position], list(token_ids[max(0, position - _BEFORE) : position])
        before, both = decode(known), decode([*known, token])
        # one in the middle of a character changes what was there
        return both[len(before) :] if both.startswith(before) and both != before else decode([token])

    return text

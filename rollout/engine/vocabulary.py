"""The text of single tokens of a response, from the tokenizer's file: the engine has ended by then."""

from collections.abc import Callable, Sequence

from rollout.config import ModelConfig
from rollout.engine import models
from rollout.engine.model_files import vocabulary_hash

TokenText = Callable[[Sequence[int], int], str]
"""`text(token_ids, position)`: the text that the token there adds to that of the tokens before it."""

_BEFORE = 16  # tokens that can change a token's text: a space, or a character of several tokens


def token_text(model: ModelConfig, vocabulary: str | None) -> TokenText | None:
    """A function for texts; None if this machine has no `tokenizer.json` with a vocabulary of this hash."""
    tokenizer = model.tokenizer or model.path
    folder = models.local_folder(tokenizer, None if model.tokenizer else model.revision)
    if folder is None or vocabulary is None or vocabulary_hash(folder) != vocabulary:
        return None
    try:
        from tokenizers import Tokenizer  # installed with the engine, which a machine that only reads results may lack

        decoder = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # ImportError, or any error of the library about a file that it cannot read
        return None

    def decode(token_ids: list[int]) -> str:
        return str(decoder.decode(token_ids, skip_special_tokens=False))

    def text(token_ids: Sequence[int], position: int) -> str:
        token, known = token_ids[position], list(token_ids[max(0, position - _BEFORE) : position])
        before, both = decode(known), decode([*known, token])
        # a token inside a character changes the text before it
        return both[len(before) :] if both.startswith(before) and both != before else decode([token])

    return text

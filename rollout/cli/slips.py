"""Typing slips in the words of a command: what a keyboard or a shell has made of what was meant."""

import re
import shlex
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from itertools import takewhile

from rollout.config.arguments import ONE_WORD, of_words
from rollout.config.keys import config_fields, type_of
from rollout.config.overrides import key_of, quoted
from rollout.files import user_path

_NARROW = str.maketrans("。、“”‘’", ".,\"\"''")
"""Of the characters that a Chinese keyboard gives, those that Unicode does not take for forms of ASCII ones."""


@dataclass(frozen=True)
class Mistake:
    """Words that cannot be used."""

    line: str
    """What is wrong, and the cure."""
    group: str
    """The group of the config that they are about, as far as one can tell."""
    cured: tuple[str, ...] = ()
    """The words to give instead; none where nobody knows."""


def of_words_apart(word: str, behind: list[str]) -> tuple[Mistake, int] | None:
    """Words that belong together, and how many of those `behind` the first one do: a text with spaces that the shell
    has taken apart, `key value`, and `key = value`.
    """
    return _of_text(word, list(takewhile(lambda item: "=" not in item, behind))) or _of_pair(word, behind)


def _of_text(word: str, behind: list[str]) -> tuple[Mistake, int] | None:
    key, _, value = " ".join([word, *behind]).partition("=")
    if not behind or type_of(key) is not str or not (key == "data.system_prompt" or user_path(value).exists()):
        return None
    cure = f"{key}={quoted(value) if ',' in value else value}"
    line = f"{key}={value}: spaces need quotes; write {in_shell(cure)}"
    return Mistake(line, key.split(".")[0], (cure,)), len(behind)


def _of_pair(word: str, behind: list[str]) -> tuple[Mistake, int] | None:
    key = word.removesuffix("=")
    joined = None if type_of(key) is None else of_words(word, behind)
    if joined is None:
        return None
    cure, taken = joined
    line = f"{' '.join([word, *behind[:taken]])}: {ONE_WORD}; write {in_shell(cure)}"
    return Mistake(line, key.split(".")[0], (cure,)), taken


def of_wide(word: str, groups: Collection[str]) -> Mistake | None:
    """Characters of a Chinese or Japanese keyboard where ASCII ones are meant: `key＝1`, `a。b=1`, `key=０.７`."""
    narrow = unicodedata.normalize("NFKC", word).translate(_NARROW)
    key = key_of(narrow)
    kind = type_of(key)
    is_in_key = not word.lstrip("+~").startswith(f"{key}=") and (kind is not None or key in groups)
    is_in_value = kind in (int, float, bool)
    if word == narrow or "=" not in narrow or not (is_in_key or is_in_value):
        return None
    cured = narrow if is_in_value else f"{narrow.partition('=')[0]}={re.split('[=＝]', word, maxsplit=1)[1]}"
    line = f"{word}: has full-width characters; write {in_shell(cured)}"
    return Mistake(line, key.split(".")[0], () if is_in_value and "," in cured else (cured,))


def of_mark(word: str) -> Mistake | None:
    """`~key` and `+key`, which Hydra has for what may be left out of its config or is new in it. No key of ours is."""
    key = key_of(word)
    if not word.startswith(("~", "+")) or word.startswith("++") or not any(name == key for name, _ in config_fields()):
        return None
    group = key.split(".")[0]
    if word.startswith("~"):
        return Mistake(f"{word}: a key cannot be taken away; leave it out, or give it another value", group)
    return Mistake(f"{word}: the key is there already; write {in_shell(word[1:])}", group, (word[1:],))


def in_shell(word: str) -> str:
    """`word` as one types it in a shell."""
    return shlex.quote(word)

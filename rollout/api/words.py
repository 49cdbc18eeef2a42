"""Values of a program -> overrides, as one would type them."""

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from os import PathLike, fspath
from typing import Any

from rollout.config.fields import literal
from rollout.config.keys import type_of
from rollout.config.overrides import hydra_word, quoted
from rollout.config.presets import leaves
from rollout.errors import UserError


def words_of(overrides: Iterable[Any], groups: Mapping[str, Any]) -> list[str]:
    """The `overrides`, and `{"sampling": {"n_samples": 4}, "hardware": "cpu"}` as `sampling.n_samples=4`,
    `hardware=cpu`.

    A text chooses a preset, a dictionary gives values. Raises UserError for what no config holds, and for overrides
    that are not texts, all of it at once.
    """
    words, problems = list[str](), list[str]()
    for word in overrides:
        words.append(word)
        if not isinstance(word, str):
            problems.append(f'{word!r}: an override is a text, "sampling.n_samples=4"; a group takes a dictionary')
    for key, value in leaves(groups):
        try:
            is_preset = key in groups and isinstance(value, str) and type_of(key) is not str
            words.append(f"{key}={value}" if is_preset else _word(key, value))
        except TypeError as error:
            problems.append(f"{key}={value!r}: {error}")
    if problems:
        raise UserError(*problems)
    return words


def _word(key: str, value: Any) -> str:
    if isinstance(value, PathLike):
        value = fspath(value)
    return hydra_word(key, value) if isinstance(value, str) and value else f"{key}={_literal(value)}"


def _literal(value: Any) -> str:
    """`value` in Hydra's grammar. Raises TypeError for what it has no form for."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case Integral():
            return str(int(value))
        case Real():
            return repr(float(value))
        case str():
            return quoted(literal(value))
        case list() | tuple():
            return f"[{','.join(map(_literal, value))}]"
        case Mapping():
            return f"{{{','.join(f'{key}:{_literal(item)}' for key, item in value.items())}}}"
        case _ if callable(value) and not isinstance(value, type):
            name = getattr(value, "__name__", "NAME")
            raise TypeError(
                f"a config holds no function; put it in a file beside the program, scorers.py, and give its name, "
                f'"scorers:{name}"'
            )
        case _:
            raise TypeError(f"a config holds no {type(value).__name__}; give a text, a number, a list or a dictionary")

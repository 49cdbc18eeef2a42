"""Values as people write them. Every value of a table that becomes text is converted by `as_text`."""

import base64
import json
from decimal import Decimal
from typing import Any

import numpy as np

from rollout.data.arrow import without_nulls

_POSITIONAL = range(-10, 16)  # numbers with these powers of ten are written without an exponent


def counted(number: int, noun: str) -> str:
    """1 as "1 row", 1234 as "1,234 rows"; `noun` is regular and in the singular."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def have(number: int) -> str:
    """The verb behind `counted(number, ...)`."""
    return "has" if number == 1 else "have"


def are(number: int) -> str:
    """The same of the other verb."""
    return "is" if number == 1 else "are"


def as_text(value: Any) -> str:
    """A value as people write it: text unchanged; 42, even if a null in the column turned it into 42.0; 0.00001.

    Lists, structs, true, false and null are JSON, without the null fields of structs; bytes are the text that they
    hold, or base64.
    """
    match value:
        case str():
            return value
        case bool() | np.bool_():
            return json.dumps(bool(value))
        case None | list() | dict():
            return json.dumps(without_nulls(value), ensure_ascii=False, default=as_text)
        case float() | np.floating():
            return _number(value)
        case Decimal():
            return f"{value:f}"
        case bytes():
            return _of_bytes(value)
    return str(value)


def _number(value: float | np.floating[Any]) -> str:
    shortest = Decimal(str(value))
    if not shortest.is_finite():
        return str(value)
    if shortest == shortest.to_integral_value() and shortest.adjusted() in _POSITIONAL:
        return str(int(shortest))
    return f"{shortest:f}" if shortest.adjusted() in _POSITIONAL else str(value)


def _of_bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()

"""Values of the config as arguments of vLLM's classes, by the annotations in vLLM's own source.

They are converted to the annotated type, and dictionaries become vLLM's structures.
"""

import dataclasses
import enum
import inspect
import sys
import typing
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter, ValidationError
from vllm import SamplingParams

from rollout.engine.vllm_refusal import refusal
from rollout.errors import UserError, did_you_mean

_NUMBERS_ARE_TEXT = ConfigDict(coerce_numbers_to_str=True)  # a number in the config may have been meant as text


def built(owner: type, key: str, given: dict[str, Any], ours: Iterable[str]) -> dict[str, Any]:
    """`given` as arguments of vLLM's class `owner`; `key` is their place in the config.

    Raises UserError with a line for each that is unknown, mistyped, or in `ours`: those that this project sets.
    """
    found, arguments = [*_unknown(owner, key, given, set(ours))], dict[str, Any]()
    if found:
        raise UserError(*found)
    for name, value in given.items():
        try:
            arguments[name] = _value(_annotation(owner, name), f"{key}.{name}", value)
        except UserError as error:
            found += error.problems
    if found:
        raise UserError(*found)
    return arguments


_KEYS = {"logprobs_mode": "sampling.logprobs", "n": "n_samples"}
"""vLLM's name -> the config key, if the names differ."""


def _unknown(owner: type, key: str, given: Iterable[str], ours: set[str]) -> Iterator[str]:
    known = {name for name in inspect.signature(owner).parameters if not name.startswith("_")}
    for name in given:
        if name in ours:
            yield f"{key}.{name}: this project sets it; use {_KEYS.get(name, 'the config key of that name')}"
        elif name not in known:
            yield f"{key}.{name}: vLLM has no such argument, {did_you_mean(str(name), known)}"


def _value(annotation: Any, key: str, value: Any) -> Any:
    """`value` converted to the annotated type. Raises UserError if it cannot be converted."""
    kinds = _alternatives(annotation)
    owner = next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)
    if isinstance(value, dict) and owner is not None:
        return structure(owner, key, value)
    if kinds == [owner] and (isinstance(value, str | list) or (value is not None and _is_of_sampling(owner))):
        raise UserError(f"{key}={value}: must be a dictionary")
    if value is None or owner is not None or any(_is_enum(kind) for kind in kinds):
        return value  # vLLM has its own short forms of these
    try:
        return TypeAdapter(annotation, config=_NUMBERS_ARE_TEXT).validate_python(value)
    except (PydanticUserError, PydanticUndefinedAnnotation):  # pydantic cannot check some types
        return value
    except ValidationError as error:
        raise UserError(f"{key}={value}: must be {_words(kinds)}") from error


def structure(owner: type, key: str, given: dict[str, Any]) -> Any:
    """`given`, a dictionary, as the structure `owner`. For a structure of the engine, which vLLM makes itself, the
    dictionary after a check.
    """
    arguments = built(owner, key, given, ())
    if not _is_of_sampling(owner):
        return arguments
    try:
        return owner(**arguments)
    except Exception as error:  # a ValueError, a TypeError or one of vLLM's own, depending on its version
        raise UserError(f"{key}: vLLM refuses it: {refusal(error)}") from error


def _is_of_sampling(owner: Any) -> bool:
    """Whether it is a structure of sampling. Those of the engine must not be made here: they look at the machine."""
    return bool(owner.__module__ == SamplingParams.__module__)


def _annotation(owner: type, name: str) -> Any:
    """The annotation of the field `name`; Any if it cannot be evaluated, as with names imported for typing only."""
    found = (inspect.get_annotations(base) for base in owner.__mro__)
    written: Any = next((annotations[name] for annotations in found if name in annotations), Any)
    if not isinstance(written, str):
        return written
    try:
        return eval(written, dict(vars(sys.modules[owner.__module__])))  # vLLM's own source, which is imported already
    except Exception:  # what it contains depends on the version
        return Any


def _alternatives(annotation: Any) -> list[Any]:
    """The types that a value may have, except None."""
    if get_origin(annotation) is typing.Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    return [] if annotation is None or annotation is type(None) else [annotation]


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


_NAMES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    set: "a list",
    tuple: "a list",
    dict: "a dictionary",
}


_MANY = {str: "texts", int: "whole numbers", float: "numbers"}


def _words(kinds: list[Any]) -> str:
    """The types in words, for an error."""
    found = list[str]()
    for kind in kinds:
        if get_origin(kind) is Literal:
            found += map(str, get_args(kind))
        else:
            found.append(_name(kind))
    return " or ".join(dict.fromkeys(found))


def _name(kind: Any) -> str:
    origin, items = get_origin(kind) or kind, get_args(kind)
    name = _NAMES.get(origin, getattr(origin, "__name__", str(origin)))
    many = [_MANY[item] for item in items if isinstance(item, type) and item in _MANY]
    if len(many) < len(items) or not items:
        return name
    return f"{name} of {many[0]}" if origin is not dict else f"{name} from {many[0]} to {many[1]}"

"""The words of a small command -> its dataclass in `config/`; all mistakes at once, one line each.

For commands that need no presets and no sweeps, and whose texts must stay as they are typed: Hydra would read a
template such as `{question}` as a dictionary. A word is `key=value` only if it begins with a key of the command; any
other word is a path, if the command takes paths.
"""

import dataclasses
import os
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from rollout.config.limits import value_problems
from rollout.errors import UserError, did_you_mean, nearest
from rollout.files import user_path

_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}
_FILES = (".parquet", ".jsonl", ".csv", ".txt", ".json", ".gz", ".zst")
_ITEM = r"""\s*"[^"]*"\s*(?=,|$)|\s*'[^']*'\s*(?=,|$)|[^,]+"""
_ORDINALS = ("first", "second")
_NO_VALUE = "..."

ONE_WORD = "a key and its value are one word"
"""What is wrong where they are not."""


def parse(
    kind: type[Any],
    arguments: list[str],
    others: Callable[[Mapping[str, Any]], Iterator[str]] | None = None,
    paths: Sequence[str] = (),
) -> Any:
    """An instance of the dataclass `kind`. Raises UserError with every problem of the arguments, and then also with
    those that `others` finds in the given values.

    `paths` are the keys for words without a key, in this order; a key that is a list takes any number of them.
    `key=null` is None if the type allows it; a list is written `a,b` or `[a,b]`, an item with a comma in quotes.
    """
    fields = {item.name: item for item in dataclasses.fields(kind)}
    values, bare, problems = dict[str, Any](), list[str](), list[str]()
    for argument, option in _with_options(arguments, fields, bool(paths)):
        name, equals, text = argument.partition("=")
        if option is not None:
            problems += _refuse_option(option, argument, values, fields)
        elif equals and name in fields:
            problems += _take(values, fields[name], text)
        elif paths:
            bare.append(argument)
        elif equals:
            problems.append(f"{name}: no such key, {did_you_mean(name, fields)}")
        else:
            problems.append(f"{argument}: write key=value; keys are {', '.join(fields)}")
    problems = [*_place(bare, paths, values, fields), *problems]
    problems += [_missing(fields[name], paths) for name in _required(kind) if name not in values]
    if problems:
        raise UserError(*problems, *(others(values) if others is not None else ()))
    return kind(**values)


def _refuse_option(
    option: str, argument: str, values: dict[str, Any], fields: Mapping[str, dataclasses.Field[Any]]
) -> Iterator[str]:
    """Yields what is wrong with `option`, which means `argument`. Its key counts as given, so it is not missing too."""
    name, _, text = argument.partition("=")
    if name not in fields:
        yield f"{option}: no such option; keys are {', '.join(fields)}"
        return
    yield f"{option}: no such option; write {shlex.quote(argument)}"
    if text == _NO_VALUE:
        values.setdefault(name, None)
    else:
        yield from _take(values, fields[name], text)


def _take(values: dict[str, Any], field: dataclasses.Field[Any], text: str) -> Iterator[str]:
    """Add the value of `text` to `values`; yields what is wrong with it."""
    if field.name in values:
        yield f"{field.name}={text}: is given twice; leave one out"
        return
    values[field.name] = None  # it was given, if wrongly
    try:
        values[field.name] = _value(text, field)
    except ValueError as error:
        yield f"{field.name}={text}: {error}"
        return
    yield from value_problems(field.name, values[field.name], field.metadata)


def _place(
    bare: list[str], paths: Sequence[str], values: dict[str, Any], fields: Mapping[str, dataclasses.Field[Any]]
) -> Iterator[str]:
    """Assign words without a key to those `paths` that have no value; yields what is wrong with the others."""
    free = [name for name in paths if name not in values]
    takes_all = bool(free) and get_origin(fields[free[-1]].type) is list
    slips = _slips(bare, None if takes_all else len(free), fields)
    for word in slips:
        name = word.partition("=")[0]
        yield f"{name}: no such key, {did_you_mean(name, fields)}"
    left = [word for word in bare if word not in slips]
    yield from _spaced(left, values, fields)
    if takes_all and left:
        values[free[-1]] = left
        return
    for name, word in zip(free, left, strict=False):
        yield from _take(values, fields[name], word)
    if too_many := left[len(free) :]:
        more = f" and {len(too_many) - 3} more" if len(too_many) > 3 else ""
        wanted = " and ".join({"input": "IN", "output": "OUT"}.get(name, name.upper()) for name in paths)
        cure = "put a pattern in quotes" if "pattern" in fields[paths[0]].metadata else "leave out what is too much"
        yield f"{', '.join(too_many[:3])}{more}: more paths than {wanted}; {cure}"


def _spaced(bare: list[str], values: dict[str, Any], fields: Mapping[str, dataclasses.Field[Any]]) -> Iterator[str]:
    """Takes keys, and the values that stand apart from them, out of `bare`; yields what is wrong with them."""
    for word in [word for word in bare if word.removesuffix("=") in fields and not _is_there(word)]:
        at = bare.index(word)
        if (joined := of_words(word, bare[at + 1 :])) is not None:
            cure, taken = joined
            yield f"{' '.join(bare[at : at + 1 + taken])}: {ONE_WORD}; write {shlex.quote(cure)}"
            values.setdefault(word.removesuffix("="), None)  # it was given, if wrongly
            del bare[at : at + 1 + taken]


def of_words(word: str, behind: Sequence[str]) -> tuple[str, int] | None:
    """`key=value` from a key `word` and its value among the words `behind`, as in `key value`, `key = value`,
    `key =value` and `key= value`; and how many of these belong to it. None if there is no value.
    """
    key, equals, _ = word.partition("=")
    if not behind:
        return None
    taken = 2 if behind[0] == "=" and len(behind) > 1 else 1
    value = behind[taken - 1] if equals or taken == 2 else behind[0].removeprefix("=")
    return (f"{key}={value}", taken) if value and "=" not in value else None


def _slips(bare: list[str], room: int | None, keys: Collection[str]) -> list[str]:
    """The words that are probably unknown keys, not paths; `room` is the number of paths that fit (None: any), which
    are read then and so must be there.
    """
    like_keys = [word for word in bare if re.match(r"[A-Za-z_]\w*=", word) and not _is_there(word)]
    if room is None:
        return [word for word in like_keys if not word.endswith(_FILES)]
    near = [word for word in like_keys if nearest(word.partition("=")[0], keys)]
    slips = [word for word in near if not word.endswith(_FILES)]
    while len(bare) - len(slips) > room and (more := [word for word in [*near, *like_keys] if word not in slips]):
        slips.append(more[0])
    return slips


def _missing(field: dataclasses.Field[Any], paths: Sequence[str]) -> str:
    name, hint = field.name, field.metadata.get("hint")
    place = f"give it as the {_ORDINALS[paths.index(name)]} path, or write" if name in paths else "write"
    return f"{name}: must be given; {place} {name}=...{'' if hint is None else f', which is {hint}'}"


def _is_there(word: str) -> bool:
    return os.path.lexists(user_path(word))


def _with_options(
    arguments: list[str], fields: Mapping[str, dataclasses.Field[Any]], has_paths: bool
) -> Iterator[tuple[str, str | None]]:
    """The arguments. One like `--name value` becomes name=value and comes with the text as typed."""
    rest = list(arguments)
    while rest:
        argument = typed = rest.pop(0)
        name, equals, text = argument.lstrip("-").partition("=")
        name = name.replace("-", "_")
        is_path = has_paths and (_is_there(argument) or (argument.endswith(_FILES) and name not in fields))
        if not argument.startswith("-") or is_path:
            yield argument, None
            continue
        is_switch = name in fields and fields[name].type is bool
        if not equals and rest and (rest[0] in ("true", "false") if is_switch else _is_value(rest[0], fields)):
            text = rest.pop(0)
            typed = f"{typed} {text}"
        yield f"{name}={text or ('true' if is_switch else _NO_VALUE)}", typed


def _is_value(word: str, fields: Collection[str]) -> bool:
    """Whether a word after an option is its value."""
    return not word.startswith("--") and word.partition("=")[0] not in fields


def _required(kind: type[Any]) -> Iterator[str]:
    for item in dataclasses.fields(kind):
        if item.default is item.default_factory is dataclasses.MISSING:
            yield item.name


def _value(text: str, field: dataclasses.Field[Any]) -> Any:
    """The value of `text` with the type of `field`. Raises ValueError that says what it must be."""
    types = get_args(field.type) if isinstance(field.type, UnionType) else (field.type,)
    if not text:
        raise ValueError(f"must have a value; write one, or leave {field.name} out")
    if text == "null" and NoneType in types:
        return None
    if get_origin(types[0]) is list:
        return _items(text)
    if types[0] is bool:
        return _boolean(text)
    if types[0] is int:
        return _whole_number(text)
    if types[0] is float:
        return _number(text)
    return _decoded(text) if "escapes" in field.metadata else text


def _items(text: str) -> list[str]:
    """The items of a list; one that is in quotes may have commas."""
    inside = text[1:].removesuffix("]") if text.startswith("[") else text
    found = (item.strip() for item in re.findall(_ITEM, inside))
    return [item[1:-1] if _is_quoted(item) else item for item in found if item]


def _is_quoted(item: str) -> bool:
    return len(item) > 1 and item[0] == item[-1] and item[0] in "\"'"


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


def _whole_number(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]+", text):
        raise ValueError("must be a whole number")
    return int(text)


def _number(text: str) -> float:
    if not re.fullmatch(r"[-+.0-9eE]+", text):
        raise ValueError("must be a number")
    try:
        return float(text)
    except ValueError as error:
        raise ValueError("must be a number") from error


def _decoded(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("is not valid UTF-8; check the encoding of the terminal or script") from error
    return re.sub(r"\\([nt\\])", lambda match: _ESCAPES[match[1]], text)

"""`key=value` arguments of a small command -> its dataclass in `config/`; every mistake at once, in one line each.

For commands that need no presets and no sweeps, and whose texts must be taken as they are typed: Hydra would read a
template such as `{question}` as a dictionary.
"""

import ast
import dataclasses
import inspect
import json
import re
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from rollout.config.check import value_problems
from rollout.errors import UserError, did_you_mean

_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}


def parse(
    kind: type[Any], arguments: list[str], others: Callable[[Mapping[str, Any]], Iterator[str]] | None = None
) -> Any:
    """An instance of the dataclass `kind`. Raises UserError with every problem of the arguments, and with what `others`
    finds in the values that were given.

    `key=null` stands for None where the type allows it, a list is written `a,b` or `[a,b]`.
    """
    fields = {item.name: item for item in dataclasses.fields(kind)}
    values, problems = dict[str, Any](), list[str]()
    for argument, option in _with_options(arguments):
        name, equals, text = argument.partition("=")
        if option is not None:
            cure = f"write {shlex.quote(argument)}" if name in fields else f"keys are {', '.join(fields)}"
            problems.append(f"{option}: no such option; {cure}")
        elif not equals:
            problems.append(f"{argument}: write key=value; keys are {', '.join(fields)}")
        elif name not in fields:
            problems.append(f"{name}: no such key, {did_you_mean(name, fields)}")
        elif name in values:
            problems.append(f"{name}={text}: is given twice; leave one out")
        else:
            try:
                values[name] = _value(text, fields[name])
                problems += value_problems(name, values[name], fields[name].metadata)
            except ValueError as error:
                values[name] = None  # it was given, though wrongly
                problems.append(f"{name}={text}: {error}")
    problems += [f"{name}: must be given; write {name}=..." for name in _required(kind) if name not in values]
    if problems:
        raise UserError(*problems, *(others(values) if others is not None else ()))
    return kind(**values)


def _with_options(arguments: list[str]) -> Iterator[tuple[str, str | None]]:
    """The arguments, those like `--name value` as name=value; beside these, how they were typed."""
    rest = list(arguments)
    while rest:
        argument = typed = rest.pop(0)
        if not argument.startswith("-"):
            yield argument, None
            continue
        if "=" not in argument and rest and "=" not in rest[0]:
            value = rest.pop(0)
            argument, typed = f"{argument}={value}", f"{argument} {value}"
        name, equals, text = argument.lstrip("-").partition("=")
        yield f"{name.replace('-', '_')}={text if equals else '...'}", typed


def usage(kind: type[Any]) -> str:
    """A line for every key: its name, default and documentation."""
    docs, lines = field_docs(kind), []
    for item in dataclasses.fields(kind):
        default = "" if item.default is dataclasses.MISSING else f" [{_shown(item.default)}]"
        text = textwrap.wrap(docs[item.name] + default, width=96)
        lines.append(f"  {item.name:<17}" + ("\n" + " " * 19).join(text))
    return "\n".join(lines)


def field_docs(kind: type[Any]) -> dict[str, str]:
    """The string under every field of the dataclass `kind`, on one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


def _required(kind: type[Any]) -> Iterator[str]:
    for item in dataclasses.fields(kind):
        if item.default is item.default_factory is dataclasses.MISSING:
            yield item.name


def _value(text: str, field: dataclasses.Field[Any]) -> Any:
    """What `text` says, as the type of `field`. Raises ValueError with what it must be."""
    types = get_args(field.type) if isinstance(field.type, UnionType) else (field.type,)
    if not text:
        raise ValueError(f"must have a value; write one, or leave {field.name} out")
    if text == "null" and NoneType in types:
        return None
    if get_origin(types[0]) is list:
        return [item.strip() for item in text.removeprefix("[").removesuffix("]").split(",") if item.strip()]
    if types[0] is bool:
        return _boolean(text)
    if types[0] is int:
        return _whole_number(text)
    return _decoded(text) if "escapes" in field.metadata else text


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


def _whole_number(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]+", text):
        raise ValueError("must be a whole number")
    return int(text)


def _decoded(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("is not valid UTF-8; check the encoding of the terminal or script") from error
    return re.sub(r"\\([nt\\])", lambda match: _ESCAPES[match[1]], text)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

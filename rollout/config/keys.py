"""The keys of `schema.py`, one by one: type, default, limits and meaning.

OmegaConf is not imported here: help must be fast.
"""

import ast
import dataclasses
import inspect
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from rollout.config import RunConfig
from rollout.config.limits import in_words


@dataclass(frozen=True)
class Field:
    """One leaf of the config."""

    value: Any
    type: Any
    limits: Mapping[str, Any]


def config_fields(node: Any = None, prefix: str = "") -> Iterator[tuple[str, Field]]:
    """(key, Field) for every leaf of `node`, by default of a RunConfig of defaults, in the order of declaration."""
    node = RunConfig() if node is None else node
    for item in dataclasses.fields(node):
        value = getattr(node, item.name)
        if dataclasses.is_dataclass(value):
            yield from config_fields(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", Field(value, item.type, item.metadata)


def type_of(key: str, kind: Any = RunConfig) -> Any:
    """The declared type at the dotted `key` of `kind`, without its `| None`; None if there is no such key."""
    for name in key.split(".") if key else []:
        kind = type_of_item(kind, name)
    return kind


def type_of_item(kind: Any, name: str) -> Any:
    """The declared type of the item `name` in `kind`, a type of the schema; None if it has no such item."""
    if dataclasses.is_dataclass(kind):
        return next((required(item.type) for item in dataclasses.fields(kind) if item.name == name), None)
    return required(get_args(kind)[-1]) if get_origin(kind) in (dict, list) else Any if kind is Any else None


def required(kind: Any) -> Any:
    """`kind` without its `| None`."""
    return next(of for of in get_args(kind) if of is not NoneType) if isinstance(kind, UnionType) else kind


@dataclass(frozen=True)
class Key:
    """A key and its documentation."""

    name: str
    """Dotted, as it is typed."""
    field: Field
    meaning: str
    """On one line, without the limits."""

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        return self.field.value is dataclasses.MISSING

    @property
    def default(self) -> str:
        """The default as it is typed."""
        return shown(self.field.value)

    @property
    def explanation(self) -> str:
        """The meaning and the limits."""
        limits = self.field.limits
        if "choices" in limits:
            return f"{self.meaning} One of {', '.join(f'`{word}`' for word in limits['choices'])}."
        finite = {name: it for name, it in limits.items() if isinstance(it, int | float) and math.isfinite(it)}
        bounds = in_words(finite).capitalize()
        return f"{self.meaning} {bounds}." if bounds else self.meaning


def keys_of(kind: type[Any] = RunConfig, prefix: str = "") -> Iterator[Key]:
    """Every key of the dataclass `kind` and of the dataclasses in it, in the order of declaration."""
    docs = field_docs(kind)
    for item in dataclasses.fields(kind):
        name = f"{prefix}{item.name}"
        if isinstance(item.type, type) and dataclasses.is_dataclass(item.type):
            yield from keys_of(item.type, f"{name}.")
        else:
            value = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            yield Key(name, Field(value, item.type, item.metadata), docs[item.name])


@dataclass(frozen=True)
class Section:
    """A dataclass of keys and its documentation."""

    name: str
    """Dotted, as it is typed before a key."""
    kind: type[Any]
    meaning: str


def sections(kind: type[Any] = RunConfig, prefix: str = "") -> Iterator[Section]:
    """Every dataclass in the dataclass `kind`, in the order of declaration; an outer one before those in it."""
    docs = field_docs(kind)
    for item in dataclasses.fields(kind):
        if isinstance(item.type, type) and dataclasses.is_dataclass(item.type):
            name = f"{prefix}{item.name}"
            yield Section(name, item.type, docs[item.name])
            yield from sections(item.type, f"{name}.")


def field_docs(kind: type[Any]) -> dict[str, str]:
    """The string under every field of the dataclass `kind` and its bases, on one line."""
    found = dict[str, str]()
    for part in reversed(kind.__mro__):
        found |= _own_docs(part) if dataclasses.is_dataclass(part) else {}
    return found


def _own_docs(kind: type[Any]) -> dict[str, str]:
    found, body = {}, _classes(kind.__module__)[kind.__name__].body
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split())
    return found


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    """The classes that the source of `module` defines."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def shown(value: Any) -> str:
    """`value` as it is typed."""
    return value if isinstance(value, str) else json.dumps(value)

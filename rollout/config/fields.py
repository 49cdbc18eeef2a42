"""Between a composed config and the dataclasses of `schema.py`: fill them, and go through their fields."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from rollout.config import RunConfig


def schema() -> DictConfig:
    """RunConfig for Hydra. The free-form dictionaries take new keys without Hydra's `+`; nothing else does."""
    root = OmegaConf.structured(RunConfig)
    for key, field in config_fields():
        if isinstance(field.value, dict):
            OmegaConf.set_struct(OmegaConf.select(root, key), False)
    assert isinstance(root, DictConfig)
    return root


def build(cfg: DictConfig) -> RunConfig:
    """Hydra's composed config -> dataclasses, every value of its declared type.

    Merging onto the schema again makes a config that was composed without it (one saved by an earlier run) as safe as
    one composed here, and refuses keys added with `+`. Raises OmegaConfBaseException for an unknown key or wrong type.
    """
    plain = OmegaConf.create(literal(OmegaConf.to_container(cfg, resolve=True)))
    run = OmegaConf.to_object(OmegaConf.merge(schema(), plain))
    assert isinstance(run, RunConfig)
    return run


def from_values(values: Any) -> RunConfig:
    """The same from plain values, as a run folder keeps them; nothing in them is resolved."""
    return build(OmegaConf.create(literal(values)))


def literal(value: Any) -> Any:
    """Resolved `value` for OmegaConf: a `${` that is left is part of a text, and escaped so that it stays one."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    return [literal(item) for item in value] if isinstance(value, list) else value


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
    """The declared type at the dotted `key` of `kind`, without its `| None`; None where there is no such key."""
    for name in key.split(".") if key else []:
        kind = type_of_item(kind, name)
    return kind


def type_of_item(kind: Any, name: str) -> Any:
    """The declared type of what `kind`, a type of the schema, holds under `name`; None where it holds nothing so."""
    if dataclasses.is_dataclass(kind):
        return next((required(item.type) for item in dataclasses.fields(kind) if item.name == name), None)
    return required(get_args(kind)[-1]) if get_origin(kind) in (dict, list) else Any if kind is Any else None


def required(kind: Any) -> Any:
    """`kind` without its `| None`."""
    return next(of for of in get_args(kind) if of is not NoneType) if isinstance(kind, UnionType) else kind

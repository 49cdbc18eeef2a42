"""Fill the dataclasses of `schema.py` from a composed config."""

import re
from copy import deepcopy
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rollout.config import RunConfig
from rollout.config.keys import config_fields


def schema() -> DictConfig:
    """RunConfig for Hydra. The free-form dictionaries take new keys without Hydra's `+`; nothing else does."""
    return deepcopy(_schema())


@cache
def _schema() -> DictConfig:
    """The schema for callers that do not change it: making it takes as long as the rest of a config."""
    root = OmegaConf.structured(RunConfig)
    for key, field in config_fields():
        if isinstance(field.value, dict):
            OmegaConf.set_struct(OmegaConf.select(root, key), False)
    assert isinstance(root, DictConfig)
    return root


def build(cfg: DictConfig) -> RunConfig:
    """Hydra's composed config -> dataclasses, every value with its declared type.

    Merging onto the schema again also checks a config that was composed without it (saved by an earlier run), and
    refuses keys added with `+`. Raises OmegaConfBaseException for an unknown key or wrong type.
    """
    plain = OmegaConf.create(literal(OmegaConf.to_container(cfg, resolve=True)))
    run = OmegaConf.to_object(OmegaConf.merge(_schema(), plain))
    assert isinstance(run, RunConfig)
    if run.adaptive.until is not None and "score" not in run.postprocess.steps:
        run.postprocess.steps.insert(0, "score")  # each sample has been scored by then
    return run


def from_values(values: Any) -> RunConfig:
    """A RunConfig from plain values, as a run folder keeps them; interpolations in them are not resolved.

    Raises ValueError for an empty mapping, or anything else than a mapping.
    """
    if not isinstance(values, dict) or not values:
        raise ValueError("no config")
    return build(OmegaConf.create(literal(values)))


def literal(value: Any) -> Any:
    """Resolved `value` for OmegaConf: a remaining `${` is part of a text, so it is escaped."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    return [literal(item) for item in value] if isinstance(value, list) else value

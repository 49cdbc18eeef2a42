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
    """The same for those who leave it as it is: making it takes as long as all else in a config."""
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
    run = OmegaConf.to_object(OmegaConf.merge(_schema(), plain))
    assert isinstance(run, RunConfig)
    if run.adaptive.until is not None and "score" not in run.postprocess.steps:
        run.postprocess.steps.insert(0, "score")  # each sample has been scored by then
    return run


def from_values(values: Any) -> RunConfig:
    """The same from plain values, as a run folder keeps them; nothing in them is resolved.

    Raises ValueError for what is no mapping, or an empty one.
    """
    if not isinstance(values, dict) or not values:
        raise ValueError("no config")
    return build(OmegaConf.create(literal(values)))


def literal(value: Any) -> Any:
    """Resolved `value` for OmegaConf: a `${` that is left is part of a text, and escaped so that it stays one."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    return [literal(item) for item in value] if isinstance(value, list) else value

"""Composing a config with Hydra from the presets in `conf/` and the schema in `config/schema.py`."""

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from rollout.config import RunConfig
from rollout.config.fields import build, schema
from rollout.config.presets import conf_dir
from rollout.engine.devices import default_hardware


def register() -> None:
    """Make the schema and the resolver known to Hydra; once is enough, and twice is harmless."""
    ConfigStore.instance().store(name="schema", node=schema())
    OmegaConf.register_new_resolver("default_hardware", default_hardware, replace=True)


def compose_run(*overrides: str) -> RunConfig:
    """The config that `python -m rollout OVERRIDES` would run with, for scripts and tests."""
    register()
    with hydra.initialize_config_dir(conf_dir(), version_base="1.3"):
        return build(hydra.compose("config", list(overrides)))

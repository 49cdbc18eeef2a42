"""The config that a run folder keeps in `.hydra/config.yaml`, for resume, replay and verify to compose from.

The file is data: read as plain YAML onto the schema, nothing in it resolved, instantiated or executed.
"""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rollout.cli import mistakes
from rollout.cli.compose import register
from rollout.cli.hydra_errors import explain
from rollout.config import RunConfig, trust, yaml_texts
from rollout.config.fields import build, from_values, literal
from rollout.config.overrides import as_typed
from rollout.config.presets import conf_dir
from rollout.errors import UserError
from rollout.store.layout import CONFIG

NAME = "saved"
"""What Hydra knows a saved config by: the primary config, and in every group the option with the run's values."""


def read(run_dir: Path) -> RunConfig:
    """The config as it was saved. Raises UserError when it is not there, damaged, or not of this schema."""
    path = run_dir / CONFIG
    if not path.is_file():
        raise UserError(f"{run_dir}: not a run folder (no {CONFIG} in it); give the folder of a run")
    try:
        values = yaml_texts.load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML any more; restore it, its values are in run.json") from error
    if not isinstance(values, dict) or not values:
        raise UserError(f"{path}: holds no config any more; restore it, its values are in run.json")
    try:
        run = from_values(values)
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {explain(error)} (restore it, its values are in run.json)") from error
    if run.data.path is not None and (own := run_dir.absolute() / run.data.path).exists():
        run.data.path = str(own)  # an input in the run's own folder is kept as a path relative to that
    return run


def register_saved(run_dir: Path, with_output: bool = True) -> RunConfig:
    """Give Hydra the saved config as the primary config NAME, and return it; not `with_output` for what is another run,
    which must leave that file alone.

    It is `conf/config.yaml`, Hydra's settings included, with the run's values as the option NAME of every group: so
    `group=preset` replaces a whole group and `group.key=value` changes one value, as on the command line of a new run.
    """
    register()
    run = read(run_dir)
    run = run if with_output else dataclasses.replace(run, output=None)
    values = literal(dataclasses.asdict(run))
    primary: Any = OmegaConf.to_container(OmegaConf.load(Path(conf_dir()) / "config.yaml"))
    groups = {group for entry in primary["defaults"] if isinstance(entry, dict) for group in entry} & values.keys()
    store = ConfigStore.instance()
    for group in groups:
        store.store(group=group, name=NAME, node=values.pop(group))
    store.store(name="saved_rest", node=values)
    defaults = [dict.fromkeys(entry, NAME) if groups & set(entry) else entry for entry in primary["defaults"]]
    first = defaults.index("schema") + 1
    store.store(name=NAME, node=primary | {"defaults": [*defaults[:first], "saved_rest", *defaults[first:]]})
    return run


def load(
    run_dir: Path,
    overrides: list[str],
    trusted: bool = False,
    groups: Collection[str] | None = None,
    with_output: bool = True,
) -> RunConfig:
    """The saved config, changed by `overrides`; `with_output` as in `register_saved`.

    `groups` are those that are going to be used, None all; what in them needs `trusted` is refused without, see
    `rollout.config.trust`. Raises UserError like `read`, and what Hydra raises about overrides.
    """
    if about_hydra := [word for word in overrides if word.lstrip("+~").startswith("hydra")]:
        raise UserError(f"{about_hydra[0]}: the run's folder stays; leave it out, or see `python -m rollout replay`")
    mistakes.refuse(overrides, presets=[NAME])
    before, overrides = register_saved(run_dir, with_output), as_typed(overrides)
    with hydra.initialize_config_dir(conf_dir(), version_base="1.3"):
        run = build(hydra.compose(NAME, overrides))
    if not trusted:
        trust.refuse(run, before, overrides, run_dir, groups)
    return run

"""The config that a run folder keeps in `.hydra/config.yaml`: written by a run, read and changed by `resume`."""

import dataclasses
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from rollout import models
from rollout.compose import conf_dir, register
from rollout.config import RunConfig
from rollout.errors import UserError
from rollout.files import replacing
from rollout.knobs import build

CONFIG = Path(".hydra") / "config.yaml"


def save(run: RunConfig, run_dir: Path) -> None:
    """Write the config, resolved, with absolute paths: it must mean the same from another folder."""
    data = dataclasses.replace(run.data, path=_absolute(run.data.path))
    model = dataclasses.replace(
        run.model,
        path=models.absolute(run.model.path),
        tokenizer=None if run.model.tokenizer is None else models.absolute(run.model.tokenizer),
        chat_template=_absolute(run.model.chat_template),
    )
    (run_dir / CONFIG).parent.mkdir(exist_ok=True)
    with replacing(run_dir / CONFIG) as partial:
        OmegaConf.save(OmegaConf.structured(dataclasses.replace(run, data=data, model=model)), partial)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().absolute())


def load(run_dir: Path, overrides: list[str]) -> RunConfig:
    """The config saved in `run_dir/.hydra`, changed by `overrides` as on the command line of a run.

    `group=preset` replaces the whole saved group by the preset. The saved file is read as plain YAML onto the schema:
    nothing in it is instantiated or executed. Raises UserError when there is no such file, and what Hydra raises about
    overrides.
    """
    path = run_dir / CONFIG
    if not path.is_file():
        raise UserError(f"{run_dir}: not a run folder (no {CONFIG} in it); give the folder of a run")
    register()
    parsed = OverridesParser.create().parse_overrides(overrides)
    with hydra.initialize_config_dir(conf_dir(), version_base="1.3"):
        try:
            saved = OmegaConf.load(path)
        except YAMLError as error:
            raise UserError(f"{path}: not YAML any more; restore it, its values are in run.json") from error
        if not isinstance(saved, DictConfig) or not saved:
            raise UserError(f"{path}: holds no config any more; restore it, its values are in run.json")
        for override in parsed:
            if _is_preset(override):
                saved[override.key_or_group] = hydra.compose("config", [str(override.input_line)])[
                    override.key_or_group
                ]
        store = ConfigStore.instance()
        store.store(name="saved_values", node=saved)
        store.store(name="saved_run", node={"defaults": ["schema", "saved_values", "_self_"]})
        values = [str(override.input_line) for override in parsed if not _is_preset(override)]
        return build(hydra.compose("saved_run", values))


def _is_preset(override: Override) -> bool:
    return (Path(conf_dir()) / override.key_or_group).is_dir() and not isinstance(override.value(), dict)

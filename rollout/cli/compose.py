"""Composing a config with Hydra from the presets in `conf/` and the schema in `config/schema.py`."""

from pathlib import Path, PurePosixPath

import hydra
import yaml
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf, open_dict
from omegaconf._utils import get_yaml_loader

from rollout.config import RunConfig, yaml_texts
from rollout.config.fields import build, schema
from rollout.config.keys import type_of
from rollout.config.overrides import as_typed
from rollout.config.presets import conf_dir
from rollout.engine.devices import default_hardware
from rollout.errors import UserError
from rollout.files import short


def register() -> None:
    """Make the schema and the resolver known to Hydra; once is enough, and twice is harmless."""
    Plugins.instance()  # registers Hydra's own readers, of which ours takes the place of one
    SourcesRegistry.instance().types[FileConfigSource.scheme()] = FileConfigSource
    ConfigStore.instance().store(name="schema", node=schema())
    OmegaConf.register_new_resolver("default_hardware", default_hardware, replace=True)


def compose_run(*overrides: str) -> RunConfig:
    """The config that `python -m rollout OVERRIDES` would run with, for scripts and tests."""
    return compose_with_folder(as_typed(list(overrides)))[0]


def compose_with_folder(words: list[str]) -> tuple[RunConfig, Path]:
    """The config of a new run, from `words` for Hydra, and the folder that the run would have."""
    register()
    with hydra.initialize_config_dir(conf_dir(), version_base="1.3"):
        composed = hydra.compose("config", words, return_hydra_config=True)
    run_dir = Path(composed.hydra.run.dir)
    with open_dict(composed):
        del composed["hydra"]
    return build(composed), run_dir


class FileConfigSource(file_config_source.FileConfigSource):
    """Files of values, a user's own too, in which texts keep their letters.

    It has the name of the one it replaces: in the processes of a launcher Hydra registers its own again, unless one of
    that name is there.
    """

    def load_config(self, config_path: str) -> ConfigResult:
        """As Hydra has it."""
        path = Path(self.path) / self._normalize_file_name(config_path)
        if not path.exists():
            return super().load_config(config_path)  # which says so
        text = _text_of(path)
        header = self._get_header_dict(text)
        group = str(PurePosixPath(config_path).parent).replace("/", ".").strip(".")
        package = header["package"] or group
        kind = type_of({"_global_": "", "_group_": group}.get(package, package))
        try:
            values = yaml_texts.load(text, kind, get_yaml_loader())
        except yaml.MarkedYAMLError as error:
            line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
            raise UserError(
                f"{short(path)}: {line}not YAML ({error.problem}); indent with spaces, close brackets and quotes"
            ) from error
        if not isinstance(values, dict | None):
            raise UserError(f"{short(path)}: holds no keys with values; write it like `rollout help config` does")
        return ConfigResult(self.provider, f"{self.scheme()}://{self.path}", OmegaConf.create(values or {}), header)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{short(path)}: the text is not UTF-8; save it as UTF-8") from error

"""The presets that come with this program: their place, their purpose, and their values for the hardware."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml


def conf_dir() -> str:
    """The folder of presets, absolute: `conf/` in a checkout, `rollout/conf/` in an installed wheel."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "conf"
    return str(installed if installed.is_dir() else package.parent / "conf")


@dataclass(frozen=True)
class Preset:
    """A file of `conf/GROUP/`."""

    path: Path

    @property
    def name(self) -> str:
        """The name, as in GROUP=NAME."""
        return self.path.stem

    @property
    def comment(self) -> list[str]:
        """The comment at the beginning of the file: its purpose in the first line, then more about it."""
        lines = (line for line in self.path.read_text("utf-8").splitlines() if not line.startswith("# @package"))
        return [line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines)]

    @property
    def values(self) -> dict[str, Any]:
        """The values it sets, by dotted key without the group."""
        return dict(leaves(yaml.safe_load(self.path.read_text("utf-8")) or {}))


@dataclass(frozen=True)
class Group:
    """A folder of `conf/`."""

    name: str
    defaults: Mapping[str, str]
    """The default presets, and when each applies: none, one, or two that depend on the machine."""
    presets: list[Preset]
    """The defaults first, then the others by name."""


_BY_MACHINE = {"${default_hardware:}": {"single_gpu": "default with a GPU", "cpu": "default without a GPU"}}


@cache
def groups() -> tuple[Group, ...]:
    """Every group of presets, in the order of `config.yaml`."""
    entries = yaml.safe_load((Path(conf_dir()) / "config.yaml").read_text("utf-8"))["defaults"]
    chosen = {name: preset for entry in entries if isinstance(entry, dict) for name, preset in entry.items()}
    return tuple(_group(name, preset) for name, preset in chosen.items() if not name.startswith("override "))


def _group(name: str, chosen: str | None) -> Group:
    defaults = {} if chosen is None else _BY_MACHINE.get(chosen, {chosen: "default"})
    presets = [Preset(path) for path in (Path(conf_dir()) / name).glob("*.yaml")]
    order = [*defaults]
    presets.sort(key=lambda preset: (order.index(preset.name) if preset.name in order else len(order), preset.name))
    return Group(name, defaults, presets)


def is_of_preset(key: str, value: Any) -> bool:
    """Whether a hardware preset that comes with this program gives `key` this value."""
    return (key, str(value)) in _preset_values()


@cache
def _preset_values() -> frozenset[tuple[str, str]]:
    """(key, value) of every hardware preset that comes with this program."""
    presets = [yaml.safe_load(path.read_text("utf-8")) or {} for path in (Path(conf_dir()) / "hardware").glob("*.yaml")]
    return frozenset((f"hardware.{path}", str(value)) for preset in presets for path, value in leaves(preset))


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every value in nested dictionaries."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def with_defaults(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`values`, with missing keys taken from `defaults`, in nested dictionaries too."""
    both = {
        name: with_defaults(values[name], default)
        for name, default in defaults.items()
        if isinstance(default, Mapping) and isinstance(values.get(name), Mapping)
    }
    return {**defaults, **values, **both}

"""The presets that come with this program: where they are, and what they say of the hardware."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml


def conf_dir() -> str:
    """The folder of presets, absolute: `conf/` in a checkout, `rollout/conf/` in an installed wheel."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "conf"
    return str(installed if installed.is_dir() else package.parent / "conf")


def is_of_preset(key: str, value: Any) -> bool:
    """Whether a hardware preset that comes with this program gives `key` this value."""
    return (key, str(value)) in _preset_values()


@cache
def _preset_values() -> frozenset[tuple[str, str]]:
    """(key, value) of every hardware preset that comes with this program."""
    presets = [yaml.safe_load(path.read_text("utf-8")) or {} for path in (Path(conf_dir()) / "hardware").glob("*.yaml")]
    return frozenset((f"hardware.{path}", str(value)) for preset in presets for path, value in leaves(preset))


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of all that is in nested dictionaries."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

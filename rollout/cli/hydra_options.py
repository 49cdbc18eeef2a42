"""Hydra's own command-line options: those that do harm or end in a traceback are refused, a saved run is recognised."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override

from rollout.config.presets import conf_dir
from rollout.errors import UserError
from rollout.files import holds_keys
from rollout.store.layout import CSV, HTML, JOBS, MANIFEST

_ONE_OF = ("run", "cfg", "multirun", "shell_completion", "info")
_OF_A_SWEEP = ("multirun.yaml", CSV, HTML)
"""Files that a sweep writes to its folder, beside one for each job in JOBS."""
_REPLAY = "`python -m rollout.replay RUN_DIR`"


def check(arguments: list[str]) -> None:
    """Raise UserError for what Hydra would answer with a traceback, or by loading a pickle."""
    options = get_args_parser().parse_args(arguments)
    if options.experimental_rerun is not None:
        raise UserError(f"--experimental-rerun: would load a pickle, which can run any program; use {_REPLAY}")
    if options.resolve and options.cfg is None and not options.help:
        raise UserError("--resolve: belongs to --cfg; write `--cfg job --resolve`")
    given = [name.replace("_", "-") for name in _ONE_OF if getattr(options, name)]
    if len(given) > 1:
        raise UserError(f"--{given[0]}, --{given[1]}: Hydra does one of these at a time; leave one out")
    if Path(options.config_dir or "").name == ".hydra":
        raise UserError(f"--config-dir={options.config_dir}: Hydra would not read the config in it; use {_REPLAY}")
    if not options.shell_completion:  # whose overrides are unfinished words
        for override in OverridesParser.create().parse_overrides(options.overrides):
            _check_preset(override)
            _check_folder(override, options.multirun)


def _check_folder(override: Override, is_sweep: bool) -> None:
    """A sweep has a folder of its own, with one for each job in it."""
    if not is_sweep or override.is_delete():
        return
    if override.key_or_group == "hydra.run.dir":
        raise UserError(f"hydra.run.dir={override.value()}: a sweep does not use it; set hydra.sweep.dir")
    if override.key_or_group == "hydra.sweep.dir":
        folder = Path(str(override.value()))
        if (folder / MANIFEST).exists():
            raise UserError(f"hydra.sweep.dir={folder}: the folder of a run; choose another one")
        if found := _of_somebody_else(folder):
            raise UserError(f"hydra.sweep.dir={folder}: {found} already exists there; choose another folder")


def _of_somebody_else(folder: Path) -> str | None:
    """A file that a sweep in `folder` would replace and that none has written."""
    for path in (folder / JOBS).glob("*.json"):
        if not holds_keys(path, {"num", "run_dir", "overrides", "status"}):
            return f"{JOBS}/{path.name}"
    found = [] if (folder / JOBS).is_dir() else [name for name in _OF_A_SWEEP if os.path.lexists(folder / name)]
    return found[0] if found else None


def _check_preset(override: Override) -> None:
    folder = Path(conf_dir()) / override.key_or_group
    if override.is_delete() or not override.key_or_group.isidentifier() or not folder.is_dir():
        return
    for value in _values(override):
        if value is None or isinstance(value, int | float):
            presets = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
            shown = "null" if value is None else str(value)
            raise UserError(f"{override.key_or_group}={shown}: no such preset; choose from {presets}")


def _values(override: Override) -> Iterator[object]:
    value = override.value()
    yield from value.list if isinstance(value, ChoiceSweep) else [value]


def saved_run(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """The run folder that `--config-path RUN_DIR/.hydra --config-name config` means, and the other arguments.

    Hydra itself would lose the schema and our settings with these two, and would obey a `hydra:` in the file.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-path", "-cp")
    parser.add_argument("--config-name", "-cn")
    options, others = parser.parse_known_args(arguments)
    folder = Path(options.config_path or "").absolute()
    if folder.name != ".hydra" and (folder := folder.resolve()).name != ".hydra":
        return None, arguments
    if options.config_name not in (None, "config", "config.yaml"):
        raise UserError(f"--config-name={options.config_name}: holds no run's config; leave it out")
    return folder.parent, others

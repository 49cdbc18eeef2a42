"""Hydra's and OmegaConf's errors in one line: the key, its value, the cure."""

import dataclasses
import re
from typing import get_origin

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from rollout.config import RunConfig
from rollout.config.keys import config_fields, type_of
from rollout.config.overrides import key_of
from rollout.errors import did_you_mean

EXPLAINED = (HydraException, OmegaConfBaseException)
"""The errors that `explain` has a line for."""

_KINDS = {
    "Float": "a number",
    "Integer": "a whole number",
    "Boolean": "true or false",
    "bool": "true or false",
    "String": "text",
}
_PLUGINS = {
    ("hydra/launcher", "joblib"): "hydra-joblib-launcher",
    ("hydra/launcher", "submitit_local"): "hydra-submitit-launcher",
    ("hydra/launcher", "submitit_slurm"): "hydra-submitit-launcher",
    ("hydra/launcher", "ray"): "hydra-ray-launcher",
    ("hydra/sweeper", "optuna"): "hydra-optuna-sweeper",
}
"""Presets of Hydra's that are packages of their own."""


def explain(error: Exception) -> str:
    """One line about an error raised while a config was composed."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, preset = error.missing_cfg_file.rpartition("/")
        package = _PLUGINS.get((group, preset))
        where = f" (or `pip install {package}`, which brings it)" if package else ""
        return f"{group}={preset}: no such preset; choose from {', '.join(sorted(error.options))}{where}"
    if isinstance(error, MissingConfigException) and str(error).startswith("Cannot find primary config"):
        return (
            f"--config-name {error.missing_cfg_file}: no such config; leave it out (presets of your own: --config-dir "
            "FOLDER experiment=NAME)"
        )
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    chain = (error.__cause__, error, error.__context__)
    cause = next((one for one in chain if isinstance(one, OmegaConfBaseException)), error)
    if isinstance(cause, OmegaConfBaseException):
        is_unknown = re.match(r"Key .* (is )?not in ", str(cause))
        line = unknown_key(str(cause.full_key)) if is_unknown else _wrong_value(cause)
        return _of_preset(str(error), str(cause.full_key), line)
    return " ".join(str(error).split())


def _of_preset(message: str, key: str, line: str) -> str:
    """`line` about a `key`, with the file that has it where Hydra's `message` names one."""
    match = re.match(r"In '((.+)/.+?)': ", message)
    if match is None:
        return line
    if match[2] == key:  # its values were looked for under the group's name
        return f"{match[1]}.yaml: its values are found only with the first line `# @package _global_`; write it there"
    return f"{match[1]}.yaml: {line}"


_FORMS = {
    float: "must be a number",
    int: "must be a whole number",
    bool: "must be true or false",
    list: 'write a list as \'["a","b"]\', in both kinds of quotes',
    dict: "write it as '{name: \"text\"}', in both kinds of quotes",
}


_GROUP = "is a group of keys; write {}.KEY=VALUE, see --help"
_COLLECTIONS = {list: "must be a list; write '{}=[a,b]'", dict: "must hold names with values; write {}.NAME=VALUE"}


def _unreadable(error: OverrideParseException) -> str:
    reason = str(error).replace(f"Error parsing override '{error.override}'", "").strip().splitlines()[0]
    reason = "an unexpected character" if reason.startswith("LexerNoViableAltException") else reason
    key, _, value = error.override.partition("=")
    kind = type_of(key_of(key))
    form = _FORMS.get(get_origin(kind) or kind, "write key=value, and a text in it in double quotes")
    if get_origin(kind) is list and value and not set("[]'\"") & set(value):
        form = f"write '{key}=[{value}]'"
    return f"{error.override}: cannot be read ({reason}); {form}"


def unknown_key(key: str) -> str:
    """One line about a key that there is not."""
    if key.startswith(("hydra.", "hydra/")):
        return f"{key}: Hydra has no such key; see --hydra-help"
    group, dot, _ = key.partition(".")
    known = [name for name, _ in config_fields()]
    siblings = [name for name in known if name.startswith(group + dot)]
    groups = [field.name for field in dataclasses.fields(RunConfig)]
    return f"{key}: no such key, {did_you_mean(key, siblings if dot and siblings else groups)}"


def _wrong_value(error: OmegaConfBaseException) -> str:
    message = str(error).splitlines()[0]
    for pattern in (r"Value '(.*)' of type '.*' could not be converted to (\w+)", r"Value '(.*)' is not a valid (\w+)"):
        if match := re.match(pattern, message):
            return f"{error.full_key}={match[1]}: must be {_KINDS.get(match[2], match[2])}"
    if message.endswith("is not Optional"):
        return f"{error.full_key}=null: must have a value"
    kind = type_of(str(error.full_key))
    form = _GROUP if dataclasses.is_dataclass(kind) else _COLLECTIONS.get(get_origin(kind))
    return f"{error.full_key}: {message if form is None else form.format(error.full_key)}"

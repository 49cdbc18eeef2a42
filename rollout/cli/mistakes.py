"""Everything that is wrong with the words of a command, and what the user probably meant."""

import argparse
import re
import shlex
from collections.abc import Callable, Collection, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, get_origin

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rollout.cli.commands import RUN_WORDS
from rollout.cli.hydra_errors import explain, unknown_key
from rollout.cli.slips import Mistake, in_shell, of_mark, of_wide, of_words_apart
from rollout.cli.synonyms import meant, nearly_meant
from rollout.config import STEPS
from rollout.config.fields import schema
from rollout.config.keys import config_fields, type_of
from rollout.config.overrides import as_typed, key_of, quoted
from rollout.config.presets import conf_dir
from rollout.errors import UserError, nearest

_INPUTS = (".parquet", ".jsonl", ".json", ".csv", ".txt")
NEITHER = "neither a command nor key=value; see --help, and put quotes around a value with spaces"
"""What is wrong with a word without a key."""

_ELSEWHERE = {
    "resume": "to continue a run: python -m rollout resume {value}",
    "resume_from": "to continue a run: python -m rollout resume {value}",
    "replay": "to repeat a run: python -m rollout replay {value}",
    "config": "a file of values is a preset: --config-dir FOLDER experiment=NAME takes FOLDER/experiment/NAME.yaml",
}
"""Words for which there is no key -> what to do instead."""


def find(words: list[str], is_sweep: bool, presets: Collection[str] = ()) -> tuple[list[Mistake], list[str]]:
    """The mistakes in `words`, options and overrides as they were typed, and the words that are left without them.

    `presets` are names that every group has beside those in its folder.
    """
    mistakes, left = list[Mistake](), list[str]()
    known = {group: names.union(presets) for group, names in _presets(words).items()}
    units = list(_units(words))
    while units:
        unit = units.pop(0)
        behind = [item for item, *_ in takewhile(lambda unit: not unit[0].startswith("-"), units)]
        mistake, taken = of_words_apart(unit[0], behind) or (_of_unit(unit, is_sweep, known), 0)
        del units[:taken]
        if mistake is None:
            left += unit
        else:
            mistakes.append(mistake)
    return mistakes, left


def refuse(
    words: list[str],
    is_sweep: bool = False,
    others: Callable[[list[str]], Iterator[str]] | None = None,
    presets: Collection[str] = (),
) -> None:
    """Raise UserError with every mistake in `words`, and with what `others` finds in the words once they are cured.

    `presets` as in `find`.
    """
    mistakes, left = find(words, is_sweep, presets)
    if not mistakes:
        return
    lines = [mistake.line for mistake in mistakes]
    if others is not None:
        given = {key_of(word) for word in left}
        unsure = {mistake.group for mistake in mistakes if not mistake.cured}
        left += [word for mistake in mistakes for word in mistake.cured]
        for line in others(left):
            key = re.split("[=:]", line, maxsplit=1)[0]
            if key in given or key.split(".")[0] not in unsure:  # else it may be what the mistake was about
                lines.append(line)
    raise UserError(*dict.fromkeys(lines))


def _units(words: list[str]) -> Iterator[list[str]]:
    """`words` with the value of an option beside it."""
    known = get_args_parser()._option_string_actions
    rest = list(words)
    while rest:
        unit = [rest.pop(0)]
        name, equals, _ = unit[0].partition("=")
        if name.startswith("-") and not equals and rest:
            unit += [rest.pop(0)] if _takes(known.get(name), rest[0]) else []
        yield unit


def options_first(words: list[str]) -> list[str]:
    """The words with overrides at the end: argparse takes them in one place only."""
    units = sorted(_units(words), key=lambda unit: not unit[0].startswith("-"))
    return [word for unit in units for word in unit]


def without_plus(words: list[str]) -> list[str]:
    """The words with `+experiment=mine` as `experiment=mine`: every group is in the config already."""
    groups = _presets(words)
    return [word.lstrip("+") if word.startswith("+") and key_of(word) in groups else word for word in words]


def _takes(option: argparse.Action | None, word: str) -> bool:
    """Whether an option (None: an unknown one) takes the `word` behind it as its value."""
    if option is not None:
        return option.nargs is None or (option.nargs == "?" and word in (option.choices or ()))
    return "=" not in word and (not word.startswith("-") or re.fullmatch(r"-\.?\d.*", word) is not None)


def _of_unit(unit: list[str], is_sweep: bool, presets: dict[str, set[str]]) -> Mistake | None:
    word, key = unit[0], key_of(unit[0])
    if word.startswith("-"):
        return _of_option(unit)
    if (slip := of_wide(word, presets) or of_mark(word)) is not None:
        return slip
    if word.startswith("~"):
        return None
    if "=" not in word:
        return _of_bare(word)
    if braces := re.fullmatch(r"([\w.]+\.)\{(.*)\}", word):
        return _of_braces(word, *braces.groups())
    try:
        as_typed([word])
    except UserError as error:
        return Mistake(str(error), key.split(".")[0])
    if key in presets:
        return _of_group(word, key, is_sweep, presets[key])
    if re.search("[@/]", key) or key.split(".")[0] == "hydra":
        return _several(word, key, is_sweep)
    if type_of(key) is None:
        return _of_unknown(word, key)
    return _several(word, key, is_sweep) or _of_value(word)


def _of_braces(word: str, group: str, inside: str) -> Mistake:
    """`sampling.{seed=1,top_p=1}` as bash and zsh expand it, and as sh and an editor's run button do not."""
    cured = tuple(group + part for part in inside.split(","))
    return Mistake(f"{word}: this shell does not expand it; write {shlex.join(cured)}", group.split(".")[0], cured)


def _of_option(unit: list[str]) -> Mistake | None:
    name, equals, value = unit[0].partition("=")
    given = value if equals else unit[1] if len(unit) > 1 else None
    if name in ("--config-dir", "-cd") and given is not None and not Path(given).is_dir():
        return Mistake(f"{' '.join(unit)}: no such folder; give the one that holds your presets", "")
    if name in get_args_parser()._option_string_actions:
        return None
    key, shown = name.lstrip("-"), " ".join(unit)
    if key in _ELSEWHERE:
        return Mistake(f"{shown}: no such option; {_ELSEWHERE[key].format(value=shlex.quote(given or 'RUN_DIR'))}", "")
    cure = meant(key, given) or nearly_meant(key, given)
    if cure is None:
        return Mistake(f"{shown}: no such option; keys are given as key=value, see --help", "")
    return Mistake(f"{shown}: no such option; write {in_shell(cure)}", key_of(cure).split(".")[0], (cure,))


def _of_bare(word: str) -> Mistake:
    if word in RUN_WORDS:
        return Mistake(f"{word}: a run has no word of its own; leave it out: rollout data.path=input.parquet ...", "")
    cure = meant(word, None)
    if cure is None and (word.endswith(_INPUTS) or Path(word).is_file()):
        cure = f"data.path={word}"
    elif cure is None and (Path(word).is_dir() or re.fullmatch(r"[\w.-]+/[\w.-]+", word)):
        cure = f"model.path={word}"
    if cure is None:
        return Mistake(f"{word}: {NEITHER}", "")
    return Mistake(f"{word}: has no key; write {in_shell(cure)}", key_of(cure).split(".")[0], (cure,))


def _of_unknown(word: str, key: str) -> Mistake:
    value, group = word.partition("=")[2], key.split(".")[0]
    if key in _ELSEWHERE:
        return Mistake(f"{word}: no such key; {_ELSEWHERE[key].format(value=shlex.quote(value))}", group)
    cure = meant(key, value)
    near = nearest(key, (name for name, _ in config_fields() if name.split(".")[0] == group))
    if cure is None and near:
        cured = f"{near[0]}={value}"
        return Mistake(unknown_key(key), group, (cured,) if len(near) == 1 and _of_value(cured) is None else ())
    cure = cure or nearly_meant(key, value)
    if cure is None or cure.partition("=")[0] == key:
        return Mistake(unknown_key(key), group)
    more = " (or hardware=multi_gpu: a copy of the model on each)" if re.search("gpus", key) else ""
    return Mistake(f"{word}: no such key; write {in_shell(cure)}{more}", key_of(cure).split(".")[0], (cure,))


def _of_group(word: str, group: str, is_sweep: bool, known: set[str]) -> Mistake | None:
    """The mistake of a preset that does not exist; `known` are those that do."""
    parsed, raw = _parsed(word), word.partition("=")[2]
    values = [raw] if parsed is None else _values(parsed)
    if isinstance(values[0], dict):
        return _of_value(word)
    if group == "experiment" and values == [None]:
        return None
    for value in values:
        shown = "null" if value is None else str(value)
        if not isinstance(value, str) or shown not in known:
            return _no_preset(group, shown if len(values) > 1 else raw, known)
    return _several(word, group, is_sweep)


def _no_preset(group: str, value: str, known: set[str]) -> Mistake:
    cure = None
    if group == "data" and (value.endswith(_INPUTS) or Path(value).exists()):
        cure = f"data.path={value}"
    elif group == "model" and ("/" in value or Path(value).exists()):
        cure = f"model.path={value}"
    elif group == "postprocess" and set(re.findall(r"\w+", value)) & set(STEPS):
        cure = f"postprocess.steps=[{value.strip('[]')}]"
    elif group == "tracking" and value in ("online", "true"):
        cure = "tracking=wandb"
    elif group == "tracking" and value.lower() in ("none", "false", "off"):
        cure = "tracking=disabled"
    elif group == "hardware" and value in ("gpu", "cuda"):
        cure = "hardware=single_gpu"
    line = f"{group}={value}: no such preset; choose from {', '.join(sorted(known))}"
    if cure is None:
        return Mistake(line, group)
    return Mistake(f"{group}={value}: no such preset; write {in_shell(cure)}", group, (cure,))


def _several(word: str, key: str, is_sweep: bool) -> Mistake | None:
    """The mistake of several values where there can be only one."""
    parsed = None if is_sweep else _parsed(word)
    if parsed is None or not parsed.is_sweep_override():
        return None
    raw, kind = word.partition("=")[2], type_of(key)
    typed = word.partition("=")[0]
    if get_origin(kind) is list:
        cure = f"{typed}=[{raw}]"
    elif kind is float and re.fullmatch(r"-?\d+,\d+", raw):
        cure = f"{typed}={raw.replace(',', '.')}"
    elif kind in (int, float) and re.fullmatch(r"\d{1,3}(,\d{3})+", raw):
        cure = f"{typed}={raw.replace(',', '')}"
    elif kind is str and "(" not in raw:
        cure = f"{typed}={quoted(raw)}"
    else:
        return Mistake(f"{word}: several values make a sweep; add -m", key.split(".")[0])
    line = f"{word}: a comma makes several values, which need -m (a sweep); for one value write {in_shell(cure)}"
    return Mistake(line, key.split(".")[0], (cure,))


def _of_value(word: str) -> Mistake | None:
    """The mistake of a value that is not of its key's type."""
    parsed = _parsed(word)
    if parsed is None or parsed.is_sweep_override():
        return None  # Hydra says what it cannot read, and a job of a sweep may fail by itself
    config = schema()
    OmegaConf.set_struct(config, True)
    key, value = parsed.key_or_group, _plain(parsed.value())
    try:
        OmegaConf.update(config, key, value, merge=True)
    except OmegaConfBaseException as error:
        return _of_items(word, key, value) or Mistake(*_wrong_type(error, key, value))
    return _of_items(word, key, value)


def _of_items(word: str, key: str, value: Any) -> Mistake | None:
    """The mistake of a list with items that are not whole numbers, which OmegaConf does not explain or even notice."""
    items = value if isinstance(value, list) else [value]
    if type_of(key) != list[int] or all(re.fullmatch(r"-?\d+", str(item)) for item in items):
        return None
    return Mistake(f"{word}: must be a list of whole numbers, as [2,4]", key.split(".")[0])


def _wrong_type(error: OmegaConfBaseException, key: str, value: Any) -> tuple[str, str, tuple[str, ...]]:
    group = key.split(".")[0]
    if get_origin(type_of(key)) is list and isinstance(value, str | int | float):
        cure = f"{key}=[{value}]"
        return f"{key}={value}: must be a list; write {in_shell(cure)}", group, (cure,)
    return explain(error), group, ()


def _plain(value: Any) -> Any:
    """`value` of Hydra's grammar without the marks of quotes."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _parsed(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_overrides(as_typed([word]))[0]
    except (HydraException, UserError):
        return None


def _values(override: Override) -> list[Any]:
    value = override.value()
    return [_plain(item) for item in getattr(value, "list", [value])]


def _presets(words: list[str]) -> dict[str, set[str]]:
    """Every group and its presets: ours, and those in a folder that the command names."""
    folders = [Path(conf_dir()), *(Path(folder) for folder in config_dirs(words))]
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.glob("*/*.yaml"):
            found.setdefault(path.parent.name, set()).add(path.stem)
    return {} if any(key_of(word) == "hydra.searchpath" for word in words) else found


def config_dirs(words: list[str]) -> list[str]:
    """The values of `--config-dir`."""
    return [unit[-1].rpartition("=")[2] for unit in _units(words) if re.match(r"(--config-dir|-cd)\b", unit[0])]

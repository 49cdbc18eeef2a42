"""A file to start from: every key with its default and its meaning, all as comments."""

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml

from rollout.config.keys import Key, keys_of, sections
from rollout.config.presets import Group, groups

_WIDTH = 110
_HEADER = """\
# @package _global_
# A preset of your own, as a file: every key with its default and its meaning.
#
#     mkdir -p mine/experiment
#     python -m rollout help config > mine/experiment/NAME.yaml
#     python -m rollout --config-dir mine experiment=NAME
#
# Take away the first # of a key that you change, and of the groups that it is in. Leave the others: for these
# the presets and the machine decide. A key that is set here counts more than any preset, also than one that is
# typed (hardware=low_mem); a key that is typed (sampling.seed=1) counts more than this file.
"""


def template() -> str:
    """The file, which `--config-dir` reads as a preset of the group `experiment`."""
    return _HEADER + "".join(f"#{line}\n" if line else "\n" for line in _body())


def _body() -> Iterator[str]:
    yield from ("", "# Presets, one of each group.", "defaults:")
    for group in groups():
        yield from _presets(group)
    meanings = {section.name: section.meaning for section in sections()}
    open_now = list[str]()
    for key in keys_of():
        *inside, name = key.name.split(".")
        yield from _heads(inside, open_now, meanings)
        open_now = inside
        yield from _key(key, name, "  " * len(inside))


def _presets(group: Group) -> Iterator[str]:
    """The line that chooses a preset; `experiment` is the group of this file itself."""
    if group.defaults:
        yield f"  # {', '.join(preset.name for preset in group.presets)}"
        yield f"  - override /{group.name}: {next(iter(group.defaults))}"


def _heads(inside: list[str], open_now: list[str], meanings: dict[str, str]) -> Iterator[str]:
    """The heads of the groups that begin before a key in the groups `inside`; the last key was in `open_now`."""
    if not inside and open_now:
        yield ""
    for depth, name in enumerate(inside):
        if inside[: depth + 1] != open_now[: depth + 1]:
            yield from ("",) if depth == 0 else ()
            yield from _comment(meanings[".".join(inside[: depth + 1])], "  " * depth)
            yield f"{'  ' * depth}{name}:"


def _key(key: Key, name: str, indent: str) -> Iterator[str]:
    yield from _comment(key.explanation, indent)
    yield f"{indent}{name}: {_value(key.field.value)}"


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _value(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()

"""What is said of each key: type, default, limits and the string under it."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from rollout.cli.commands import COMMANDS
from rollout.config import RunConfig
from rollout.config.commands import ScoreCommand
from rollout.config.keys import config_fields, keys_of, sections
from rollout.config.limits import limited as _field
from rollout.scoring.check import NAMES


@dataclass(kw_only=True)
class Base:
    path: str
    """Where it is,
    on two lines."""
    ratio: float = _field(1.0, gt=float("-inf"))
    """A ratio."""


@dataclass
class Inner:
    names: list[str] = field(default_factory=list)
    """Names."""
    kind: str = _field("a", choices=("a", "b"))
    """A kind."""


@dataclass(kw_only=True)
class Example(Base):
    ratio: float = _field(0.5, gt=0.0, le=1.0)
    flag: bool = False
    """A switch."""
    inner: Inner = field(default_factory=Inner)
    """What is inside."""


def test_a_key_has_its_default_limits_and_documentation() -> None:
    found = {key.name: ("REQUIRED" if key.is_required else key.default, key.explanation) for key in keys_of(Example)}
    assert found == {
        "path": ("REQUIRED", "Where it is, on two lines."),
        "ratio": ("0.5", "A ratio. More than 0.0 and at most 1.0."),
        "flag": ("false", "A switch."),
        "inner.names": ("[]", "Names."),
        "inner.kind": ("a", "A kind. One of `a`, `b`."),
    }
    assert next(key.explanation for key in keys_of(Base) if key.name == "ratio") == "A ratio."
    assert [(section.name, section.meaning) for section in sections(Example)] == [("inner", "What is inside.")]


def test_the_keys_of_a_run_are_the_fields_of_its_config() -> None:
    assert {key.name: key.field for key in keys_of(RunConfig)} == dict(config_fields())


def test_every_key_of_runs_and_commands_is_documented() -> None:
    kinds: set[type[Any]] = {RunConfig, *(command.keys for command in COMMANDS if command.keys is not None)}
    assert all(key.meaning for kind in kinds for key in keys_of(kind))


def test_the_hint_of_the_scorer_names_all_of_them() -> None:
    (scorer,) = (item for item in dataclasses.fields(ScoreCommand) if item.name == "scorer")
    assert scorer.metadata["hint"] == f"{', '.join(NAMES)} or module:function"

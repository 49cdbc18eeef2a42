"""`key=value` arguments: texts as they are typed, values of their declared type, every mistake in one line."""

from dataclasses import dataclass
from typing import Any

import pytest

from rollout.config import PrepareConfig
from rollout.config.arguments import field_docs, parse, usage
from rollout.config.schema import _field
from rollout.errors import UserError


@dataclass
class Example:
    path: str
    """Where it is,
    on two lines."""
    text: str | None = _field("x", escapes=True)
    """A text."""
    names: list[str] | None = None
    """Names."""
    count: int = _field(1, ge=1)
    """A number."""
    flag: bool = False
    """A switch."""


def problems_of(*arguments: str) -> tuple[str, ...]:
    with pytest.raises(UserError) as refused:
        parse(Example, list(arguments))
    return refused.value.problems


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("path=null", "null"),
        (r"path=a\nb=${c},[d]", r"a\nb=${c},[d]"),
        (r"text={q}\n\t\\text \boxed{{}}", "{q}\n\t\\text \\boxed{{}}"),
        (r"text=\\n", r"\n"),
        ("text='quoted' ", "'quoted' "),
        ("text=null", None),
        ("names=a", ["a"]),
        ("names=[a, b c,]", ["a", "b c"]),
        ("names=a,b", ["a", "b"]),
        ("names=[]", []),
        ("names=null", None),
        ("count=12", 12),
        ("flag=true", True),
        ("flag=false", False),
    ],
)
def test_a_value_is_what_is_typed_as_the_type_of_its_key(argument: str, value: Any) -> None:
    name = argument.partition("=")[0]
    arguments = [argument] if name == "path" else ["path=x", argument]
    assert getattr(parse(Example, arguments), name) == value


def test_what_is_not_given_has_its_default() -> None:
    assert parse(Example, ["path=x"]) == Example("x")


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("count=many", "count=many: must be a whole number"),
        ("count=1.5", "count=1.5: must be a whole number"),
        ("count=null", "count=null: must be a whole number"),
        ("count=-012", "count=-12: must be at least 1"),
        ("count=0", "count=0: must be at least 1"),
        ("flag=1", "flag=1: must be true or false"),
        ("text=", "text=: must have a value; write one, or leave text out"),
        ("text=\udcff", "text=\udcff: is not valid UTF-8; check the encoding of the terminal or script"),
        ("cuont=1", "cuont: no such key, did you mean count?"),
        ("--count", "--count: no such option; write count=..."),
        ("path=y", "path=y: is given twice; leave one out"),
    ],
)
def test_a_mistake_is_one_line(argument: str, problem: str) -> None:
    assert problems_of("path=x", argument) == (problem,)


def test_what_a_command_finds_in_its_values_is_named_with_the_mistakes() -> None:
    arguments = ["input=a.csv", "output=x.csv", "limit=0"]
    with pytest.raises(UserError) as error:
        parse(PrepareConfig, arguments, lambda given: iter([f"output={given['output']}"]))
    assert [line.partition(":")[0] for line in error.value.problems] == ["limit=0", "output=x.csv"]


def test_all_mistakes_are_named_at_once() -> None:
    assert problems_of("count=many", "x", "flag=maybe") == (
        "count=many: must be a whole number",
        "x: write key=value; keys are path, text, names, count, flag",
        "flag=maybe: must be true or false",
        "path: must be given; write path=...",
    )


def test_usage_shows_each_key_with_its_default_and_documentation() -> None:
    assert [line.split(maxsplit=1) for line in usage(Example).splitlines()] == [
        ["path", "Where it is, on two lines."],
        ["text", "A text. [x]"],
        ["names", "Names. [null]"],
        ["count", "A number. [1]"],
        ["flag", "A switch. [false]"],
    ]


def test_every_key_of_prepare_is_documented() -> None:
    assert set(field_docs(PrepareConfig)) == set(PrepareConfig.__dataclass_fields__)

"""`key=value` arguments: texts as they are typed, values of their declared type, every mistake in one line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rollout.cli.commands import COMMANDS, Command
from rollout.config import PrepareConfig
from rollout.config.arguments import parse
from rollout.config.keys import field_docs
from rollout.config.limits import limited as _field
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
    share: float | None = field(default=None, metadata={"le": 1.0})
    """A share."""


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
        ("names=[level=easy,kind=[x]]", ["level=easy", "kind=[x]"]),
        ("names=kind=[x],level=", ["kind=[x]", "level="]),
        ("""names=["a, b",'c,',it's]""", ["a, b", "c,", "it's"]),
        ("names=null", None),
        ("count=12", 12),
        ("flag=true", True),
        ("flag=false", False),
        ("share=-.5e-1", -0.05),
        ("share=1", 1.0),
        ("share=null", None),
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
        ("share=half", "share=half: must be a number"),
        ("share=nan", "share=nan: must be a number"),
        ("share=1_0", "share=1_0: must be a number"),
        ("share=1.5", "share=1.5: must be at most 1.0"),
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
        "x: write key=value; keys are path, text, names, count, flag, share",
        "flag=maybe: must be true or false",
        "path: must be given; write path=...",
    )


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.paths], ids=lambda command: command.name)
def test_every_key_of_a_command_is_documented(command: Command) -> None:
    assert command.keys is not None
    assert set(field_docs(command.keys)) == set(command.keys.__dataclass_fields__)
    assert set(command.paths) <= set(command.keys.__dataclass_fields__)


@dataclass
class OnFiles:
    input: str
    """Read."""
    output: str
    """Written."""
    min_length: int = 0
    """A rule."""
    overwrite: bool = False
    """A switch."""


def paths_of(*arguments: str) -> tuple[str, str]:
    keys = parse(OnFiles, list(arguments), paths=("input", "output"))
    return keys.input, keys.output


@pytest.mark.parametrize(
    "word", ["a=b.parquet", "-x.csv", "--x=y.jsonl", "~", "min_lenght=3.csv", "输入 1", "lenght=3", "="]
)
def test_a_word_that_begins_with_no_key_is_a_path(word: str) -> None:
    assert paths_of(word, "out.csv") == (word, "out.csv")
    assert paths_of("in.csv", "min_length=3", word) == ("in.csv", word)
    assert paths_of(f"output={word}", "in.csv") == ("in.csv", word)


def test_a_path_that_is_there_is_one_whatever_it_looks_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("min_lenght=3", "--overwrite", "-x"):
        assert paths_of(f"./{name}", "out.csv") == (f"./{name}", "out.csv")
        Path(name).touch()
        assert paths_of(name, "out.csv") == (name, "out.csv")


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        (["in.csv", "min_lenght=3", "o.csv"], ["min_lenght: no such key, did you mean min_length?"]),
        (["in.csv", "min_lenght=3.csv", "o.csv"], ["min_lenght: no such key, did you mean min_length?"]),
        (["in.csv", "o.csv", "x=3"], ["x: no such key, choose from input, min_length, output, overwrite"]),
        (["i", "o", *"abcde"], ["a, b, c and 2 more: more paths than IN and OUT; leave out what is too much"]),
        (["--input=i", "--output", "o", "--overwrite"], [
            "--input=i: no such option; write input=i",
            "--output o: no such option; write output=o",
            "--overwrite: no such option; write overwrite=true",
        ]),
        (["--input", "--min-length", "3"], [
            "--input: no such option; write input=...",
            "--min-length 3: no such option; write min_length=3",
            "output: must be given; give it as the second path, or write output=...",
        ]),
        (["in.csv", "--quiet", "min_length=3", "o.csv"], [
            "--quiet: no such option; keys are input, output, min_length, overwrite"
        ]),
        (["in.csv", ""], ["output=: must have a value; write one, or leave output out"]),
    ],
)  # fmt: skip
def test_words_that_are_no_paths_are_named(arguments: list[str], problems: list[str]) -> None:
    with pytest.raises(UserError) as error:
        paths_of(*arguments)
    assert list(error.value.problems) == problems


@dataclass
class OnAny:
    inputs: list[str]
    """Read."""
    clusters: str | None = None
    """A column."""


@pytest.mark.parametrize(
    ("word", "cure"), [("by=source", "choose from clusters, inputs"), ("cluster=a", "did you mean clusters?")]
)
def test_where_any_number_of_paths_fit_a_word_like_a_key_is_one_unless_it_is_there(
    word: str, cure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        parse(OnAny, ["a", "b", word], paths=("inputs",))
    assert refused.value.problems == (f"{word.partition('=')[0]}: no such key, {cure}",)
    assert parse(OnAny, ["a", f"{word}.parquet"], paths=("inputs",)).inputs == ["a", f"{word}.parquet"]
    Path(word).mkdir()
    assert parse(OnAny, ["a", word], paths=("inputs",)).inputs == ["a", word]

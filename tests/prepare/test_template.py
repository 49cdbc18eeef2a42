"""Templates over columns: names lead to columns and fields, to nothing else, and every value has one text."""

import pyarrow as pa
import pytest

from rollout.data.column_path import values_along
from rollout.errors import PromptError, UserError
from rollout.prepare.template import parse_template

ROW = {"q": "hi", "a b": 1, "s": {"x": {"y": [1, None]}, "n": None}, "s.dotted": {"z": True}, "blob": b"x"}
BATCH = pa.RecordBatch.from_pylist([ROW])


def filled(text: str) -> str:
    template = parse_template(text, BATCH.schema)
    return template.fill([values_along(BATCH, path)[0] for path in template.columns])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{q}", "hi"),
        ("<{q}{q}>\n{a b}", "<hihi>\n1"),
        ("{{{q}}} {{}}", "{hi} {}"),
        ("{s.x.y}", "[1, null]"),
        ("{s.x}", '{"y": [1, null]}'),
        ("{s}", '{"x": {"y": [1, null]}}'),
        ("{s.dotted.z}", "true"),
    ],
)
def test_columns_and_fields_stand_in_their_places(text: str, expected: str) -> None:
    assert filled(text) == expected


def test_a_null_on_the_way_is_named() -> None:
    with pytest.raises(PromptError, match=r"^\{s\.n\} is null$"):
        filled("{q} {s.n}")


def test_a_null_struct_has_null_fields() -> None:
    batch = pa.RecordBatch.from_pylist([{"s": {"x": 1}}, {"s": None}])
    assert values_along(batch, ("s", "x")) == [1, None]


def test_numbers_stand_in_a_prompt_as_people_write_them() -> None:
    batch = pa.record_batch({"p": pa.array([0.1], pa.float32()), "n": [3.0], "small": [1e-05]})
    template = parse_template("{p} {n} {small}", batch.schema)
    assert template.fill([values_along(batch, path)[0] for path in template.columns]) == "0.1 3 0.00001"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "no such column, choose from"),
        ("{0}", "no such column, choose from"),
        ("{q.__class__}", "no such column"),
        ("{q[0]}", "no such column"),
        ("{s.x.z}", "no such column, did you mean s.x.y"),
        ('{"q": 1}', "write {{ and }} for braces that are text"),
        ("{q!r}", "leave out what follows its name"),
        ("{q:{q}}", "leave out what follows its name"),
        ("{blob}", "holds binary, which is not text; use another column"),
        ("{q", "write {{ and }} for braces that are text"),
        ("q}", "write {{ and }} for braces that are text"),
        ("{{q}}", "names no column; write one in braces, for example {q}"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_in_one_line(text: str, reason: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_template(text, BATCH.schema)
    (problem,) = refused.value.problems
    assert problem.startswith("template=")
    assert reason in problem


def test_all_problems_of_a_template_are_named_once() -> None:
    with pytest.raises(UserError) as refused:
        parse_template("{x} {y} {x} {q}", BATCH.schema)
    assert [line.partition(":")[0] for line in refused.value.problems] == ["template={x}", "template={y}"]

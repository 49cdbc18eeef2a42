"""From a table to prompts: every way to write a chat, and every row that holds none keeps its place and says why."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.config import DataConfig
from rollout.data.chat import last_message, parse_chat, with_system_prompt
from rollout.data.prompts import open_input, read_prompts, watch_chats
from rollout.errors import PromptError, UserError
from rollout.records import RESERVED_COLUMNS, Prompt
from tests.conftest import chat, write_input

SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"id": "1", "function": {"name": "add", "arguments": "{}"}}


def read_all(path: Path, **data: Any) -> list[Prompt]:
    config = DataConfig(path=str(path), **data)
    return list(read_prompts(open_input(config), config))


def problems_of(path: Path, **data: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as refused:
        open_input(DataConfig(path=str(path), **data))
    return refused.value.problems


@pytest.mark.parametrize(
    ("cell", "messages"),
    [
        (chat("hi"), chat("hi")),
        ([SYSTEM, *chat("hi")], [SYSTEM, *chat("hi")]),
        (json.dumps([SYSTEM, *chat("é")]), [SYSTEM, *chat("é")]),
        (f"\n {json.dumps(chat('hi'))} ", chat("hi")),
        ("hi", chat("hi")),
        (" hi\n", chat(" hi\n")),
        ("[1, 2] is a list", chat("[1, 2] is a list")),
        ("[1, 2]", chat("[1, 2]")),
        ('["a"]', chat('["a"]')),
        ('{"a": 1}', chat('{"a": 1}')),
        ('{"a": [{"b": 1}]}', chat('{"a": [{"b": 1}]}')),
        ('{"from": "USD", "value": 1}', chat('{"from": "USD", "value": 1}')),
        ('{"role": "admin"}', chat('{"role": "admin"}')),
        ("{'a': 1}['a']?", chat("{'a': 1}['a']?")),
        ("[{'a': 1}] is a list", chat("[{'a': 1}] is a list")),
        ("nan", chat("nan")),
        ([[("role", "user"), ("content", "hi")]], chat("hi")),
        (
            json.dumps([*chat("1+1?"), {"role": "assistant", "content": None, "tool_calls": [{"x": None}]}]),
            [*chat("1+1?"), {"role": "assistant", "content": None, "tool_calls": [{"x": None}]}],
        ),
        ("null", chat("null")),
        (
            [{"role": "user", "content": "hi", "name": None, "more": {"x": None, "y": [{"z": None}]}}],
            [{"role": "user", "content": "hi", "more": {"y": [{}]}}],
        ),
        (
            [*chat("1+1?"), {"role": "assistant", "content": None, "tool_calls": [CALL]}],
            [*chat("1+1?"), {"role": "assistant", "content": None, "tool_calls": [CALL]}],
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": "hi", "image": None}]}],
            [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        ),
        ([{"role": "system", "content": ""}, *chat("hi")], [{"role": "system", "content": ""}, *chat("hi")]),
    ],
)
def test_a_chat_is_a_list_or_json_or_plain_text(cell: Any, messages: list[Any]) -> None:
    assert parse_chat(cell) == messages


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, "the prompt is null"),
        (float("nan"), "the prompt is null"),
        (pd.NaT, "the prompt is null"),
        ("[]", "the prompt is empty"),
        (" [ ]\n", "the prompt is empty"),
        ([{"role": "user", "content": [{"type": "text", "text": " "}, None]}], "the prompt is empty"),
        (chat("hi")[0], "the prompt is one message, not a list of them; put [ ] around it"),
        (json.dumps(chat("hi")[0]), "the prompt is one message, not a list of them; put [ ] around it"),
        (
            json.dumps({"id": 1, "messages": chat("hi")}),
            "the prompt is an object with the messages in its field messages; give that list alone",
        ),
        (
            '{"messages": []}',
            "the prompt is an object with the messages in its field messages; give that list alone",
        ),
        ('{"role": "user"}', "the prompt is one message, not a list of them; put [ ] around it"),
        ("[null]", "message 0 is not {role, content} but NoneType"),
        ("[[]]", "message 0 is not {role, content} but list"),
        (json.dumps([chat("hi")]), "message 0 is not {role, content} but list"),
        (json.dumps([*chat("hi"), "hi"]), "message 1 is not {role, content} but str"),
        (
            json.dumps([{"from": "human", "value": "hi"}]),
            "message 0 has no role but from and value; rename them to role and content",
        ),
        (
            '[{"role": "user", "content": "hi',
            "the prompt begins as a chat in JSON, but is not JSON "
            "(Unterminated string starting at: line 1 column 30 (char 29))",
        ),
        ("", "the prompt is empty"),
        (" \n\t", "the prompt is empty"),
        ([], "the prompt is empty"),
        (chat("  "), "the prompt is empty"),
        ([{"role": "user", "content": []}], "the prompt is empty"),
        (json.dumps(chat("")), "the prompt is empty"),
        ([{"content": "hi"}], "message 0 has no role"),
        ([*chat("hi"), {"role": None, "content": "hi"}], "message 1 has no role"),
        ([{"role": 1, "content": "hi"}], "message 0 has no role"),
        ([{"role": "user"}], "message 0 has no content"),
        ([*chat("hi"), {"role": "user", "content": None, "tool_calls": None}], "message 1 has no content"),
        ('[{"role": "user"}]', "message 0 has no content"),
        ([None], "message 0 is not {role, content} but NoneType"),
        ([*chat("hi"), "hi"], "message 1 is not {role, content} but str"),
        (5, "the prompt is a int, neither text nor a list of messages"),
        (str(chat("hi")), "the prompt is a chat in Python's notation; write it with json.dumps, or as a list"),
        *(
            (text, "the prompt is a chat in Python's notation; write it with json.dumps, or as a list")
            for text in (
                "[{'content': 'hi'}]",
                "[{'name': 'Ann', 'role': 'user', 'content': \"it's\"}]",
                "array([{'role': 'user', 'content': 'hi'}], dtype=object)",
                "({'role': 'user', 'content': 'hi'},)",
                "{'role': 'user', 'content': 'hi'}",
                "[{'from': 'human', 'value': 'hi'}]",
            )
        ),
    ],
)
def test_a_cell_that_holds_no_chat_says_why(cell: Any, reason: str) -> None:
    with pytest.raises(PromptError) as refused:
        parse_chat(cell)
    assert str(refused.value) == reason


@pytest.mark.parametrize(
    ("messages", "text", "expected"),
    [
        (chat("hi"), None, chat("hi")),
        (chat("hi"), "Be brief.", [SYSTEM, *chat("hi")]),
        ([SYSTEM, *chat("hi")], "Be long.", [SYSTEM, *chat("hi")]),
        ([*chat("hi"), SYSTEM], "Be brief.", [SYSTEM, *chat("hi"), SYSTEM]),
    ],
)
def test_the_system_prompt_stands_before_a_chat_without_one(
    messages: list[Any], text: str | None, expected: list[Any]
) -> None:
    assert with_system_prompt(messages, text) == expected


def test_rows_are_numbered_from_0_whatever_they_hold(tmp_path: Path) -> None:
    cells = [None if row % 5 == 0 else chat(f"question {row}") for row in range(2500)]
    prompts = read_all(write_input(tmp_path / "input.parquet", [{"prompt": cell} for cell in cells]))
    assert prompts == [
        Prompt(row, [], "the prompt is null") if cell is None else Prompt(row, cell) for row, cell in enumerate(cells)
    ]


def test_a_line_that_is_not_json_does_not_shift_the_rows_behind_it(tmp_path: Path) -> None:
    (tmp_path / "input.jsonl").write_text('{"prompt": "a"}\nnope\n{"prompt": "c"}\n')
    first, bad, last = read_all(tmp_path / "input.jsonl")
    assert (first, last) == (Prompt(0, chat("a")), Prompt(2, chat("c")))
    assert (bad.row_id, bad.messages) == (1, [])
    assert str(bad.error).startswith("line 2: not JSON")


def test_fields_that_only_other_rows_have_are_not_in_a_chat(tmp_path: Path) -> None:
    chats = [chat("hi"), [*chat("1+1?"), {"role": "assistant", "tool_calls": [CALL]}]]
    prompts = read_all(write_input(tmp_path / "input.parquet", [{"prompt": messages} for messages in chats]))
    assert prompts[0].messages == chat("hi")
    assert prompts[1].messages[1] == {"role": "assistant", "content": None, "tool_calls": [CALL]}


def test_a_content_in_parts_stays_in_parts_and_what_is_no_text_costs_its_row(tmp_path: Path) -> None:
    image = {"type": "image_url", "image_url": {"url": "file:a.png"}}
    text = {"type": "text", "text": "What is this?"}
    cells = [[text, {"type": "text", "text": "Be brief."}], ["What?"], [image, text], [text, {"type": "input_audio"}]]
    cells += [[{"type": {"a": 1}}], [{"type": ["text"]}]]
    rows = [{"prompt": json.dumps([{"role": "user", "content": cell}])} for cell in cells]
    two, one, *bad = read_all(write_input(tmp_path / "input.parquet", rows))
    assert two.messages == [{"role": "user", "content": cells[0]}]
    assert one.messages == [{"role": "user", "content": ["What?"]}]
    assert [prompt.error for prompt in bad] == [
        "message 0 has a part that is image_url; only text can be sampled",
        "message 0 has a part that is input_audio; only text can be sampled",
        "message 0 has a part that is {'a': 1}; only text can be sampled",
        "message 0 has a part that is ['text']; only text can be sampled",
    ]


def test_knobs_of_the_input_reach_the_prompts(tmp_path: Path) -> None:
    path = write_input(tmp_path / "input.parquet", [{"question": "a"}, {"question": None}, {"question": "c"}])
    prompts = read_all(path, prompt_key="question", system_prompt="Be brief.", limit=2)
    assert prompts == [Prompt(0, [SYSTEM, *chat("a")]), Prompt(1, [], "the prompt is null")]


TURN = pa.struct([("role", pa.string()), ("content", pa.string())])


@pytest.mark.parametrize(
    ("kind", "cell"),
    [
        (pa.string(), "hi"),
        (pa.large_string(), "hi"),
        (pa.string_view(), "hi"),
        (pa.list_(TURN), chat("hi")),
        (pa.large_list(TURN), chat("hi")),
        (pa.list_(TURN, 1), chat("hi")),
    ],
    ids=str,
)
def test_text_and_lists_of_messages_of_every_kind_are_prompts(kind: pa.DataType, cell: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": pa.array([cell], kind)}), tmp_path / "input.parquet")
    assert read_all(tmp_path / "input.parquet") == [Prompt(0, chat("hi"))]


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (1, "int64"),
        (["hi"], "list<element: string>"),
        ({"role": "user", "content": "hi"}, "struct<"),
        (b"hi", "binary"),
    ],
)
def test_a_prompt_column_of_another_type_is_refused(cell: Any, kind: str, tmp_path: Path) -> None:
    (problem,) = problems_of(write_input(tmp_path / "input.parquet", [{"prompt": cell}]))
    assert problem.startswith(f"data.prompt_key=prompt: the column holds {kind}")
    assert problem.endswith("it must hold text or lists of {role, content}")


def test_a_missing_prompt_column_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    path = write_input(tmp_path / "input.parquet", [{"prompts": "hi", "answer": "x"}])
    assert problems_of(path) == (f"data.prompt_key=prompt: {path} has no such column, did you mean prompts?",)


def test_a_missing_prompt_column_is_refused_with_every_name_when_none_is_near(tmp_path: Path) -> None:
    path = write_input(tmp_path / "input.parquet", [{"xyz": "hi", "question": "x"}])
    (problem,) = problems_of(path, prompt_key="00")
    assert problem.endswith("choose from question, xyz")


def test_a_file_of_bad_lines_only_has_no_columns(tmp_path: Path) -> None:
    (tmp_path / "input.jsonl").write_text("nope\n")
    (problem,) = problems_of(tmp_path / "input.jsonl")
    assert problem.endswith(
        "has no columns (line 1: not JSON (Expecting value: line 1 column 1 (char 0))); check what wrote it"
    )


@pytest.mark.parametrize("name", sorted(RESERVED_COLUMNS))
def test_a_column_called_like_one_of_ours_is_refused_unless_dropped(name: str, tmp_path: Path) -> None:
    path = write_input(tmp_path / "input.parquet", [{"prompt": "hi", name: 1}])
    (problem,) = problems_of(path)
    assert f"column {name} is a reserved output column" in problem
    assert problem.endswith(f"data.drop_columns=[{name}]")
    assert open_input(DataConfig(path=str(path), drop_columns=[name])).schema.names == ["prompt"]


def test_dropping_a_column_that_is_not_there_names_it_and_those_that_are(tmp_path: Path) -> None:
    path = write_input(tmp_path / "input.parquet", [{"prompt": "hi", "answer": "x"}])
    (problem,) = problems_of(path, drop_columns=["answer", "sauce"])
    assert problem == f"data.drop_columns=sauce: {path} has no such column; it has prompt, answer"


def test_every_problem_of_the_columns_is_named_at_once(tmp_path: Path) -> None:
    path = write_input(tmp_path / "input.parquet", [{"question": "hi", "row_id": 1, "seeds": 2}])
    missing, clash = problems_of(path)
    assert missing.startswith("data.prompt_key=prompt: ")
    assert "column row_id,seeds is a reserved output column" in clash


def test_without_a_path_the_built_in_prompts_are_read() -> None:
    prompts = list(read_prompts(open_input(DataConfig()), DataConfig()))
    assert len(prompts) > 4
    assert [prompt for prompt in prompts if prompt.error is not None] == []


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_input(tmp_path / "input.parquet", [{"prompt": "hi"}])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_all(Path("~/input.parquet")) == [Prompt(0, chat("hi"))]


def test_a_lone_surrogate_in_a_chat_of_json_becomes_a_question_mark() -> None:
    assert parse_chat('[{"role": "user", "content": "a\\ud800b"}]') == chat("a?b")


def test_text_of_brackets_without_end_is_text() -> None:
    assert parse_chat("[" * 100_000) == chat("[" * 100_000)


@pytest.mark.parametrize(
    ("template", "warning"),
    [
        ({}, "row 1 ends in a message of the assistant, and the response is another one behind it; to have it "),
        ({"enable_thinking": False}, "row 1 ends in a message of the assistant, and the response is another one "),
        (
            {"continue_final_message": True},
            "row 0 does not end in a message of the assistant, so another's is ",
        ),
        ({"continue_final_message": False, "add_generation_prompt": False}, None),
    ],
)
def test_a_last_message_that_is_not_continued_or_is_against_its_role_is_one_warning(
    template: dict[str, Any], warning: str | None
) -> None:
    begun = [*chat("Name a colour."), {"role": "assistant", "content": "It is"}]
    prompts = [Prompt(row_id, messages) for row_id, messages in enumerate([chat("hi"), begun] * 2)]
    prompts.append(Prompt(4, [], error="the prompt is null"))
    warnings = list[str]()
    assert [*watch_chats(prompts, template, warnings.append)] == prompts
    assert [line.startswith(warning or "") for line in warnings] == [True] * (warning is not None)


def test_a_role_that_no_model_knows_is_one_warning() -> None:
    chats = [chat("hi"), [{"role": "human", "content": "hi"}, {"role": "gpt", "content": "yo"}]] * 3
    prompts = [Prompt(row_id, messages) for row_id, messages in enumerate(chats)]
    warnings = list[str]()
    assert [*watch_chats(prompts, {}, warnings.append)] == prompts
    assert warnings == [
        f"row 1 has a message with the role {role}, which most chat templates print as it is; models know system, "
        "user, assistant, tool, developer"
        for role in ("human", "gpt")
    ]


def test_what_a_reader_sees_of_a_chat_is_what_its_last_message_says() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "no"}, "b"]
    assert last_message(json.dumps(chat("hi"))) == "hi"
    assert last_message([{"role": "user", "content": parts}]) == "a\nno\nb"
    assert last_message([*chat("hi"), {"role": "assistant", "content": None, "tool_calls": [CALL]}]) == json.dumps(
        [CALL]
    )
    assert (last_message("[1"), last_message(None)) == ("[1", "None")

"""What a row says of its own sampling and tools, and how many samples each row gets by it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.config import DataConfig, RunConfig, SamplingConfig, StructuredOutputsConfig
from rollout.data.prompts import open_input, read_prompts
from rollout.data.row_sampling import SampleCounts, read_row_sampling, sample_counts, sampling_of_row
from rollout.data.tools import read_tools
from rollout.errors import PromptError, UserError
from tests.conftest import chat

RUN = RunConfig(data=DataConfig(sampling_key="own"), sampling=SamplingConfig(n_samples=4, max_tokens=64))
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("cell", "values"),
    [
        (None, {}),
        ("", {}),
        ("null", {}),
        ({"max_tokens": 5, "top_k": None}, {"max_tokens": 5}),
        ('{"max_tokens": 5, "top_k": null}', {"max_tokens": 5}),
        ({"max_tokens": 5.0, "temperature": 1}, {"max_tokens": 5, "temperature": 1.0}),
        ({"stop": "end", "stop_token_ids": [7.0]}, {"stop": ["end"], "stop_token_ids": [7]}),
        ([("max_tokens", 5)], {"max_tokens": 5}),
        ({"ignore_eos": True}, {"ignore_eos": True}),
        (
            {"structured_outputs": {"json": '{"const": null}', "regex": None}},
            {"structured_outputs": {"json": {"const": None}}},
        ),
        ('{"structured_outputs": {"json": {"const": null}}}', {"structured_outputs": {"json": {"const": None}}}),
        ({"structured_outputs": '{"choice": ["a"]}'}, {"structured_outputs": {"choice": ["a"]}}),
    ],
)
def test_a_cell_says_what_it_has_and_null_says_nothing(cell: Any, values: dict[str, Any]) -> None:
    found = read_row_sampling(cell, "own")
    assert (found.values, found.problems) == (values, [])


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("{", "own={: not JSON"),
        ("[1]", "own=[1]: must be an object"),
        (7, "own=7: must be an object"),
        ({"max_tokens": 0}, "own.max_tokens=0: must be at least 1"),
        ({"max_tokens": 1.5}, "own.max_tokens=1.5: must be a whole number"),
        ({"max_tokens": "9"}, "own.max_tokens=9: must be a whole number"),
        ({"max_tokens": True}, "own.max_tokens=True: must be a whole number"),
        ({"max_tokens": float("inf")}, "own.max_tokens=inf: must be a whole number"),
        ({"temperature": float("nan")}, "own.temperature=nan: must be at least 0.0 and at most 2.0"),
        ({"temperature": "hot"}, "own.temperature=hot: must be a number"),
        ({"temperature": 10**400}, f"own.temperature={10**400}: must be a number"),
        ({"n_samples": 0}, "own.n_samples=0: must be at least 1 and at most 100000"),
        ({"stop": [3]}, "own.stop=3: must be text"),
        ({"seed": 1}, "own.seed=1: no row has its own; it is a value of the whole run"),
        ({"logprobs": "raw"}, "own.logprobs=raw: no row has its own; it is a value of the whole run"),
        ({"structured_outputs": 3}, "own.structured_outputs=3: must be an object"),
        ({"structured_outputs": {"json": "schema.json"}}, "own.structured_outputs.json=schema.json: not JSON"),
    ],
)
def test_a_bad_value_is_named_with_its_key(cell: Any, problem: str) -> None:
    (found,) = read_row_sampling(cell, "own").problems
    assert found.startswith(problem)


def test_all_that_is_wrong_with_a_row_is_said() -> None:
    found = read_row_sampling({"top_p": 3, "max_tokens": 7, "top_k": "a"}, "own")
    assert found.problems == [
        "own.top_p=3.0: must be more than 0.0 and at most 1.0",
        "own.top_k=a: must be a whole number",
    ]
    assert found.values == {"max_tokens": 7}


def test_a_rows_values_replace_the_runs_and_its_objects_whole() -> None:
    run = RunConfig(
        data=RUN.data,
        sampling=SamplingConfig(
            top_k=5,
            structured_outputs=StructuredOutputsConfig(regex="a"),
            extra={"ignore_eos": True, "bad_words": ["x"]},
        ),
    )
    own = sampling_of_row({"top_p": 0.5, "ignore_eos": False, "structured_outputs": {"choice": ["b"]}}, run)
    assert (own.top_k, own.top_p, own.structured_outputs) == (5, 0.5, StructuredOutputsConfig())
    assert own.extra == {"ignore_eos": False, "bad_words": ["x"], "structured_outputs": {"choice": ["b"]}}
    assert sampling_of_row(None, run) is sampling_of_row({}, run) is run.sampling


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"temperature": 0.0},
            "own.n_samples=4: temperature=0 makes every sample of a prompt the same; set own.n_samp",
        ),
        ({"min_tokens": 65}, "own.min_tokens=65: more than max_tokens=64; lower it"),
        ({"prompt_logprobs": 1}, "own.prompt_logprobs=1: of a response only the text"),
        ({"stop": ["end", ""]}, 'own.stop=["end", ""]: an empty text would end every response at once; leave it out'),
        ({"thinking_token_budget": 9}, "own.thinking_token_budget=9: needs model.reasoning_parser, which knows where"),
    ],
)
def test_values_that_contradict_each_other_or_the_run_are_a_bad_row(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(PromptError) as refused:
        sampling_of_row(values, RUN)
    assert str(refused.value).startswith(problem)


def test_a_float32_is_the_number_that_was_written(tmp_path: Path) -> None:
    own = pa.array([{"temperature": 0.7}], pa.struct([("temperature", pa.float32())]))
    pq.write_table(pa.table({"prompt": ["hi"], "own": own}), tmp_path / "input.parquet")
    data = DataConfig(path=str(tmp_path / "input.parquet"), sampling_key="own")
    assert [prompt.sampling for prompt in read_prompts(open_input(data), data)] == [{"temperature": 0.7}]


def test_every_row_has_the_samples_that_it_asks_for_a_bad_row_too(tmp_path: Path) -> None:
    cells = [None, {"n_samples": 7}, {"n_samples": 2, "top_p": 9}, {"n_samples": -1}, "x", {"temperature": 0}]
    rows = [{"prompt": "hi", "own": cell if isinstance(cell, str) else json.dumps(cell)} for cell in cells]
    (tmp_path / "input.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = DataConfig(path=str(tmp_path / "input.jsonl"), sampling_key="own", num_shards=2, shard_index=1)
    counts = sample_counts(open_input(data), RunConfig(data=data, sampling=RUN.sampling))
    assert [counts.of(row) for row in (3, 4, 5)] == [4, 4, 4]
    data.num_shards, data.shard_index = 1, 0
    counts = sample_counts(open_input(data), RunConfig(data=data, sampling=RUN.sampling))
    assert [counts.of(row) for row in range(6)] == [4, 7, 2, 4, 4, 4]
    assert counts.total == 25


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(0, 3), st.data())
def test_places_are_those_of_rows_one_after_another(counts: list[int], first_row: int, data: st.DataObject) -> None:
    found = SampleCounts(np.concatenate([[0], np.cumsum(counts)]), first_row)
    asked = [(row + first_row, index) for row, count in enumerate(counts) for index in range(count)]
    more = [(row, index) for row in range(len(counts) + first_row + 2) for index in range(10)]
    samples = pa.table({"row_id": [row for row, _ in more], "sample_idx": [index for _, index in more]})
    kept = samples.filter(found.asks_for(samples))
    assert list(zip(*(column.to_pylist() for column in kept.columns), strict=True)) == asked
    assert found.places_of(kept).tolist() == list(range(found.total))
    row = data.draw(st.integers(0, len(counts) - 1))
    most = data.draw(st.integers(1, 30))
    taken = found.rows_within(row + first_row, most)
    assert taken == 1 or sum(counts[row : row + taken]) <= most
    assert row + taken == len(counts) or sum(counts[row : row + taken + 1]) > most
    part = found.of_rows(row + first_row, len(counts) - row)
    assert [part.of(row_id) for row_id in range(row + first_row, len(counts) + first_row)] == counts[row:]


@pytest.mark.parametrize(
    ("cell", "tools"),
    [
        (None, None),
        (" ", None),
        ([], []),
        ([TOOL], [TOOL]),
        (json.dumps([TOOL]), [TOOL]),
        ([json.dumps(TOOL)], [TOOL]),
        ([{"name": "add", "description": None}], [{"name": "add"}]),
        ('[{"name": "add", "default": null}]', [{"name": "add", "default": None}]),
    ],
)
def test_tools_are_a_list_or_json_text(cell: Any, tools: Any) -> None:
    assert read_tools(cell, "tools") == tools


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ("{", "tools is not JSON"),
        ('{"name": "add"}', "tools is dict, not a list of tool definitions"),
        ("[3]", r"tools\[0\] is int, not a tool definition"),
        ([TOOL, {"type": "function"}], r"tools\[1\] has no name"),
        ([{"function": "add"}], r"tools\[0\].function is text, not an object"),
        ([{"name": "add", "parameters": "{}"}], r"tools\[0\]: its parameters are text, not an object"),
    ],
)
def test_what_is_no_list_of_tools_is_a_bad_row(cell: Any, problem: str) -> None:
    with pytest.raises(PromptError, match=problem):
        read_tools(cell, "tools")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sampling_key": "onw"}, "data.sampling_key=onw: .* has no such column, did you mean own?"),
        ({"sampling_key": "prompt"}, "data.sampling_key=prompt: the column of data.prompt_key"),
        ({"sampling_key": "number"}, "data.sampling_key=number: the column holds int64; it must hold objects"),
        ({"tools_key": "number"}, "data.tools_key=number: the column holds int64; it must hold lists of tools"),
        ({"sampling_key": "own", "tools_key": "own"}, "data.tools_key=own: the column of data.sampling_key"),
    ],
)
def test_a_column_that_cannot_hold_them_is_one_line(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"prompt": chat("hi"), "own": {"top_k": 1}, "number": 3}])
    pq.write_table(table, tmp_path / "input.parquet")
    with pytest.raises(UserError, match=problem) as refused:
        open_input(DataConfig(path=str(tmp_path / "input.parquet"), **changes))
    assert len(refused.value.problems) == 1

"""What `export` writes, read back with the libraries that will read it: json, csv, pandas, datasets."""

import csv
import gzip
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

from rollout.config import DataConfig, ExportConfig, ScoreConfig
from rollout.errors import UserError
from rollout.postprocess.export import export
from rollout.postprocess.flatten import flatten
from rollout.postprocess.score import score_responses, with_scores
from rollout.postprocess.source import open_source
from rollout.postprocess.their_scores import open_with_scores
from rollout.postprocess.writing import SUFFIXES
from tests.conftest import chat
from tests.in_process import run_here
from tests.postprocess.tables import Row, answered, flat_rows, read, source_of, tables

DATA = DataConfig()


def lines(path: Path) -> list[dict[str, Any]]:
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    elif path.suffix == ".zst":
        raw = pa.input_stream(str(path), compression="zstd").read()
    return [json.loads(line) for line in raw.decode().split("\n")[:-1]]


@pytest.mark.parametrize("file", ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst", "out.parquet"])
@given(rows=tables())
@settings(max_examples=15, deadline=None)
def test_responses_are_the_flat_rows(file: str, rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("export")
    count = export(source_of(folder, rows), folder, ExportConfig(file), DATA)
    found = read(folder / file) if file.endswith(".parquet") else lines(folder / file)
    assert found == flat_rows(rows)
    assert count == len(found)


@pytest.mark.long
@given(rows=tables())
@settings(max_examples=30, deadline=None)
def test_messages_are_the_chats_with_the_responses_at_their_end(
    rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("export")
    for file in ("sft.jsonl", "sft.parquet"):
        export(source_of(folder, rows), folder, ExportConfig(file, "messages", ["answer"]), DATA)
    expected = [
        {
            "messages": [*row["prompt"], {"role": "assistant", "content": row["response"]}],
            "row_id": row["row_id"],
            "sample_idx": row["sample_idx"],
            "answer": row["answer"],
        }
        for row in flat_rows(rows)
        if row["response"] is not None
    ]
    assert lines(folder / "sft.jsonl") == expected
    assert read(folder / "sft.parquet") == expected


def test_the_best_response_is_chosen_over_the_worst_and_rows_of_one_score_are_left_out(tmp_path: Path) -> None:
    rows = [
        Row([("5", "stop", 1), ("4", "stop", 1), None, ("3", "stop", 1), ("it is 4", "stop", 3)], "4", "bad"),
        Row([("4", "stop", 1)] * 5, "4"),
        Row([("7", "stop", 1)] * 5, None),
    ]
    score_responses(source_of(tmp_path, rows), tmp_path, ScoreConfig("numeric_match", "answer"))
    source = with_scores(source_of(tmp_path, rows), tmp_path / "scores.parquet")
    data = DataConfig(system_prompt="Be brief.")
    assert export(source, tmp_path, ExportConfig("pairs.jsonl", "preference"), data) == 1
    assert lines(tmp_path / "pairs.jsonl") == [
        {
            "prompt": [{"role": "system", "content": "Be brief."}, *chat("question 0")],
            "chosen": [{"role": "assistant", "content": "4"}],
            "rejected": [{"role": "assistant", "content": "5"}],
            "chosen_score": 1.0,
            "rejected_score": 0.0,
            "row_id": 0,
            "chosen_sample_idx": 1,
            "rejected_sample_idx": 0,
        }
    ]


def test_the_answer_of_each_row_is_the_one_that_most_of_its_responses_give(tmp_path: Path) -> None:
    """Of equals the one that was given first. The right answer, a column of the input, stays beside it."""
    rows = [
        Row([("5", "stop", 1), ("it is 4", "stop", 3), None, ("4", "stop", 1), ("so 4.0", "stop", 2)], "5", "bad"),
        Row([("7", "stop", 1), ("8", "stop", 1), ("8", "stop", 1), ("7", "stop", 1), ("?", "stop", 1)], "7"),
        Row([("none", "stop", 1)] * 5, "4"),
        Row([None] * 5, "4"),
    ]
    score_responses(source_of(tmp_path, rows), tmp_path, ScoreConfig("numeric_match", "answer"))
    source = with_scores(source_of(tmp_path, rows), tmp_path / "scores.parquet")
    assert export(source, tmp_path, ExportConfig("answers.jsonl", "answers", ["answer"]), DATA) == 3
    assert lines(tmp_path / "answers.jsonl") == [
        {
            "prompt": chat(f"question {row_id}"),
            "majority_answer": answer,
            "majority_votes": votes,
            "num_responses": responses,
            "majority_score": score,
            "row_id": row_id,
            "answer": rows[row_id].answer,
        }
        for row_id, (answer, votes, responses, score) in enumerate(
            [("4", 3, 4, 0.0), ("7", 2, 5, 1.0), (None, 0, 5, None)]
        )
    ]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


def test_where_the_scorer_finds_no_answers_it_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def exported(scorer: ScoreConfig) -> str:
        caplog.clear()
        score_responses(source_of(tmp_path, [Row([("5", "stop", 1)] * 5, "5")]), tmp_path, scorer)
        source = with_scores(source_of(tmp_path, [Row([("5", "stop", 1)] * 5, "5")]), tmp_path / "scores.parquet")
        assert export(source, tmp_path, ExportConfig("answers.jsonl", "answers"), DATA) == 1
        return "\n".join(warnings_of(caplog))

    assert "no row has a majority_answer; score with one that does" in exported(
        ScoreConfig("tests.postprocess.own_scorers:contains", "answer")
    )
    assert exported(ScoreConfig("numeric_match", "answer")) == ""


def test_a_response_that_continues_the_last_message_is_one_turn_with_it(tmp_path: Path) -> None:
    begun = [*chat("Colors?"), {"role": "assistant", "content": "Sure! Here"}]
    table = pa.table(
        {"prompt": [begun, chat("Hi")], "answer": ["4", "4"], "responses": [[" is 4", " are 5"], ["4", "5"]]}
    )
    pq.write_table(table, tmp_path / "input.parquet")
    source = open_source(tmp_path / "input.parquet")
    export(source, tmp_path, ExportConfig("sft.jsonl", "messages"), DATA, continued=True)
    turns = [record["messages"] for record in lines(tmp_path / "sft.jsonl")]
    assert turns[:3] == [
        [*chat("Colors?"), {"role": "assistant", "content": "Sure! Here is 4"}],
        [*chat("Colors?"), {"role": "assistant", "content": "Sure! Here are 5"}],
        [*chat("Hi"), {"role": "assistant", "content": "4"}],
    ]
    score_responses(source, tmp_path, ScoreConfig("numeric_match", "answer"))
    scored = with_scores(source, tmp_path / "scores.parquet")
    export(scored, tmp_path, ExportConfig("pairs.jsonl", "preference"), DATA, continued=True)
    pair = lines(tmp_path / "pairs.jsonl")[0]
    assert (pair["prompt"], pair["chosen"][0]["content"]) == (chat("Colors?"), "Sure! Here is 4")


def test_of_a_file_nobody_knows_whether_a_last_message_of_the_assistant_was_continued_so_it_is_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = [*chat("Colors?"), {"role": "assistant", "content": "Sure! Here"}]
    pq.write_table(pa.table({"prompt": [begun, chat("Hi")], "responses": [[" is 4"], ["4"]]}), tmp_path / "in.parquet")
    line = (
        "1 chats end in a turn of the assistant, and the response is another one behind it; if it continues that turn"
    )
    words = ("export", "in.parquet", "out.jsonl", "format=messages", "overwrite=true")
    result = run_here(*words, cwd=tmp_path)
    assert result.stderr.startswith(f"warning: {line}")
    assert len(lines(tmp_path / "out.jsonl")[0]["messages"]) == 3
    assert run_here(*words, "continue_final_message=false", cwd=tmp_path).stderr == ""
    assert run_here(*words, "continue_final_message=true", cwd=tmp_path).stderr == ""
    assert lines(tmp_path / "out.jsonl")[0]["messages"][1] == {"role": "assistant", "content": "Sure! Here is 4"}
    export(open_source(tmp_path / "in.parquet"), tmp_path, ExportConfig("o.jsonl", "messages"), DATA, continued=None)
    assert warnings_of(caplog)[0].startswith(f"export: {line}")


LEFT_OUT = [
    ("messages", "left out 3 samples that failed, 1 response whose prompt is no chat"),
    ("prompts", "left out 1 row without a response, 1 row whose prompt is no chat"),
    ("answers", "left out 1 row without a response, 1 row whose prompt is no chat"),
]


@pytest.mark.parametrize(("format_", "said"), LEFT_OUT, ids=[name for name, _ in LEFT_OUT])
def test_formats_with_chats_say_what_they_leave_out_and_why(
    format_: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {
        "prompt": [chat("a"), chat("b"), None],
        "responses": [["1", None], [None, None], ["2"]],
        "score": [[1, None], [None, None], [0]],
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    words = ("export", "in.parquet", "out.jsonl", f"format={format_}", "overwrite=true")
    result = run_here(*words, cwd=tmp_path)
    assert result.stdout.splitlines() == [f"wrote 1 {format_.removesuffix('s')}: out.jsonl", said]
    source = open_with_scores(tmp_path / "in.parquet", "input")
    with caplog.at_level("INFO", "rollout"):
        export(source, tmp_path, ExportConfig("out.jsonl", format_), DATA)
    assert f"export: {said}" in caplog.messages
    assert f"export: {said}" not in warnings_of(caplog)


@pytest.mark.parametrize(
    ("format_", "what"), [("messages", "2 responses"), ("prompts", "2 rows"), ("answers", "2 rows")]
)
def test_an_export_that_writes_nothing_warns(
    format_: str, what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pa.table({"prompt": [1, 2], "response": ["a", "b"], "score": [1.0, 0.0]})
    pq.write_table(table, tmp_path / "in.parquet")
    said = f"left out {what} whose prompt is no chat"
    result = run_here("export", "in.parquet", "out.jsonl", f"format={format_}", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, f"warning: {said}\n")
    pq.write_table(table.slice(0, 0), tmp_path / "empty.parquet")
    for name in ("in", "empty"):
        export(open_source(tmp_path / f"{name}.parquet"), tmp_path, ExportConfig("out.jsonl", format_), DATA)
    assert warnings_of(caplog) == [f"export: {said}", f"export: there are no responses, so there are no {format_}"]


def test_text_is_written_as_it_is_and_what_json_lacks_in_a_form_it_has(tmp_path: Path) -> None:
    columns = {
        "when": [datetime(2026, 11, 23, 4, 5, 6)],
        "loss": [float("nan")],
        "raw": [b"\xff\x00"],
        "responses": [["北京 é </script>"]],
    }
    pq.write_table(pa.table(columns), tmp_path / "theirs.parquet")
    export(open_source(tmp_path / "theirs.parquet"), tmp_path, ExportConfig("out.jsonl"), DATA)
    assert '"response":"北京 é </script>"' in (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    (row,) = lines(tmp_path / "out.jsonl")
    assert (row["when"], row["loss"], row["raw"]) == ("2026-11-23T04:05:06", None, "/wA=")


@pytest.mark.parametrize("file", ["out.csv", "out.csv.gz"])
def test_csv_keeps_line_breaks_and_quotes_and_holds_chats_as_json(file: str, tmp_path: Path) -> None:
    rows = [Row([('a "quoted", line\nbreak', "stop", 3), ("", "length", 0), None], "é", "bad")]
    export(source_of(tmp_path, rows), tmp_path, ExportConfig(file), DATA)
    raw = (tmp_path / file).read_bytes()
    text = (gzip.decompress(raw) if file.endswith("gz") else raw).decode()
    found = list(csv.DictReader(text.splitlines(keepends=True)))
    assert [row["response"] for row in found] == ['a "quoted", line\nbreak', "", ""]
    assert json.loads(found[0]["prompt"]) == chat("question 0")
    assert pd.read_csv(tmp_path / file)["sample_idx"].tolist() == [0, 1, 2]


def test_only_the_columns_named_are_written_beside_the_key(tmp_path: Path) -> None:
    source = source_of(tmp_path, [answered("a", "b")])
    export(source, tmp_path, ExportConfig("out.jsonl", columns=["response"]), DATA)
    assert lines(tmp_path / "out.jsonl") == [
        {"row_id": 0, "sample_idx": 0, "response": "a"},
        {"row_id": 0, "sample_idx": 1, "response": "b"},
    ]


def test_a_chat_with_more_than_roles_and_contents_is_refused_by_parquet_not_cut(tmp_path: Path) -> None:
    prompt = json.dumps([{"role": "user", "content": "hi", "name": "Ann"}])
    pq.write_table(pa.table({"prompt": [prompt], "responses": [["a"]]}), tmp_path / "theirs.parquet")
    source = open_source(tmp_path / "theirs.parquet")
    with pytest.raises(
        UserError, match=r"a \.parquet file cannot hold these chats \(name of a message\); write \.jsonl"
    ):
        export(source, tmp_path, ExportConfig("out.parquet", "messages"), DATA)
    assert not (tmp_path / "out.parquet").exists()
    export(source, tmp_path, ExportConfig("out.jsonl", "messages"), DATA)
    assert lines(tmp_path / "out.jsonl")[0]["messages"][0]["name"] == "Ann"


ROWS = [Row([("北京", "stop", 2), None, ("b\n\nc", "length", 9)], "é", "too long"), answered("x", "", "y")]


@pytest.mark.parametrize("file", ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst", "out.parquet"])
def test_datasets_loads_what_is_exported(file: str, tmp_path: Path) -> None:
    export(source_of(tmp_path, ROWS), tmp_path, ExportConfig(file), DATA)
    kind = "parquet" if file.endswith("parquet") else "json"
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset(kind, data_files=str(tmp_path / file), split="train", cache_dir=cache)
    assert loaded.to_list() == flat_rows(ROWS)


def test_datasets_and_pandas_load_the_flat_file_and_the_chats(tmp_path: Path) -> None:
    source = source_of(tmp_path, ROWS)
    flat = flatten(source, tmp_path)
    export(source, tmp_path, ExportConfig("sft.jsonl", "messages"), DATA)
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset("parquet", data_files=str(flat), split="train", cache_dir=cache)
    assert loaded.to_list() == flat_rows(ROWS)
    assert pd.read_parquet(flat)["response"].fillna("null").tolist() == ["北京", "null", "b\n\nc", "x", "", "y"]
    chats = datasets.load_dataset("json", data_files=str(tmp_path / "sft.jsonl"), split="train", cache_dir=cache)
    assert chats[0]["messages"][-1] == {"role": "assistant", "content": "北京"}
    assert pd.read_json(tmp_path / "sft.jsonl", lines=True)["sample_idx"].tolist() == [0, 2, 0, 1, 2]


def test_every_file_name_that_is_allowed_can_be_written(tmp_path: Path) -> None:
    source = source_of(tmp_path, ROWS)
    for suffix in SUFFIXES:
        assert export(source, tmp_path, ExportConfig(f"out{suffix}"), DATA) == 6
        assert (tmp_path / f"out{suffix}").stat().st_size > 0

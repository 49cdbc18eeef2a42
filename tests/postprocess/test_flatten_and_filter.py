"""One row per response, and the ones that every rule lets through; against the same said in plain Python."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.config import DataConfig, FilterConfig, PostprocessConfig
from rollout.errors import UserError
from rollout.postprocess import source as source_module
from rollout.postprocess.filter import DROPPED_BY, FILTER, filter_responses, only_kept
from rollout.postprocess.flatten import flatten
from rollout.postprocess.source import open_source
from rollout.postprocess.step import Work
from rollout.records import EXTRAS, FLAT_FIELDS, THINKING
from tests.in_process import run_here
from tests.postprocess.tables import INPUT_FIELDS, Row, answered, flat_rows, read, source_of, tables, write_rollouts

FLAT_SCHEMA = pa.schema([*INPUT_FIELDS, *FLAT_FIELDS])


@given(rows=tables())
@settings(max_examples=40, deadline=None)
def test_flatten_gives_one_row_per_sample_in_order(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("flatten")
    output = flatten(source_of(folder, rows), folder)
    assert read(output) == flat_rows(rows)
    assert pq.read_schema(output) == FLAT_SCHEMA


@given(rows=tables())
@settings(max_examples=20, deadline=None)
def test_a_flat_file_is_the_same_source_as_the_rollouts(
    rows: list[Row], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("again")
    flat = open_source(flatten(source_of(folder, rows), folder))
    batches = list(flat.batches())
    assert [row for batch in batches for row in batch.to_pylist()] == flat_rows(rows)
    row_ids = [set(batch.column("row_id").to_pylist()) for batch in batches]
    assert sum(map(len, row_ids)) == len(set[int]().union(*row_ids)), "a row is split over two batches"


def test_a_flat_row_that_spans_several_batches_of_the_file_comes_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = flatten(source_of(tmp_path, [answered(*"abcdefghij"), answered("k"), answered("l", "m")]), tmp_path)
    monkeypatch.setattr("rollout.data.tables.BATCH_ROWS", 4)
    batches = list(open_source(flat).batches())
    assert [sorted(set(batch.column("row_id").to_pylist())) for batch in batches] == [[0, 1], [2]]
    assert [batch.num_rows for batch in batches] == [11, 2]


def test_prompts_too_long_to_be_repeated_at_once_are_flattened_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [answered("a", "b", "c") for _ in range(20)]
    source = source_of(tmp_path, rows)
    monkeypatch.setattr(source_module, "BATCH_BYTES", 1_000)
    assert read(flatten(source, tmp_path)) == flat_rows(rows)
    assert pq.read_metadata(tmp_path / "flat.parquet").num_row_groups > 3


BOUND = st.none() | st.integers(0, 12)
CONDITIONS = st.sampled_from(
    ["answer=", "answer=same", " answer = 中文", "answer=null", "finish_reason=stop", "num_generated_tokens=0"]
)
RULES = st.builds(
    FilterConfig,
    min_length=BOUND,
    max_length=BOUND,
    min_tokens=st.none() | st.integers(0, 5000),
    max_tokens=st.none() | st.integers(0, 5000),
    where=st.lists(CONDITIONS, max_size=3),
    finish_reasons=st.sampled_from([[], ["stop"], ["length"], ["stop", "length"]]),
    drop_errors=st.booleans(),
    drop_duplicates=st.booleans(),
    max_per_row=st.none() | st.integers(1, 4),
)


def holds(row: dict[str, Any], where: list[str]) -> bool:
    """Whether a row has one of the values wanted in every column that is named."""
    wanted = [[part.strip() for part in condition.split("=")] for condition in where]
    has = {name: "null" if value is None else str(value).strip() for name, value in row.items()}
    return all(any(has[name] == value for name, value in wanted if name == column) for column, _ in wanted)


def dropped_by(rows: list[dict[str, Any]], rules: FilterConfig) -> list[str | None]:
    """What the documentation of the rules says, one response at a time."""
    seen, kept, reasons = set[tuple[int, str]](), set[tuple[int, str]](), list[str | None]()
    num_kept = Counter[int]()
    for row in rows:
        text, tokens = row["response"], row["num_generated_tokens"]
        answer = (row["row_id"], text)
        broken = {
            "drop_errors": rules.drop_errors and text is None,
            "where": not holds(row, rules.where),
            "finish_reasons": rules.finish_reasons and row["finish_reason"] not in rules.finish_reasons,
            "min_length": rules.min_length is not None and (text is None or len(text) < rules.min_length),
            "max_length": rules.max_length is not None and (text is None or len(text) > rules.max_length),
            "min_tokens": rules.min_tokens is not None and tokens < rules.min_tokens,
            "max_tokens": rules.max_tokens is not None and tokens > rules.max_tokens,
        }
        equal = seen if any(broken.values()) else kept
        broken["drop_duplicates"] = rules.drop_duplicates and answer in equal
        if text is not None:
            seen.add(answer)
            equal.add(answer)
        broken["max_per_row"] = rules.max_per_row is not None and num_kept[row["row_id"]] >= rules.max_per_row
        reasons.append(next((rule for rule, is_broken in broken.items() if is_broken), None))
        num_kept[row["row_id"]] += reasons[-1] is None
    return reasons


@pytest.mark.long
@given(rows=tables(), rules=RULES)
@settings(max_examples=80, deadline=None)
def test_filter_splits_the_samples_by_its_rules_and_loses_none(
    rows: list[Row], rules: FilterConfig, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("filter")
    source = source_of(folder, rows)
    counts = filter_responses(source, folder, rules).counts
    kept, dropped = read(folder / "filtered.parquet"), read(folder / "filtered.dropped.parquet")
    flat = flat_rows(rows)
    reasons = dropped_by(flat, rules)
    assert kept == [row for row, reason in zip(flat, reasons, strict=True) if reason is None]
    assert dropped == [
        row | {"dropped_by": reason} for row, reason in zip(flat, reasons, strict=True) if reason is not None
    ]
    assert counts == {"kept": len(kept)} | {name: reasons.count(name) for name in set(reasons) if name is not None}
    later = [row for batch in only_kept(source, rules).batches() for row in batch.to_pylist()]
    assert later == kept


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        (FilterConfig(), ["", "four", "fives"]),
        (FilterConfig(drop_errors=False), ["", "four", None, "fives"]),
        (FilterConfig(min_length=0), ["", "four", "fives"]),
        (FilterConfig(min_length=5), ["fives"]),
        (FilterConfig(max_length=4), ["", "four"]),
        (FilterConfig(min_length=4, max_length=4), ["four"]),
        (FilterConfig(max_length=0), [""]),
        (FilterConfig(min_length=6), []),
    ],
)
def test_both_bounds_of_the_filter_belong_to_what_it_keeps(
    rules: FilterConfig, kept: list[str | None], tmp_path: Path
) -> None:
    filter_responses(source_of(tmp_path, [answered("", "four", None, "fives")]), tmp_path, rules)
    assert [row["response"] for row in read(tmp_path / "filtered.parquet")] == kept


def test_what_was_kept_has_the_schema_of_flat_and_what_was_dropped_says_why_even_when_empty(tmp_path: Path) -> None:
    filter_responses(source_of(tmp_path, [answered("kept")]), tmp_path, FilterConfig(min_length=1))
    assert pq.read_schema(tmp_path / "filtered.parquet") == FLAT_SCHEMA
    assert pq.read_schema(tmp_path / "filtered.dropped.parquet") == FLAT_SCHEMA.append(DROPPED_BY)


def test_a_duplicate_is_one_of_the_same_row(tmp_path: Path) -> None:
    rows = [answered("a", "a", "b", "a"), answered("a", None, "b", None)]
    filter_responses(source_of(tmp_path, rows), tmp_path, FilterConfig(drop_duplicates=True, drop_errors=False))
    kept = [(row["row_id"], row["sample_idx"]) for row in read(tmp_path / "filtered.parquet")]
    assert kept == [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (1, 3)]


def test_of_equal_responses_the_first_that_satisfies_the_other_rules_is_kept(tmp_path: Path) -> None:
    row = {"row_id": 0, "response": "a"}
    rows = [row | {"sample_idx": place, "score": score} for place, score in enumerate([0.0, 1.0, 0.0, 1.0])]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "scored.parquet")
    rules = FilterConfig(drop_duplicates=True, min_score=1)
    counts = filter_responses(open_source(tmp_path / "scored.parquet"), tmp_path, rules).counts
    assert [row["sample_idx"] for row in read(tmp_path / "filtered.parquet")] == [1]
    assert counts == {"kept": 1, "min_score": 1, "drop_duplicates": 2}


def test_responses_that_were_thought_out_in_other_ways_are_not_equal(tmp_path: Path) -> None:
    thought = {"num_reasoning_tokens": 1, "reasoning_closed": True}
    rows = [
        {"row_id": 0, "sample_idx": place, "response": "42", "reasoning": reasoning, **thought}
        for place, reasoning in enumerate(["6 * 7", "21 + 21", "6 * 7"])
    ]
    thinking = {name: EXTRAS[name].of_sample for name in THINKING}
    table = pa.Table.from_pylist(rows)
    fields = [thinking.get(column.name, column) for column in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), tmp_path / "thought.parquet")
    filter_responses(open_source(tmp_path / "thought.parquet"), tmp_path, FilterConfig(drop_duplicates=True))
    assert [row["sample_idx"] for row in read(tmp_path / "filtered.parquet")] == [0, 1]


def test_the_best_of_a_row_are_those_with_the_highest_scores_and_of_equal_ones_the_first(tmp_path: Path) -> None:
    scores: dict[int, list[float | None]] = {0: [0.0, 1.0, None, 0.5, 1.0, 1.0], 1: [None, None], 2: [0.25]}
    rows = [
        {"row_id": row, "response": f"{row}-{place}", "score": score}
        for row, of_row in scores.items()
        for place, score in enumerate(of_row)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "flat.parquet")
    source = open_source(tmp_path / "flat.parquet")
    assert filter_responses(source, tmp_path, FilterConfig(max_per_row=1)).counts == {"kept": 3, "max_per_row": 6}
    assert [row["response"] for row in read(tmp_path / "filtered.parquet")] == ["0-1", "1-0", "2-0"]
    filter_responses(source, tmp_path, FilterConfig(max_per_row=4, min_score=0))
    assert [row["response"] for row in read(tmp_path / "filtered.parquet")] == ["0-1", "0-3", "0-4", "0-5", "2-0"]


def test_the_first_of_a_row_where_there_are_no_scores_are_kept_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pa.table({"row_id": [0, 0, 1], "response": ["a", "b", "c"]})
    pq.write_table(table, tmp_path / "flat.parquet")
    pq.write_table(table.append_column("score", [[0.0, 1.0, 1.0]]), tmp_path / "scored.parquet")
    said = (
        "filter: max_per_row=1: there are no scores, so the first responses of a row are kept, and not the best ones; "
        "score them before this"
    )
    for name, most, expected in (("flat", 1, [said]), ("flat", 2, []), ("scored", 1, [])):
        config = PostprocessConfig(["filter"], filter=FilterConfig(max_per_row=most))
        with caplog.at_level("WARNING"):
            FILTER.run(Work(open_source(tmp_path / f"{name}.parquet"), tmp_path, config, DataConfig()))
        assert caplog.messages == expected
        caplog.clear()
        result = run_here("filter", f"{name}.parquet", "x.csv", f"max_per_row={most}", "overwrite=true", cwd=tmp_path)
        warned = [line.removeprefix("warning: ") for line in result.stderr.splitlines()]
        assert warned == [line.removeprefix("filter: ") for line in expected]


def test_files_of_others_need_nothing_but_responses(tmp_path: Path) -> None:
    path = tmp_path / "theirs.parquet"
    table = pa.table({"data_source": ["gsm8k", "math"], "responses": [["a", "b"], ["c"]]})
    pq.write_table(table, path)
    rows = read(flatten(open_source(path), tmp_path))
    assert [(row["data_source"], row["row_id"], row["sample_idx"], row["response"]) for row in rows] == [
        ("gsm8k", 0, 0, "a"),
        ("gsm8k", 0, 1, "b"),
        ("math", 1, 0, "c"),
    ]
    assert {row["finish_reason"] for row in rows} == {None}


def test_responses_may_be_json_text_and_a_cell_that_is_not_fails_alone(tmp_path: Path) -> None:
    path = tmp_path / "theirs.parquet"
    pq.write_table(pa.table({"responses": ['["a", "b"]', "not json", None, '["c", null]', '[{"a": 1}]']}), path)
    rows = read(flatten(open_source(path), tmp_path))
    assert [(row["row_id"], row["response"], row["error"]) for row in rows] == [
        (0, "a", None),
        (0, "b", None),
        (1, None, "responses: not a JSON list of texts"),
        (2, None, "the row has no responses"),
        (3, "c", None),
        (3, None, None),
        (4, None, "responses: not a JSON list of texts"),
    ]


def test_row_ids_go_on_over_the_batches_of_a_large_file_of_others(tmp_path: Path) -> None:
    path = tmp_path / "theirs.parquet"
    pq.write_table(pa.table({"responses": [[str(number)] for number in range(3000)]}), path)
    rows = read(flatten(open_source(path), tmp_path))
    assert [(row["row_id"], row["response"]) for row in rows] == [(number, str(number)) for number in range(3000)]


def test_rollouts_read_back_by_pandas_and_written_again_are_still_a_source(tmp_path: Path) -> None:
    import pandas as pd

    rows = [answered("a", None), answered("", "b")]
    pd.read_parquet(write_rollouts(tmp_path, rows)).to_parquet(tmp_path / "again.parquet")
    assert read(flatten(open_source(tmp_path / "again.parquet"), tmp_path)) == flat_rows(rows)


def test_rows_without_responses_are_counted_as_failed(tmp_path: Path) -> None:
    path = tmp_path / "theirs.parquet"
    columns = {"responses": [["a"], [], None, ["b"]], "finish_reasons": [["stop"], [], None, ["stop"]]}
    pq.write_table(pa.table(columns), path)
    rows = read(flatten(open_source(path), tmp_path))
    assert [(row["row_id"], row["response"], row["finish_reason"]) for row in rows] == [
        (0, "a", "stop"),
        (1, None, None),
        (2, None, None),
        (3, "b", "stop"),
    ]


def test_rows_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    rollouts = pq.read_table(write_rollouts(tmp_path, [answered("a", "b"), answered("c", "d")]))
    pq.write_table(pa.concat_tables([rollouts, rollouts]), tmp_path / "joined.parquet")
    with pytest.raises(UserError, match="row_id repeats or does not ascend"):
        flatten(open_source(tmp_path / "joined.parquet"), tmp_path)


def test_a_flat_file_needs_no_more_than_its_key_and_the_responses(tmp_path: Path) -> None:
    columns = {"row_id": [0, 0, 1], "sample_idx": [0, 1, 0], "response": ["a", "a", "b"]}
    pq.write_table(pa.table(columns), tmp_path / "bare.parquet")
    counts = filter_responses(
        open_source(tmp_path / "bare.parquet"), tmp_path, FilterConfig(drop_duplicates=True)
    ).counts
    assert counts == {"kept": 2, "drop_duplicates": 1}


def test_a_flat_file_with_a_failed_sample_comes_back_from_pandas_in_every_format(tmp_path: Path) -> None:
    rows = [answered("a", "b"), answered(None, None), answered("c", None)]
    frame = pq.read_table(flatten(source_of(tmp_path, rows), tmp_path)).to_pandas().drop(columns="prompt")
    frame.to_csv(tmp_path / "flat.csv", index=False)
    frame.to_json(tmp_path / "flat.jsonl", orient="records", lines=True)
    assert "5.0" in (tmp_path / "flat.csv").read_text()
    expected = [{name: value for name, value in row.items() if name != "prompt"} for row in flat_rows(rows)]
    for name in ("flat.csv", "flat.jsonl"):
        assert [row for batch in open_source(tmp_path / name).batches() for row in batch.to_pylist()] == expected


BY_COLUMN: list[dict[str, Any]] = [
    {"response": "a", "level": "easy", "kind": 1.0, "meta": {"source": "gsm8k", "year": None}},
    {"response": "b", "level": "hard", "kind": 2.0, "meta": {"source": "openai/math", "year": 2024}},
    {"response": "c", "level": None, "kind": None, "meta": {"source": "gsm8k", "year": 2024}},
]


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        (["level=easy"], "a"),
        (["level=easy", "level=hard"], "ab"),
        (["level=easy", "level=hard", "meta.source=gsm8k"], "a"),
        (["meta.source=openai/math"], "b"),
        (["meta.year=2024"], "bc"),
        (["kind=1"], "a"),
        (["level=null", "kind=null"], "c"),
        (["meta.year=null", "kind=2"], ""),
        (["text.source=gsm8k"], "ac"),
    ],
)
def test_where_keeps_the_rows_with_these_values_as_a_person_writes_them(
    where: list[str], kept: str, tmp_path: Path
) -> None:
    rows = [row | {"text": json.dumps(row["meta"])} for row in BY_COLUMN]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "flat.parquet")
    filter_responses(open_source(tmp_path / "flat.parquet"), tmp_path, FilterConfig(where=where))
    assert "".join(row["response"] for row in read(tmp_path / "filtered.parquet")) == kept


def test_white_space_around_a_value_does_not_count_in_the_file_either(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("response,level\na, easy\nb,easy\nc,hard\n")
    filter_responses(open_source(tmp_path / "r.csv"), tmp_path, FilterConfig(where=["level= easy"]))
    assert [row["response"] for row in read(tmp_path / "filtered.parquet")] == ["a", "b"]


def warnings_of(path: Path, rules: FilterConfig) -> list[str]:
    source = open_source(path)
    return [*filter_responses(source, path.parent, rules).warnings(rules, source)]


@pytest.mark.parametrize(
    ("rules", "warnings"),
    [
        (FilterConfig(where=["level=easy"], finish_reasons=["stop", "abort"], min_length=2), []),
        (FilterConfig(where=["level=esy"]), ["where=level=esy: no response has this value, did you mean easy?"]),
        (
            FilterConfig(where=["level=easy", "level=medium"]),
            ["where=level=medium: no response has this value, choose from easy, hard"],
        ),
        (
            FilterConfig(where=["number=44"]),
            ["where=number=44: no response has this value, but others; look at some with rollout analyze by=..."],
        ),
        (
            FilterConfig(finish_reasons=["stopped"]),
            ["finish_reasons=stopped: no response has this finish reason, did you mean stop?"],
        ),
        (
            FilterConfig(finish_reasons=["stop", "lenght"]),
            ["finish_reasons=lenght: no response has this finish reason, did you mean length?"],
        ),
        (
            FilterConfig(finish_reasons=["stop", "eos_token", "length"]),
            ["finish_reasons=eos_token: no response has this finish reason, choose from stop"],
        ),
        (
            FilterConfig(finish_reasons=["length"]),
            ["finish_reasons=length: no response has this finish reason, choose from stop"],
        ),
    ],
)
def test_a_value_that_no_response_has_is_told_with_those_that_there_are(
    rules: FilterConfig, warnings: list[str], tmp_path: Path
) -> None:
    rows = [
        {"response": "a", "level": ["easy", "hard"][row % 2], "number": 1000 + row, "finish_reason": "stop"}
        for row in range(9)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "flat.parquet")
    assert warnings_of(tmp_path / "flat.parquet", rules) == warnings


def test_what_a_file_does_not_have_at_all_is_said_and_of_a_file_without_responses_nothing(tmp_path: Path) -> None:
    rules = FilterConfig(finish_reasons=["stop"])
    for name, responses in {"bare": ["a"], "empty": []}.items():
        pq.write_table(pa.table({"response": pa.array(responses, pa.string())}), tmp_path / f"{name}.parquet")
    line = "finish_reasons=stop: no response has this finish reason, nor any other; leave it out"
    assert warnings_of(tmp_path / "bare.parquet", rules) == [line]
    assert warnings_of(tmp_path / "empty.parquet", rules) == []

"""Which responses `export.format=preference` sets against each other, and what it says of rows without a pair."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rollout.config import DataConfig, ExportConfig
from rollout.postprocess.chats import Records
from rollout.postprocess.export import Seen, export, records
from rollout.postprocess.source import Source, open_source
from tests.conftest import chat
from tests.in_process import run_here
from tests.postprocess.tables import ODD_TEXTS

Sample = tuple[str | None, float | None]
"""A response (None: it failed) and its score."""


def write_scored(path: Path, rows: list[list[Sample]], **columns: list[Any]) -> Path:
    samples = [(row_id, idx, *sample) for row_id, row in enumerate(rows) for idx, sample in enumerate(row)]
    table = {
        "prompt": pa.array([chat(f"question {row_id}") for row_id, *_ in samples]),
        "row_id": pa.array([row_id for row_id, *_ in samples], pa.int64()),
        "sample_idx": pa.array([idx for _, idx, *_ in samples], pa.int32()),
        "response": pa.array([response for *_, response, _ in samples], pa.string()),
        "score": pa.array([score for *_, score in samples], pa.float64()),
    }
    pq.write_table(pa.table(table | columns), path)
    return path


def scored(folder: Path, *rows: list[Sample], **columns: list[Any]) -> Source:
    return open_source(write_scored(folder / "scored.parquet", list(rows), **columns))


def exported(source: Source, folder: Path, **keys: Any) -> list[dict[str, Any]]:
    count = export(source, folder, ExportConfig("pairs.jsonl", "preference", **keys), DataConfig())
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(pairs) == count
    return pairs


def texts(pairs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in pairs]


def test_the_best_goes_with_the_worst_the_next_best_with_the_next_worst(tmp_path: Path) -> None:
    source = scored(tmp_path, [("c", 0.5), ("e", 0.1), ("a", 0.9), ("d", 0.3), ("b", 0.7)])
    assert texts(exported(source, tmp_path)) == [("a", "e")]
    assert texts(exported(source, tmp_path, pairs_per_row=2)) == [("a", "e"), ("b", "d")]


def test_of_equal_scores_the_first_sample_comes_first_wherever_it_stands_in_the_file(tmp_path: Path) -> None:
    row: list[Sample] = [("w", 0), ("x", 1), ("y", 1), ("z", 0)]
    source = scored(tmp_path, row, sample_idx=[7, 5, 2, 3])
    found = exported(source, tmp_path, pairs_per_row=2)
    assert texts(found) == [("y", "z"), ("x", "w")]
    assert [(pair["chosen_sample_idx"], pair["rejected_sample_idx"]) for pair in found] == [(2, 3), (5, 7)]


def test_a_response_is_used_again_only_where_there_are_not_enough_others(tmp_path: Path) -> None:
    source = scored(tmp_path, [("good", 1), ("x", 0), ("y", 0), ("z", 0)], [("a", 1), ("b", 1), ("c", 0), ("d", 0)])
    once = exported(source, tmp_path, pairs_per_row=2)
    assert texts(once) == [("good", "x"), ("good", "y"), ("a", "c"), ("b", "d")]
    often = exported(source, tmp_path, pairs_per_row=9)
    assert texts(often)[:3] == [("good", "x"), ("good", "y"), ("good", "z")]
    assert texts(often)[3:] == [("a", "c"), ("b", "d"), ("a", "d"), ("b", "c")]


def test_texts_are_never_set_against_themselves_and_no_pair_comes_twice(tmp_path: Path) -> None:
    """Of an unsteady scorer "4" has three scores, of a steady one "5" has the same twice."""
    source = scored(tmp_path, [("4", 1), ("4", 0), ("5", 0.5), ("4", 1), ("5", 0.5)])
    assert texts(exported(source, tmp_path, pairs_per_row=9)) == [("4", "5")]


def test_where_best_and_worst_are_one_text_the_next_pair_is_taken(tmp_path: Path) -> None:
    source = scored(tmp_path, [("4", 1), ("4", 0), ("3", 0.4)])
    assert texts(exported(source, tmp_path)) == [("4", "3")]


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u3000"])
def test_an_empty_response_is_rejected_but_never_chosen(blank: str, tmp_path: Path) -> None:
    source = scored(
        tmp_path, [(blank, 1), ("so-so", 0.5), ("bad", 0)], [("fine", 1), (blank, 0)], [(blank, 1), ("x", 0)]
    )
    assert texts(exported(source, tmp_path)) == [("so-so", "bad"), ("fine", blank)]


@pytest.mark.parametrize("reasoning", ["keep", "field"])
def test_thinking_without_an_answer_is_no_chosen_response_either(reasoning: str, tmp_path: Path) -> None:
    source = scored(
        tmp_path,
        [("", 1), ("4", 0.5), ("5", 0)],
        reasoning=["I think and think", "2 + 2", "2 + 3"],
        num_reasoning_tokens=pa.array([4, 3, 3], pa.int32()),
        reasoning_closed=[False, True, True],
    )
    (pair,) = exported(source, tmp_path, reasoning=reasoning)
    assert (pair["chosen_sample_idx"], pair["rejected_sample_idx"]) == (1, 2)


def test_one_answer_after_two_ways_to_think_is_a_pair_only_if_the_thinking_is_written(tmp_path: Path) -> None:
    source = scored(
        tmp_path,
        [("4", 1), ("4", 0)],
        reasoning=["short", "long and longer"],
        num_reasoning_tokens=pa.array([1, 3], pa.int32()),
        reasoning_closed=[True, True],
    )
    assert exported(source, tmp_path) == []
    assert len(exported(source, tmp_path, reasoning="keep")) == 1
    (pair,) = exported(source, tmp_path, reasoning="field")
    assert (pair["chosen"][0]["reasoning_content"], pair["rejected"][0]["reasoning_content"]) == (
        "short",
        "long and longer",
    )


def test_a_chosen_response_is_never_just_the_least_bad_one(tmp_path: Path) -> None:
    source = scored(tmp_path, [("bad", 0.2), ("worse", 0)], [("right", 1), ("wrong", 0)])
    assert texts(exported(source, tmp_path)) == [("bad", "worse"), ("right", "wrong")]
    assert texts(exported(source, tmp_path, min_chosen_score=1)) == [("right", "wrong")]


def test_a_margin_counts_as_people_write_it(tmp_path: Path) -> None:
    """0.3 - 0.2 is less than 0.1 in floating point."""
    source = scored(tmp_path, [("a", 0.3), ("b", 0.2)], [("c", 0.3), ("d", 0.21)])
    assert texts(exported(source, tmp_path, min_margin=0.1)) == [("a", "b")]


TENTHS = st.none() | st.integers(-3, 10)


@dataclass(frozen=True)
class Rules:
    """The keys, with scores in tenths, which floating point cannot blur."""

    pairs_per_row: int
    min_margin: int | None
    min_chosen_score: int | None


RULES = st.builds(Rules, st.integers(1, 7), st.none() | st.integers(1, 9), st.none() | st.integers(-3, 10))
SAMPLES = st.tuples(st.none() | st.sampled_from([*ODD_TEXTS, "a", "b", "c", "d"]), TENTHS)


Known = tuple[int, int, str]
"""A response with a score: score, sample_idx, text."""


def expected(row: list[tuple[str | None, int | None]], rules: Rules) -> tuple[list[tuple[int, int]], str]:
    """The sample numbers of the pairs, made by looking at every two responses again and again, and why there are none:
    the first rule that leaves no two.
    """
    known = [(score, idx, text) for idx, (text, score) in enumerate(row) if text is not None and score is not None]
    if len(known) < 2:
        return [], "without two scored responses"
    margin, lowest = rules.min_margin or 0, -99 if rules.min_chosen_score is None else rules.min_chosen_score
    wanted: dict[str, Callable[[Known, Known], bool]] = {
        "without different scores": lambda chosen, rejected: chosen[0] > rejected[0],
        "where only equal texts have different scores": lambda chosen, rejected: chosen[2] != rejected[2],
        "where only empty responses score higher": lambda chosen, _: bool(chosen[2].strip()),
        "by min_chosen_score": lambda chosen, _: chosen[0] >= lowest,
        "by min_margin": lambda chosen, rejected: chosen[0] - rejected[0] >= margin,
    }
    pairs = list(product(sorted(known, key=lambda each: (-each[0], each[1])), sorted(known)))
    for why, is_wanted in wanted.items():
        pairs = [pair for pair in pairs if is_wanted(*pair)]
        if not pairs:
            return [], why
    return rounds(pairs)[: rules.pairs_per_row], ""


def rounds(pairs: list[tuple[Known, Known]]) -> list[tuple[int, int]]:
    found, done = list[tuple[int, int]](), list[set[str]]()
    while pairs := [(chosen, rejected) for chosen, rejected in pairs if {chosen[2], rejected[2]} not in done]:
        used = set[str]()
        for (_, chosen, better), (_, rejected, worse) in pairs:
            if not used & {better, worse}:
                used |= {better, worse}
                done.append({better, worse})
                found.append((chosen, rejected))
    return found


@pytest.mark.long
@given(rows=st.lists(st.lists(SAMPLES, min_size=1, max_size=9), min_size=1, max_size=6), rules=RULES)
@example(rows=[[("a", 3), ("b", 2), ("c", 1), ("d", 0)]], rules=Rules(9, 1, None))
@example(rows=[[("", 10), (" ", 9), ("a", 9)]], rules=Rules(3, None, None))
@settings(max_examples=300, deadline=None)
def test_the_pairs_and_the_reasons_for_none_are_those_of_plain_python(
    rows: list[list[tuple[str | None, int | None]]], rules: Rules, tmp_path_factory: pytest.TempPathFactory
) -> None:
    source = scored(
        tmp_path_factory.mktemp("pairs"),
        *([(text, None if score is None else score / 10) for text, score in row] for row in rows),
    )
    margin, lowest = (None if tenths is None else tenths / 10 for tenths in (rules.min_margin, rules.min_chosen_score))
    config = ExportConfig(
        "x.jsonl",
        "preference",
        pairs_per_row=rules.pairs_per_row,
        min_margin=margin,
        min_chosen_score=lowest,
    )
    _, parts = records(source, config, DataConfig())
    seen = Seen(parts, config.format)
    found = [record for part in seen if isinstance(part, Records) for record in part.made]
    wanted = [expected(row, rules) for row in rows]
    assert [(pair["row_id"], pair["chosen_sample_idx"], pair["rejected_sample_idx"]) for pair in found] == [
        (row_id, *pair) for row_id, (pairs, _) in enumerate(wanted) for pair in pairs
    ]
    assert seen.left_out == Counter(("row", why) for pairs, why in wanted if not pairs)
    assert (seen.left_out_in_words() or f"no pair in 0 of {len(rows)} row").startswith(
        f"no pair in {seen.left_out.total()} of {len(rows)} row"
    )


def test_the_command_says_how_many_rows_have_no_pair_and_why(tmp_path: Path) -> None:
    rows: list[list[Sample]] = [
        [("4", 1), ("5", 0)],
        [("4", 1), ("5", 1)],
        [("3", 0.5), ("5", 0)],
        [("3", 0.5), ("5", 0)],
        [(None, None), ("5", 0)],
        [(None, None), (None, None)],
        [("4", 1), ("3", 0.9)],
        [(" ", 1), ("5", 0)],
        [("4", 1), ("4", 0)],
        [("no", 1), ("chat", 0)],
    ]
    prompts: list[Any] = [json.dumps(chat("hi"))] * 18 + [None] * 2
    write_scored(tmp_path / "scored.parquet", rows, prompt=prompts)
    keys = ("format=preference", "min_margin=0.5", "min_chosen_score=1")
    result = run_here("export", "scored.parquet", "pairs.jsonl", *keys, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "wrote 1 pair: pairs.jsonl",
        "no pair in 9 of 10 rows: 2 by min_chosen_score, 2 without two scored responses, 1 without different scores, "
        "1 by min_margin, 1 where only empty responses score higher, 1 where only equal texts have different scores, "
        "1 whose prompt is no chat",
    ]


def test_a_step_logs_the_same_and_warns_only_where_there_is_no_pair_at_all(tmp_path: Path) -> None:
    write_scored(tmp_path / "scored.parquet", [[("4", 1), ("5", 0)], [("4", 1), ("5", 1)]])
    step = ("input=scored.parquet", "steps=[export]", "export.format=preference")
    result = run_here(*step, cwd=tmp_path, module="rollout.postprocess")
    assert result.returncode == 0, result.stderr
    assert "export: 1 pair\n" in result.stdout
    assert " export: no pair in 1 of 2 rows: 1 without different scores\n" in result.stdout
    assert "warning" not in result.stdout
    none = run_here(*step, "export.min_margin=2", "overwrite=true", cwd=tmp_path, module="rollout.postprocess")
    assert "warning: export: no pair in 2 of 2 rows: 1 by min_margin, 1 without different scores\n" in none.stdout


def test_keys_of_pairs_are_refused_with_another_format_as_a_run_may_have_them(tmp_path: Path) -> None:
    write_scored(tmp_path / "scored.parquet", [[("4", 1), ("5", 0)]])
    given = ("pairs_per_row=4", "min_margin=0.5", "min_chosen_score=1")
    wrong = run_here("export", "scored.parquet", "x.jsonl", "format=messages", *given, cwd=tmp_path)
    assert wrong.returncode == 1
    assert wrong.stderr.splitlines() == [
        "error: pairs_per_row=4: format=messages makes no pairs; set format=preference, or pairs_per_row=1",
        "error: min_margin=0.5: format=messages makes no pairs; set format=preference, or min_margin=null",
        "error: min_chosen_score=1.0: format=messages makes no pairs; set format=preference, or min_chosen_score=null",
    ]
    cured = ("pairs_per_row=1", "min_margin=null", "min_chosen_score=null")
    assert run_here("export", "scored.parquet", "x.jsonl", "format=messages", *cured, cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("pairs_per_row=0", "pairs_per_row=0: must be at least 1"),
        ("pairs_per_row=1.5", "pairs_per_row=1.5: must be a whole number"),
        ("min_margin=0", "min_margin=0.0: must be more than 0.0"),
        ("min_chosen_score=nan", "min_chosen_score=nan: must be a number"),
    ],
)
def test_values_that_make_no_sense_are_one_line(key: str, line: str, tmp_path: Path) -> None:
    write_scored(tmp_path / "scored.parquet", [[("4", 1), ("5", 0)]])
    result = run_here("export", "scored.parquet", "x.jsonl", "format=preference", key, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, f"error: {line}\n")

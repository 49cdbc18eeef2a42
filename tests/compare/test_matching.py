"""Rows are matched by what they ask, in whatever form and order; and why others are not."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.compare.matching import Matching, Unmatched, match
from rollout.compare.row_values import Columns, RowValues, metrics_of, row_values
from rollout.config import AnalyzeConfig
from rollout.postprocess.analyze import analysis_of
from rollout.postprocess.source import open_source
from rollout.postprocess.their_scores import open_with_scores
from rollout.scoring.pass_at_k import majorities_at_k, majority_at_k
from tests.conftest import chat


def values_of(folder: Path, name: str, rows: list[dict[str, Any]], truth: str | None = "answer") -> RowValues:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"responses": ["x"], **row}) + "\n" for row in rows))
    return row_values(open_source(path), Columns("prompt", truth), 1.0)


def pairs(found: Matching) -> list[tuple[int, int]]:
    return list(zip(found.first.tolist(), found.second.tolist(), strict=True))


NOTHING = Unmatched(not_there=0, other_truth=0, more_copies=0, unreadable=0)


def test_a_text_a_chat_and_json_that_say_the_same_are_one_prompt(tmp_path: Path) -> None:
    first = values_of(tmp_path, "a", [{"prompt": text, "answer": "42"} for text in ("one", "two", "three", "four")])
    in_parts = [{"role": "user", "content": [{"type": "text", "text": "three"}]}]
    forms = [in_parts, chat("two"), [{"role": "user", "content": "one", "name": None}]]
    second = values_of(tmp_path, "b", [{"prompt": json.dumps(form), "answer": 42} for form in forms])
    found = match(first, second, with_truths=True)
    assert pairs(found) == [(0, 2), (1, 1), (2, 0)]
    assert found.unmatched == (Unmatched(not_there=1, other_truth=0, more_copies=0, unreadable=0), NOTHING)


def test_reasons_why_rows_have_no_counterpart(tmp_path: Path) -> None:
    rows = [("a", 1), ("a", 1), ("a", 1), ("b", 2), ("c", 3), (None, 4)]
    others = [("a", 1), ("b", 5), ("d", 6), ("d", 6)]
    first, second = (
        values_of(tmp_path, name, [{"prompt": prompt, "answer": answer} for prompt, answer in these])
        for name, these in (("a", rows), ("b", others))
    )
    found = match(first, second, with_truths=True)
    assert pairs(found) == [(0, 0)]
    assert found.unmatched == (
        Unmatched(not_there=1, other_truth=1, more_copies=2, unreadable=1),
        Unmatched(not_there=2, other_truth=1, more_copies=0, unreadable=0),
    )
    assert found.copies == (2, 1)
    assert pairs(match(first, second, with_truths=False)) == [(0, 0), (3, 1)]


def test_a_system_message_or_another_role_makes_another_prompt(tmp_path: Path) -> None:
    asked = [
        chat("hi"),
        [{"role": "system", "content": "short"}, *chat("hi")],
        [{"role": "assistant", "content": "hi"}],
    ]
    first = values_of(tmp_path, "a", [{"prompt": form} for form in asked], truth=None)
    assert len(set(first.prompts.tolist())) == 3


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), max_size=12), st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_copies_are_matched_in_their_order(first: list[int], second: list[int]) -> None:
    found = match(made_of(first), made_of(second), with_truths=False)
    there, expected = defaultdict[int, list[int]](list), []
    for place, prompt in enumerate(second):
        there[prompt].append(place)
    for place, prompt in enumerate(first):
        if there[prompt]:
            expected.append((place, there[prompt].pop(0)))
    assert pairs(found) == expected
    assert [left.total for left in found.unmatched] == [len(side) - len(expected) for side in (first, second)]
    same = [first[place] for place, _ in expected]
    assert [[a == b for a in same] for b in same] == [[a == b for a in found.clusters] for b in found.clusters]


def made_of(prompts: list[int]) -> RowValues:
    hashes, none = np.array([prompt + 1 for prompt in prompts], np.uint64), np.zeros(len(prompts))
    counts = none.astype(np.int64)
    return RowValues(
        counts,
        hashes,
        None,
        None,
        counts,
        counts,
        counts,
        counts,
        none,
        none,
        none,
        none,
        is_binary=True,
        majorities={},
        early_n=counts,
        early_c=counts,
        early_mean=none,
    )


def test_the_numbers_of_rows_add_up_to_those_of_the_analysis(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a", "response": "yes", "score": 1, "extracted_answer": "1", "num_generated_tokens": 3},
        {"prompt": "a", "response": "no", "score": 0, "extracted_answer": "2", "num_generated_tokens": 9},
        {"prompt": "a", "response": "yes", "score": 1, "extracted_answer": "1", "num_generated_tokens": 3},
        {"prompt": "b", "response": "maybe", "score": 0.5, "extracted_answer": None, "num_generated_tokens": 5},
        {"prompt": "b", "response": None, "score": None, "error": "too long", "num_generated_tokens": 0},
        {"prompt": "c", "response": "none", "score": None, "num_generated_tokens": 1},
    ]
    path = tmp_path / "flat.jsonl"
    path.write_text("".join(json.dumps({"finish_reason": "length", **row}) + "\n" for row in rows))
    found, analysis = (
        row_values(open_source(path), Columns("prompt"), 1.0),
        analysis_of(open_source(path), AnalyzeConfig(), 1.0),
    )
    assert analysis.scores is not None
    assert (found.samples.sum(), found.responses.sum(), len(found)) == (6, 5, 3)
    assert found.score_sum.sum() / found.scored.sum() == analysis.scores.mean
    assert np.nanmean(found.of("pass@2")) == analysis.scores.pass_at_k["2"]
    assert np.nanmean(found.of("majority@3")) == analysis.scores.majority_at_k["3"]
    assert analysis.tokens is not None
    assert found.tokens.sum() / found.responses.sum() == analysis.tokens.mean
    assert np.array_equal(found.of("score"), [2 / 3, 0.5, np.nan], equal_nan=True)
    assert list(metrics_of([found])) == ["score", "pass@1", "pass@2", "pass@3", "majority@3", *LENGTHS]


LENGTHS = ("tokens", "characters", "truncated")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.booleans()), min_size=1, max_size=9))
def test_majorities_of_many_rows_are_those_of_each(samples: list[tuple[int, bool]]) -> None:
    passes = dict(samples)  # equal answers pass alike
    answers = [answer for answer, _ in samples]
    passed = [passes[answer] for answer in answers]
    texts = [None if answer < 0 else str(answer) for answer in answers]
    (found,) = majorities_at_k(np.array([answers]), np.array([passed]))
    assert found == pytest.approx(majority_at_k(texts, passed, len(texts)))


THEIRS: list[dict[str, Any]] = [
    {"responses": ["a", "b"], "scores": [1, 0.5]},
    {"responses": ["c", "d"], "scores": None},
    {"responses": ["e"], "scores": [True]},
]


def test_lists_of_scores_in_files_of_others(tmp_path: Path) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in THEIRS))
    source = open_with_scores(path, "inputs", ["reward", "scores"])
    found = [score for batch in source.batches() for score in batch.column("score").to_pylist()]
    assert found == [1.0, 0.5, None, None, 1.0]
    assert "scores" not in source.schema.names


@pytest.mark.parametrize(
    ("row", "key", "scores"),
    [
        ({"response": "a", "reward": "0.5"}, "reward", [0.5]),
        ({"response": "a", "score": 0.0, "reward": 1}, "reward", [1.0]),
        ({"responses": ["a"], "score": 0.25}, "score", [0.25]),
        ({"responses": ["a", "b"], "score": "[1, null]"}, "score", [1.0, None]),
    ],
)
def test_other_forms_of_scores(row: dict[str, Any], key: str, scores: list[float | None], tmp_path: Path) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (batch,) = open_with_scores(path, "inputs", [key]).batches()
    assert batch.column("score").to_pylist() == scores

"""Scorers, what becomes of one that fails, and pass@k against counting every subset."""

import itertools
import statistics
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.config import AnalyzeConfig, ScoreConfig
from rollout.errors import UserError
from rollout.postprocess.analyze import analyze
from rollout.postprocess.score import SCHEMA, score_responses, with_scores
from rollout.postprocess.source import open_source
from rollout.scoring.inputs import truths_of
from rollout.scoring.intervals import share_of
from rollout.scoring.pass_at_k import majority_at_k, pass_at_k, reported_ks
from rollout.scoring.scorers import scorer_of
from rollout.scoring.summary import ScoreSummary
from tests.postprocess.tables import Row, answered, read, source_of

OWN = "tests.postprocess.own_scorers"


@pytest.mark.parametrize(
    ("scorer", "response", "ground_truth", "score"),
    [
        ("exact_match", " Paris\n", "Paris", 1),
        ("exact_match", "paris", "Paris", 0),
        ("exact_match", "42", 42, 1),
        ("exact_match", "42", 42.0, 1),
        ("numeric_match", "so it is 1,234.50 dollars.", "1234.5", 1),
        ("numeric_match", "first 3, then 4", "#### 4", 1),
        ("numeric_match", "first 4, then 3", "#### 4", 0),
        ("numeric_match", "-7", -7, 1),
        ("numeric_match", "\N{MINUS SIGN}5", "5", 0),
        ("numeric_match", "\N{MINUS SIGN}5", "-5", 1),
        ("numeric_match", "1e3", "1000", 1),
        ("numeric_match", "it is .5", "0.5", 1),
        ("numeric_match", "1,2,3", "3", 1),
        ("numeric_match", "5-3", "3", 1),
        ("numeric_match", "1e999999999", "1", 0),
        ("numeric_match", "none", "3", 0),
        ("exact_match", "1.50", Decimal("1.50"), 1),
        ("exact_match", "2024-01-01", date(2024, 1, 1), 1),
        ("exact_match", "true", True, 1),
        ("math", r"so \boxed{\frac{1}{2}}", "0.5", 1),
        ("math", r"thus $x = \frac{2}{4}$", r"\frac{1}{2}", 1),
        ("math", r"\boxed{(x+1)^2}", r"x^2 + 2x + 1", 1),
        ("math", r"\boxed{3}", r"The answer is \boxed{4}", 0),
        ("math", "no idea", "4", 0),
    ],
)
def test_the_built_in_scorers(scorer: str, response: str, ground_truth: Any, score: float) -> None:
    assert scorer_of(ScoreConfig(scorer))(response, ground_truth, {}).score == score


def test_numbers_that_are_equal_are_one_answer() -> None:
    scorer = scorer_of(ScoreConfig("numeric_match"))
    assert {scorer(text, "40", {}).answer for text in ("40", "so 40.0", "4e1", "0,040.00")} == {"40"}


@pytest.mark.parametrize(
    ("pattern", "response", "ground_truth", "score", "answer"),
    [
        (r"answer is (\w+)", "the answer is A, no, the answer is B", "B", 1, "B"),
        (r"answer is (\w+)", "the answer is B, no, the answer is A", "B", 0, "A"),
        (r"\d+", "1 and 22", "22", 1, "22"),
        (r"<think>", "<think>hm", None, 1, "<think>"),
        (r"<think>", "hm", None, 0, None),
    ],
)
def test_the_last_match_of_the_pattern_counts(
    pattern: str, response: str, ground_truth: str | None, score: float, answer: str | None
) -> None:
    scored = scorer_of(ScoreConfig("regex", pattern=pattern))(response, ground_truth, {})
    assert (scored.score, scored.answer) == (score, answer)


def scores(folder: Path, rows: list[Row], config: ScoreConfig) -> list[dict[str, Any]]:
    score_responses(source_of(folder, rows), folder, config)
    return read(folder / "scores.parquet")


def test_scores_stand_beside_the_responses_for_the_steps_that_follow(tmp_path: Path) -> None:
    rows = [Row([("it is 4", "stop", 3), ("it is 5", "stop", 3), None], "4", "bad"), Row([("4", "stop", 1)] * 3, None)]
    found = scores(tmp_path, rows, ScoreConfig("numeric_match", "answer"))
    assert [(row["row_id"], row["sample_idx"], row["score"], row["pass_rate"]) for row in found] == [
        (0, 0, 1.0, 0.5),
        (0, 1, 0.0, 0.5),
        (0, 2, None, 0.5),
        (1, 0, None, None),
        (1, 1, None, None),
        (1, 2, None, None),
    ]
    assert [row["score_error"] for row in found] == [None, None, None, *["answer is null"] * 3]
    source = with_scores(source_of(tmp_path, rows), tmp_path / "scores.parquet")
    assert [row["score"] for batch in source.batches() for row in batch.to_pylist()] == [row["score"] for row in found]


def test_a_ground_truth_that_is_nan_is_none() -> None:
    batch = pa.record_batch({"answer": pa.array([0.5, float("nan"), None], pa.float32())})
    assert truths_of(batch, ScoreConfig("exact_match", "answer")) == [0.5, None, None]


def test_a_scorer_that_never_works_is_an_error_with_its_reason_and_replaces_no_scores(tmp_path: Path) -> None:
    source = source_of(tmp_path, [answered("raise", "raise", "text")])
    score_responses(source, tmp_path, ScoreConfig("regex", pattern="a"))
    before = (tmp_path / "scores.parquet").read_bytes()
    with pytest.raises(UserError, match="no response could be scored, 2 of them because: RuntimeError: no idea; fix"):
        score_responses(source, tmp_path, ScoreConfig(f"{OWN}:misbehaving"))
    assert (tmp_path / "scores.parquet").read_bytes() == before
    assert len(list(tmp_path.glob("*scores*"))) == 1


def test_a_row_without_an_answer_counts_as_wrong_in_majority_at_k(tmp_path: Path) -> None:
    rows = [answered("I do not know.")] * 3 + [answered("It is 4")]
    rows = [replace(row, answer="4") for row in rows]
    score_responses(source_of(tmp_path, rows), tmp_path, ScoreConfig("numeric_match", "answer"))
    source = with_scores(source_of(tmp_path, rows), tmp_path / "scores.parquet")
    found = analyze(source, tmp_path, AnalyzeConfig(), ScoreConfig()).scores
    assert found is not None
    assert found.majority_at_k == found.pass_at_k == {"1": 0.25}


def test_scores_of_other_responses_are_refused(tmp_path: Path) -> None:
    score_responses(source_of(tmp_path, [answered("1", "2")]), tmp_path, ScoreConfig("regex", pattern="1"))
    for other in (answered("1", "2", "3"), answered("1", "3")):
        source = with_scores(source_of(tmp_path, [other]), tmp_path / "scores.parquet")
        with pytest.raises(UserError, match="made from other responses; run the step score again"):
            list(source.batches())


def test_a_scorer_of_ones_own_sees_the_row(tmp_path: Path) -> None:
    found = scores(tmp_path, [answered("a"), answered("b")], ScoreConfig(f"{OWN}:of_the_row"))
    assert [row["score"] for row in found] == [len("question 0") + 2] * 2


def test_a_scorer_may_name_the_answer_or_give_no_score(tmp_path: Path) -> None:
    (compared,) = scores(tmp_path, [answered("a")], ScoreConfig(f"{OWN}:with_numpy"))
    assert compared["score"] == 1
    (named,) = scores(tmp_path, [answered("a")], ScoreConfig(f"{OWN}:with_answer"))
    assert (named["score"], named["extracted_answer"]) == (0.5, "A")
    found = scores(tmp_path, [answered("0.25", "?", "nan")], ScoreConfig(f"{OWN}:undecided"))
    assert [row["score"] for row in found] == [0.25, None, None]


@pytest.mark.long
def test_a_scorer_that_raises_hangs_or_dies_costs_one_score_each(tmp_path: Path) -> None:
    bad = ["raise", "text", "infinite", "surrogate", "exit", "hang", "hang and catch everything", "die"]
    responses = [*["fine"] * 70, *bad, *["fine"] * 70]
    config = ScoreConfig(f"{OWN}:misbehaving", timeout=0.5, workers=2)
    source = source_of(tmp_path, [answered(*responses)])
    assert score_responses(source, tmp_path, config) == {"scored": 140, "no_answer": 0, "unscored": 8, "failed": 0}
    found = read(tmp_path / "scores.parquet")
    errors = {response: row["score_error"] for response, row in zip(responses, found, strict=True)}
    assert errors == {
        "fine": None,
        "raise": "RuntimeError: no idea",
        "text": "TypeError: returned str, not a number",
        "infinite": "ValueError: returned inf",
        "surrogate": "ValueError: ?",
        "exit": "SystemExit: 3",
        "hang": "timed out after 0.5 s",
        "hang and catch everything": "timed out after 0.5 s",
        "die": "the scorer ended its process (exit code 7)",
    }


def test_scorers_whose_processes_do_not_start_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "ends_its_process.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    scorer = ScoreConfig("ends_its_process:scorer", workers=1)
    with pytest.raises(
        UserError, match=r'do not start \(All workers expired\); a script needs `if __name__ == "__main'
    ):
        score_responses(source_of(tmp_path, [answered("a")]), tmp_path, scorer)


def test_a_limit_that_is_reached_while_an_error_is_handled_costs_one_score(tmp_path: Path) -> None:
    source = source_of(tmp_path, [answered("fine", "raise slowly", "fine")])
    config = ScoreConfig(f"{OWN}:misbehaving", timeout=0.5, workers=1)
    assert score_responses(source, tmp_path, config) == {"scored": 2, "no_answer": 0, "unscored": 1, "failed": 0}
    assert [row["score_error"] for row in read(tmp_path / "scores.parquet")] == [None, "timed out after 0.5 s", None]


def test_the_ground_truth_may_lie_in_a_struct_or_in_json(tmp_path: Path) -> None:
    columns = {
        "reward_model": [{"ground_truth": "4", "style": "rule"}, {"ground_truth": "5", "style": "rule"}],
        "extra": ['{"a": {"b": "4"}}', "not json"],
        "dotted.name": ["4", "4"],
        "responses": [["4"], ["4"]],
    }
    pq.write_table(pa.table(columns), tmp_path / "theirs.parquet")
    found = {}
    for path in ("reward_model.ground_truth", "extra.a.b", "dotted.name"):
        score_responses(open_source(tmp_path / "theirs.parquet"), tmp_path, ScoreConfig("exact_match", path))
        found[path] = [row["score"] for row in read(tmp_path / "scores.parquet")]
    assert found == {"reward_model.ground_truth": [1, 0], "extra.a.b": [1, None], "dotted.name": [1, 1]}


@given(n=st.integers(1, 7), c=st.integers(0, 7), k=st.integers(1, 7))
def test_pass_at_k_is_the_share_of_all_draws_with_a_pass(n: int, c: int, k: int) -> None:
    c, k = min(c, n), min(k, n)
    draws = [any(draw) for draw in itertools.combinations([True] * c + [False] * (n - c), k)]
    assert pass_at_k(n, c, k) == pytest.approx(statistics.fmean(draws))


@pytest.mark.parametrize(
    ("answers", "passed", "k", "expected"),
    [
        (["4", "5", "5"], [True, False, False], 1, 1.0),
        (["4", "5", "5"], [True, False, False], 3, 0.0),
        (["4", "5", "5"], [True, False, False], 2, 0.5),
        (["4", None, None], [True, False, False], 3, 1.0),
        ([None, None, "4"], [False, False, True], 2, 0.0),
    ],
)
def test_majority_at_k_is_whether_the_most_frequent_of_the_first_answers_passes(
    answers: list[str | None], passed: list[bool], k: int, expected: float
) -> None:
    assert majority_at_k(answers, passed, k) == expected


def test_k_goes_up_in_powers_of_two_to_the_number_of_samples() -> None:
    assert reported_ks([8, 3]) == [1, 2, 4, 8]
    assert reported_ks([6]) == [1, 2, 4, 6]
    assert reported_ks([1]) == [1]
    assert reported_ks([]) == []


SCORES_OF_A_ROW = st.lists(st.none() | st.sampled_from([0.0, 0.5, 1.0]), min_size=3, max_size=3)


@pytest.mark.long
@given(table=st.lists(SCORES_OF_A_ROW, min_size=1, max_size=6))
@settings(deadline=None)
def test_the_aggregates_are_those_of_plain_python(
    table: list[list[float | None]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("scores")
    of_row: dict[str, float | None] = {"pass_rate": None, "extracted_answer": None, "score_error": None}
    checksums = [crc32(text) for text in (b"a", b"b", b"c")]
    cells = [
        of_row | {"row_id": row_id, "sample_idx": index, "score": score, "response_crc32": checksums[index]}
        for row_id, row in enumerate(table)
        for index, score in enumerate(row)
    ]
    pq.write_table(pa.Table.from_pylist(cells, SCHEMA), folder / "scores.parquet")
    source = with_scores(source_of(folder, [answered("a", "b", "c")] * len(table)), folder / "scores.parquet")
    found = analyze(source, folder, AnalyzeConfig(), ScoreConfig(pass_score=0.5)).scores
    scored = [[score for score in row if score is not None] for row in table]
    flat = [score for row in scored for score in row]
    passed = [[score >= 0.5 for score in row] for row in scored]
    assert found is not None
    assert (found.scored, found.unscored) == (len(flat), 3 * len(table) - len(flat))
    assert found.mean == (pytest.approx(statistics.fmean(flat)) if flat else None)
    assert found.pass_rate == (pytest.approx(sum(score >= 0.5 for score in flat) / len(flat)) if flat else None)
    assert list(found.pass_at_k) == [str(k) for k in reported_ks(map(len, passed))]
    for k in map(int, found.pass_at_k):
        enough = [row for row in passed if len(row) >= k]
        by_draws = [statistics.fmean(map(any, itertools.combinations(row, k))) for row in enough]
        assert found.pass_at_k[str(k)] == pytest.approx(statistics.fmean(by_draws))
    assert sum(found.row_pass_rates.counts) == sum(map(bool, passed))
    assert sum(found.histogram.counts) == len(flat)


def summary_of(folder: Path, rows: list[Row], pass_score: float = 1.0) -> ScoreSummary:
    score_responses(source_of(folder, rows), folder, ScoreConfig("numeric_match", "answer"))
    source = with_scores(source_of(folder, rows), folder / "scores.parquet")
    found = analyze(source, folder, AnalyzeConfig(), ScoreConfig(pass_score=pass_score)).scores
    assert found is not None
    return found


def test_every_number_has_its_error_bar_over_rows(tmp_path: Path) -> None:
    rows = [answered(*["4"] * right, *["5"] * (4 - right)) for right in (4, 4, 2, 1, 0)]
    found = summary_of(tmp_path, [replace(row, answer="4") for row in rows])
    rates = [1, 1, 0.5, 0.25, 0]
    at_2 = [pass_at_k(4, right, 2) for right in (4, 4, 2, 1, 0)]
    assert found.estimates["mean"] == found.estimates["pass_rate"]  # scores of 0 and 1 are shares
    assert found.estimates["pass_rate"] == found.estimates["pass@1"] == share_of(rates)
    assert found.estimates["pass@2"] == share_of(at_2)
    assert found.estimates["majority@4"] == share_of([1, 1, 0.5, 0, 0])
    assert found.pass_at_k["2"] == found.estimates["pass@2"].value
    within = [rate * (1 - rate) * 4 / 3 / 4 for rate in rates]
    assert found.same_prompts_se == pytest.approx(sum(within) ** 0.5 / 5)


def test_rows_of_unequal_size_are_clusters(tmp_path: Path) -> None:
    rows = [replace(row, answer="4") for row in (answered("4", "5", "4"), answered("5"), answered("4", None))]
    found = summary_of(tmp_path, rows).estimates["pass_rate"]
    spread = (2 - 3 * 0.6) ** 2 + 0.6**2 + (1 - 0.6) ** 2
    assert (found.value, found.se, found.n) == pytest.approx((0.6, (3 / 2 * spread) ** 0.5 / 5, 3))

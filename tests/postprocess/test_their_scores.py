"""Scores that a file has, in a column of any name and one per response or in lists, count alike in every command."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.config import AnalyzeConfig, FilterConfig
from rollout.errors import UserError
from rollout.postprocess.analyze import analysis_of
from rollout.postprocess.filter import only_kept
from rollout.postprocess.source import Source
from rollout.postprocess.their_scores import open_with_scores
from tests.conftest import run_in
from tests.in_process import run_here

Scores = list[list[float | None]]

SCORES: st.SearchStrategy[Scores] = st.integers(1, 3).flatmap(
    lambda size: st.lists(
        st.lists(st.sampled_from([0.0, 0.5, 1.0, None]), min_size=size, max_size=size), min_size=1, max_size=5
    )
)


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def flat(path: Path, scores: Scores, name: str, **more: Any) -> Path:
    """A file with a row for each response, and the score in the column `name`."""
    return lines(
        path,
        [
            {"prompt": f"question {row}", "response": f"{row}-{place}", name: score, **more}
            for row, of_row in enumerate(scores)
            for place, score in enumerate(of_row)
        ],
    )


def listed(path: Path, scores: Scores, name: str) -> Path:
    """A file with a row for each prompt, and a list of scores in the column `name`."""
    return lines(
        path,
        [
            {
                "prompt": f"question {row}",
                "responses": [f"{row}-{place}" for place in range(len(of_row))],
                name: of_row,
            }
            for row, of_row in enumerate(scores)
        ],
    )


def scores_in(source: Source) -> list[float | None]:
    return [score for batch in source.batches() for score in batch.column("score").to_pylist()]


@pytest.mark.long
@given(scores=SCORES, least=st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=30, deadline=None)
def test_the_same_scores_in_any_form_are_the_same_responses_to_a_filter_and_the_same_analysis(
    scores: Scores, least: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("forms")
    sources = [
        open_with_scores(flat(folder / "ours.jsonl", scores, "score"), "input"),
        open_with_scores(flat(folder / "reward.jsonl", scores, "reward"), "input", ["reward"]),
        open_with_scores(listed(folder / "lists.jsonl", scores, "scores"), "input", ["reward", "scores"]),
    ]
    every = [score for of_row in scores for score in of_row]
    if any(score is not None for score in every):
        sources.append(open_with_scores(folder / "lists.jsonl", "input"))
    wanted = [
        f"{row}-{place}"
        for row, of_row in enumerate(scores)
        for place, score in enumerate(of_row)
        if score is not None and score >= least
    ]
    for source in sources:
        assert scores_in(source) == every
        kept = only_kept(source, FilterConfig(min_score=least))
        assert [text for batch in kept.batches() for text in batch.column("response").to_pylist()] == wanted
        found = analysis_of(source, AnalyzeConfig(), 1.0).scores
        assert found == analysis_of(sources[0], AnalyzeConfig(), 1.0).scores


def test_what_was_made_of_other_scores_does_not_stand_beside_the_chosen_ones(tmp_path: Path) -> None:
    path = flat(tmp_path / "two.jsonl", [[1.0]], "reward", score=0.0, pass_rate=0.5, extracted_answer="7")
    source = open_with_scores(path, "input", ["reward"])
    (batch,) = source.batches()
    assert batch.column("score").to_pylist() == [1.0]
    assert batch.column("extracted_answer").to_pylist() == ["7"]
    assert "pass_rate" not in source.schema.names
    assert "reward" not in source.schema.names


@pytest.mark.parametrize(
    ("row", "counts"),
    [
        ({"response": "a", "scores": 1}, True),
        ({"response": "a", "scores": [1]}, False),
        ({"response": "a", "scores": "good"}, False),
        ({"responses": ["a"], "scores": 1}, True),
        ({"responses": ["a"], "scores": [0.5]}, True),
        ({"responses": ["a"], "scores": [True]}, True),
        ({"responses": ["a"], "scores": ["1"]}, False),
        ({"response": "a", "scores": False}, True),
        ({"responses": ["a"], "scores": {"style": 1}}, False),
        ({"responses": ["a"], "scores": "good"}, False),
        ({"responses": '["a"]', "scores": "[1]"}, True),
        ({"scores": [3, 4], "row_id": 0, "response": "a"}, False),
        ({"row_id": 0, "response": "a", "scores": 0.5}, True),
    ],
)
def test_a_column_that_nobody_has_named_counts_only_if_it_can_be_nothing_but_scores(
    row: dict[str, Any], counts: bool, tmp_path: Path
) -> None:
    source = open_with_scores(lines(tmp_path / "theirs.jsonl", [row]), "input")
    assert ("score" in source.schema.names) == counts
    assert ("scores" in source.schema.names) != counts
    assert next(source.batches()).num_rows == 1
    unscored = open_with_scores(tmp_path / "theirs.jsonl", "input", [])
    assert "score" not in unscored.schema.names


def test_scores_of_true_and_false_are_those_of_1_and_0(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "q", "responses": ["x", "y", "z"], "scores": [True, False, None]}]
    assert scores_in(open_with_scores(lines(tmp_path / "listed.jsonl", rows), "input")) == [1.0, 0.0, None]
    rows = [{"prompt": "q", "response": text, "scores": score} for text, score in (("x", True), ("y", False))]
    assert scores_in(open_with_scores(lines(tmp_path / "flat.jsonl", rows), "input")) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("row", "is_noted"),
    [
        ({"responses": ["a"], "scores": ["1"]}, True),
        ({"response": "a", "scores": "1"}, True),
        ({"row_id": 0, "sample_idx": 0, "response": "a", "scores": 1}, True),
        ({"responses": ["a"], "scores": [1]}, False),
        ({"response": "a", "scores": {"style": 1}}, False),
        ({"response": "a", "scores": [1]}, False),
        ({"scores": 1, "row_id": 0, "response": "a"}, False),
        ({"response": "a", "scores": "good", "score": 1}, False),
        ({"response": "a"}, False),
    ],
)
def test_a_column_that_may_be_scores_but_is_not_taken_for_them_is_noted_with_the_key_that_takes_it(
    row: dict[str, Any], is_noted: bool, tmp_path: Path
) -> None:
    lines(tmp_path / "theirs.jsonl", [row])
    said = "the column scores is left as it is; if it holds the scores of the responses, add score_key=scores"
    for words in (("analyze", "theirs.jsonl"), ("flatten", "theirs.jsonl", "flat.jsonl", "overwrite=true")):
        result = run_here(*words, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, f"note: {said}\n" if is_noted else "")
        result = run_here(*words, *(["score_key=scores"] if is_noted else []), cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
    if is_noted:
        assert "1 scored" in run_here("analyze", "theirs.jsonl", "score_key=scores", cwd=tmp_path).stdout


def test_none_of_the_named_columns_is_one_line(tmp_path: Path) -> None:
    path = flat(tmp_path / "theirs.jsonl", [[1.0]], "reward")
    with pytest.raises(UserError, match=r"^score_key=rewrd,points: .* has no such column, did you mean reward\?$"):
        open_with_scores(path, "input", ["rewrd", "points"])


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that stops its rows, and its result elsewhere."""
    folder = tmp_path_factory.mktemp("stopped")
    run = run_in(
        folder / "run",
        *(
            "data.limit=8",
            "sampling.n_samples=6",
            "adaptive.until=passes",
            "adaptive.passes=1",
            "adaptive.rounds=[2,4]",
        ),
        *("postprocess.score.scorer=regex", 'postprocess.score.pattern="[02468] word"'),
        *("postprocess.score.pass_score=0.75", "postprocess.steps=[score]"),
    )
    pq.write_table(pq.read_table(run / "rollouts.parquet"), folder / "copied.parquet")
    return folder


def output(folder: Path, *words: str) -> str:
    result = run_here(*words, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def scored_lines(path: Path) -> list[dict[str, Any]]:
    """Its rows, without what only the folder of a run tells of scores."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {key: row[key] for key in row if key not in ("pass_rate", "extracted_answer", "score_error")} for row in rows
    ]


def test_the_result_of_a_run_that_stops_rows_has_its_scores_wherever_it_lies(stopped: Path) -> None:
    for name, *keys in (("filter", "min_score=1"), ("export", "format=preference"), ("flatten",)):
        of_run = output(stopped, name, "run", f"{name}-run.jsonl", *keys)
        of_file = output(stopped, name, "copied.parquet", f"{name}-file.jsonl", *keys)
        assert of_file.replace("-file", "-run") == of_run
        assert scored_lines(stopped / f"{name}-file.jsonl") == scored_lines(stopped / f"{name}-run.jsonl") != []
    shown = output(stopped, "analyze", "copied.parquet", "output=analysis.json")
    assert "a response passes from a score of 0.75 on (pass_score)" in shown
    in_run = pq.read_table(stopped / "run/scores.parquet").column("score").drop_null().to_pylist()
    found = json.loads((stopped / "analysis.json").read_text())["scores"]
    assert (found["scored"], found["mean"]) == (len(in_run), pytest.approx(sum(in_run) / len(in_run)))


def test_they_count_where_steps_read_it_too_unless_a_step_makes_others(stopped: Path) -> None:
    words = ("input=copied.parquet", "steps=[filter]", "filter.min_score=1")
    result = run_here(*words, "output_dir=own", cwd=stopped, module="rollout.postprocess")
    assert result.returncode == 0, result.stderr
    scored = pq.read_table(stopped / "run/scores.parquet").column("score").to_pylist()
    assert pq.read_table(stopped / "own/filtered.parquet").num_rows == scored.count(1.0) > 0
    anew = ("score.scorer=regex", "score.pattern=nothing", "output_dir=anew", "steps=[score]", "input=copied.parquet")
    assert run_here(*anew, cwd=stopped, module="rollout.postprocess").returncode == 0
    later = run_here(*words, "output_dir=anew", cwd=stopped, module="rollout.postprocess")
    assert later.returncode == 0, later.stderr
    assert pq.read_table(stopped / "anew/filtered.parquet").num_rows == 0


def test_a_column_of_that_name_in_a_run_without_a_rule_is_one_of_its_input(tmp_path: Path) -> None:
    rows = pa.table({"prompt": ["a", "b"], "scores": [[1, 2, 3], [4]]})
    pq.write_table(rows, tmp_path / "input.parquet")
    run = run_in(tmp_path / "run", f"data.path={tmp_path / 'input.parquet'}", "sampling.n_samples=2")
    for path in (run / "rollouts.parquet", run / "flat.parquet"):
        names = open_with_scores(path, "input").schema.names
        assert ("scores" in names, "score" in names) == (True, False)

"""What a run ends with on screen: its tables, and how fast several engines were."""

import json
from io import StringIO
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from rollout.config import AnalyzeConfig
from rollout.postprocess.analyze import analysis_of, read_analysis
from rollout.postprocess.source import open_source
from rollout.store.run_record import EngineRecord, ReplicaRecord, Saving, read
from rollout.terminal.console import show_table
from rollout.terminal.estimates import LEGEND
from rollout.terminal.summary import show_analysis, show_summary
from tests.conftest import Rollout, chat
from tests.in_process import run_here


@pytest.mark.parametrize(
    ("rates", "restarts", "line"),
    [
        ([2719.4, 2797.1], 0, "2 replicas: 2,797 and 2,719 tok/s"),
        ([1.0, 3.0, None], 1, "3 replicas: 3, 1 and 0 tok/s, 1 restart"),
        ([float(rate) for rate in range(1000, 1009)], 2, "9 replicas: 1,000 to 1,008 tok/s, median 1,004, 2 restarts"),
    ],
)
def test_the_end_of_a_run_on_several_engines_says_how_fast_they_were(
    rollout: Rollout, rates: list[float | None], restarts: int, line: str
) -> None:
    run_dir = rollout([{"prompt": chat("hello")}])
    record = read(run_dir)
    record.engine = EngineRecord(replicas=[ReplicaRecord(output_tok_s=rate) for rate in rates])
    record.engine.replicas[0].restarts = restarts
    screen = StringIO()
    show_summary(Console(file=screen, width=200), run_dir, record, None, None)
    assert line in screen.getvalue().splitlines()


@pytest.mark.parametrize(
    "engine",
    [None, EngineRecord(), EngineRecord(replicas=[ReplicaRecord(output_tok_s=1.0)])],
    ids=["none", "one", "a replica"],
)
def test_a_run_with_one_engine_or_none_has_no_such_line(rollout: Rollout, engine: EngineRecord | None) -> None:
    run_dir = rollout([{"prompt": chat("hello")}])
    record = read(run_dir)
    record.engine = engine
    screen = StringIO()
    show_summary(Console(file=screen, width=200), run_dir, record, None, None)
    assert "replicas" not in screen.getvalue()


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (1, "1 row has no ground truth and got its full budget"),
        (2, "2 rows have no ground truth and got their full budget"),
    ],
)
def test_rows_that_no_rule_could_stop_are_counted(rollout: Rollout, rows: int, line: str) -> None:
    run_dir = rollout([{"prompt": chat("hello")}])
    record = read(run_dir)
    record.adaptive = Saving(
        samples=1,
        full_samples=1,
        generated_tokens=1,
        full_tokens=1,
        saved=0.0,
        saved_samples=0.0,
        stopped={"budget": 1},
        rows_without_truth=rows,
    )
    screen = StringIO()
    show_summary(Console(file=screen, width=200), run_dir, record, None, None)
    assert line in screen.getvalue().splitlines()


def scored(folder: Path, rows: int, n_samples: int) -> Path:
    """The n-th of `rows` rows passes in n * n_samples / rows of its samples."""
    path = folder / "scored.jsonl"
    responses = [
        {
            "row_id": row,
            "sample_idx": index,
            "level": "a level of a long name" if row % 2 else "easy",
            "response": f"{row} {index}",
            "finish_reason": "stop",
            "num_generated_tokens": 123_456,
            "score": float(index < row * n_samples // rows),
            "extracted_answer": str(index),
        }
        for row in range(rows)
        for index in range(n_samples)
    ]
    path.write_text("".join(json.dumps(response) + "\n" for response in responses))
    return path


def test_the_page_shows_what_is_printed(tmp_path: Path) -> None:
    def passes(row: int, index: int) -> bool:
        return 5 * (row + index) % 8 < row * row % 9 - (row < 20)

    responses = [
        {
            "row_id": row,
            "sample_idx": index,
            "topic": "algebra" if row < 20 else "geometry",
            "response": f"answer {row} {index}",
            "finish_reason": "length" if row * index % 11 == 7 else "stop",
            "num_generated_tokens": 20 + row * index % 50,
            "score": float(passes(row, index)),
            "extracted_answer": "right" if passes(row, index) else str(index % 3),
        }
        for row in range(40)
        for index in range(8)
    ]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(response) + "\n" for response in responses))
    printed = run_here("analyze", "problems.jsonl", "by=topic", cwd=tmp_path).stdout
    lines = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    page = (Path(__file__).parents[2] / "docs/post-processing.md").read_text(encoding="utf-8")
    assert page.partition("$ rollout analyze problems.jsonl by=topic\n")[2].partition("\n```")[0] == lines


def shown(path: Path, width: int = 80) -> list[str]:
    """The tables of an analysis, by level."""
    screen = StringIO()
    analysis = analysis_of(open_source(path), AnalyzeConfig("level"), pass_score=1.0)
    show_analysis(Console(file=screen, width=width), analysis)
    return [line.rstrip() for line in screen.getvalue().splitlines()]


def test_the_tables_of_many_samples_and_groups_fit_80_columns(tmp_path: Path) -> None:
    path = scored(tmp_path, rows=25, n_samples=128)
    lines = shown(path)
    assert lines == [line.rstrip() for line in shown(path, width=200)]  # nothing was cut
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("pass@128") for line in lines)
    assert any(line.startswith("a level of a...") for line in lines)


def test_scores_and_shares_stand_with_their_intervals_and_those_not_to_rely_on_are_marked(tmp_path: Path) -> None:
    lines = shown(scored(tmp_path, rows=50, n_samples=4))
    (at_1,) = (line for line in lines if line.startswith("pass@1 "))
    (at_4,) = (line for line in lines if line.startswith("pass@4 "))
    (looping,) = (line for line in lines if line.startswith("looping"))
    assert at_1.split() == ["pass@1", "0.370", "0.296", "to", "0.451", "50"]
    assert at_4.split() == ["pass@4", "0.740", "0.603", "to", "0.842", "50"]
    assert looping.split() == ["looping", "0", "0.0%", "0.0%", "to", "7.1%", "*"]
    assert lines.count(LEGEND) == 1


@pytest.mark.parametrize(("score", "key", "said"), [(0.5, "pass_score", True), (7, "a.key", True), (1, "", False)])
def test_where_scores_are_graded_it_is_said_which_of_them_pass(
    tmp_path: Path, score: float, key: str, said: bool
) -> None:
    lines = [{"prompt": str(row), "response": "a", "score": score * (row % 2)} for row in range(6)]
    (tmp_path / "scored.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    screen = StringIO()
    analysis = analysis_of(open_source(tmp_path / "scored.jsonl"), AnalyzeConfig(), pass_score=1.0)
    show_analysis(Console(file=screen, width=80), analysis, key)
    assert (f"not scored\na response passes from a score of 1 on ({key})\n" in screen.getvalue()) == said
    assert ("a response passes" in screen.getvalue()) == said


def test_the_end_of_a_run_names_the_key_of_a_run_for_that(rollout: Rollout) -> None:
    scoring = {"scorer": "tests.graders:share", "ground_truth": "null"}
    graded = ("postprocess=score", *(f"postprocess.score.{key}={value}" for key, value in scoring.items()))
    run_dir = rollout([{"prompt": chat("hello")}], *graded)
    screen = StringIO()
    show_summary(Console(file=screen, width=200), run_dir, read(run_dir), read_analysis(run_dir), None)
    assert "\na response passes from a score of 1 on (postprocess.score.pass_score)\n" in screen.getvalue()


@pytest.mark.parametrize("n_samples", [3, 4, 6])
def test_the_pass_rate_stands_there_only_where_it_is_not_pass_at_1(tmp_path: Path, n_samples: int) -> None:
    path = scored(tmp_path, rows=30, n_samples=n_samples)
    assert not [line for line in shown(path) if line.startswith("pass_rate")]
    last = path.read_text().splitlines()[-1]
    with path.open("a") as file:  # one row has more responses than the others
        file.write(last.replace(f'"sample_idx": {n_samples - 1}', '"sample_idx": 7') + "\n")
    assert [line for line in shown(path) if line.startswith("pass_rate")]


def test_without_a_single_score_there_is_no_table_of_scores(tmp_path: Path) -> None:
    path = scored(tmp_path, rows=5, n_samples=2)
    responses = [json.loads(line) | {"score": None} for line in path.read_text().splitlines()]
    pq.write_table(
        pa.Table.from_pandas(pd.DataFrame(responses).astype({"score": float})), tmp_path / "unscored.parquet"
    )
    lines = shown(tmp_path / "unscored.parquet")
    assert "Scores" not in lines
    assert "0 scored; 10 not scored" in lines


def test_data_in_a_table_cannot_move_the_cursor_or_colour_the_screen() -> None:
    printed = StringIO()
    show_table(Console(file=printed, width=80), "Groups", ["", "rows"], [["a\nb\x1b[31mc", "1"]])
    assert "a b [31mc     1" in printed.getvalue()

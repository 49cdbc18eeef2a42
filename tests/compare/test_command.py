"""`rollout compare`: what it prints and writes, of runs, sweeps and files of others; one line for every mistake."""

import json
import re
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from rollout import open_run
from rollout.compare.comparison import Comparison
from rollout.compare.comparison import compare as compare_sides
from rollout.compare.screen import show_comparison
from tests.commands import Completed, run_command
from tests.compare_content import pair, side
from tests.conftest import chat, run_in, write_input
from tests.in_process import run_here
from tests.sides import side_of_run

pytestmark = pytest.mark.long

ROWS = [(f"What is {n} + {n}?", str(2 * n)) for n in range(12)]
PASSES = {"base": 2, "tuned": 3}
"""Of 4 responses to a row, in rows that are not always or never right."""


def flat(path: Path, passes: int, rows: list[tuple[str, str]] = ROWS, **more: Any) -> Path:
    """A JSONL file of others, a line per response."""
    lines = [
        {"prompt": prompt, "answer": answer, "response": f"It is {answer}." if right else "No idea.", "score": right}
        for prompt, answer in rows
        for right in [int(sample < (int(answer) % 5 and passes)) for sample in range(4)]
    ]
    path.write_text("".join(json.dumps({**line, **more}) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with two files of the same rows, the second in another order."""
    flat(tmp_path / "base.jsonl", 2)
    flat(tmp_path / "tuned.jsonl", 3, ROWS[::-1])
    return tmp_path


def compare(folder: Path, *words: str) -> Completed:
    return run_command("compare", *words, cwd=folder)


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    return found


def page_content(path: Path) -> dict[str, Any]:
    found = re.search(r'id="content">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


def test_the_table_says_which_is_better_by_how_much_and_how_sure_that_is(two: Path) -> None:
    result = compare(two, "base.jsonl", "tuned.jsonl", "ground_truth=answer")
    assert result.returncode == 0, result.stderr
    shown = result.stdout
    assert "A, B: 12 rows matched by prompt and ground truth\n" in shown
    assert "Difference, B - A, row by row" in shown
    assert "wins: rows in which B has more\n" in shown
    assert re.search(r"score +\+0\.188 +\+0\.\d+ to \+0\.\d+ +0\.0039 +9 +3 +0\b", shown)
    assert "A, B in score: B has more (p=0.00" in shown
    assert shown.endswith("wrote compare.json\nwrote compare.html\n")
    assert max(map(len, shown.splitlines()[:40])) <= 120


def test_the_files_have_the_numbers_and_the_rows_that_differ_most(two: Path) -> None:
    assert compare(two, "base.jsonl", "tuned.jsonl", "output=out", "rows=3").returncode == 0
    found, page = read(two / "out"), page_content(two / "out/compare.html")
    (pair,) = found["pairs"]
    assert (pair["earlier"], pair["later"], pair["matched"]) == ("A", "B", 12)
    assert pair["metrics"]["score"]["later"] > pair["metrics"]["score"]["earlier"]
    assert {"score", "pass@1", "pass@2", "pass@4", "characters"} == pair["metrics"].keys()
    assert len(found["rows"]) == len(page["rows"]) == 3
    for row, shown in zip(found["rows"], page["rows"], strict=True):
        assert row["row_ids"]["A"] + row["row_ids"]["B"] == 11  # the other order
        assert shown["prompt"][0]["content"] == ROWS[row["row_ids"]["A"]][0]
        for name, passes in (("A", 2), ("B", 3)):
            texts = [response["text"] for response in shown["responses"][name]]
            assert texts.count("No idea.") in (4 - passes, 4)
            assert row["values"][name] == 1 - texts.count("No idea.") / 4


def test_runs_with_scores_are_compared_with_what_they_cost_and_what_was_set(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.parquet", [{"prompt": chat(q), "answer": a} for q, a in ROWS])
    scoring = ["postprocess=score", "postprocess.score.scorer=exact_match", "postprocess.score.ground_truth=answer"]
    copy = shutil.copy(source, tmp_path / "copy.parquet")
    given = ["sampling.n_samples=2", *scoring]
    for name, path, seed in (("first", source, 1), ("second", copy, 2)):
        run_in(tmp_path / "outputs" / name, f"data.path={path}", *given, f"sampling.seed={seed}")
    result = compare(tmp_path, "outputs/first", "latest", "output=out")
    assert (result.returncode, result.stderr) == (0, "latest: outputs/second\n")
    assert "12 rows matched by prompt and ground truth" in result.stdout
    assert "note: set differently, A -> B: sampling.seed 1 -> 2\n" in result.stdout
    for line in ("prompt tokens", "generated tokens", "generating", "tokens / s", "machine"):
        assert line in result.stdout
    assert page_content(tmp_path / "out/compare.html")["reports"] == {
        "A": "../outputs/first/report.html",
        "B": "../outputs/second/report.html",
    }
    found = open_run(tmp_path / "outputs/first").compare(tmp_path / "outputs/second")
    assert found.pairs[0].metrics["score"].paired.rows == 12
    shown = repr(found).splitlines()
    assert "A, B: 12 rows matched by prompt and ground truth" in shown
    assert "Difference, B - A, row by row" in shown
    assert shown[-1] == "note: set differently, A -> B: sampling.seed 1 -> 2"


def test_several_are_compared_two_by_two_with_p_corrected(two: Path) -> None:
    flat(two / "third.jsonl", 1, ROWS[:8])
    result = compare(two, "base.jsonl", "tuned.jsonl", "third.jsonl")
    assert result.returncode == 0, result.stderr
    assert "1 of 3 pairs: all rows matched by prompt" in result.stdout
    assert "A, C: 8 rows matched by prompt; 4 of A not: 4 not in C" in result.stdout
    assert "p, Holm" in result.stdout
    assert "wins: rows in which the side that is named first in the line has more\n" in result.stdout
    scores = [pair["metrics"]["score"]["paired"] for pair in read(two)["pairs"]]
    assert [(pair["earlier"], pair["later"]) for pair in read(two)["pairs"]] == [("A", "B"), ("A", "C"), ("B", "C")]
    assert max(score["p_holm"] for score in scores) <= 1
    assert all(score["p_holm"] >= score["p"] for score in scores)
    first = compare(two, "base.jsonl", "tuned.jsonl", "third.jsonl", "pairs=first")
    assert first.returncode == 0, first.stderr
    assert [pair["later"] for pair in read(two)["pairs"]] == ["B", "C"]
    assert read(two)["common"] == 8


def test_sides_stand_beside_each_other_with_numbers_that_all_of_them_have(two: Path) -> None:
    lines = flat(two / "third.jsonl", 1).read_text().splitlines(keepends=True)
    (two / "third.jsonl").write_text("".join(lines[at] for at in range(len(lines)) if at % 4 < 3))
    three = compare(two, "base.jsonl", "tuned.jsonl", "third.jsonl").stdout
    assert re.search(r"Each by itself *\n +score +95% interval +pass@2 ", three)
    alone = compare(two, "base.jsonl", "third.jsonl").stdout.partition("Difference")[0]
    assert re.findall(r"^pass@\d|^characters", alone, re.MULTILINE) == ["pass@2", "pass@3", "pass@4", "characters"]


@pytest.mark.parametrize("names", ["AB", "ABC"])
def test_what_sides_cost_stands_whole_on_a_screen_of_any_width(names: str) -> None:
    sides = [side(name, name) for name in names]
    found = Comparison("prompt", 1.0, None, "score", sides, [pair("A", "B")], 40)
    for width in (20, 80):
        screen = StringIO()
        show_comparison(Console(file=screen, width=width), found, [])
        table = screen.getvalue().partition("Cost, over all rows")[2].splitlines()
        with_tokens = [line.split()[0] for line in table if "12,345,678" in line]
        assert with_tokens == (["generated"] if names == "AB" else ["A", "B", "C"])
        assert "…" not in screen.getvalue()
        assert width == 20 or max(len(line.rstrip()) for line in table) <= 80


def test_a_file_with_a_row_per_prompt_and_other_names_is_compared_with_a_flat_one(two: Path) -> None:
    rows = [
        {"question": chat(prompt), "label": int(answer), "responses": ["a", "b"], "reward": [1.0, float("nan")]}
        for prompt, answer in ROWS
    ]
    pq.write_table(pa.Table.from_pylist(rows), two / "theirs.parquet")
    keys = ["prompt_key=prompt,question", "ground_truth=answer,label", "score_key=score,reward"]
    result = compare(two, "base.jsonl", "theirs.parquet", *keys)
    assert result.returncode == 0, result.stderr
    assert "12 rows matched by prompt and ground truth" in result.stdout
    assert "note: 12 responses of B have no score and are left out" in result.stdout
    assert read(two)["sides"][1]["estimates"]["score"]["value"] == 1.0


def test_rows_of_one_group_are_not_independent(two: Path) -> None:
    for name, passes in PASSES.items():
        lines = flat(two / f"{name}.jsonl", passes).read_text().splitlines()
        grouped = [json.dumps({**json.loads(line), "topic": number // 16}) for number, line in enumerate(lines)]
        (two / f"{name}.jsonl").write_text("\n".join(grouped))
    assert compare(two, "base.jsonl", "tuned.jsonl", "clusters=topic").returncode == 0
    assert read(two)["pairs"][0]["metrics"]["score"]["paired"]["difference"]["n"] == 3


def test_the_jobs_of_a_sweep_are_compared_two_by_two(tmp_path: Path) -> None:
    done = {num: run_in(tmp_path / "sweep" / str(num), "data.limit=3", f"sampling.seed={num}") for num in range(2)}
    (tmp_path / "sweep/jobs").mkdir()
    for num, status in ((0, "done"), (1, "done"), (2, "failed")):
        job = {
            "num": num,
            "run_dir": str(done.get(num, "gone")),
            "overrides": ["data.limit=3", f"sampling.seed={num}"],
            "status": status,
        }
        (tmp_path / f"sweep/jobs/{num}.json").write_text(json.dumps({**job, "started": "2026-01-01T00:00:00"}))
    result = compare(tmp_path, "sweep")
    assert result.returncode == 0, result.stderr
    assert "A  job 0: sampling.seed=0: 3 rows" in result.stdout  # without what all jobs have
    assert "note: sweep: jobs that are not done are left out: 2\n" in result.stdout
    found = compare_sides([side_of_run(str(num), "", run_dir) for num, run_dir in done.items()])
    assert found.pairs[0].metrics["tokens"].later == read(tmp_path)["pairs"][0]["metrics"]["tokens"]["later"]
    assert "note: no side has scores: only lengths are compared; score with `python -m rollout score" in result.stdout


def test_a_sweep_that_was_moved_is_found_and_a_broken_note_is_one_line(tmp_path: Path) -> None:
    run_in(tmp_path / "moved/0", "data.limit=1")
    (tmp_path / "moved/jobs").mkdir()
    job = {"num": 0, "run_dir": "/gone/0", "overrides": [], "status": "done", "started": "2026-01-01T00:00:00"}
    (tmp_path / "moved/jobs/0.json").write_text(json.dumps(job))
    assert compare(tmp_path, "moved").stderr == (
        "error: moved: nothing to compare it with; give two or more, or a sweep's folder\n"
    )
    twice = compare(tmp_path, "moved", "moved/0").stderr
    assert twice == "error: job 0: is given twice; leave one out\n"
    (tmp_path / "moved/jobs/0.json").write_text("{")
    line = "error: moved/jobs/0.json: the note of a job is damaged ("
    assert compare(tmp_path, "moved").stderr.startswith(line)
    assert run_here("watch", "moved", "once=true", cwd=tmp_path).stderr.startswith(line)


def test_a_ground_truth_that_one_side_has_not_leaves_the_prompts_to_match_by(two: Path) -> None:
    lines = [json.loads(line) for line in (two / "tuned.jsonl").read_text().splitlines()]
    without = "".join(json.dumps({key: line[key] for key in line if key != "answer"}) + "\n" for line in lines)
    (two / "without.jsonl").write_text(without)
    result = compare(two, "without.jsonl", "base.jsonl", "ground_truth=answer")
    assert result.returncode == 0, result.stderr
    assert "note: rows are matched by their prompts alone: nothing tells where A has right answers" in result.stdout


def test_copies_of_a_row_are_matched_in_their_order_and_said(two: Path) -> None:
    for name, passes in PASSES.items():
        flat(two / f"{name}.jsonl", passes, [row for row in ROWS[:4] for _ in range(2)], sample_idx=0)
    result = compare(two, "base.jsonl", "tuned.jsonl")
    assert result.returncode == 0, result.stderr
    assert "rows of A and B ask what an earlier one asks; such rows are matched in their order" in result.stdout


def test_rows_with_different_numbers_of_responses_are_said_as_two_means_may_then_differ(two: Path) -> None:
    """A has more responses to the easy rows, B to the hard ones, and B is better in every row."""
    for name, more, right in (("base", "easy", {"easy": 4, "hard": 0}), ("tuned", "hard", {"easy": 2, "hard": 2})):
        lines = [
            {"prompt": f"{kind} {row}", "response": "a", "score": float(sample < right[kind])}
            for row in range(20)
            for kind in ("easy", "hard")
            for sample in range(8 if kind == more else 2)
        ]
        (two / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = compare(two, "base.jsonl", "tuned.jsonl")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^score +0\.400 .* 0\.400 ", result.stdout, re.MULTILINE)
    assert "A, B in score: B has more" in result.stdout
    assert (
        "note: not all rows have as many responses (a row of A 2 to 8, of B 2 to 8): `Each by itself` weighs every "
        "response alike, the differences weigh every row alike, so" in result.stdout
    )
    assert [side["per_row"] for side in read(two)["sides"]] == [[2, 8], [2, 8]]


def test_where_scores_are_graded_it_is_said_which_of_them_pass(two: Path) -> None:
    passing = "a response passes from a score of {} on (pass_score)\n"
    assert "a response passes" not in compare(two, "base.jsonl", "tuned.jsonl").stdout
    for name, passes in PASSES.items():
        flat(two / f"{name}.jsonl", passes, score=passes + 4.5)
    assert passing.format(1) in compare(two, "base.jsonl", "tuned.jsonl").stdout
    assert passing.format("6.5") in compare(two, "base.jsonl", "tuned.jsonl", "pass_score=6.5").stdout


def test_tiny_and_huge_scores_are_shown_with_three_digits(two: Path) -> None:
    for name, passes in PASSES.items():
        flat(two / f"{name}.jsonl", passes, score=passes * 1e-10)
    tiny = compare(two, "base.jsonl", "tuned.jsonl").stdout
    assert re.search(r"^score +2\.00e-10 .* 3\.00e-10 ", tiny, re.MULTILINE)
    assert re.search(r"^score +\+1\.00e-10 +- +0\.0005 +12 +0 +0 *$", tiny, re.MULTILINE)
    for name, passes in PASSES.items():
        flat(two / f"{name}.jsonl", passes, score=passes * 1e299)
    huge = compare(two, "base.jsonl", "tuned.jsonl")
    assert (huge.returncode, huge.stderr) == (0, "")
    assert re.search(r"^score +\+1\.00e\+299 +- +0\.0005 +12 +0 +0 *$", huge.stdout, re.MULTILINE)
    assert max(map(len, huge.stdout.partition("note:")[0].splitlines())) <= 100


def test_scores_too_large_for_a_sum_count_as_none(two: Path) -> None:
    lines = flat(two / "base.jsonl", 2).read_text().splitlines()
    signs = [json.dumps({**json.loads(line), "score": 1e308 * (-1) ** at}) for at, line in enumerate(lines)]
    (two / "base.jsonl").write_text("\n".join(signs + lines[:4]))
    result = compare(two, "base.jsonl", "tuned.jsonl")
    assert (result.returncode, result.stderr) == (0, "")
    assert "note: 48 responses of A have no score and are left out\n" in result.stdout
    analyzed = run_command("analyze", "base.jsonl", cwd=two)
    assert (analyzed.returncode, analyzed.stderr) == (0, "")
    assert "4 scored, 0 of them without an answer; 48 not scored\n" in analyzed.stdout


def test_equal_files_are_a_tie_and_say_so(two: Path) -> None:
    flat(two / "again.jsonl", 2)
    result = compare(two, "base.jsonl", "again.jsonl")
    assert "A, B in score: no row differs\n" in result.stdout
    paired = read(two)["pairs"][0]["metrics"]["score"]["paired"]
    assert (paired["ties"], paired["p"], paired["difference"]["interval"]) == (12, 1.0, None)


def test_rows_that_all_differ_alike_have_no_interval_and_are_no_tie(two: Path) -> None:
    for name, score in (("never", 0), ("always", 1)):
        flat(two / f"{name}.jsonl", 2, score=score)
    result = compare(two, "never.jsonl", "always.jsonl")
    assert "A, B in score: B has more (p=0.0005, sign-flip, exact)\n" in result.stdout
    assert re.search(r"^score +\+1\.000 +- +0\.0005 +12 +0 +0 *$", result.stdout, re.MULTILINE)


def test_a_single_group_of_rows_says_nothing(two: Path) -> None:
    for name, passes in PASSES.items():
        flat(two / f"{name}.jsonl", passes, topic="sums")
    result = compare(two, "base.jsonl", "tuned.jsonl", "clusters=topic")
    assert "A, B in score: one group of rows says nothing\n" in result.stdout


def test_what_was_written_before_is_replaced_and_what_others_wrote_is_not(two: Path) -> None:
    words = ["base.jsonl", "tuned.jsonl", "output=out"]
    assert compare(two, *words).returncode == 0
    assert compare(two, *words).returncode == 0
    (two / "out/compare.html").write_text("mine")
    refused = compare(two, *words)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "error: output=out: compare.html there already exists and was not written by this; choose another folder, or "
        "set overwrite=true to replace it\n"
    )
    assert (two / "out/compare.html").read_text() == "mine"
    assert compare(two, *words, "overwrite=true").returncode == 0
    assert page_content(two / "out/compare.html")["rows"]


MISTAKES = [
    ("base.jsonl", "base.jsonl: nothing to compare it with; give two or more, or a sweep's folder"),
    ("base.jsonl base.jsonl", "base.jsonl: is given twice; leave one out"),
    ("base.jsonl none.jsonl", "inputs=none.jsonl: no such file; check the path"),
    ("base.jsonl empty", "empty: not a run folder (no readable run.json in it); give the folder of a run"),
    ("base.jsonl broken.parquet", "inputs=broken.parquet: not a readable .parquet file"),
    (
        "base.jsonl others.jsonl",
        "base.jsonl, others.jsonl: no row matches, no prompt of the one is a prompt of the other",
    ),
    (
        "base.jsonl truths.jsonl ground_truth=answer",
        "base.jsonl, truths.jsonl: no row matches, 12 prompts are the same, but their ground truths are not",
    ),
    ("base.jsonl tuned.jsonl prompt_key=promt", "base.jsonl: has no column promt, did you mean prompt?"),
    (
        "base.jsonl tuned.jsonl ground_truth=anser",
        "ground_truth=anser: base.jsonl has no such column, did you mean answer?",
    ),
    ("base.jsonl tuned.jsonl clusters=topic", "clusters=topic: base.jsonl has no such column"),
    (
        "base.jsonl tuned.jsonl score_key=answr",
        "score_key=answr: base.jsonl has no such column, did you mean answer?",
    ),
    ("base.jsonl tuned.jsonl pairs=some", "pairs=some: choose from all, first"),
    ("base.jsonl tuned.jsonl rows=-1", "rows=-1: must be at least 0"),
    (
        "base.jsonl tuned.jsonl output=out.html",
        "output=out.html: is the name of a file, two are written; give a folder",
    ),
    ("base.jsonl tuned.jsonl output=base.jsonl", "output=base.jsonl: is a file; give a folder"),
    ("base.jsonl tuned.jsonl ouput=x", "ouput: no such key, did you mean output?"),
    (
        "base.jsonl lists.jsonl",
        "lists.jsonl: column scores: row 0 has 2 responses and 1 score; there must be one for each",
    ),
    ("base.jsonl words.jsonl", "words.jsonl: column score holds string, not double"),
]


@pytest.mark.parametrize(("words", "line"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_one_line(words: str, line: str, two: Path) -> None:
    flat(two / "others.jsonl", 1, [("something else", "1")])
    flat(two / "truths.jsonl", 1, [(prompt, "1") for prompt, _ in ROWS])
    flat(two / "words.jsonl", 1, ROWS, score="good")
    (two / "lists.jsonl").write_text(json.dumps({"prompt": ROWS[0][0], "responses": ["a", "b"], "scores": [1]}) + "\n")
    (two / "broken.parquet").write_text("PAR1 no")
    (two / "empty").mkdir()
    result = compare(two, *words.split())
    assert (result.returncode, "Traceback" in result.stderr) == (1, False)
    assert result.stderr.startswith(f"error: {line}"), result.stderr
    assert not (two / "compare.json").exists()


def test_runs_that_pass_from_other_scores_on_need_a_pass_score(tmp_path: Path) -> None:
    source = write_input(tmp_path / "in.parquet", [{"prompt": chat(q), "answer": a} for q, a in ROWS[:2]])
    scoring = ["postprocess=score", "postprocess.score.scorer=exact_match", "postprocess.score.ground_truth=answer"]
    for name, more in (
        ("a", []),
        ("b", ["postprocess.score.pass_score=0.5", "postprocess.score.scorer=numeric_match"]),
    ):
        run_in(tmp_path / name, f"data.path={source}", "sampling.n_samples=2", *scoring, *more)
    result = compare(tmp_path, "a", "b")
    assert (result.returncode, result.stderr) == (
        1,
        "error: pass_score: responses pass from other scores on: a from 1, b from 0.5; say which with pass_score=...\n",
    )
    result = compare(tmp_path, "a", "b", "pass_score=0.5")
    assert result.returncode == 0, result.stderr
    assert "note: scored differently (A by exact_match, B by numeric_match): differences may be the scorers'" in (
        result.stdout
    )

"""Values and answers as public bug reports have them, scored by the command."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.postprocess.__main__ import postprocess
from tests.postprocess.tables import read

pytestmark = pytest.mark.long

FLOAT32 = pa.float32()
CASES = {
    "a float32 is the number that people write": (
        "numeric_match",
        pa.array([0.1, 3.14], FLOAT32),
        ["It is 0.1", "It is 3.14"],
    ),
    "a small number": ("math", pa.array([1e-05, 2.5e-06]), [r"\boxed{0.00001}", r"\boxed{2.5\times 10^{-6}}"]),
    "a small float32": ("numeric_match", pa.array([1e-05, 2.5e-06], FLOAT32), ["0.00001", "2.5e-6"]),
    "a float16": ("exact_match", pa.array([0.1]).cast(pa.float16()), ["0.1"]),
    "a float32 in a list": ("numeric_match", pa.array([[0.1, 0.2]], pa.list_(FLOAT32)), ["0.2"]),
    "signs and groups": (
        "numeric_match",
        pa.array(["-5", "100000", "9500", "12000"]),
        ["The change is -$5.", "It costs $1,00,000.", r"so \boxed{9{,}500}", "so it is 12\u202f000"],
    ),
    "dollars": (
        "math",
        pa.array([r"\$18.90", r"\$32,\!348", r"\$36"]),
        [r"It is $\boxed{\$18.90}$.", r"It is $\boxed{\$32,\!348}$.", r"It is $\boxed{\$36}$."],
    ),
    "percent": (
        "math",
        pa.array(["28%", r"28\%", "50%"]),
        ["The answer is 28%.", "The answer is 28 percent.", r"\boxed{50\%}"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_right_answers_score_1(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scorer, truths, responses = CASES[name]
    table = pa.table({"answer": truths, "responses": [[response] for response in responses]})
    pq.write_table(table, tmp_path / "in.parquet")
    keys = (f"score.scorer={scorer}", "score.ground_truth=answer", "score.workers=1")
    postprocess([f"input={tmp_path / 'in.parquet'}", f"output_dir={tmp_path / 'o'}", "steps=[score,analyze]", *keys])
    assert [row["score"] for row in read(tmp_path / "o/scores.parquet")] == [1.0] * len(responses)
    out, err = capfd.readouterr()
    assert "math" not in out + err  # nor any other word of the library's
    assert f"{len(responses)} scored, 0 of them without an answer; 0 not scored" in out
    assert [line.split()[:2] for line in out.splitlines() if line.startswith(("mean ", "pass@"))] == [
        ["mean", "1.000"],
        ["pass@1", "1.000"],
    ]


def test_what_was_cut_off_or_gives_no_answer_is_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    columns = {
        "answer": ["4"],
        "responses": [["so 3</think>4", "4 or 5", "so</think>4", "so</think>"]],
        "finish_reasons": [["stop", "length", "length", "stop"]],
    }
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    keys = ("score.scorer=numeric_match", "score.ground_truth=answer", 'score.after="</think>"', "score.workers=1")
    postprocess([f"input={tmp_path / 'in.parquet'}", f"output_dir={tmp_path / 'o'}", "steps=[score,analyze]", *keys])
    scores = json.loads((tmp_path / "o/analysis.json").read_text())["scores"]
    assert {key: scores[key] for key in ("scored", "no_answer", "cut_off", "unscored", "mean")} == {
        "scored": 4,
        "no_answer": 2,
        "cut_off": 2,
        "unscored": 0,
        "mean": 0.5,
    }
    out = capfd.readouterr().out
    assert "score: 4 scored, 2 no_answer, 0 unscored, 0 failed" in out
    assert "4 scored, 2 of them without an answer and 2 cut off; 0 not scored" in out

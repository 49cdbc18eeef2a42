"""A scorer that fails for every response costs the scores, not the run; and it is found before the model is loaded."""

import json
import shlex
from pathlib import Path

import pyarrow as pa
import pytest

from rollout.config import ScoreConfig
from rollout.scoring.check import scorer_warning
from tests.commands import ECHO, resume, run_command
from tests.conftest import Rollout, chat, write_input
from tests.postprocess.tables import answered, read, write_rollouts

pytestmark = pytest.mark.long

OWN = "tests.postprocess.own_scorers"
ROWS = [{"prompt": chat("a"), "answer": "4"}]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} & {
        *("flat.parquet", "scores.parquet", "filtered.parquet", "analysis.json", "report.html", "export.jsonl"),
    }


def asked(*steps: str, scorer: str = f"{OWN}:never") -> tuple[str, ...]:
    return f"postprocess.steps=[{','.join(steps)}]", f"postprocess.score.scorer={scorer}", "postprocess.score.workers=1"


def test_the_rest_of_the_steps_is_done_and_run_json_says_what_is_missing(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, *asked("score", "flatten", "analyze", "export", "report"))
    assert names(run_dir) == {"flat.parquet", "analysis.json", "report.html", "export.jsonl"}
    record = json.loads((run_dir / "run.json").read_text())
    reason = "no response could be scored, 8 of them because: RuntimeError: not today; fix that"
    assert record["status"] == "done"
    assert record["missing"] == {"steps": ["score"], "reason": f"postprocess.score.scorer={OWN}:never: {reason}"}


@pytest.mark.parametrize(
    ("steps", "keys", "missing", "files"),
    [
        (("score", "filter", "export"), ("filter.min_score=1",), ["score", "filter", "export"], set()),
        (("score", "filter", "export"), (), ["score"], {"filtered.parquet", "export.jsonl"}),
        (("score", "export", "analyze"), ("export.format=preference",), ["score", "export"], {"analysis.json"}),
    ],
)
def test_what_needs_scores_is_missing_too(
    steps: tuple[str, ...], keys: tuple[str, ...], missing: list[str], files: set[str], rollout: Rollout
) -> None:
    run_dir = rollout(ROWS, *asked(*steps), *(f"postprocess.{key}" for key in keys))
    assert json.loads((run_dir / "run.json").read_text())["missing"]["steps"] == missing
    assert names(run_dir) == files


def test_the_command_on_screen_does_what_is_missing(tmp_path: Path) -> None:
    write_input(tmp_path / "in put.parquet", ROWS)
    (tmp_path / "graders.py").write_text("def grade(response, ground_truth, row):\n    return row['x']\n")
    scorer = asked("score", "analyze", scorer="graders:grade")
    run = run_command(*ECHO, 'data.path="in put.parquet"', *scorer, "hydra.run.dir=a run", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "warning: postprocess.score.scorer=graders:grade: of a made-up response: KeyError: 'x'" in run.stdout
    printed = next(line for line in run.stdout.splitlines() if line.startswith("  python -m rollout.postprocess"))
    (tmp_path / "graders.py").write_text("def grade(response, ground_truth, row):\n    return 1\n")
    again = run_command(*shlex.split(printed)[3:], cwd=tmp_path, module="rollout.postprocess")
    assert again.returncode == 0, again.stderr
    assert {row["score"] for row in read(tmp_path / "a run/scores.parquet")} == {1.0}
    assert json.loads((tmp_path / "a run/run.json").read_text())["missing"] is None


def test_a_resume_scores_what_is_missing(tmp_path: Path) -> None:
    write_input(tmp_path / "in.parquet", ROWS)
    graders = tmp_path / "graders.py"
    graders.write_text("def grade(response, ground_truth, row):\n    return row['x']\n")
    scorer = asked("score", "analyze", scorer="graders:grade")
    run_command(*ECHO, "data.path=in.parquet", *scorer, "hydra.run.dir=run", cwd=tmp_path)
    graders.write_text("def grade(response, ground_truth, row):\n    return 1\n")
    again = resume("run", "trust=true", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert names(tmp_path / "run") == {"scores.parquet", "analysis.json"}
    assert json.loads((tmp_path / "run/run.json").read_text())["missing"] is None


def test_the_second_stage_by_itself_does_the_rest_and_fails(tmp_path: Path) -> None:
    write_rollouts(tmp_path, [answered("4", "5")])
    keys = ("steps=[score,flatten,analyze]", f"score.scorer={OWN}:never", "score.workers=1")
    result = run_command(f"input={tmp_path}/rollouts.parquet", *keys, cwd=Path.cwd(), module="rollout.postprocess")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "no response could be scored, 2 of them because: RuntimeError: not today; fix that" in result.stderr
    assert names(tmp_path / "rollouts-postprocess") == {"flat.parquet", "analysis.json"}
    assert result.stdout.count("wrote ") == 2


FIRST = pa.record_batch({"answer": [None, "4"], "prompt": ["a", "b"]})


@pytest.mark.parametrize(
    ("config", "warning"),
    [
        (ScoreConfig("numeric_match", "answer"), None),
        (ScoreConfig("numeric_match", "answer", after="</think>"), None),
        (ScoreConfig("exact_match", "answer"), None),
        (ScoreConfig("math", "answer"), None),
        (ScoreConfig("regex", pattern="x"), None),
        (ScoreConfig("numeric_match", "prompt"), "ValueError: no number in the ground truth"),
        (ScoreConfig(f"{OWN}:contains", "answer"), None),
        (ScoreConfig(f"{OWN}:never"), "RuntimeError: not today"),
        (ScoreConfig(f"{OWN}:undecided"), "ValueError: could not convert string to float"),
        (ScoreConfig(f"{OWN}:hangs", timeout=0.2), "timed out after 0.2 s"),
        (ScoreConfig(f"{OWN}:dies"), "the scorer ended its process (exit code 7)"),
    ],
    ids=lambda value: value.scorer if isinstance(value, ScoreConfig) else "",
)
def test_a_scorer_is_tried_on_a_made_up_response(config: ScoreConfig, warning: str | None) -> None:
    said = scorer_warning(config, FIRST)
    if warning is None:
        assert said is None
    else:
        assert said is not None
        assert said.startswith(f"postprocess.score.scorer={config.scorer}: of a made-up response: {warning}")


def test_an_input_without_rows_is_no_reason_to_warn() -> None:
    assert scorer_warning(ScoreConfig(f"{OWN}:never"), FIRST.slice(0, 0)) is None


def test_a_dry_run_tries_it_too_and_one_that_cannot_be_imported_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "graders.py").write_text("def grade(response, ground_truth, row):\n    return row['x']\n")
    plan = (*ECHO, "dry_run=true", "data.limit=2")
    result = run_command(*plan, *asked("score", scorer="graders:grade"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == "warning: postprocess.score.scorer=graders:grade: of a made-up response: KeyError: 'x'\n"
    missing = run_command(*plan, *asked("score", scorer="nowhere:grade"), cwd=tmp_path)
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: postprocess.score.scorer=nowhere:grade: No module named 'nowhere'")

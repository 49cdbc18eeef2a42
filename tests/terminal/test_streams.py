"""Whatever becomes of what is printed, a command does what was asked for."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.commands import ECHO, command
from tests.conftest import chat, run_in, write_input

pytestmark = pytest.mark.long

SMILE = "hi \U0001f600 你好"


def shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line for bash in which a command that fails in a pipe makes the whole fail."""
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )


def line_of(words: str, module: str = "rollout") -> str:
    return f"{shlex.join(command(module=module))} {words}"


PREPARE = line_of("input=q.jsonl output=made.parquet overwrite=true", "rollout.prepare")
SCORE = "input=q.jsonl output_dir=o steps=[score,analyze] score.scorer=exact_match score.ground_truth=answer"
POSTPROCESS = line_of(f"{SCORE} analyze.by=prompt postprocess.overwrite=true", "rollout.postprocess")
RUN = line_of(shlex.join([*ECHO, "data.path=q.jsonl", "data.drop_columns=[responses]", "hydra.run.dir=new"]))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    row = {"prompt": SMILE, "answer": "1", "responses": ["1"]}
    (tmp_path / "q.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "made", "encoding"),
    [
        (PREPARE, "made.parquet", "gbk"),
        (PREPARE, "made.parquet", "cp1252"),
        (POSTPROCESS, "o/scores.parquet", "gbk"),
        (RUN, "new/rollouts.parquet", "ascii"),
    ],
)
def test_what_an_encoding_lacks_is_replaced(line: str, made: str, encoding: str, here: Path) -> None:
    result = shell(line, here, PYTHONIOENCODING=encoding)
    assert (result.returncode, result.stderr) == (0, "")
    assert "?" in result.stdout
    assert (here / made).exists()


@pytest.mark.parametrize(
    ("line", "made", "end"),
    [
        (PREPARE, "made.parquet", "| true"),
        (PREPARE, "made.parquet", ">/dev/full"),
        (PREPARE, "made.parquet", ">&-"),
        (POSTPROCESS, "o/analysis.json", "| true"),
        (POSTPROCESS, "o/analysis.json", "| head -1 >/dev/null"),
    ],
)
def test_what_was_asked_for_is_done_though_nobody_reads(line: str, made: str, end: str, here: Path) -> None:
    result = shell(f"{line} {end}", here)
    assert (result.returncode, result.stderr) == (0, "")
    assert (here / made).exists()


@pytest.mark.parametrize("words", ["--help", "--cfg job", "--hydra-help", "dry_run=true hardware=cpu engine.kind=echo"])
def test_long_answers_may_be_cut_off(words: str, here: Path) -> None:
    result = shell(f"{line_of(words)} | head -1", here)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 1


def test_the_commands_about_a_run_need_no_reader(tmp_path: Path) -> None:
    source = write_input(tmp_path / "q.parquet", [{"prompt": chat("hi")}])
    run_in(tmp_path / "run", f"data.path={source}", "sampling.n_samples=1", "sampling.max_tokens=4")
    lines = [
        line_of("run", "rollout.verify"),
        line_of("run sampling.n_samples=2", "rollout.resume"),
        line_of("run output=merged", "rollout.merge"),
        line_of("run hydra.run.dir=again", "rollout.replay"),
        line_of("--help", "rollout.resume"),
    ]
    result = shell("; ".join(f"{line} | true; echo $? >&2" for line in lines), tmp_path)
    codes = [line for line in result.stderr.splitlines() if line.isdigit()]
    assert "Traceback" not in result.stderr
    assert [codes[index] for index in (0, 1, 3, 4)] == ["0"] * 4
    assert json.loads((tmp_path / "run/run.json").read_text())["config"]["sampling"]["n_samples"] == 2
    assert (tmp_path / "again/rollouts.parquet").exists()


def test_mistakes_are_told_in_any_encoding(tmp_path: Path) -> None:
    result = shell(line_of("data.path=输入.parquet engine.kind=echo hardware=cpu"), tmp_path, PYTHONIOENCODING="ascii")
    assert result.returncode == 1
    assert result.stderr.startswith("error: data.path=??.parquet: no such file")

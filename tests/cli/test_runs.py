"""`rollout runs`: what is under a folder, a run or a sweep a line, for people and for programs."""

import csv
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rollout.cli.run_list import ListedSweep, listed
from tests.conftest import run_in
from tests.in_process import run_here

Completed = subprocess.CompletedProcess[str]
Made = Callable[..., Path]

THROUGHPUT = {"samples": 2, "generated_tokens": 50, "output_tok_s": 12345.0, "samples_s": 1.0}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in(tmp_path_factory.mktemp("finished") / "run", "data.limit=2", "sampling.n_samples=1")


@pytest.fixture
def made(finished: Path, tmp_path: Path) -> Made:
    """`made(name, key=value, ...)` makes a run under outputs/ of which run.json says these; `of_config` are keys of
    its config, `scores` of its analysis.
    """

    def make(name: str, of_config: dict[str, Any] | None = None, scores: Any = None, **changes: Any) -> Path:
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        record = json.loads((finished / "run.json").read_text()) | {"throughput": THROUGHPUT} | changes
        for key, value in (of_config or {}).items():
            group, _, last = key.partition(".")
            record["config"][group][last] = value
        (folder / "run.json").write_text(json.dumps(record, indent=2))
        shutil.copy(finished / ".lock", folder / ".lock")
        analysis = json.loads((finished / "analysis.json").read_text())
        (folder / "analysis.json").write_text(json.dumps(analysis | {"scores": scores}))
        return folder

    return make


@pytest.fixture
def three(made: Made, tmp_path: Path) -> Path:
    """A folder with a run of each kind."""
    totals = {"rows": 1200, "samples": 1234567, "failed": 0, "prompt_tokens": 1, "generated_tokens": 1}
    qwen = {"model.path": "Qwen/Qwen3-8B", "sampling.temperature": 0.7, "data.path": "/data/a.parquet"}
    score = {"mean": 0.5, "estimates": {"mean": {"value": 0.5, "se": 0.05, "interval": [0.4, 0.6]}}}
    made("2026/first", qwen, score, started=day(1), totals=totals)
    made("2026/second", started=day(3), status="running", ended=None, totals=None, throughput=None)
    made("third", {"model.path": "/models/step-500/"}, {"mean": 0.25}, started=day(2), status="failed", error="no luck")
    return tmp_path


def day(number: int) -> str:
    return f"2020-11-{number:02d}T10:00:00.000+00:00"


def runs(folder: Path, *words: str) -> Completed:
    result = run_here("runs", *words, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result


def as_json(folder: Path, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(runs(folder, "format=json", *words).stdout)
    return found


def names(folder: Path, *words: str) -> list[str]:
    return [Path(one["folder"]).name for one in as_json(folder, *words)]


def test_the_table_has_two_lines_for_each_the_newest_last(three: Path) -> None:
    result = runs(three)
    assert result.stderr == ""
    lines = [re.sub(" +", " ", line).strip() for line in result.stdout.splitlines()]
    assert lines[0] == "started status model rows samples tok/s score"
    assert re.fullmatch(r"2020-11-01 done Qwen3-8B 1,200 1.2M 12,345 0.500 \[0.40, 0.60\]", lines[1])
    assert lines[2] == "outputs/2026/first data.path=a.parquet n_samples=1 temperature=0.7 limit=2"
    assert re.fullmatch(r"2020-11-02 failed step-500 2 2 12,345 0.250", lines[3])
    assert re.fullmatch(r"2020-11-03 killed SmolLM2-135M-In… - - - -", lines[5])
    assert lines[6] == "outputs/2026/second n_samples=1 limit=2"


def test_it_fits_eighty_columns_whatever_the_names_and_no_folder_is_cut(made: Made, tmp_path: Path) -> None:
    long = {"model.path": "some/" + "long-model-name-" * 5, "data.system_prompt": "Be brief. " * 30}
    score = {"mean": 0.123, "estimates": {"mean": {"interval": [0.1, 0.15]}}}
    folder = made("a-long-name-of-a-run-" * 3 + "end", long, score)
    sweep = [made(f"sweep/{num}", long | {"sampling.seed": num}, score) for num in range(20)]
    (sweep[0].parent / "multirun.yaml").write_text("")
    lines = runs(tmp_path).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert f"  outputs/{folder.name}" in lines
    assert any(line.endswith("…") for line in lines)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["first", "third", "second"]),
        (["last=2"], ["third", "second"]),
        (["status=done"], ["first"]),
        (["status=failed,killed"], ["third", "second"]),
        (["model=qwen"], ["first"]),
        (["model=step", "status=done"], []),
        (["sort=score"], ["second", "third", "first"]),
        (["sort=score", "last=1"], ["first"]),
        (["sort=samples"], ["second", "third", "first"]),
        (["sort=folder"], ["first", "second", "third"]),
        (["sort=model"], ["third", "first", "second"]),
        (["outputs/2026"], ["first", "second"]),
        (["outputs/third"], ["third"]),
        (["."], ["first", "third", "second"]),
    ],
)
def test_the_order_and_what_is_shown_are_chosen(words: list[str], expected: list[str], three: Path) -> None:
    assert names(three, *words) == expected


def test_json_has_everything(three: Path) -> None:
    first, third, second = as_json(three)
    of_run = {"folder": "outputs/2026/first", "kind": "run", "started": day(1), "status": "done", "error": None}
    numbers = {"rows": 1200, "samples": 1234567, "score": 0.5, "interval": [0.4, 0.6]}
    assert first.items() >= (of_run | numbers | {"model": "Qwen/Qwen3-8B"}).items()
    assert first["differs"]["sampling.temperature"] == 0.7
    assert first["differs"]["engine.kind"] == "echo"
    assert third.items() >= {"status": "failed", "error": "no luck", "score": 0.25, "interval": None}.items()
    assert second.items() >= {"status": "killed", "rows": None, "samples": None, "tok_s": None}.items()


def test_a_file_is_written_by_its_name(three: Path) -> None:
    assert runs(three, "output=runs.csv").stdout == "wrote 3 lines: runs.csv\n"
    with (three / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["folder"] for row in rows] == ["outputs/2026/first", "outputs/third", "outputs/2026/second"]
    assert (rows[0]["low"], rows[0]["high"], rows[1]["low"]) == ("0.4", "0.6", "")
    assert "sampling.temperature=0.7" in rows[0]["differs"]
    assert run_here("runs", "output=runs.csv", cwd=three).stderr.startswith("error: output=runs.csv: already exists")
    runs(three, "output=runs.json")
    assert json.loads((three / "runs.json").read_text()) == as_json(three)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nowhere"], "folder=nowhere: there is no such folder"),
        (["output=runs.txt"], "output=runs.txt: must end in .csv, .json"),
        (["output=runs.csv", "format=json"], "format=json: the output runs.csv is csv; leave the format out"),
        (["sort=size"], "sort=size: choose from started, status, model, rows, samples, tok_s, score, folder"),
        (["status=dead"], "status=dead: choose from preparing, running, silent, done, interrupted, failed, killed"),
        (["last=0"], "last=0: must be at least 1"),
        (["outputs", "other"], "other: more paths than FOLDER; leave out what is too much"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], line: str, three: Path) -> None:
    result = run_here("runs", *words, cwd=three)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"error: {line}\n"


def test_where_there_is_none_it_says_so(tmp_path: Path, three: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert runs(tmp_path / "empty").stderr == "there is no run under outputs\n"
    assert runs(tmp_path / "empty", "format=json").stdout == "[]\n"
    assert runs(three, "status=silent").stderr == "there is no such run under outputs\n"


def test_what_is_broken_is_named_and_all_else_is_shown(three: Path, made: Made) -> None:
    (made("cut off") / "run.json").write_text('{"status": ')
    (made("of somebody else") / "run.json").write_text('{"status": "done", "schema_version": 1}')
    newer = made("newer", schema_version=99)
    no_time = made("no time", started="yesterday")
    (made("half an analysis", started=day(4)) / "analysis.json").write_text("{")
    result = runs(three, "format=json")
    assert [Path(one["folder"]).name for one in json.loads(result.stdout)] == [
        *("first", "third", "second", "half an analysis"),
    ]
    lines = [line.removeprefix("warning: ").replace(f"{three}/", "") for line in result.stderr.splitlines()]
    assert lines[0] == "outputs/cut off/run.json: cannot be read; it is left out"
    assert lines[1] == "outputs/half an analysis/analysis.json: cannot be read; the run is shown without its score"
    assert lines[2].startswith(f"outputs/{newer.name}/run.json: schema_version=99 is newer than this program's")
    assert lines[3].startswith(f"outputs/{no_time.name}/run.json: cannot be understood")
    assert lines[4] == "outputs/of somebody else/run.json: cannot be read; it is left out"


@pytest.fixture
def sweep(made: Made, tmp_path: Path) -> Path:
    """A sweep of two jobs that are done, and one that was refused."""
    for num, temperature in enumerate((0.3, 0.7)):
        config = {"sampling.temperature": temperature, "sampling.top_p": 1.0}
        made(f"sweep/{num}", config, {"mean": 0.2 + 0.2 * num}, started=day(10 + num))
    (tmp_path / "outputs/sweep/jobs").mkdir()
    for num, status in enumerate(("done", "done", "failed")):
        note = {"num": num, "run_dir": f"/x/{num}", "overrides": [], "status": status, "started": day(10 + num)}
        (tmp_path / f"outputs/sweep/jobs/{num}.json").write_text(json.dumps(note))
    return tmp_path


def test_a_sweep_is_one_line_with_what_was_swept_first(sweep: Path) -> None:
    _, first, second = (re.sub(" +", " ", line).strip() for line in runs(sweep).stdout.splitlines())
    assert re.fullmatch(r"2020-11-10 failed 2/3 SmolLM2-135M-Ins… 4 4 12,345 0.200 to 0.400", first)
    assert second == "outputs/sweep temperature=0.3,0.7 n_samples=1 top_p=1.0 limit=2"
    (one,) = as_json(sweep)
    assert (one["kind"], one["jobs_done"], one["jobs_begun"], one["score"]) == ("sweep", 2, 3, None)
    assert one["differs"]["sampling.temperature"] == [0.3, 0.7]
    assert [job["score"] for job in one["jobs"]] == [0.2, 0.4]


def test_its_jobs_are_shown_on_request_or_when_it_is_the_folder(sweep: Path) -> None:
    assert names(sweep, "jobs=true") == names(sweep, "outputs/sweep") == ["0", "1"]
    (sweep / "outputs/sweep/jobs/1.json").write_text("{")
    assert "sweep/jobs: holds a note that cannot be read" in runs(sweep).stderr


def test_a_sweep_counts_as_its_best_job_and_is_found_by_any(sweep: Path, made: Made) -> None:
    made("better", scores={"mean": 0.3}, started=day(1))
    assert names(sweep, "sort=score") == ["better", "sweep"]
    assert names(sweep, "status=done") == ["better", "sweep"]
    assert names(sweep, "status=failed") == ["sweep"]


def test_a_run_that_works_shows_how_far_it_is(made: Made, finished: Path, tmp_path: Path) -> None:
    folder = made("run", status="running", ended=None, totals=None, throughput=None)
    shutil.copy(finished / "metrics.jsonl", folder)
    (one,) = as_json(tmp_path)
    assert one["samples"] == 2
    assert one["tok_s"] > 0


def test_a_thousand_runs_are_listed_in_less_than_two_seconds(made: Made, tmp_path: Path) -> None:
    template = made("template", {"sampling.temperature": 0.7}, {"mean": 0.5})
    for number in range(1000):
        folder = tmp_path / f"outputs/{number % 40}/{number}"
        folder.mkdir(parents=True)
        for name in ("run.json", "analysis.json", ".lock"):
            os.link(template / name, folder / name)
    began, broken = time.process_time(), list[str]()
    assert len(list(listed(tmp_path / "outputs", broken))) == 1001
    assert time.process_time() - began < 1.5  # the rest is the program's start
    assert not broken


def test_a_sweep_lists_no_job_twice(sweep: Path) -> None:
    found = list(listed(sweep / "outputs", []))
    assert [type(one) for one in found] == [ListedSweep]

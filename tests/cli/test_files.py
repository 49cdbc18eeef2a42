"""Commands on files: responses in, a file that the user names out, and nothing else."""

import contextlib
import csv
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rollout.cli.arguments import run_folder
from rollout.config import ScoreConfig
from rollout.postprocess import score
from rollout.postprocess.source import open_source
from rollout.postprocess.writing import write
from rollout.scoring.processes import Item
from rollout.scoring.scorers import Scored, scorer_of
from tests.conftest import chat, run_in, write_input
from tests.in_process import run_here

Completed = subprocess.CompletedProcess[str]

THEIRS = [
    {"prompt": "2+2?", "response": "4", "answer": "4"},
    {"prompt": "2+2?", "response": "5", "answer": "4"},
    {"prompt": "3*3?", "response": "it is 9", "answer": "9"},
    {"prompt": "2+2?", "response": "four", "answer": "4"},
]


@pytest.fixture(autouse=True)
def _scorers_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of their own take a second for every command."""

    @contextmanager
    def scoring(config: ScoreConfig) -> Iterator[Callable[[Sequence[Item]], list[Scored]]]:
        yield lambda items: [scorer_of(config)(*item) for item in items]

    monkeypatch.setattr(score, "scoring", scoring)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with responses that others wrote."""
    write_input(tmp_path / "theirs.parquet", THEIRS)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scored run whose prompts are in another column, with a system prompt."""
    folder = tmp_path_factory.mktemp("finished")
    rows = [{"question": f"number {number}", "answer": "no", "kind": "ab"[number % 2]} for number in range(6)]
    source = write_input(folder / "input.parquet", rows)
    return run_in(
        folder / "run",
        *(f"data.path={source}", "data.prompt_key=question", "data.system_prompt=Be brief."),
        *("sampling.n_samples=3", "postprocess.steps=[score]", "postprocess.score.scorer=regex"),
        *('postprocess.score.pattern="echo .*[02468] word"', "postprocess.analyze.by=kind"),
    )


def do(folder: Path, *arguments: str) -> Completed:
    """A command that works."""
    result = run_here(*arguments, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    return result


def refused(folder: Path, *arguments: str) -> list[str]:
    """The lines of a command that does not, and leaves everything as it was."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = run_here(*arguments, cwd=folder)
    assert (result.returncode, result.stdout) == (1, "")
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [line.removeprefix("error: ") for line in result.stderr.splitlines()]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The rows of any file that we write."""
    if path.suffix == ".zst":
        with pa.input_stream(str(path)) as stream:
            text = stream.read().decode()
    elif path.suffix == ".gz":
        text = gzip.decompress(path.read_bytes()).decode()
    else:
        text = "" if path.suffix == ".parquet" else path.read_text()
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    return list(csv.DictReader(text.splitlines())) if ".csv" in path.name else list(map(json.loads, text.splitlines()))


SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".csv.gz", ".csv.zst")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_name_of_the_output_says_what_kind_of_file_it_is(suffix: str, here: Path) -> None:
    result = do(here, "flatten", "theirs.parquet", f"flat{suffix}")
    assert result.stdout == f"wrote 4 responses: flat{suffix}\n"
    assert [
        (str(row["row_id"]), str(row["sample_idx"]), row["response"]) for row in rows_of(here / f"flat{suffix}")
    ] == [
        ("0", "0", "4"),
        ("0", "1", "5"),
        ("1", "0", "it is 9"),
        ("2", "0", "four"),
    ]
    assert files_in(here) == sorted(["theirs.parquet", f"flat{suffix}"])


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".jsonl.zst", ".csv.gz"])
def test_what_one_command_writes_the_next_one_reads(suffix: str, here: Path) -> None:
    do(here, "score", "theirs.parquet", f"scored{suffix}", "scorer=numeric_match", "ground_truth=answer")
    do(here, "filter", f"scored{suffix}", f"kept{suffix}", "min_score=1", f"dropped=dropped{suffix}")
    do(here, "export", f"kept{suffix}", "sft.jsonl", "format=messages", "columns=[answer]", "system_prompt=Be brief.")
    assert [row["messages"][-1]["content"] for row in rows_of(here / "sft.jsonl")] == ["4", "it is 9"]
    assert rows_of(here / "sft.jsonl")[1] == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "3*3?"},
            {"role": "assistant", "content": "it is 9"},
        ],
        "row_id": 1,
        "sample_idx": 0,
        "answer": "9",
    }
    assert [row["dropped_by"] for row in rows_of(here / f"dropped{suffix}")] == ["min_score", "min_score"]
    do(here, "analyze", f"scored{suffix}", "output=analysis.json", "by=answer")
    analysis = json.loads((here / "analysis.json").read_text())
    assert (analysis["scores"]["mean"], analysis["rows"], list(analysis["groups"])) == (0.5, 3, ["4", "9"])


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv.gz"])
def test_what_a_filter_kept_nothing_of_goes_on_with_a_warning(suffix: str, here: Path) -> None:
    do(here, "score", "theirs.parquet", "scored.parquet", "scorer=numeric_match", "ground_truth=answer")
    do(here, "filter", "scored.parquet", f"kept{suffix}", "min_length=1000")
    warning = f"warning: input=kept{suffix}: has no responses\n"
    for words in (
        ("flatten", f"kept{suffix}", f"flat{suffix}"),
        ("filter", f"kept{suffix}", "again.csv", "min_score=1", "min_pass_rate=0.1", "drop_duplicates=true"),
        ("export", f"kept{suffix}", "out.jsonl", "format=messages", "columns=[seed]"),
        ("export", f"kept{suffix}", "pairs.parquet", "format=preference"),
        ("score", f"kept{suffix}", "new.csv", "scorer=regex", "pattern=x"),
        ("analyze", f"kept{suffix}", "by=prompt", "output=analysis.json"),
    ):
        result = run_here(*words, cwd=here)
        assert (result.returncode, result.stderr.startswith(warning)) == (0, True), result.stderr
    for name in (f"flat{suffix}", "again.csv", "out.jsonl", "pairs.parquet", "new.csv"):
        assert rows_of(here / name) == []
    assert json.loads((here / "analysis.json").read_text())["samples"] == 0


def test_filter_says_what_it_kept_and_why_not_the_others(here: Path) -> None:
    result = do(here, "filter", "theirs.parquet", "kept.csv", "min_length=2", "max_length=5")
    assert result.stdout == "kept 1 of 4 responses: kept.csv\ndropped 2 by min_length, 1 by max_length\n"
    assert files_in(here) == ["kept.csv", "theirs.parquet"]


def test_filter_takes_conditions_on_columns_and_says_which_of_them_no_response_satisfies(here: Path) -> None:
    words = ("filter", "theirs.parquet", "kept.jsonl", "overwrite=true", "dropped=dropped.jsonl")
    result = do(here, *words, "where=answer=9,prompt=3*3?")
    assert result.stdout == "kept 1 of 4 responses: kept.jsonl\ndropped 3 by where: dropped.jsonl\n"
    assert [row["response"] for row in rows_of(here / "kept.jsonl")] == ["it is 9"]
    assert {row["dropped_by"] for row in rows_of(here / "dropped.jsonl")} == {"where"}
    result = run_here(*words, "where=[answer=4,answer=5]", cwd=here)
    assert result.stdout.startswith("kept 3 of 4 responses")
    assert (result.returncode, result.stderr) == (
        0,
        "warning: where=answer=5: no response has this value, choose from 4, 9\n",
    )


def test_scores_that_a_file_has_are_replaced_in_the_output(here: Path) -> None:
    do(here, "score", "theirs.parquet", "one.parquet", "scorer=exact_match", "ground_truth=answer")
    again = do(here, "score", "one.parquet", "two.parquet", "scorer=numeric_match", "ground_truth=answer")
    assert again.stdout == (
        "scored 4 of 4 responses, 1 of them without an answer: two.parquet\n"
        "go on with: python -m rollout analyze two.parquet\n"
    )
    assert [row["score"] for row in rows_of(here / "one.parquet")] == [1, 0, 0, 0]
    assert [row["score"] for row in rows_of(here / "two.parquet")] == [1, 0, 1, 0]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_score_that_others_gave_is_a_score(suffix: str, tmp_path: Path) -> None:
    scores = [float("nan"), 1.0, 0.25, None, float("inf")]
    rows = [{"prompt": "2+2?", "response": f"it is {i}", "score": score} for i, score in enumerate(scores)]
    write_input(tmp_path / "theirs.parquet", rows)
    do(tmp_path, "export", "theirs.parquet", f"scored{suffix}", "columns=[prompt,response,score]")
    do(tmp_path, "analyze", f"scored{suffix}", "output=analysis.json")
    analysis = json.loads((tmp_path / "analysis.json").read_text())["scores"]
    assert (analysis["scored"], analysis["unscored"], analysis["mean"]) == (2, 3, 0.625)
    do(tmp_path, "filter", f"scored{suffix}", "kept.jsonl", "min_score=0.5")
    assert [row["response"] for row in rows_of(tmp_path / "kept.jsonl")] == ["it is 1"]
    do(tmp_path, "export", f"scored{suffix}", "pairs.jsonl", "format=preference")
    (pair,) = rows_of(tmp_path / "pairs.jsonl")
    assert (pair["chosen_score"], pair["rejected_score"]) == (1.0, 0.25)
    assert refused(tmp_path, "filter", f"scored{suffix}", "x.csv", "min_pass_rate=0.5") == [
        "min_pass_rate=0.5: the scores have no pass rates; use min_score, or score again"
    ]
    do(tmp_path, "score", f"scored{suffix}", "again.jsonl", "scorer=regex", "pattern=[13]")
    assert [row["score"] for row in rows_of(tmp_path / "again.jsonl")] == [0.0, 1.0, 0.0, 1.0, 0.0]


def test_responses_to_the_same_question_are_of_one_row_whatever_the_column_is_called(tmp_path: Path) -> None:
    rows = [{"question": f"q{number // 2}", "response": f"{number}", "score": number % 2} for number in range(6)]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("export", "r.jsonl", "pairs.jsonl", "format=preference")
    result = run_here(*words, "prompt_key=question", cwd=tmp_path)
    assert result.stdout.startswith("wrote 3 pairs"), result.stderr
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert [(pair["chosen"][-1]["content"], pair["rejected"][-1]["content"]) for pair in pairs] == [
        ("1", "0"),
        ("3", "2"),
        ("5", "4"),
    ]
    for command in ("export", "filter", "flatten"):
        wrong = run_here(command, "r.jsonl", "o.jsonl", "prompt_key=questoin", cwd=tmp_path)
        assert wrong.stderr == "error: prompt_key=questoin: no such column, did you mean question?\n"


def test_scores_of_other_responses_are_not_read_where_new_ones_are_made(finished: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished, tmp_path / "run")
    table = pq.read_table(run_dir / "scores.parquet")
    pq.write_table(table.slice(3), run_dir / "scores.parquet")
    (line,) = refused(tmp_path, "flatten", "run", "flat.parquet")
    assert line == "run/scores.parquet: made from other responses; run the step score again"
    do(tmp_path, "score", "run", "scored.parquet", "scorer=regex", "pattern=echo")
    assert {row["score"] for row in rows_of(tmp_path / "scored.parquet")} == {1.0}


def test_a_run_brings_its_scores_and_what_its_config_says(finished: Path, tmp_path: Path) -> None:
    run_dir = str(finished)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    do(tmp_path, "flatten", run_dir, "flat.parquet")
    flat = rows_of(tmp_path / "flat.parquet")
    assert (len(flat), {row["score"] for row in flat}) == (18, {0.0, 1.0})
    do(tmp_path, "export", run_dir, "pairs.jsonl", "format=preference")
    assert [turn["role"] for turn in rows_of(tmp_path / "pairs.jsonl")[0]["prompt"]] == ["system", "user"]
    shown = do(tmp_path, "analyze", run_dir, "output=a.json").stdout
    assert "By kind, means" in shown
    assert json.loads((tmp_path / "a.json").read_text())["by"] == "kind"
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*")}


def test_a_run_has_its_own_scores(finished: Path, tmp_path: Path) -> None:
    line = f"score_key=answer: is for files; {finished} is a folder, whose scores `rollout score` makes; leave it out"
    assert refused(tmp_path, "analyze", str(finished), "score_key=answer") == [line]


def test_the_scores_of_others_are_found_by_their_name(here: Path) -> None:
    write_input(here / "theirs.parquet", [row | {"reward": row["response"] == "4"} for row in THEIRS])
    (line,) = refused(here, "filter", "theirs.parquet", "kept.jsonl", "min_score=1")
    assert line.endswith("or name a file's column of them with score_key")
    result = do(here, "filter", "theirs.parquet", "kept.jsonl", "min_score=1", "score_key=points,reward")
    assert result.stdout == "kept 1 of 4 responses: kept.jsonl\ndropped 3 by min_score\n"
    pairs = do(here, "export", "theirs.parquet", "pairs.jsonl", "format=preference", "score_key=reward")
    assert pairs.stdout.startswith("wrote 1 pair")
    do(here, "analyze", "theirs.parquet", "output=analysis.json", "score_key=reward")
    assert json.loads((here / "analysis.json").read_text())["scores"]["mean"] == 0.25
    assert do(here, "analyze", "kept.jsonl").stdout.count("mean    1.000") == 1


def test_the_folder_of_a_merge_is_one_of_responses(tmp_path: Path) -> None:
    source = write_input(tmp_path / "input.parquet", [{"question": f"number {number}"} for number in range(4)])
    shards = ("data.num_shards=2", f"data.path={source}", "data.prompt_key=question", "sampling.n_samples=1")
    for index in (0, 1):
        run_in(tmp_path / f"shards/{index}", *shards, f"data.shard_index={index}")
    assert "python -m rollout analyze merged" in do(tmp_path, "merge", "shards", "merged").stdout
    assert do(tmp_path, "export", "merged", "sft.jsonl", "format=messages").stdout == "wrote 4 messages: sft.jsonl\n"


@pytest.mark.parametrize("is_sweep", [True, False], ids=["sweep", "job_array"])
def test_a_folder_of_shards_names_the_merge_and_once_it_is_there_its_result(is_sweep: bool, tmp_path: Path) -> None:
    for index in (0, 1):
        run_in(tmp_path / f"shards/{index}", "data.num_shards=2", f"data.shard_index={index}", "sampling.n_samples=1")
    if is_sweep:
        (tmp_path / "shards/jobs").mkdir()
        (tmp_path / "shards/multirun.yaml").touch()
    first = "input=shards: holds the shards of one input; "
    commands = [("analyze",), ("filter", "x.csv"), ("export", "x.csv"), ("score", "x.csv", "scorer=exact_match")]
    for name, *others in commands:
        assert refused(tmp_path, name, "shards", *others)[0] == (
            f"{first}merge them with `python -m rollout merge shards shards-merged`, then give shards-merged"
        )
    (inside,) = refused(tmp_path / "shards", "analyze", ".")
    merge = f"merge . {tmp_path / 'shards-merged'}"
    assert inside == (
        f"input=.: holds the shards of one input; merge them with `python -m rollout {merge}`, then give "
        f"{tmp_path / 'shards-merged'}"
    )
    do(tmp_path, "merge", "shards", "shards-merged")
    assert refused(tmp_path, "analyze", "shards") == [f"{first}give the merged ones, shards-merged"]


def test_a_folder_of_other_runs_names_one_that_has_a_result(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run_in(tmp_path / f"runs/{name}", "data.limit=1", "sampling.n_samples=1")
    (tmp_path / "runs/a/rollouts.parquet").unlink()
    assert refused(tmp_path, "analyze", "runs") == [
        "input=runs: holds 2 runs; give the folder of one of them, such as runs/b"
    ]
    (tmp_path / "runs/multirun.yaml").touch()
    assert refused(tmp_path, "filter", "runs", "x.csv") == [
        "input=runs: is a sweep's folder; give the folder of one job, such as runs/b"
    ]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/multirun.yaml").touch()
    assert refused(tmp_path, "analyze", "empty") == [
        "input=empty: is a sweep's folder, and no job has begun; look at it with `python -m rollout watch empty`"
    ]


MISTAKES = [
    (["flatten", "theirs.parquet"], ["output: must be given; give it as the second path, or write output=..."]),
    (["flatten", "none.parquet", "x.txt"], [
        "output=x.txt: must end in .jsonl, .jsonl.gz, .jsonl.zst, .csv, .csv.gz, .csv.zst, .parquet",
        "input=none.parquet: no such file; check the path (it is relative to {cwd})",
    ]),
    (["flatten", "theirs.parquet", "b.parquet", "c.parquet", "d.parquet"], [
        "c.parquet, d.parquet: more paths than IN and OUT; leave out what is too much"
    ]),
    (["flatten", "input.parquet", "x.parquet"], [
        "input=input.parquet: has no column `responses` or `response`; it has prompt; if these are prompts, sample "
        "first: python -m rollout data.path=input.parquet"
    ]),
    (["flatten", "folder", "x.parquet"], [
        "folder: not a run folder (no readable run.json in it); give the folder of a run"
    ]),
    (["filter", "the?rs.parquet", "x.parquet"], [
        "input=the?rs.parquet: is a pattern; give one file at a time, such as theirs.parquet"
    ]),
    (["analyze", "*.parquet"], ["input=*.parquet: is a pattern; give one file at a time, such as input.parquet"]),
    (["compare", "*.parquet", "theirs.parquet"], [
        "inputs=*.parquet: is a pattern; give the files themselves: without quotes around it, the shell does"
    ]),
    (["flatten", "theirs.parquet", "folder.csv"], ["output=folder.csv: is a folder; choose another name"]),
    (["flatten", "theirs.parquet", "no/x.csv"], ["output=no/x.csv: there is no folder no; make it, or choose another"]),
    (["flatten", "latest", "x.csv"], ["latest: there is no run under outputs/ here; give the folder of one"]),
    (["filter", "theirs.parquet", "x.parquet", "min_lenght=3"], ["min_lenght: no such key, did you mean min_length?"]),
    (["filter", "theirs.parquet", "min_lenght=3", "x.parquet"], ["min_lenght: no such key, did you mean min_length?"]),
    (["filter", "theirs.parquet", "min_lenght=3"], [
        "min_lenght: no such key, did you mean min_length?",
        "output: must be given; give it as the second path, or write output=...",
    ]),
    (["filter", "theirs.parquet", "x.parquet", "min_length=x", "min_pass_rate=2", "max_tokens=1.5", "trust=maybe"], [
        "trust=maybe: must be true or false"
    ]),
    (["filter", "theirs.parquet", "x.parquet", "min_length=x", "min_pass_rate=2", "min_score=1e", "max_score=1"], [
        "max_score: no such key, did you mean min_score or max_pass_rate or max_tokens?",
        "min_length=x: must be a whole number",
        "min_pass_rate=2.0: must be at least 0.0 and at most 1.0",
        "min_score=1e: must be a number",
    ]),
    (["filter", "theirs.parquet", "there.csv", "--min_length", "3", "--drop_duplicates", "--max-length=9"], [
        "--min_length 3: no such option; write min_length=3",
        "--drop_duplicates: no such option; write drop_duplicates=true",
        "--max-length=9: no such option; write max_length=9",
        "output=there.csv: already exists; choose another name, or set overwrite=true",
    ]),
    (["filter", "theirs.parquet", "x.parquet", "min_length=9", "max_length=3", "min_score=1"], [
        "min_length=9: more than max_length=3, which would drop everything; lower it",
        "min_score=1.0: no scores; score the responses first, see `rollout help score`, "
        "or name a file's column of them with score_key",
    ]),
    (["filter", "theirs.parquet", "x.parquet", "where=[answr=4,answer,=4]"], [
        "where=answer: is no condition; write COLUMN=VALUE, and further values of the column as further conditions, "
        "as in where=[level=easy,level=hard]",
        "where==4: is no condition; write COLUMN=VALUE, and further values of the column as further conditions, "
        "as in where=[level=easy,level=hard]",
        "where=answr=4: no such column, did you mean answer?",
    ]),
    (["filter", "theirs.parquet", "x.parquet", "dropped=./x.parquet"], [
        "dropped=x.parquet: is the output too; choose another name"
    ]),
    (["score", "theirs.parquet", "x.parquet"], [
        "scorer: must be given; write scorer=..., which is exact_match, numeric_match, math, regex or module:function"
    ]),
    *(([*["filter", "theirs.parquet", "x.parquet"], *words], [
        f"{' '.join(words)}: a key and its value are one word; write min_length=3"
    ]) for words in (["min_length", "3"], ["min_length", "=", "3"], ["min_length", "=3"])),
    (["score", "theirs.parquet", "x.parquet", "scorer=regex", "ground_truth=anser"], [
        "scorer=regex: no pattern is set; set pattern",
        "ground_truth=anser: no such column, did you mean answer?",
    ]),
    (["score", "theirs.parquet", "x.parquet", "scorer=exact_match"], [
        "scorer=exact_match: needs the right answers; set ground_truth to their column, one of answer, nothing"
    ]),
    (["score", "theirs.parquet", "x.parquet", "scorer=regex", "pattern=x", "ground_truth=nothing"], [
        "scorer=regex: no response could be scored, 4 of them because: nothing is null; fix that"
    ]),
    (["export", "theirs.parquet", "x.jsonl", "format=mesages"], [
        "format=mesages: choose from responses, messages, preference, prompts, answers, tokens, slime"
    ]),
    (["export", "theirs.parquet", "x.jsonl", "format=dpo"], [
        "format=dpo: choose from responses, messages, preference, prompts, answers, tokens, slime; "
        "dpo is preference here"
    ]),
    (["export", "theirs.parquet", "x.jsonl", "format=preference", "prompt_key=promt", "columns=[score,answer]"], [
        "columns=score: no such column, choose from answer, error, finish_reason, nothing, num_generated_tokens, "
        "num_prompt_tokens, prompt, response, row_id, sample_idx, seed, truncated_prompt",
        "format=preference: no scores; score the responses first, see `rollout help score`, "
        "or name a file's column of them with score_key",
        "prompt_key=promt: no such column, did you mean prompt?",
    ]),
    (["analyze", "theirs.parquet", "output=x.csv", "by=anser", "pass_score=nan"], [
        "pass_score=nan: must be a number",
        "output=x.csv: must end in .json",
    ]),
    (["filter", "theirs.parquet", "x.parquet", "min_score=1", "score_key=anser"], [
        "score_key=anser: theirs.parquet has no such column, did you mean answer?"
    ]),
    (["export", "theirs.parquet", "x.jsonl", "score_key=prompt"], [
        "theirs.parquet: column prompt holds string, not a score for each response (Failed to parse string: '2+2?' as "
        "a scalar of type double); fix it, or set score_key"
    ]),
    (["analyze", "theirs.parquet", "by=anser"], ["by=anser: no such column, did you mean answer?"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "problems"), MISTAKES, ids=lambda value: " ".join(value)[:60])
def test_every_mistake_is_one_line_with_its_cure_and_nothing_is_written(
    arguments: list[str], problems: list[str], here: Path
) -> None:
    write_input(here / "theirs.parquet", [row | {"nothing": None} for row in THEIRS])
    write_input(here / "input.parquet", [{"prompt": chat("hi")}])
    (here / "there.csv").write_text("mine")
    (here / "folder").mkdir()
    (here / "folder.csv").mkdir()
    assert refused(here, *arguments) == [line.replace("{cwd}", str(here)) for line in problems]


@pytest.mark.parametrize("place", ["/sys", "/proc"])
@pytest.mark.parametrize("command", ["flatten theirs.parquet {}/x.csv", "analyze theirs.parquet output={}/x.json"])
def test_a_place_that_cannot_be_written_to_is_named_as_the_user_knows_it(place: str, command: str, here: Path) -> None:
    result = run_here(*command.format(place).split(), cwd=here)
    (line,) = result.stderr.splitlines()
    assert re.match(rf"error: (output=)?{place}/x\.(csv|json): .*; .*permissions", line)


@pytest.mark.parametrize("command", ["flatten", "filter", "export", "score", "analyze", "prepare", "merge"])
def test_without_arguments_and_with_help_a_command_says_how_it_is_used(command: str, tmp_path: Path) -> None:
    alone, asked = (run_here(command, *more, cwd=tmp_path) for more in ((), ("x", "--help")))
    assert (alone.returncode, asked.returncode, alone.stdout) == (1, 0, asked.stdout)
    assert f"usage: rollout {command} " in asked.stdout


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_the_input_is_never_written_over_by_whatever_name(link: Callable[[Path, Path], None], here: Path) -> None:
    link(here / "theirs.parquet", here / "link.parquet")
    for output in ("theirs.parquet", "./theirs.parquet", "link.parquet"):
        line = f"output={Path(output)}: is the input, or inside it; choose another name"
        assert refused(here, "flatten", "theirs.parquet", output, "overwrite=true") == [line]
        assert refused(here, "filter", "theirs.parquet", "x.csv", f"dropped={output}", "overwrite=true") == [
            line.replace("output=", "dropped=")
        ]


def test_what_a_run_keeps_is_never_written_over(finished: Path, tmp_path: Path) -> None:
    run_dir = shutil.copytree(finished, tmp_path / "run")
    write_input(tmp_path / "theirs.parquet", THEIRS)
    kept = ("rollouts.parquet", "scores.parquet", "metrics.jsonl", "samples/part-000000.parquet")
    for source in ("run", "theirs.parquet"):
        for name in kept:
            (line,) = refused(tmp_path, "flatten", source, f"run/{name}", "overwrite=true")
            assert line.startswith(f"output=run/{name}: is ")
        (line,) = refused(tmp_path, "analyze", source, "output=run/run.json", "overwrite=true")
        assert line == "output=run/run.json: is a file that a run keeps; choose another name"
    input_path = json.loads((run_dir / "run.json").read_text())["config"]["data"]["path"]
    (line,) = refused(tmp_path, "flatten", "run", input_path, "overwrite=true")
    assert "is the input" in line


@pytest.mark.parametrize("name", ["input.parquet", ".hydra/x.parquet"])
def test_neither_is_what_a_run_was_made_from(name: str, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    write_input(tmp_path / "theirs.parquet", THEIRS)
    for command in ("flatten", "prepare"):
        (line,) = refused(tmp_path, command, "theirs.parquet", f"run/{name}", "overwrite=true")
        assert line == f"output=run/{name}: is a file that a run keeps; choose another name"


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"response": ["a", "b"]}, "input=odd.parquet: the column response holds list<element: string>; a column of"),
        ({"response": {"text": "a"}}, "odd.parquet: column response holds struct<text: string>, not string ("),
        ({"response": "a", "row_id": ["z"]}, "odd.parquet: column row_id holds list<element: string>, not int64 ("),
        ({"responses": ["a"], "num_generated_tokens": ["many"]}, "odd.parquet: column num_generated_tokens holds"),
        ({"responses": ["a"], "num_prompt_tokens": [1]}, "odd.parquet: column num_prompt_tokens holds list<element: i"),
    ],
)
def test_a_column_of_ours_with_values_that_it_cannot_hold_is_one_line(
    row: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    write_input(tmp_path / "odd.parquet", [{"prompt": "hi", **row}])
    for command, output in (("flatten", "out.csv"), ("analyze", "output=out.json")):
        (line,) = refused(tmp_path, command, "odd.parquet", output)
        assert line.startswith(problem)


def test_a_file_that_is_there_is_replaced_when_asked_also_a_broken_link(here: Path) -> None:
    (here / "out.csv").symlink_to(here / "nowhere")
    assert "already exists" in refused(here, "flatten", "theirs.parquet", "out.csv")[0]
    do(here, "flatten", "theirs.parquet", "out.csv", "overwrite=true")
    assert not (here / "out.csv").is_symlink()
    assert len(rows_of(here / "out.csv")) == 4


def test_both_files_of_a_filter_are_there_or_none(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_until(path: Path, *args: Any) -> int:
        if "kept" in path.name:
            raise OSError(28, "No space left on device", str(path))
        return write(path, *args)

    monkeypatch.setattr("rollout.cli.files.write", write_until)
    (line,) = refused(here, "filter", "theirs.parquet", "kept.csv", "dropped=d.csv", "min_length=2")
    assert line == "output=kept.csv: the disk is full (No space left on device); free some space"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing_half_written(
    signum: signal.Signals, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_stop(path: Path, *args: Any) -> int:
        write(path, *args)
        os.kill(os.getpid(), signum)
        return 0

    monkeypatch.setattr("rollout.cli.files.write", write_and_stop)
    result = run_here("filter", "theirs.parquet", "kept.csv", "dropped=d.csv", "min_length=2", cwd=here)
    assert (result.returncode, files_in(here)) == (128 + signum, ["theirs.parquet"])


def test_a_name_that_is_not_utf8_is_one_line_as_input_and_works_as_output(here: Path) -> None:
    name = os.fsdecode(b"\xff.parquet")
    do(here, "flatten", "theirs.parquet", name)
    (line,) = refused(here, "flatten", name, "out.csv")
    assert line == f"input={name}: the name is not UTF-8; give the file another one"


def test_no_pairs_is_said(here: Path) -> None:
    do(here, "score", "theirs.parquet", "scored.parquet", "scorer=regex", "pattern=.")
    result = run_here("export", "scored.parquet", "pairs.jsonl", "format=preference", cwd=here)
    assert (result.returncode, result.stdout) == (0, "wrote 0 pairs: pairs.jsonl\n")
    assert result.stderr == (
        "warning: no pair in 3 of 3 rows: 2 without two scored responses, 1 without different scores\n"
    )


def test_trust_is_accepted_and_makes_no_difference(here: Path) -> None:
    do(here, "flatten", "theirs.parquet", "a.parquet", "trust=true")
    do(here, "flatten", "theirs.parquet", "trust=false", "b.parquet")
    assert (here / "a.parquet").read_bytes() == (here / "b.parquet").read_bytes()


def test_the_keys_of_in_and_out_may_be_written(here: Path) -> None:
    do(here, "flatten", "output=a.parquet", "theirs.parquet")
    do(here, "flatten", "output=b.parquet", "input=theirs.parquet")
    assert (here / "a.parquet").read_bytes() == (here / "b.parquet").read_bytes()


names = st.text(st.sampled_from("ab1 .,=~-+#$@{}[]()'\"\\:;&|*?!<>%^`é中😀\t"), min_size=1, max_size=10).filter(
    lambda name: name.strip(".") != ""
)


def named_examples(test: Any) -> Any:
    for name in (
        "a=b",
        "a b",
        "输入",
        "-x",
        "--x=y",
        "~x",
        "~",
        "-",
        "--",
        "file:",
        "s3://x".replace("/", ""),
        "a:b",
        "[a]*",
    ):
        test = example(name)(test)
    return test


@pytest.mark.long
@settings(max_examples=10, deadline=None)
@given(names)
@named_examples
def test_any_name_of_a_file_works_in_every_command(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    here = tmp_path_factory.mktemp("here")
    write_input(here / f"{name}.parquet", THEIRS)
    do(here, "flatten", f"{name}.parquet", f"{name}1.csv.gz")
    do(here, "flatten", f"{name}.parquet", f"{name}1.csv")
    do(here, "score", f"{name}1.csv", f"{name}2.parquet", "scorer=numeric_match", "ground_truth=answer")
    do(here, "filter", f"{name}2.parquet", f"{name}3.jsonl", "min_score=1", f"dropped={name}4.jsonl")
    do(here, "export", f"{name}3.jsonl", f"{name}5.jsonl.zst", "format=messages")
    do(here, "analyze", f"{name}4.jsonl", f"output={name}.json")
    do(here, "prepare", f"{name}1.csv", f"{name}6.parquet", "keep=[answer]")
    texts = [len(rows_of(here / f"{name}{end}")) for end in ("1.csv", "1.csv.gz", "2.parquet", "3.jsonl", "4.jsonl")]
    assert texts == [4, 4, 4, 2, 2]
    assert len(files_in(here)) == 9


@settings(max_examples=30, deadline=None)
@given(names)
@named_examples
def test_any_name_of_a_run_is_the_run_for_resume_replay_and_verify(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    here = tmp_path_factory.mktemp("here")
    name += "x" if name == "~" else ""
    (here / name).mkdir()
    with contextlib.chdir(here):
        assert run_folder(name).samefile(here / name)


@pytest.mark.long
@settings(max_examples=3, deadline=None)
@given(names)
@named_examples
def test_any_name_of_a_folder_works_in_every_command(
    tmp_path_factory: pytest.TempPathFactory, finished: Path, name: str
) -> None:
    here = tmp_path_factory.mktemp("here")
    if name in ("~", ".", ".."):  # home, and folders that are there
        name += "x"
    shutil.copytree(finished, here / name)
    do(here, "flatten", name, "flat.parquet")
    do(here, "export", name, f"{name}/sft.jsonl", "format=messages")
    assert len(rows_of(here / name / "sft.jsonl")) == 18
    assert "nothing to do, the run is complete" in do(here, "resume", name).stdout
    do(here, "merge", name, "-merged" if name.startswith("-") else f"{name}-merged")


@pytest.mark.long
def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    program = (
        "import re, sys; from rollout.cli.main import main; main(); "
        'print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])'
    )

    def peak(rows: int, *arguments: str) -> int:
        text = [f"{number} " + "word " * 300 for number in range(rows)]
        table = pa.table(
            {
                "prompt": [f"question {number // 4}" for number in range(rows)],
                "response": text,
                "row_id": [number // 4 for number in range(rows)],
                "prompt_token_ids": [[1, 2, 3]] * rows,
                "response_token_ids": pa.ListArray.from_arrays(
                    list(range(0, 300 * rows + 1, 300)), np.zeros(300 * rows, np.int32)
                ),
            }
        )
        pq.write_table(table, tmp_path / "in.parquet", row_group_size=1000)
        line = [sys.executable, "-c", program, *arguments, "overwrite=true"]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True)
        return int(done.stdout.splitlines()[-1]) // 1024

    for arguments in (
        ("flatten", "in.parquet", "out.jsonl.zst"),
        ("filter", "in.parquet", "out.parquet", "drop_duplicates=true", "max_length=1504", "dropped=d.csv"),
        ("export", "in.parquet", "out.jsonl", "format=tokens"),
    ):
        assert peak(120_000, *arguments) - peak(2_000, *arguments) < 130
    assert sum(batch.num_rows for batch in open_source(tmp_path / "in.parquet").batches()) == 2_000


def test_a_command_on_files_loads_nothing_heavy(here: Path) -> None:
    trace = [sys.executable, "-X", "importtime", "-m", "rollout", "flatten", "theirs.parquet", "x.parquet"]
    done = subprocess.run(trace, cwd=here, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "rollout.cli.responses" in loaded
    assert not loaded & {"hydra", "vllm", "torch", "transformers", "wandb"}


@pytest.mark.parametrize(("name", "experiment"), [("test", "quick_test"), ("demo", "demo")])
def test_two_short_names_for_runs(name: str, experiment: str, tmp_path: Path) -> None:
    more = ("engine.kind=echo", "hardware=cpu", "sampling.temperature=0.3", "dry_run=true")
    short, whole = (run_here(*words, *more, cwd=tmp_path) for words in ((name,), (f"experiment={experiment}",)))
    assert (short.returncode, short.stderr) == (0, "")
    assert "temperature 0.3" in short.stdout
    assert short.stdout == whole.stdout


@pytest.mark.parametrize("first", ["", "/rollouts.parquet"])
def test_what_is_made_of_a_run_keeps_its_system_prompt(first: str, finished: Path, tmp_path: Path) -> None:
    do(tmp_path, "score", f"{finished}{first}", "scored.parquet", "scorer=regex", "pattern=echo")
    do(tmp_path, "filter", "scored.parquet", "kept.parquet", "min_score=1", "dropped=dropped.parquet")
    do(tmp_path, "flatten", "kept.parquet", "flat.parquet")
    do(tmp_path, "export", "flat.parquet", "some.parquet", "columns=[question,response]")
    do(tmp_path, "export", "some.parquet", "sft.jsonl", "format=messages")
    do(tmp_path, "export", "some.parquet", "other.jsonl", "format=messages", "system_prompt=Be kind.")
    asked = [[message["content"] for message in row["messages"][:2]] for row in rows_of(tmp_path / "sft.jsonl")]
    assert asked == [["Be brief.", f"number {row}"] for row in range(6) for _ in range(3)]
    assert rows_of(tmp_path / "other.jsonl")[0]["messages"][0]["content"] == "Be kind."


def test_what_has_passed_where_it_was_scored_passes_afterwards(finished: Path, tmp_path: Path) -> None:
    asked = ("scorer=tests.graders:share", "pass_score=0.5")
    told = do(tmp_path, "score", str(finished), "scored.parquet", *asked).stdout
    assert told.endswith("go on with: python -m rollout analyze scored.parquet\n")
    passing = np.mean([row["score"] >= 0.5 for row in rows_of(tmp_path / "scored.parquet")])
    assert 0 < passing < 1
    assert rate_in(do(tmp_path, "analyze", "scored.parquet", "output=a.json"), tmp_path / "a.json") == passing
    shown = do(tmp_path, "analyze", "scored.parquet", "output=b.json", "pass_score=1")
    assert rate_in(shown, tmp_path / "b.json") == 0
    told = do(tmp_path, "score", str(finished), "scored.jsonl", *asked).stdout
    assert told.endswith("go on with: python -m rollout analyze scored.jsonl pass_score=0.5\n")
    do(tmp_path, "compare", "scored.parquet", "scored.jsonl", "prompt_key=question")
    assert json.loads((tmp_path / "compare.json").read_text())["pass_score"] == 0.5


def rate_in(shown: Completed, analysis: Path) -> float:
    """The pass rate of an analysis, whose score to pass from is on the screen where it is not 1."""
    scores: dict[str, float] = json.loads(analysis.read_text())["scores"]
    assert f"0 not scored\na response passes from a score of {scores['pass_score']:g} on (pass_score)\n" in shown.stdout
    return scores["pass_rate"]

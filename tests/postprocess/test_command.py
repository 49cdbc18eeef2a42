"""`python -m rollout.postprocess`, run as a user runs it, and its steps as a run's second stage."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.config import DataConfig, ExportConfig
from rollout.errors import UserError
from rollout.postprocess.__main__ import postprocess
from rollout.postprocess.export import export
from tests.commands import ECHO, command, resume, run_command, verify
from tests.conftest import Rollout, chat, write_input
from tests.in_process import run_here
from tests.postprocess.tables import answered, read, source_of, write_rollouts

pytestmark = pytest.mark.long

OWN = "tests.postprocess.own_scorers"


@pytest.mark.parametrize(
    ("steps", "files"),
    [
        ("[flatten]", ["flat.parquet"]),
        ("[filter]", ["filtered.dropped.parquet", "filtered.parquet"]),
        ("[analyze]", ["analysis.json"]),
        ("[analyze,flatten]", ["analysis.json", "flat.parquet"]),
        ("[analyze,report]", ["analysis.json", "report.html"]),
        ("[export]", ["export.jsonl"]),
        ("[]", []),
    ],
)
def test_only_the_steps_named_are_run(steps: str, files: list[str], tmp_path: Path) -> None:
    path = write_rollouts(tmp_path, [answered("a", None)])
    postprocess([f"input={path}", f"steps={steps}", f"output_dir={tmp_path / 'output'}"])
    assert sorted(file.name for file in (tmp_path / "output").glob("[!.]*")) == files


def test_without_an_output_dir_the_results_lie_beside_the_file(tmp_path: Path) -> None:
    path = write_rollouts(tmp_path, [answered("a", "b")])
    postprocess([f"input={path}"])
    written = sorted(file.name for file in (tmp_path / "rollouts-postprocess").glob("[!.]*"))
    assert written == ["analysis.json", "flat.parquet", "report.html"]


def test_steps_after_score_see_scores_and_steps_after_filter_what_it_kept(tmp_path: Path) -> None:
    path = write_rollouts(tmp_path, [answered("4", "no"), answered("no", "no"), answered("4", "4")])
    postprocess(
        [
            f"input={path}",
            f"output_dir={tmp_path}",
            "steps=[flatten,score,filter,analyze,export]",
            "score.scorer=regex",
            "score.pattern='\\d'",
            "filter.min_pass_rate=0.5",
            "filter.max_pass_rate=0.5",
        ]
    )
    assert "score" not in pq.read_schema(tmp_path / "flat.parquet").names
    kept = read(tmp_path / "filtered.parquet")
    assert [(row["row_id"], row["sample_idx"], row["score"], row["pass_rate"]) for row in kept] == [
        (0, 0, 1.0, 0.5),
        (0, 1, 0.0, 0.5),
    ]
    assert [row["dropped_by"] for row in read(tmp_path / "filtered.dropped.parquet")] == [
        *["min_pass_rate"] * 2,
        *["max_pass_rate"] * 2,
    ]
    analysis = json.loads((tmp_path / "analysis.json").read_text())
    assert (analysis["rows"], analysis["samples"], analysis["scores"]["pass_at_k"]) == (1, 2, {"1": 0.5, "2": 1.0})
    exported = [json.loads(line) for line in (tmp_path / "export.jsonl").read_text().splitlines()]
    assert exported == kept


def test_scores_of_an_earlier_command_are_used_by_a_later_one(tmp_path: Path) -> None:
    path = write_rollouts(tmp_path, [answered("4", "no")])
    common = [f"input={path}", f"output_dir={tmp_path}"]
    postprocess([*common, "steps=[score]", "score.scorer=regex", "score.pattern=4"])
    postprocess([*common, "steps=[filter]", "filter.min_score=1"])
    assert [row["response"] for row in read(tmp_path / "filtered.parquet")] == ["4"]


def test_a_report_shows_what_its_own_command_has_analysed(tmp_path: Path) -> None:
    """An `analysis.json` in the folder may be of another file, or of what a filter had left."""
    path = write_rollouts(tmp_path, [answered("4", "no")])
    postprocess([f"input={path}", f"output_dir={tmp_path / 'o'}", "steps=[analyze]"])
    other = write_input(tmp_path / "other.parquet", [{"prompt": "a", "responses": ["b"]}])
    with pytest.raises(UserError, match="name analyze before it"):
        postprocess([f"input={other}", f"output_dir={tmp_path / 'o'}", "steps=[report]"])


def test_a_file_with_scores_gets_none_of_those_that_lie_in_the_folder(tmp_path: Path) -> None:
    path = write_rollouts(tmp_path, [answered("4", "no")])
    common = [f"output_dir={tmp_path / 'o'}", "steps=[flatten,analyze]"]
    postprocess([f"input={path}", common[0], "steps=[score]", "score.scorer=regex", "score.pattern=4"])
    scored = [{"prompt": "a", "row_id": 0, "sample_idx": 0, "response": "b", "score": 0.25}]
    postprocess([f"input={write_input(tmp_path / 'scored.parquet', scored)}", *common])
    assert [row["score"] for row in read(tmp_path / "o/flat.parquet")] == [0.25]


@pytest.mark.parametrize("content", [b"PAR1", b"", None])
def test_a_file_in_the_place_of_the_scores_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = write_rollouts(tmp_path, [answered("4", "no")])
    if content is None:
        pq.write_table(pa.table({"score": [1.0]}), tmp_path / "scores.parquet")
    else:
        (tmp_path / "scores.parquet").write_bytes(content)
    with pytest.raises(UserError, match=r"scores.parquet: is no file of scores, or damaged; delete it"):
        postprocess([f"input={path}", f"output_dir={tmp_path}", "steps=[analyze]"])


def test_a_byte_that_is_no_text_costs_one_character_of_a_flat_file_too(tmp_path: Path) -> None:
    broken = pa.array([b"so\xff", b"good"]).cast(pa.binary()).view(pa.string())
    flat = pa.table({"row_id": [0, 1], "sample_idx": [0, 0], "prompt": ["a", "b"], "response": broken})
    pq.write_table(flat, tmp_path / "flat.parquet")
    steps = ("steps=[score,analyze,export]", "score.scorer=regex", "score.pattern=so")
    postprocess([f"input={tmp_path / 'flat.parquet'}", f"output_dir={tmp_path / 'o'}", *steps])
    exported = [json.loads(line) for line in (tmp_path / "o/export.jsonl").read_text().splitlines()]
    assert [(row["response"], row["score"]) for row in exported] == [
        ("so\N{REPLACEMENT CHARACTER}", 1.0),
        ("good", 0.0),
    ]


def test_a_column_that_is_asked_for_twice_is_there_once(tmp_path: Path) -> None:
    path = write_rollouts(tmp_path, [answered("4", "no")])
    columns = ["export.columns=[prompt,prompt,response]", "export.file=o.parquet"]
    postprocess([f"input={path}", f"output_dir={tmp_path}", "steps=[export]", *columns])
    assert pq.read_schema(tmp_path / "o.parquet").names == ["row_id", "sample_idx", "prompt", "response"]


ROWS = [{"prompt": chat(f"question {number}"), "answer": str(number)} for number in range(5)]


def test_a_whole_run_ends_with_its_tables_and_its_report(rollout: Rollout) -> None:
    run_dir = rollout(
        ROWS,
        "sampling.n_samples=3",
        "postprocess.steps=[score,flatten,filter,analyze,report]",
        "postprocess.filter.min_length=60",
        f"postprocess.score.scorer={OWN}:contains",
        "postprocess.score.ground_truth=answer",
    )
    flat = read(run_dir / "flat.parquet")
    assert [(row["row_id"], row["sample_idx"]) for row in flat] == [(row, at) for row in range(5) for at in range(3)]
    assert {row["score"] for row in flat} <= {0.0, 1.0}
    kept = [row for row in flat if len(row["response"]) >= 60]
    assert read(run_dir / "filtered.parquet") == kept
    assert json.loads((run_dir / "analysis.json").read_text())["samples"] == len(kept)
    assert "question 4" in (run_dir / "report.html").read_text()


def test_the_steps_of_a_run_can_be_done_again_otherwise(rollout: Rollout, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = rollout(ROWS, "sampling.n_samples=3")
    manifest = (run_dir / "run.json").read_bytes()
    postprocess([f"run_dir={run_dir}", "postprocess=sft", "filter.min_length=1"])
    records = [json.loads(line) for line in (run_dir / "sft.jsonl").read_text().splitlines()]
    assert len(records) == 15
    assert [turn["role"] for turn in records[0]["messages"]] == ["user", "assistant"]
    assert "filter: 15 kept" in capsys.readouterr().out
    assert (run_dir / "run.json").read_bytes() == manifest
    assert (run_dir / "analysis.json").exists(), "what other steps wrote stays"


def test_results_of_steps_that_a_resume_leaves_out_are_removed_and_the_log_says_so(rollout: Rollout) -> None:
    from rollout.resume import resume

    run_dir = rollout(ROWS, "sampling.n_samples=2")
    assert "removed" not in (run_dir / "rollout.log").read_text()
    resume(run_dir, ["sampling.n_samples=3", "postprocess.steps=[flatten]"])
    assert not (run_dir / "analysis.json").exists()
    assert not (run_dir / "report.html").exists()
    line = "removed analysis.json, report.html, which earlier steps made; name these steps to have them again"
    assert line in (run_dir / "rollout.log").read_text()


def test_a_key_of_a_step_that_is_not_done_is_warned_about(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, "postprocess=none", "postprocess.filter.min_length=5", "postprocess.export.format=messages")
    log = (run_dir / "rollout.log").read_text()
    assert "postprocess.filter.min_length=5: changes nothing; name filter in postprocess.steps" in log
    assert "postprocess.export.format=messages: changes nothing; name export in postprocess.steps" in log


def test_a_resume_takes_no_file_away_that_no_step_writes(rollout: Rollout, tmp_path: Path) -> None:
    from rollout.resume import resume

    run_dir = rollout(ROWS, "sampling.n_samples=2")
    (tmp_path / "precious.jsonl").write_text("mine")
    resume(run_dir, ["sampling.n_samples=3", f"postprocess.export.file={tmp_path / 'precious.jsonl'}"])
    assert (tmp_path / "precious.jsonl").read_text() == "mine"


@pytest.mark.long
def test_the_workers_of_a_killed_command_end_with_it(tmp_path: Path) -> None:
    write_rollouts(tmp_path, [answered("slow")])
    scorer = (
        "import os, time\ndef score(r, t, row):\n    open('pid', 'w').write(str(os.getpid()))\n    time.sleep(60)\n"
    )
    (tmp_path / "slow.py").write_text(scorer)
    asked = ("input=rollouts.parquet", "steps=[score]", "score.scorer=slow:score", "score.timeout=100")
    process = subprocess.Popen(command(*asked, module="rollout.postprocess"), cwd=tmp_path)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    worker = Path("/proc") / (tmp_path / "pid").read_text()
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while worker.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_run_resumed_for_more_samples_makes_its_tables_anew(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, "sampling.n_samples=2")
    before = len(read(run_dir / "flat.parquet"))
    from rollout.resume import resume

    resume(run_dir, ["sampling.n_samples=3"])
    assert (before, len(read(run_dir / "flat.parquet"))) == (10, 15)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    write_rollouts(folder, [answered("a", None)])
    pq.write_table(pa.table({"prompt": ["a"], "answer": ["b"]}), folder / "no_responses.parquet")
    pq.write_table(pa.table({"responses": [1, 2]}), folder / "numbers.parquet")
    pq.write_table(pa.table({"responses": [["a", "b"]], "seeds": [[1]]}), folder / "uneven.parquet")
    pq.write_table(pa.table({"responses": [["a"]], "row_id": [1]}), folder / "clash.parquet")
    pq.write_table(pa.table({"responses": [["a", "b"]], "score": [1.0]}), folder / "scored.parquet")
    flat = {"sample_idx": [0, 1], "response": ["a", "b"]}
    pq.write_table(pa.table({"row_id": ["zero", "one"], **flat}), folder / "texts.parquet")
    pq.write_table(pa.table({"row_id": [0, None], **flat}), folder / "nulls.parquet")
    (folder / "repr.csv").write_text("prompt,responses\na,\"['b']\"\nc,\"['d', 'e']\"\n")
    (folder / "broken.py").write_text("raise RuntimeError('not today')\n")
    return folder


MISTAKES = [
    ("steps=[flatten]", "give run_dir=RUN_DIR or input=FILE.parquet: one of the two"),
    (
        "input=rollouts.parquet steps=[flaten]",
        "steps=flaten: choose from flatten, score, filter, analyze, export, report",
    ),
    ("input=rollouts.parquet steps=[report]", "steps=report: shows what analyze finds; name analyze before it"),
    ("input=rollouts.parquet input=repr.csv", "input=repr.csv: is given twice; leave one out"),
    ("input=rollouts.parquet steps=[flatten,flatten]", "steps=flatten: named twice; once is enough"),
    (
        "input=rollouts.parquet filter.min_lenght=3",
        "filter.min_lenght: no such key, did you mean filter.min_length or filter.max_length?",
    ),
    ("input=rollouts.parquet filter.min_length=-3", "filter.min_length=-3: must be at least 0"),
    (
        "input=rollouts.parquet steps=[filter] filter.min_length=9 filter.max_length=3",
        "filter.min_length=9: more than max_length=3, which would drop everything; lower it",
    ),
    (
        "input=rollouts.parquet steps=[filter] filter.min_score=1",
        "filter.min_score=1.0: no scores; put score before filter in steps",
    ),
    (
        "input=rollouts.parquet steps=[filter] filter.where=[anser=b]",
        "filter.where=anser=b: no such column, did you mean answer?",
    ),
    (
        "input=rollouts.parquet filter.where=[answer]",
        "filter.where=answer: is no condition; write COLUMN=VALUE, and further values of the column as further ",
    ),
    (
        "input=rollouts.parquet steps=[analyze] analyze.by=anser",
        "analyze.by=anser: no such column, did you mean answer?",
    ),
    (
        "input=rollouts.parquet steps=[score]",
        "steps=score: no scorer is set; set score.scorer to exact_match, numeric_match, math, regex or module:function",
    ),
    (
        "input=rollouts.parquet steps=[score] score.scorer=exact_match",
        "score.scorer=exact_match: needs the right answers; set score.ground_truth",
    ),
    (
        "input=rollouts.parquet steps=[score] score.scorer=exactmatch",
        "score.scorer=exactmatch: no such scorer, did you mean exact_match? (or give module:function)",
    ),
    (
        "input=rollouts.parquet steps=[score] score.scorer=regex 'score.pattern=\"(\"'",
        "score.pattern=(: no regular expression (missing ), unterminated subpattern at position 0); fix it",
    ),
    (
        "input=rollouts.parquet steps=[score] score.scorer=nowhere:score",
        "score.scorer=nowhere:score: No module named 'nowhere'; give a module that Python finds from this folder",
    ),
    (
        "input=rollouts.parquet steps=[score] score.scorer=json:nothing",
        "score.scorer=json:nothing: json has no function nothing; check the name",
    ),
    (
        "input=rollouts.parquet steps=[score] score.scorer=broken:score",
        "score.scorer=broken:score: importing broken raises RuntimeError: not today; fix it",
    ),
    (
        "input=rollouts.parquet steps=[score] score.scorer=math score.ground_truth=prompt.answer",
        "score.ground_truth=prompt.answer: prompt holds list<element: struct<role: string, content: string>>, "
        "which has no fields",
    ),
    (
        "input=rollouts.parquet steps=[export] export.file=out.xml",
        "export.file=out.xml: must end in .jsonl, .jsonl.gz, .jsonl.zst, .csv, .csv.gz, .csv.zst, .parquet",
    ),
    (
        "input=rollouts.parquet steps=[export] export.file=a/out.csv",
        "export.file=a/out.csv: give a plain file name, or an absolute path",
    ),
    (
        "input=rollouts.parquet steps=[export] export.columns=[text]",
        "export.columns=text: no such column, choose from answer, error, finish_reason, num_generated_tokens, ",
    ),
    (
        "input=rollouts.parquet steps=[export] export.format=preference",
        "export.format=preference: no scores; put score before export in steps",
    ),
    (
        "input=rollouts.parquet steps=[export] export.format=messages export.min_margin=0.5",
        "export.min_margin=0.5: format=messages makes no pairs; set format=preference, or min_margin=null",
    ),
    (
        "input=rollouts.parquet steps=[export] export.format=messages data.prompt_key=chat",
        "data.prompt_key=chat: no such column",
    ),
    ("input=nowhere.parquet", "input=nowhere.parquet: no such file"),
    (
        "input=no_responses.parquet",
        "input=no_responses.parquet: has no column `responses` or `response`; it has prompt, answer",
    ),
    (
        "input=numbers.parquet",
        "input=numbers.parquet: the column responses holds int64; it must hold lists of texts, or JSON",
    ),
    (
        "input=uneven.parquet",
        "uneven.parquet: the lists in seeds are not as long as those in responses; write it again",
    ),
    ("input=texts.parquet", "texts.parquet: column row_id holds string, not int64 ("),
    ("input=nulls.parquet", "nulls.parquet: column row_id has nulls; every response needs one, fix it"),
    (
        "input=repr.csv",
        "repr.csv: responses: not a JSON list of texts in any of 2 rows; write them with json.dumps, or as lists",
    ),
    (
        "input=rollouts.parquet steps=[export] export.format=messages export.columns=[messages]",
        "export.columns=messages: format=messages writes a field of that name; leave it out",
    ),
    (
        "input=rollouts.parquet steps=[export] export.format=messages export.columns=[row_id]",
        "export.columns=row_id: format=messages writes a field of that name; leave it out",
    ),
    ("input=clash.parquet", "input=clash.parquet: column row_id is a reserved output column; rename it"),
    (
        "input=rollouts.parquet steps=[analyze,filter,report]",
        "steps=report: analyze has not seen what filter does; name analyze between the two",
    ),
    (
        "input=rollouts.parquet output_dir=. steps=[export] export.file=rollouts.parquet",
        "export.file=rollouts.parquet: is the input rollouts.parquet, which is never written over; choose another name",
    ),
    (
        "input=rollouts.parquet output_dir=. steps=[export] export.file=flat.parquet",
        "export.file=flat.parquet: is a file that is written otherwise; choose another name",
    ),
    ("input=rollouts.parquet steps=[export] export.file=.jsonl", "export.file=.jsonl: must end in"),
    (
        "input=scored.parquet",
        "scored.parquet: column score: row 0 has 2 responses and 1 score; there must be one for each",
    ),
    ("run_dir=.", "not a run folder (no readable run.json in it); give the folder of a run"),
    ("run_dir=. output_dir=x", "output_dir=x: the results of a run go to its folder; leave it out"),
    (
        "input=rollouts.parquet flatten",
        "flatten: cannot be read; write key=value, see --help, and put quotes around a value with spaces",
    ),
]


@pytest.mark.parametrize(("arguments", "line"), MISTAKES, ids=[arguments for arguments, _ in MISTAKES])
def test_a_mistake_is_one_line_that_names_the_key(
    arguments: str, line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shlex

    from rollout.postprocess.__main__ import main

    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(SystemExit) as exit_:
        main(shlex.split(arguments))
    error = capsys.readouterr().err
    assert exit_.value.code == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert line in error


def test_an_export_outside_the_run_replaces_no_file(tmp_path: Path) -> None:
    assert run_command(*ECHO, "data.limit=3", "hydra.run.dir=run", cwd=tmp_path).returncode == 0
    precious = write_input(tmp_path / "precious.parquet", [{"prompt": "mine"}])
    before = precious.read_bytes()
    arguments = ("run_dir=run", "steps=[export]", f"export.file={precious}")
    refused = run_command(*arguments, cwd=tmp_path, module="rollout.postprocess")
    assert refused.returncode == 1
    assert refused.stderr == (
        f"error: export.file={precious}: already exists and was not written by this; choose another name, or set "
        "overwrite=true to replace it\n"
    )
    assert precious.read_bytes() == before


def test_an_export_outside_the_run_is_no_obstacle_to_what_comes_after_it(tmp_path: Path) -> None:
    """Not to the same command on the run, a resume for more samples, a resume with nothing to do, or a verification."""
    exporting = ("postprocess.steps=[export]", f"postprocess.export.file={tmp_path}/out.jsonl")
    assert run_command(*ECHO, *exporting, "data.limit=3", "hydra.run.dir=run", cwd=tmp_path).returncode == 0
    again = run_command("run_dir=run", "trust=true", cwd=tmp_path, module="rollout.postprocess")
    assert again.returncode == 0, again.stderr
    assert resume("run", "sampling.n_samples=9", "trust=true", cwd=tmp_path).returncode == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3 * 9
    assert resume("run", "trust=true", cwd=tmp_path).stdout == "run: nothing to do, the run is complete\n"
    assert verify("run", cwd=tmp_path).returncode == 0


def test_a_flat_csv_is_read_as_it_was_exported(tmp_path: Path) -> None:
    source = source_of(tmp_path, [answered("a", None), answered("", "b, c")])
    export(source, tmp_path, ExportConfig("flat.csv"), DataConfig())
    result = run_command(
        "input=flat.csv", "steps=[flatten]", "output_dir=o", cwd=tmp_path, module="rollout.postprocess"
    )
    assert result.returncode == 0, result.stderr
    ours = ("row_id", "sample_idx", "response", "num_generated_tokens", "error")
    expected = [{name: row[name] for name in ours} for row in pa.Table.from_batches(source.batches()).to_pylist()]
    assert [{name: row[name] for name in ours} for row in read(tmp_path / "o/flat.parquet")] == expected


def test_new_scores_take_away_what_shows_the_old_ones_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rollouts(tmp_path, [answered("4", "5")])
    own = "tests.postprocess.own_scorers"

    def done(*arguments: str) -> set[str]:
        postprocess(["input=rollouts.parquet", "output_dir=o", *arguments])
        return {path.name for path in (tmp_path / "o").glob("[!.]*")}

    monkeypatch.chdir(tmp_path)
    assert done("steps=[flatten,analyze]") == {"flat.parquet", "analysis.json"}
    filtered = {"flat.parquet", "scores.parquet", "filtered.parquet", "filtered.dropped.parquet"}
    assert done("steps=[score,filter]", f"score.scorer={own}:undecided") == filtered
    with pytest.raises(UserError):
        done("steps=[score]", f"score.scorer={own}:contains")
    assert done("steps=[flatten]") == filtered  # failing has taken nothing away
    assert done("steps=[score]", f"score.scorer={own}:with_answer") == {"scores.parquet"}


def test_a_scorer_in_the_current_folder_is_found_by_the_console_script_too(tmp_path: Path) -> None:
    (tmp_path / "graders.py").write_text("def one(response, ground_truth, row):\n    return 1\n")
    script = Path(sys.executable).with_name("rollout")
    scored = ("postprocess.steps=[score]", "postprocess.score.scorer=graders:one", "data.limit=2", "hydra.run.dir=run")
    result = subprocess.run([script, *ECHO, *scored], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert {row["score"] for row in read(tmp_path / "run/scores.parquet")} == {1.0}


def test_the_command_works_on_the_run_of_another_command(tmp_path: Path) -> None:
    first = run_command(*ECHO, "sampling.n_samples=2", "data.limit=3", "hydra.run.dir=run", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    again = run_command("run_dir=run", "postprocess=sft", cwd=tmp_path, module="rollout.postprocess")
    assert again.returncode == 0, again.stderr
    assert "wrote run/sft.jsonl" in again.stdout
    assert len((tmp_path / "run" / "sft.jsonl").read_text().splitlines()) == 6


def test_an_export_of_pairs_without_a_pair_is_warned_about(tmp_path: Path) -> None:
    write_input(tmp_path / "o.parquet", [{"prompt": chat("hi"), "responses": ["1", "1"], "answer": "1"}])
    steps = (
        "steps=[score,export]",
        "score.scorer=exact_match",
        "score.ground_truth=answer",
        "export.format=preference",
    )
    result = run_here("input=o.parquet", *steps, cwd=tmp_path, module="rollout.postprocess")
    assert (result.returncode, result.stderr) == (0, "")
    assert "warning: export: no pair in 1 of 1 row: 1 without different scores" in result.stdout


def test_a_filter_that_keeps_nothing_says_which_rule_dropped_how_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rollouts(tmp_path, [answered("a", "bb"), answered("cc", None)])
    postprocess([f"input={path}", "steps=[filter]", "filter.finish_reasons=[stopped]", "filter.min_length=2"])
    said = capsys.readouterr().out
    assert "warning: filter: finish_reasons=stopped: no response has this finish reason, did you mean stop?" in said
    assert "warning: filter: kept 0 of 4 responses, dropped 3 by finish_reasons, 1 by drop_errors\n" in said


def test_paths_may_have_the_quotes_that_they_need_elsewhere(tmp_path: Path) -> None:
    written = write_rollouts(tmp_path, [answered("one")])
    written.rename(tmp_path / "a b.parquet")
    result = run_command(
        'input="a b.parquet"', "output_dir='o'", "steps=[flatten]", cwd=tmp_path, module="rollout.postprocess"
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "o/flat.parquet").exists()

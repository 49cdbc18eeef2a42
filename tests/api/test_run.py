"""`rollout.run` and what it returns: the command's run, without a shell."""

import json
import re
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rollout
from rollout.resume import resume
from rollout.store.layout import INPUT
from rollout.verify.__main__ import verify
from tests.commands import ECHO, replay, run_command
from tests.conftest import chat, run_in, write_input

pytestmark = pytest.mark.long

WriteScorer = Callable[[str], int]

QUICK = (*ECHO, "sampling.n_samples=2", "sampling.max_tokens=8")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, empty."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    rollout.release()


@pytest.fixture
def write_scorer(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteScorer]:
    """Writes the module `scorer_of_a_notebook`."""
    monkeypatch.syspath_prepend(here)
    yield lambda text: (here / "scorer_of_a_notebook.py").write_text(text)
    sys.modules.pop("scorer_of_a_notebook", None)


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"prompt": ["one", "two", "three"], "answer": [1, 2, 3]}, index=[7, 5, 9])


def test_importing_the_package_imports_nothing_large() -> None:
    code = "import rollout, sys; rollout.UserError; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pyarrow", "pandas", "numpy", "hydra", "omegaconf", "rich", "yaml", "vllm"} & set(loaded)


def test_no_name_of_the_package_is_a_submodules() -> None:
    modules = {path.stem for path in Path(rollout.__file__).parent.iterdir()}
    assert not modules & set(rollout.__all__)
    assert {*rollout.__all__} <= {*dir(rollout)}
    with pytest.raises(AttributeError, match="has no attribute 'runs'"):
        rollout.runs  # type: ignore[attr-defined]  # noqa: B018


def test_a_frame_is_sampled_and_comes_back_with_its_responses(frame: pd.DataFrame, here: Path) -> None:
    run = rollout.run(*QUICK, input=frame)
    found = run.dataframe()
    assert list(found["prompt"]) == ["one", "two", "three"]
    assert list(found["answer"]) == [1, 2, 3]
    assert [len(responses) for responses in found["responses"]] == [2, 2, 2]
    assert len(run.flat()) == 6
    assert run.analysis.samples == 6
    assert (run.record.status, run.record.config.sampling.n_samples) == ("done", 2)
    assert run.path.is_absolute()
    assert run.path.is_relative_to(here / "outputs")
    assert list(pd.read_parquet(run.path / INPUT)["answer"]) == [1, 2, 3]


def test_it_is_the_run_of_the_command(frame: pd.DataFrame, here: Path) -> None:
    ours = rollout.run(*QUICK, input=frame, run_dir="ours")
    theirs = run_in(here / "theirs", f"data.path={here / 'ours' / INPUT}", *QUICK[3:])
    for name in ("rollouts.parquet", "flat.parquet", "analysis.json"):
        assert (ours.path / name).read_bytes() == (theirs / name).read_bytes()
    assert set(QUICK) <= set((ours.path / ".hydra/overrides.yaml").read_text(encoding="utf-8").split())


@pytest.mark.parametrize(
    "given",
    [
        ["hi", "there"],
        ("hi", "there"),
        pd.Series(["hi", "there"]),
        [chat("hi"), chat("there")],
        ["hi", chat("there")],
        [{"prompt": "hi", "level": 1}, {"prompt": "there"}],
        pa.table({"prompt": ["hi", "there"]}),
        pd.DataFrame({"prompt": [np.array(chat("hi"), dtype=object), np.array(chat("there"), dtype=object)]}),
        pd.DataFrame({"prompt": ["hi", np.array(chat("there"), dtype=object)]}),
    ],
    ids=["texts", "tuple", "series", "chats", "both", "rows", "arrow", "numpy", "numpy and text"],
)
def test_prompts_come_as_what_a_program_has(given: Any, here: Path) -> None:
    run = rollout.run(*QUICK, input=given)
    expected = rollout.run(*QUICK, input=write_input(here / "chats.parquet", [{"prompt": chat("hi")}] * 2))
    assert run.dataframe()["error"].isna().all()
    assert list(run.dataframe()["responses"][0]) == list(expected.dataframe()["responses"][0])


def test_a_prompt_that_is_missing_is_a_bad_row() -> None:
    for given in (["hi", None], ["hi", float("nan")], pd.DataFrame({"prompt": ["hi", None]}), [chat("hi"), None, "hi"]):
        run = rollout.run(*QUICK, "data.max_error_fraction=0.5", input=given)
        assert list(run.dataframe()["error"].dropna()) == ["the prompt is null"]


def test_a_frame_of_chats_that_a_run_returned_is_an_input(frame: pd.DataFrame, here: Path) -> None:
    first = rollout.run(*QUICK, input=[chat("hi"), chat("there")]).dataframe()
    again = rollout.run(*QUICK, input=first[["prompt"]]).dataframe()
    assert [list(row) for row in again["responses"]] == [list(row) for row in first["responses"]]


def test_another_column_can_hold_the_prompts(here: Path) -> None:
    run = rollout.run(*QUICK, "data.prompt_key=question", input=pd.DataFrame({"question": ["hi"]}))
    assert run.dataframe()["error"].isna().all()
    run = rollout.run(*QUICK, data={"prompt_key": "question"}, input=["hi"])
    assert list(run.dataframe()["question"]) == ["hi"]


def test_the_result_can_be_had_in_a_file_too(frame: pd.DataFrame, here: Path) -> None:
    run = rollout.run(*QUICK, input=frame, output="mine, all.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(here / "mine, all.parquet"), run.dataframe())


def test_groups_can_be_given_as_presets_and_dictionaries(frame: pd.DataFrame) -> None:
    stop = ["a,b", "null", "${x}", 'quote"d', "输入"]
    config = rollout.run(
        input=frame,
        engine={"kind": "echo", "echo": {"max_steps": np.int64(3)}},
        hardware="cpu",
        tracking="disabled",
        sampling={"n_samples": 1, "stop": stop, "temperature": 1, "extra": {}},
        data={"system_prompt": "Be kind, be brief"},
        postprocess={"steps": ()},
    ).record.config
    assert (config.engine.echo.max_steps, config.hardware.device, config.tracking.mode) == (3, "cpu", "disabled")
    assert (config.sampling.stop, config.sampling.temperature) == (stop, 1.0)
    assert config.data.system_prompt == "Be kind, be brief"
    assert config.postprocess.steps == []


MISTAKES = [
    (("sampling.temperature=3", "sampling.n_smples=4", "sampling=hot"), {}, ["n_smples", "sampling=hot", "=3.0: must"]),
    (("-m", "sampling.seed=1,2"), {}, ["-m: options and sweeps are the command's"]),
    (("sampling.seed=1,2",), {}, ["sampling.seed=1,2"]),
    (("hydra.mode=MULTIRUN",), {}, ["hydra.mode=MULTIRUN: options and sweeps are the command's"]),
    (("dry_run=true",), {}, ["dry_run=true: prints a plan"]),
    (("data.path=a.csv",), {"input": ["hi"]}, ["data.path, input: both"]),
    ((), {"input": "no.parquet"}, ["data.path=no.parquet: no such file"]),
    ((), {"input": []}, ["input: has no rows"]),
    ((), {"input": 5}, ["input: is of type int; give a path"]),
    ((), {"input": {"prompt": "hi"}}, ["input: is of type dict; give a path"]),
    (
        (),
        {"input": OrderedDict(train=[1], test=[2])},
        ["input: is of type OrderedDict and has train, test"],
    ),
    ((), {"input": pd.DataFrame}, ["input: is the class DataFrame; give a path"]),
    ((5, {"sampling": 1}), {}, ["5: an override is a text", "{'sampling': 1}: an override is a text"]),
    (("hydra.run.dir=a",), {"run_dir": "b"}, ["hydra.run.dir, run_dir: both name the folder"]),
    ((), {"input": chat("hi")}, ["input: is one chat; give a list of chats"]),
    (
        (),
        {"input": ["hi", 5]},
        ["input: column prompt cannot be used (prompt 1 is int, neither text nor"],
    ),
    ((), {"input": [["hi"], "there"]}, ["(prompt 0 is a list of str, neither text nor a list of {role"]),
    ((), {"input": [{"prompt": "hi"}, "there"]}, ["(prompt 0 is dict, neither text nor a list of {role"]),
    ((), {"input": pd.DataFrame({"promt": ["hi"]})}, ["data.prompt_key=prompt: input has no such column"]),
    ((), {"input": pd.DataFrame({"prompt": [1]})}, ["data.prompt_key=prompt: the column holds int64"]),
    ((), {"n_samples": 4}, ["n_samples=4: no such key; write sampling.n_samples=4"]),
    ((), {"sampling": {"stop": object}}, ["sampling.stop=<class 'object'>: a config holds no type"]),
    (
        (),
        {"postprocess": {"score": {"scorer": len}}},
        [
            "postprocess.score.scorer=<built-in function len>: a config holds no function; put it in a file beside the "
            'program, scorers.py, and give its name, "scorers:len"'
        ],
    ),
    (("sampling.top_p=2",), {"input": []}, ["sampling.top_p=2.0: must be", "input: has no rows"]),
    (
        (),
        {"input": pd.DataFrame({"prompt": ["hi"], "odd": [object()], "mixed": [1j]})},
        ["input: column odd cannot be used", "input: column mixed cannot be used"],
    ),
    ((), {"input": pd.DataFrame([["hi", 1]], columns=["prompt", "prompt"])}, ["more than one column is called prompt"]),
    ((), {"input": pd.DataFrame({"prompt": ["hi"], "responses": [1]})}, ["column responses is a reserved"]),
]


@pytest.mark.parametrize(("overrides", "given", "lines"), MISTAKES, ids=[lines[0] for _, _, lines in MISTAKES])
def test_mistakes_are_the_commands_all_at_once_and_leave_nothing(
    overrides: tuple[str, ...], given: dict[str, Any], lines: list[str], here: Path
) -> None:
    with pytest.raises(rollout.UserError) as error:
        rollout.run(*ECHO, *overrides, **given)
    assert len(error.value.problems) == len(lines)
    assert all("\n" not in problem for problem in error.value.problems)
    assert all(any(line in problem for problem in error.value.problems) for line in lines)
    assert not [path for path in here.rglob("*") if path.is_file()]
    assert not [*here.glob("outputs/*/*")]


@pytest.mark.parametrize("word", ["input", "run_dir"])
def test_a_resume_has_the_input_and_the_folder_of_the_run(word: str, frame: pd.DataFrame, here: Path) -> None:
    with pytest.raises(rollout.UserError, match=r"input, run_dir: a run keeps its own; for others call rollout.run"):
        rollout.Run(here / "run").resume(**{word: frame})


def test_a_folder_that_holds_something_is_left_alone(frame: pd.DataFrame, here: Path) -> None:
    run = rollout.run(*QUICK, input=frame, run_dir="run")
    before = {path: path.read_bytes() for path in run.path.rglob("*.parquet")}
    with pytest.raises(rollout.UserError, match="holds a run already"):
        rollout.run(*QUICK, input=["other"], run_dir=run.path)
    (here / "mine").mkdir()
    (here / "mine" / INPUT).write_text("mine")
    with pytest.raises(rollout.UserError, match=r"mine: input.parquet already exists there"):
        rollout.run(*QUICK, input=["other"], run_dir="mine")
    assert {path: path.read_bytes() for path in run.path.rglob("*.parquet")} == before
    assert (here / "mine" / INPUT).read_text() == "mine"


def test_more_samples_are_added_to_a_run(frame: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    run = rollout.run(*QUICK, input=frame)
    few = run.dataframe()["responses"]
    assert run.resume("sampling.n_samples=4") == run
    assert [list(row[:2]) for row in run.dataframe()["responses"]] == [list(row) for row in few]
    assert len(run.flat()) == 12
    run.resume(sampling={"n_samples": 5})
    assert len(run.flat()) == 15
    capsys.readouterr()
    run.resume()
    assert capsys.readouterr().out.endswith(": nothing to do, the run is complete\n")
    with pytest.raises(rollout.UserError, match=r"sampling.seed=7: this run was made with 42"):
        run.resume("sampling.seed=7")
    with pytest.raises(rollout.UserError, match=r"sampling.n_samples=1: this run has 5"):
        run.resume("sampling.n_samples=1")


def test_what_post_processing_left_out_is_made_when_it_is_asked_for(frame: pd.DataFrame) -> None:
    run = rollout.run(*QUICK, "postprocess=none", input=frame)
    with pytest.raises(rollout.UserError, match=r"flat.parquet: is not there, the run has no step flatten"):
        run.flat()
    with pytest.raises(rollout.UserError, match=r"resume\(\"postprocess.steps=\[analyze\]\"\)"):
        _ = run.analysis
    with pytest.raises(rollout.UserError, match=r"resume\(\"postprocess=score\""):
        run.scores()
    run.resume("postprocess=score", "postprocess.score.scorer=exact_match", "postprocess.score.ground_truth=answer")
    assert list(run.scores()["score"]) == [0.0] * 6
    assert "mean score 0.000" in repr(run)
    assert re.search(r"\nScores\n +value .*\nmean +0\.000 ", repr(run.analysis))


def test_a_scorer_that_is_written_anew_scores_anew(frame: pd.DataFrame, here: Path, write_scorer: WriteScorer) -> None:
    """As in a notebook, in which it is tried out."""
    write_scorer("def first(response, ground_truth, row): return 0.25")
    asked = ("postprocess.steps=[score]", "postprocess.score.scorer=scorer_of_a_notebook:first")
    run = rollout.run(*QUICK, *asked, input=frame)
    assert set(run.scores()["score"]) == {0.25}
    write_scorer("def first(response, ground_truth, row): return 0.5")
    with pytest.raises(rollout.UserError, match="runs a Python function; if you trust it give trust=true"):
        rollout.open_run(run.path).resume()
    assert set(run.resume().scores()["score"]) == {0.5}
    write_scorer("def second(response, ground_truth, row): return 0.75")
    assert set(run.resume("postprocess.score.scorer=scorer_of_a_notebook:second").scores()["score"]) == {0.75}
    scores = (run.path / "scores.parquet").stat()
    run.resume()
    assert (run.path / "scores.parquet").stat() == scores


def test_a_run_folder_works_after_it_was_moved(frame: pd.DataFrame, here: Path) -> None:
    run = rollout.run(*QUICK, input=frame, run_dir="run")
    shutil.move(run.path, here / "moved, far=away")
    moved = rollout.open_run("moved, far=away")
    assert len(moved.resume("sampling.n_samples=3").flat()) == 9
    (here / "moved, far=away").rename(here / "again")
    resume(here / "again", ["sampling.n_samples=4"])
    found = verify(Path("again"), [])
    assert (found.matches, found.samples) == (12, 12)
    assert replay("again", "hydra.run.dir=replayed", cwd=here).returncode == 0
    resume(here / "replayed", ["sampling.n_samples=5"])


def test_a_copied_run_folder_goes_on_without_the_first(
    frame: pd.DataFrame, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = rollout.run(*QUICK, input=frame, run_dir="run")
    shutil.copytree(run.path, here / "copy")
    shutil.rmtree(run.path)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    resume(Path("../copy"), ["sampling.n_samples=3"])
    assert len(rollout.open_run("../copy").flat()) == 9


def test_an_open_run_is_one_of_the_commands_too(here: Path) -> None:
    write_input(here / "in.parquet", [{"prompt": "hi"}])
    for name in ("outputs/a", "outputs/sweep/0", "elsewhere"):
        assert run_command("data.path=in.parquet", *QUICK, f"hydra.run.dir={name}", cwd=here).returncode == 0
    assert rollout.open_run("outputs/a").dataframe()["row_id"].tolist() == [0]
    assert rollout.open_run(here / "elsewhere").path == here / "elsewhere"


def test_the_latest_run_is_the_one_that_started_last_under_outputs(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(rollout.UserError, match="there is no run under outputs"):
        rollout.open_run("latest")
    rollout.run(*QUICK, input=["hi"], run_dir="outputs/a")
    rollout.run(*QUICK, input=["hi"], run_dir="outputs/sweep/0")
    (here / "outputs/broken").mkdir()
    (here / "outputs/broken/run.json").write_text("{")
    capsys.readouterr()
    assert rollout.open_run("latest").path == here / "outputs/sweep/0"
    assert capsys.readouterr().out == "latest: outputs/sweep/0\n"
    rollout.run(*QUICK, input=["hi"], run_dir="latest")
    assert rollout.open_run("latest").path == here / "latest"


def test_a_folder_that_is_no_runs_is_refused(here: Path) -> None:
    (here / "empty").mkdir()
    for folder in ("empty", "nowhere"):
        with pytest.raises(rollout.UserError, match="not a run folder"):
            rollout.open_run(folder)
    assert not [*(here / "empty").iterdir()]


def test_a_folder_from_somebody_else_executes_nothing_without_trust(frame: pd.DataFrame) -> None:
    made = rollout.run(*QUICK, "hardware.env.LD_PRELOAD=x.so", input=frame)
    run = rollout.open_run(made.path)  # which tells nothing of who has made it
    with pytest.raises(rollout.UserError, match=r"hardware.env.LD_PRELOAD=x.so: comes from"):
        run.resume("sampling.n_samples=3")
    assert len(run.resume("sampling.n_samples=3", "trust=true").flat()) == 9


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags, self.links = set[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def test_a_notebook_shows_a_run_as_a_small_table_of_text(frame: pd.DataFrame) -> None:
    run = rollout.run(*QUICK, "model.path=<script>alert(1)</script>/x&y", input=frame, run_dir='a "b" <i>')
    values = json.loads((run.path / "run.json").read_text())
    values["config"]["engine"]["kind"] = "vllm"  # whose model's name is shown
    (run.path / "run.json").write_text(json.dumps(values))
    html = _Tags()
    html.feed(run._repr_html_())
    assert html.tags == {"table", "tr", "th", "td", "a"}
    assert html.links == ["a%20%22b%22%20%3Ci%3E/report.html"]
    text = re.sub("<[^>]*>", " ", run._repr_html_())
    assert "&lt;script&gt;alert(1)&lt;/script&gt;/x&amp;y" in text
    assert "done" in text
    assert "3 prompts x 2 samples" in text


def test_a_file_that_is_damaged_is_named_and_made_again(frame: pd.DataFrame) -> None:
    run = rollout.run(*QUICK, input=frame)
    for name, read in (("analysis.json", lambda: run.analysis), ("flat.parquet", run.flat)):
        (run.path / name).write_text("{")
        with pytest.raises(rollout.UserError, match=rf"{name}: cannot be read \(.*\); delete it"):
            read()
        assert "done" in repr(run)
        (run.path / name).unlink()
        run.resume()
        read()


def test_a_run_says_what_it_is_also_when_it_is_broken(frame: pd.DataFrame, here: Path) -> None:
    run = rollout.run(*QUICK, input=frame, run_dir="run")
    assert re.fullmatch(
        r"Run\(run: done, the echo engine, 3 prompts x 2 samples, [\d,]+ tokens, [\d,]+ tok/s\)", repr(run)
    )
    (run.path / "run.json").unlink()
    assert repr(run) == "Run(run: cannot be read)"
    assert rollout.Run(here / "nowhere")._repr_html_().startswith("<p>")
    assert "not a run folder" in run._repr_html_()


def test_columns_that_are_odd_come_back(here: Path) -> None:
    table = pa.table(
        {
            "prompt": ["hi"],
            "when": pa.array([10**15], pa.timestamp("s")),
            "kind": pa.array(["a"]).dictionary_encode(),
            "deep": [[{"a": [1]}]],
        }
    )
    run = rollout.run(*QUICK, input=table)
    assert pq.read_schema(run.path / INPUT).field("deep").type == table.schema.field("deep").type
    assert run.dataframe().loc[0, "kind"] == "a"

"""`~` is the home folder wherever a path is given, and what a command prints to be pasted works when it is pasted."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rollout.config import RunConfig
from rollout.files import as_argument, at_home, short, user_path
from rollout.terminal.text import replay_command, resume_command
from tests.commands import ECHO, run_command
from tests.conftest import chat, run_in, write_input
from tests.in_process import run_here

pytestmark = pytest.mark.long

QUICK = (*ECHO, "sampling.n_samples=1", "sampling.max_tokens=8")

names = st.text(st.sampled_from("ab1 .,=~-+#$@{}[]()'\"\\:;&|*?!<>%^`é中😀\t"), min_size=1, max_size=10).filter(
    lambda name: name.strip(".") != ""
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run that is complete."""
    folder = tmp_path_factory.mktemp("finished")
    source = write_input(folder / "input.parquet", [{"prompt": chat("hi")}])
    return run_in(folder / "run", f"data.path={source}", "sampling.n_samples=1", "sampling.max_tokens=4")


def pasted(line: str, *more: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """What comes of a printed command in a shell, in this process."""
    python, option, module, *words = shlex.split(line)
    assert (python, option) == ("python", "-m")
    return run_here(*words, *more, cwd=cwd, module=module)


@settings(max_examples=4, deadline=None)
@given(names)
@example("a b")
@example("~x")
@example("-run")
@example("trust=true")
@example("${x}")
@example("输入")
@example("a'b\"c\\")
@example("{a},[b]")
@example("1e3")
def test_a_printed_command_works_whatever_the_names_of_its_folders(
    tmp_path_factory: pytest.TempPathFactory, finished: Path, name: str
) -> None:
    here = tmp_path_factory.mktemp("here")
    run_dir = here / name
    shutil.copytree(finished, run_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        resume, replay = resume_command(run_dir), replay_command(run_dir, RunConfig())
    again = pasted(resume, cwd=here)
    assert (again.returncode, again.stderr) == (0, "")
    assert "nothing to do, the run is complete" in again.stdout
    assert pasted(replay, "dry_run=true", cwd=here).returncode == 0
    merged = run_here(*shlex.split(resume)[4:], "output=merged", cwd=here, module="rollout.merge")
    assert "it is no shard" in merged.stderr or merged.returncode == 0


@settings(max_examples=4, deadline=None)
@given(names)
@example("输入")
@example("~made")
@example("a=b, c")
@example("${x}")
@example("\\")
def test_the_printed_use_of_a_prepared_input_works(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    here = tmp_path_factory.mktemp("here")
    write_input(here / "q.parquet", [{"prompt": "hi"}])
    made = run_here("input=q.parquet", f"output={name}.parquet", cwd=here, module="rollout.prepare")
    assert made.returncode == 0, made.stderr
    (line,) = re.findall(r"^use it with   (.*)$", made.stdout, re.MULTILINE)
    plan = pasted(line, *ECHO, "dry_run=true", cwd=here)
    assert (plan.returncode, plan.stderr) == (0, "")
    assert "1 usable, 0 not" in plan.stdout


@pytest.mark.parametrize("name", ["a b", "it's", "~x", "-x", "$HOME", "${x}", "#1", "a;b", "中", "(a)", "a\\b", "*"])
def test_bash_understands_the_quotes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {as_argument(tmp_path / name)}"], capture_output=True, text=True, check=True
    ).stdout
    assert user_path(words.removesuffix("\0")).absolute() == tmp_path / name


def test_home_is_meant_by_a_tilde_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert at_home("~/a") == tmp_path / "home/a"
    assert user_path("~nobody-here/a") == tmp_path / "~nobody-here/a"
    assert user_path("a/~") == Path("a/~")
    assert short(tmp_path / "~x") == "./~x"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with an input, a file of a template and a model in it."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    write_input(folder / "q.parquet", [{"prompt": "hi"}])
    (folder / "t.jinja").write_text("{{ messages[0]['content'] }}")
    (folder / "m").mkdir()
    (folder / "m/config.json").write_text("{}")
    return folder


@pytest.mark.parametrize("form", ["{}", '"{}"'])
@pytest.mark.parametrize(
    "words",
    [
        ["data.path=~/q.parquet"],
        ["engine.kind=vllm", "model.path=~/m", "model.tokenizer=~/m", "model.chat_template=~/t.jinja"],
        ["postprocess.steps=[export]", "postprocess.export.file=~/x.jsonl"],
        ["hydra.run.dir=~/run"],
        ["--multirun", "hydra.sweep.dir=~/sweep", "sampling.seed=1,2"],
    ],
    ids=lambda words: words[-1],
)
def test_every_key_that_is_a_path_knows_the_home_folder(
    words: list[str], form: str, home: Path, tmp_path: Path
) -> None:
    typed = [re.sub("~.*", lambda match: form.format(match[0]), word) for word in words]
    kind = [] if "engine.kind=vllm" in words else ["engine.kind=echo"]
    result = run_here(
        *kind, "hardware=cpu", "tracking=disabled", "dry_run=true", "dry_run_tokens=false", *typed, cwd=tmp_path
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert not (tmp_path / "~").exists()


def test_a_run_in_the_home_folder_is_one_for_every_command(home: Path, tmp_path: Path) -> None:
    assert run_command(*QUICK, 'hydra.run.dir="~/run"', "data.path=~/q.parquet", cwd=tmp_path).returncode == 0
    assert (home / "run/rollouts.parquet").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    resumed = run_here("~/run", cwd=tmp_path, module="rollout.resume")
    assert (resumed.returncode, resumed.stdout) == (0, "home/run: nothing to do, the run is complete\n")
    made = run_here(
        *("run_dir=~/run", "steps=[export]", "export.file=~/out.jsonl"), cwd=tmp_path, module="rollout.postprocess"
    )
    assert (made.returncode, made.stderr) == (0, "")
    of_file = ("input=~/run/rollouts.parquet", "output_dir=~/analysis", "steps=[analyze]")
    assert run_here(*of_file, cwd=tmp_path, module="rollout.postprocess").returncode == 0
    assert run_here("input=~/q.parquet", "output=~/i.parquet", cwd=tmp_path, module="rollout.prepare").returncode == 0
    assert {"out.jsonl", "analysis", "i.parquet"} <= {path.name for path in home.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_the_cure_for_a_used_folder_is_accepted(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "it's ~1")
    error = run_here(*QUICK, "hydra.run.dir=it's ~1", cwd=tmp_path).stderr
    (line,) = re.findall(r"continue it with `(.*)`", error)
    assert pasted(line, cwd=tmp_path).returncode == 0

"""Completion by the shell: what is offered for a word, and that a real bash inserts it as it must be typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rollout.cli.commands import COMMANDS
from rollout.cli.completion import candidates, read
from rollout.config import RunConfig
from rollout.config.keys import config_fields, keys_of
from rollout.config.presets import groups
from tests.commands import run_fresh
from tests.in_process import run_here


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: two inputs, one with a blank in its name, a run, and a folder of runs."""
    for name in ("input.parquet", "my file.jsonl", "a=b.csv", "数据.csv", "-x.csv", ".hidden"):
        (tmp_path / name).touch()
    for name in ("run", "runs/0"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(line: str) -> set[str]:
    typed = read(f"rollout {line}")
    return set(candidates(typed.words, typed.word))


FILES = {"input.parquet", "my file.jsonl", "a=b.csv", "数据.csv", "./-x.csv", "run/", "runs/"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("fla", {"flatten"}),
        ("sampling=", {f"sampling={name}" for name in ("default", "greedy", "high_temp", "structured", "thinking")}),
        ("hardware=d", {"hardware=debug", "hardware=dual_gpu"}),
        ("sampling.t", {"sampling.temperature=", "sampling.top_k=", "sampling.top_p="}),
        ("postprocess.s", {"postprocess.steps=", "postprocess.score."}),
        ("sampling.ex", {"sampling.extra."}),
        ("sampling.top_p=", {"sampling.top_p=0.95"}),
        ("hardware.enforce_eager=", {"hardware.enforce_eager=true", "hardware.enforce_eager=false"}),
        ("hardware.device=c", {"hardware.device=cuda", "hardware.device=cpu"}),
        ("postprocess.steps=[score,fl", {"postprocess.steps=[score,flatten"}),
        ("-m sampling=greedy,h", {"sampling=greedy,high_temp"}),
        ("data.path=", {f"data.path={path}" for path in FILES}),
        ("data.path=./in", {"data.path=./input.parquet"}),
        ("data.path=.h", {"data.path=.hidden"}),
        ("hydra.run.dir=r", {"hydra.run.dir=run/", "hydra.run.dir=runs/"}),
        ("tracking.project=", set()),
        ("--c", {"--cfg", "--config-dir"}),
        ("--cfg ", {"job", "hydra", "all"}),
        ("--config-dir ", {"run/", "runs/"}),
        ("resume ", {"latest", "run", "runs/"}),
        ("resume runs/", {"runs/0"}),
        ("resume run sampling.n", {"sampling.n_samples="}),
        ("merge runs/ r", {"run/", "runs/"}),
        ("flatten in", {"input.parquet", "input="}),
        ("flatten l", {"latest"}),
        ("flatten input.parquet my", {"my file.jsonl"}),
        ("flatten run out.parquet x", set()),
        ("flatten input=m", {"input=my file.jsonl"}),
        ("filter run out.parquet drop_", {"drop_errors=", "drop_duplicates="}),
        ("filter run out.parquet drop_errors=false drop_", {"drop_duplicates="}),
        ("export run out.csv format=p", {"format=preference", "format=prompts"}),
        ("help sampl", {"sampling", "sampling."}),
        ("help sampling.top_p", {"sampling.top_p"}),
        ("test sampling.n", {"sampling.n_samples="}),
        ("nonsense sampling=g", {"sampling=greedy"}),
    ],
)
def test_what_is_offered(line: str, expected: set[str]) -> None:
    assert offered(line) == expected


def test_files_and_keys_are_offered_beside_each_other() -> None:
    keys = {"input=", "output=", "overwrite=", "unfinished=", "prompt_key=", "score_key="}
    assert offered("flatten ") == FILES | {"latest"} | keys


def test_the_first_word_may_be_a_command_a_group_or_a_key() -> None:
    assert {command.name for command in COMMANDS} | {f"{group.name}=" for group in groups()} <= offered("")
    assert {f"{name.partition('.')[0]}." for name, _ in config_fields() if "." in name} <= offered("")


def test_every_preset_and_every_key_of_runs_and_commands_can_be_reached() -> None:
    for group in groups():
        assert offered(f"{group.name}=") == {f"{group.name}={preset.name}" for preset in group.presets}
    for key, _ in config_fields():
        assert {f"{key}=", f"{key}."} & offered(key)
    for command in COMMANDS:
        for name in [] if command.keys in (None, RunConfig) else [key.name for key in keys_of(command.keys)]:
            assert f"{name}=" in offered(f"{command.name} a b {name}")


@pytest.mark.parametrize(
    ("line", "words", "word", "kept"),
    [
        ("rollout a", [], "a", 0),
        ("rollout a ", ["a"], "", 0),
        ("/x/bin/rollout flatten a=b/c", ["flatten"], "a=b/c", 2),
        ("CUDA_VISIBLE_DEVICES=0 rollout 'a b' c\\ d", ["a b"], "c d", 0),
        ("rollout data.path='my f", [], "data.path=my f", 10),
        ("rollout 'data.path=my f", [], "data.path=my f", 0),
        ('rollout x="a b"/c', [], "x=a b/c", 2),
        ("rollout a\\=b", [], "a=b", 0),
        ("rollout 数据.path=数", [], "数据.path=数", 8),
    ],
)
def test_a_line_is_read_as_the_shell_reads_it(line: str, words: list[str], word: str, kept: int) -> None:
    typed = read(line, breaks="=:><|;&(")
    assert (typed.words, typed.word, typed.kept) == (words, word, kept)


ASK = """
eval "$(rollout -sc install=bash)"
for COMP_LINE in "$@"; do
    COMP_POINT=${#COMP_LINE} COMPREPLY=()
    _rollout_completion rollout
    printf '%s|' "${COMPREPLY[@]}"
    echo
done
complete -p rollout
eval "$(rollout -sc uninstall=bash)"
complete -p rollout || declare -F _rollout_completion || echo forgotten
"""


def test_a_real_bash_inserts_what_must_be_typed() -> None:
    lines = {
        "rollout fla": "flatten |",
        "rollout sampling=gr": "greedy |",
        "rollout sampling.temp": "sampling.temperature=|",
        "rollout data.path=my": "my\\ file.jsonl |",
        "rollout data.path='my": "my file.jsonl|",
        "rollout 'data.path=my": "data.path=my file.jsonl|",
        "rollout flatten 数": "数据.csv |",
        "rollout flatten run": "run/|runs/|",
        "rollout resume runs/": "runs/0 |",
        "rollout flatten run out.parquet over": "overwrite=|",
    }
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    bash = ["bash", "--norc", "-c", ASK, "bash", *lines]
    done = subprocess.run(bash, env=environment, capture_output=True, text=True, check=True, timeout=60)
    *shown, registered, forgotten = done.stdout.splitlines()
    assert dict(zip(lines, shown, strict=True)) == lines
    assert registered == "complete -o nospace -F _rollout_completion rollout"
    assert forgotten == "forgotten"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_can_be_told_and_untold(shell: str, folder: Path) -> None:
    for action in ("install", "uninstall"):
        result = run_here("-sc", f"{action}={shell}", cwd=folder)
        assert (result.returncode, result.stderr) == (0, "")
        assert "_rollout_completion" in result.stdout


@pytest.mark.parametrize("words", [["install=nu"], ["install"], [], ["install=bash", "x"], ["remove=bash"]])
def test_another_shell_is_one_line(words: list[str], folder: Path) -> None:
    result = run_here("-sc", *words, cwd=folder)
    assert result.returncode == 1
    cure = "write -sc install=SHELL or -sc uninstall=SHELL; SHELL is bash, zsh or fish"
    assert result.stderr == f"error: -sc {' '.join(words)}: {cure}\n"


def test_hydras_own_keys_are_completed_by_hydra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "rollout sampling.top_p=1 hydra/launcher=ba")
    assert run_fresh("-sc", "query=zsh", cwd=folder).stdout == "hydra/launcher=basic\n"


def test_asking_imports_nothing_that_takes_time(folder: Path) -> None:
    child = (
        "import json, sys; from rollout.cli.main import main; sys.argv[1:] = ['-sc', 'query=bash']; main(); "
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    environment = os.environ | {"COMP_LINE": "rollout flatten run out.parquet "}
    done = subprocess.run([sys.executable, "-c", child], env=environment, capture_output=True, text=True, check=True)
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert not imported & {"hydra", "omegaconf", "antlr4", "pyarrow", "numpy", "rich", "pandas", "wandb", "torch"}

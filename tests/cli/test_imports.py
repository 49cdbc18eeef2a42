"""What takes seconds to import is imported when it is needed, and by no command that can do without."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rollout.cli.commands import COMMANDS
from tests.commands import ECHO
from tests.conftest import chat, run_in, write_input

pytestmark = pytest.mark.long

HEAVY = {"vllm", "torch", "transformers", "wandb", "pandas", "matplotlib", "ray"}
RUN = (*ECHO, "data.path=input.parquet", "sampling.n_samples=2")
SHARDS = ("data.num_shards=2", "data.shard_index=0,1", "hydra.sweep.dir=shards", "postprocess=none")
WORDS: dict[str, list[str]] = {
    "prepare": ["questions.csv", "input.parquet", "template={question}"],
    "test": [*RUN, "hydra.run.dir=test"],
    "demo": [*RUN, "hydra.run.dir=run", "data.drop_columns=[level]"],
    "analyze": ["run"],
    "score": ["run", "scored.parquet", "scorer=exact_match", "ground_truth=answer"],
    "filter": ["scored.parquet", "kept.jsonl", "min_length=1"],
    "flatten": ["run", "flat.csv"],
    "export": ["run", "chats.jsonl", "format=messages"],
    "resume": ["run", "sampling.n_samples=3"],
    "watch": ["run", "once=true"],
    "runs": ["."],
    "replay": ["run", "hydra.run.dir=again"],
    "verify": ["run", "rows=2"],
    "compare": ["run", "again", "output=compared"],
    "merge": ["shards", "merged"],
    "help": ["sampling"],
}
"""What to type behind each command, in an order in which each finds what it needs."""

CHILD = """
import json, sys
from rollout.cli.main import main
found = {}
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    assert code == (1 if "sampling.n_samples=0" in words or "sampling=none_such" in words else 0), (words, code)
    found[" ".join(words)[:30]] = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps(found))
"""


def imported_by(*commands: list[str], cwd: Path) -> dict[str, set[str]]:
    """The packages that one process has imported after each of the commands that it does."""
    child = [sys.executable, "-c", CHILD, json.dumps(commands)]
    done = subprocess.run(child, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return {words: set(names) for words, names in json.loads(done.stdout.splitlines()[-1]).items()}


@pytest.mark.long
def test_no_command_imports_what_it_does_not_need(tmp_path: Path) -> None:
    (tmp_path / "questions.csv").write_text("question,answer,level\nWhat?,4,a\nWhy?,5,b\n")
    assert set(WORDS) == {command.name for command in COMMANDS}
    commands = [[name, *words] for name, words in WORDS.items()]
    sweep = ["-m", *RUN, *SHARDS]
    commands.insert([words[0] for words in commands].index("merge"), sweep)
    found = imported_by(*commands, cwd=tmp_path)
    assert len(found) == len(commands)
    assert {words: names & HEAVY for words, names in found.items() if names & HEAVY} == {}


@pytest.mark.parametrize(
    "words",
    [
        ["--hydra-help"],
        ["--cfg", "job"],
        ["sampling=none_such"],
        ["data.path=input.parquet", "sampling.n_samples=0"],
        ["dry_run=true", "dry_run_tokens=false", "data.path=input.parquet", "hardware=cpu"],
    ],
)
def test_answers_that_need_no_model_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    write_input(tmp_path / "input.parquet", [{"prompt": chat("hello")}])
    (names,) = imported_by(words, cwd=tmp_path).values()
    assert "hydra" in names
    assert not names & (HEAVY | {"pebble"})


def test_commands_on_files_need_no_hydra(tmp_path: Path) -> None:
    write_input(tmp_path / "theirs.parquet", [{"prompt": "a", "response": "b"}, {"prompt": "a", "response": "c"}])
    run = run_in(tmp_path / "run", "data.limit=1", "sampling.n_samples=1")
    commands = [["analyze", "theirs.parquet"], ["filter", "theirs.parquet", "kept.parquet"]]
    commands += [["flatten", "kept.parquet", "flat.csv"], ["export", "kept.parquet", "kept.jsonl"]]
    commands += [["runs", "."], ["watch", str(run), "once=true"]]
    assert not set.union(*imported_by(*commands, cwd=tmp_path).values()) & (HEAVY | {"hydra", "pebble"})

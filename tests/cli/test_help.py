"""Help: everything there is, from the one home of each thing, at once and whatever else is in the command."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rollout
from rollout.cli.commands import COMMANDS
from rollout.cli.help import known_topics, text
from rollout.config import RunConfig
from rollout.config.keys import keys_of, sections
from rollout.config.presets import groups
from rollout.errors import UserError
from tests.commands import run_command
from tests.in_process import run_here

NAMES = [command.name for command in COMMANDS]
GROUPS = [group.name for group in groups()]


@pytest.fixture(autouse=True)
def _started_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["rollout"])


def flat(lines: str) -> str:
    """Without the breaks between lines."""
    return " ".join(lines.split())


def test_help_shows_every_command_with_its_example_and_every_group_with_its_presets() -> None:
    shown = text([])
    for command in COMMANDS:
        assert re.search(rf"^  {command.name} +{re.escape(command.meaning[:30])}", shown, re.MULTILINE)
        assert command.example in flat(shown).replace("\\ ", "")
    for group in groups():
        section = shown[shown.index(f"\n  {group.name}: ") :]
        names = re.findall(r"^    (\w+) ", section.partition("\n\n")[0], re.MULTILINE)
        assert names[: len(group.presets)] == [preset.name for preset in group.presets]
    assert all(part.meaning in flat(shown) for part in sections() if "." not in part.name)


def test_the_preset_of_a_run_that_names_none_comes_first_and_says_so() -> None:
    first = {group.name: group.presets[0].name for group in groups() if group.defaults}
    assert first == {
        **dict.fromkeys(("data", "model", "sampling", "adaptive", "postprocess"), "default"),
        "hardware": "single_gpu",
        "tracking": "offline",
    }
    assert "single_gpu One GPU that no other program uses. (default with a GPU)" in flat(text([]))


@pytest.mark.parametrize("preset", [preset for group in groups() for preset in group.presets], ids=lambda p: p.name)
def test_every_preset_says_in_a_line_what_it_is_for(preset: object) -> None:
    (first, *_) = preset.comment  # type: ignore[attr-defined]
    assert re.fullmatch(r".{10,90}[.?]", first)


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_a_group_shows_what_its_presets_change_and_every_key(group: str) -> None:
    shown = flat(text([group]))
    for key in keys_of(RunConfig):
        if key.name.startswith(f"{group}."):
            name = key.name.rpartition(".")[2]
            assert f" {name} {flat(key.explanation)} (default: {key.default})" in shown
    for preset in next(of.presets for of in groups() if of.name == group):
        assert all(f"{key}=" in shown for key in preset.values)


def test_help_all_has_every_key_of_a_run() -> None:
    shown = flat(text(["all"]))
    assert not [key.name for key in keys_of() if f"{flat(key.explanation)} (default: {key.default})" not in shown]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_of_a_command_is_what_its_option_shows(command: object, tmp_path: Path) -> None:
    name = command.name  # type: ignore[attr-defined]
    asked = run_here("help", name, cwd=tmp_path)
    assert (asked.returncode, asked.stderr) == (0, "")
    if name != "help":
        assert asked.stdout == run_here(name, "x", "a=b", "--help", cwd=tmp_path).stdout
        assert asked.stdout == run_here("-h", name, cwd=tmp_path).stdout
    kind = command.keys  # type: ignore[attr-defined]
    for key in [] if kind in (None, RunConfig) else keys_of(kind):
        default = "must be given" if key.is_required else f"default: {key.default}"
        assert f" {key.name} {flat(key.explanation)} ({default})" in flat(asked.stdout)


def test_words_that_stand_for_something_are_explained() -> None:
    for command in COMMANDS:
        if command.keys in (None, RunConfig) and command.name != "help":
            for word in re.findall(r"\b[A-Z]+\b", re.sub(r"\S+=\S+", "", command.arguments)):
                assert re.search(rf"^  {word}  ", text([command.name]), re.MULTILINE), (command.name, word)


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("sampling.top_p", "sampling.top_p=0.95 Sample from the likeliest tokens"),
        ("top_p", "sampling.top_p=0.95 Sample from the likeliest tokens"),
        ("top_p", "More than 0.0 and at most 1.0. Type: a number."),
        ("revision", "Type: text, or null."),
        ("score.scorer", "postprocess.score.scorer=null"),
        ("postprocess.score", "postprocess.score: The `score` step."),
        ("hardware.engine_kwargs.block_size", "Type: names and values, as hardware.engine_kwargs.NAME=VALUE."),
        ("tensor_parallel_size", "Given by the presets hardware=dual_gpu (2)."),
        ("limit", "experiment=quick_test (2)"),
        ("limit", "Commands with a key `limit` of their own: prepare."),
        ("template", "template=null, a key of the command prepare"),
        ("sampling=greedy", "greedy Always the likeliest token"),
        ("greedy", "greedy Always the likeliest token"),
        ("max_new_tokens", "sampling.max_tokens=2048"),
        ("path", "data.path=null"),
        ("path", "model.path=embedded:SmolLM2-135M-Instruct"),
        ("dry_run", "dry_run=false Check the command"),
    ],
)
def test_a_key_is_found_by_its_name_or_its_end_or_what_others_call_it(topic: str, expected: str) -> None:
    assert expected in flat(text([topic]))


def test_everything_that_is_offered_as_a_topic_is_one() -> None:
    assert all(text([topic]) for topic in known_topics())


@pytest.mark.parametrize(
    ("topic", "line"),
    [
        ("samplin", "help samplin: no such command, group or key, did you mean sampling?"),
        ("prepar", "help prepar: no such command, group or key, did you mean prepare?"),
        ("sampling.topp", "help sampling.topp: no such command, group or key, did you mean sampling.top_p"),
        ("xyzzy", "help xyzzy: no such command, group or key, see `"),
    ],
)
def test_an_unknown_topic_is_one_line(topic: str, line: str, tmp_path: Path) -> None:
    result = run_here("help", topic, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {line}")
    assert result.stderr.count("\n") == 1
    with pytest.raises(UserError):
        text(["sampling", topic])


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["-h"],
        ["help"],
        ["help", "--help"],
        ["sampling=hot", "--help"],
        ["n_samples=4", "-h"],
        ["-h", "nonsense"],
        ["--cfg", "job", "--help"],
        ["-m", "sampling.seed=1,2", "--help"],
        ["--help", "--hydra-help"],
    ],
)
def test_help_is_given_whatever_else_is_wrong(words: list[str], tmp_path: Path) -> None:
    result = run_here(*words, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == text([]) + "\n"


@pytest.mark.parametrize("words", [["sampling", "--help"], ["--help", "sampling"], ["help", "sampling", "-h"]])
def test_help_may_come_before_or_behind_what_it_is_about(words: list[str], tmp_path: Path) -> None:
    assert run_here(*words, cwd=tmp_path).stdout == text(["sampling"]) + "\n"


def test_hydras_own_options_are_still_explained_by_hydra(tmp_path: Path) -> None:
    shown = run_here("--hydra-help", cwd=tmp_path).stdout
    assert "--multirun" in shown


@pytest.mark.parametrize("width", [60, 80, 110])
def test_lines_fit_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for topics in ([], ["all"], NAMES, GROUPS):
        for line in text(topics).splitlines():
            assert len(line) <= width or " " not in line.strip().removesuffix(" \\"), line


def test_a_file_gets_lines_of_eighty_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert max(map(len, text(["sampling"]).splitlines())) in range(70, 81)


ASKED = [["--help"], ["help", "sampling"], ["help", "all"], *([name, "--help"] for name in NAMES), ["help", "top_p"]]

CHILD = """
import json, os, sys
from rollout.cli.main import main
for arguments in json.loads(sys.argv[1]):
    sys.argv[1:] = arguments
    main()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_help_imports_nothing_that_takes_time(tmp_path: Path) -> None:
    started = [sys.executable, "-c", CHILD, json.dumps(ASKED)]
    output = subprocess.run(started, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    imported = set(json.loads(output.splitlines()[-1]))
    heavy = {"hydra", "omegaconf", "antlr4", "pyarrow", "numpy", "rich", "vllm", "torch", "transformers", "wandb"}
    assert not imported & (heavy | {"pandas", "msgspec", "orjson", "pebble"})


def test_the_name_of_the_program_alone_shows_the_help_and_starts_nothing(tmp_path: Path) -> None:
    alone, asked = run_command(cwd=tmp_path), run_command("--help", cwd=tmp_path)
    assert (alone.returncode, alone.stderr) == (0, "")
    assert alone.stdout == asked.stdout
    assert not list(tmp_path.iterdir())


def test_the_version_is_ours(tmp_path: Path) -> None:
    assert run_command("--version", cwd=tmp_path).stdout == f"rollout {rollout.__version__}\n"


@pytest.mark.parametrize("word", ["run", "generate"])
def test_a_run_needs_no_word(word: str, tmp_path: Path) -> None:
    result = run_command(word, "data.path=input.parquet", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {word}: a run has no word of its own; leave it out")

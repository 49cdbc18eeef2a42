"""What the documentation says is so: commands, file tree, tables of presets and keys, links."""

import ast
import re
import runpy
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from rollout.cli.commands import COMMANDS, Command, named
from rollout.cli.compose import compose_run
from rollout.config import RunConfig
from rollout.config.arguments import parse
from rollout.config.check import check
from rollout.postprocess.__main__ import split
from rollout.store.run_record import EngineRecord, ReplicaRecord, RunRecord
from tests.documents import PAGES, README, ROOT, code_blocks, commands

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def typed(*languages: str) -> list[list[str]]:
    """The arguments of every command in the blocks of these languages of the documentation."""
    found = [words for page in PAGES for words in commands(page.read_text(encoding="utf-8"), *languages)]
    return [list(words) for words in dict.fromkeys(map(tuple, found))]


def runs() -> list[list[str]]:
    """The words of those that are runs, or begin or continue one, behind what says which."""
    found = []
    for words in typed("", "bash"):
        if (command := named(words[0])) is None:
            found.append(words)
        elif command.keys is RunConfig:
            found.append([*command.before, *words[1 + (not command.before) :]])
    assert len(found) >= 20
    return found


def commands_on_files() -> list[list[str]]:
    """Those of commands with keys of their own."""
    found = [words for words in typed("", "bash") if (command := named(words[0])) is not None and command.paths]
    assert len(found) >= 7
    return found


def first_job(arguments: list[str]) -> list[str]:
    """The overrides of the first job of a sweep."""
    return [re.sub(r"=range\(\d+\)$", "=0", word).split(",")[0] for word in arguments]


@pytest.mark.parametrize("arguments", runs(), ids=" ".join)
def test_every_documented_command_composes_and_its_values_are_in_range(arguments: list[str]) -> None:
    overrides = [word for word in arguments if "=" in word and not word.startswith("-")]
    job = first_job(overrides) if "-m" in arguments else overrides
    problems = [line for line in check(compose_run(*job)) if "device=cpu runs one process" not in line]
    assert not problems


def understood(name: str, *words: str) -> None:
    """Read the words of a command on files. Raises UserError for a mistake in them."""
    command = named(name)
    assert command is not None
    assert command.keys is not None
    parse(command.keys, list(words), paths=command.paths)


@pytest.mark.parametrize("words", commands_on_files(), ids=" ".join)
def test_every_documented_command_on_files_has_the_keys_that_there_are(words: list[str]) -> None:
    understood(*words)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_the_example_of_a_command_is_one(command: Command) -> None:
    name, *words = shlex.split(command.example)
    assert name == command.name
    if command.paths:
        understood(name, *words)


def tree(page: str) -> set[str]:
    """The paths of a page's annotated file tree."""
    (block,) = [block for block in code_blocks(page) if "rollout/\n├── " in block]
    paths, folders = set[str](), dict[int, str]()
    for line in block.splitlines():
        depth = len(re.match(r"[│├└─ ]*", line)[0]) // 4  # type: ignore[index]
        for name in re.sub(r"^[│├└─ ]*", "", line).split("  ")[0].split():
            path = "".join(folders[level] for level in range(depth)) + name
            paths.add(path)
            if name.endswith("/"):
                folders[depth] = name
    return paths


ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [CONTRIBUTING, ARCHITECTURE], ids=["CONTRIBUTING", "architecture"])
def test_the_file_trees_list_what_is_there(page: str) -> None:
    assert not {path for path in tree(page) if not (ROOT / path).exists()}


def test_the_file_trees_leave_nothing_out() -> None:
    modules = {path for path in (ROOT / "rollout").rglob("*.py") if path.name != "__init__.py"}
    packages = {f"{path.parent.relative_to(ROOT)}/" for path in (ROOT / "rollout").rglob("__init__.py")}
    pages = {path for path in (ROOT / "docs").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert not packages - tree(CONTRIBUTING)
    assert not {str(path.relative_to(ROOT)) for path in pages} - tree(CONTRIBUTING)
    assert not {str(path.relative_to(ROOT)) for path in modules} - tree(ARCHITECTURE)


def test_the_shorter_file_tree_fits_on_a_screen() -> None:
    (block,) = [block for block in code_blocks(CONTRIBUTING) if "rollout/\n├── " in block]
    assert len(block.splitlines()) <= 50


def test_the_readme_leads_to_the_pages_for_beginners_on_its_first_screen() -> None:
    first_screen = "\n".join(README.splitlines()[:20])
    for name in ("quickstart.md", "quick-reference.md", "troubleshooting.md"):
        assert f"(docs/{name})" in first_screen
    for page in CHINESE:
        assert f"(docs/zh/{page.name})" in first_screen


def test_the_table_of_presets_is_the_folder_conf() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", README.split("| group | presets", 1)[1], re.MULTILINE)
    documented = {group: set(re.findall(r"`(\w+)`", cell)) for group, cell in rows}
    on_disk = {
        folder.name: {path.stem for path in folder.glob("*.yaml")}
        for folder in (ROOT / "conf").iterdir()
        if folder.is_dir()
    }
    assert documented == on_disk


@pytest.mark.parametrize(("name", "function"), [("configuration.md", "configuration"), ("template.yaml", "template")])
def test_the_pages_of_keys_are_what_the_config_says(name: str, function: str) -> None:
    generated = runpy.run_path(str(ROOT / "docs" / "generate.py"))[function]()
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == generated, "run `make docs`"


def anchors(page: Path) -> set[str]:
    """What can stand behind the # of a link to this page: its headings, as GitHub writes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8"))
    assert not [path for path, _ in links if not (page.parent / path).exists()]
    places = [(page.parent / path if path else page, anchor) for path, anchor in links if anchor]
    assert not [(target.name, anchor) for target, anchor in places if anchor not in anchors(target)]


def as_written(text: str) -> Iterator[list[str]]:
    """The words of every command of a page, with their quotes."""
    blocks = [*code_blocks(text), *code_blocks(text, "bash")]
    lines = [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", "").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", text)
    for line in lines:
        if re.match(r"(python -m )?rollout[. ]", line):
            yield shlex.split(line.partition("  #")[0], posix=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_square_brackets_of_a_command_are_quoted_as_zsh_needs_them(page: Path) -> None:
    words = [word for words in as_written(page.read_text(encoding="utf-8")) for word in words]
    assert not [word for word in words if "[" in word and not word.startswith(("'", '"'))]


CHINESE = sorted((ROOT / "docs/zh").glob("*.md"))


def prose(page: str) -> str:
    """Sentences and tables."""
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def hard_facts(page: str) -> tuple[object, ...]:
    """What a translation leaves as it is: commands, outputs, headings by their level, names in code, numbers."""
    text = re.sub(r"\(http[^)]+\)", "", prose(page))
    levels = re.findall(r"^#+ ", text, re.MULTILINE)
    numbers = Counter(re.findall(r"\d[\d,.]*\d|\d", text))
    code = [block if ">>>" in block else ast.dump(ast.parse(block)) for block in code_blocks(page, "python")]
    names = set(re.findall(r"`[^`\n]+`", text))
    return commands(page, "", "bash"), code_blocks(page), code, levels, names, numbers


EVERY_DAY = {
    *("quickstart", "quick-reference", "adaptive", "compare", "post-processing"),
    *("training", "python", "tracking", "troubleshooting", "run-directory", "scaling"),
}


def test_there_are_chinese_pages_of_what_is_used_every_day() -> None:
    assert {page.stem for page in CHINESE} >= EVERY_DAY


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.stem)
def test_a_chinese_page_says_what_the_english_one_does(page: Path) -> None:
    chinese, english = page.read_text(encoding="utf-8"), (ROOT / "docs" / page.name).read_text(encoding="utf-8")
    for there, here in zip(hard_facts(english), hard_facts(chinese), strict=True):
        assert here == there
    assert f"[English](../{page.name})" in chinese
    assert f"[中文](zh/{page.name})" in english


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"^make ([\w-]+)", README, re.MULTILINE)) <= targets


def test_the_readme_is_filled_in_and_shows_its_first_command_early() -> None:
    assert "@@" not in README
    assert any(line.startswith("make demo") for line in README.splitlines()[:12])


def postprocess_commands() -> list[list[str]]:
    """The arguments of every `python -m rollout.postprocess` command in the documentation."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in [*code_blocks(text), *code_blocks(text, "bash")]:
            lines = [line.split("  #")[0].removeprefix("$ ").rstrip("\\") for line in block.splitlines()]
            found += [shlex.split(line)[3:] for line in lines if line.startswith("python -m rollout.postprocess ")]
    assert len(found) >= 5
    return found


@pytest.mark.parametrize("arguments", postprocess_commands(), ids=" ".join)
def test_every_documented_command_of_the_second_stage_composes(arguments: list[str]) -> None:
    own, overrides = split(arguments)
    assert own.keys() <= {"run_dir", "input", "output_dir"}
    assert not list(check(compose_run(*overrides)))


def messages_of(page: str) -> list[str]:
    """What a table of symptoms quotes of our messages: `...` stands for what varies."""
    symptoms = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    return [re.split("`", symptom)[1] for symptom in symptoms]


def test_every_message_of_the_page_of_troubles_is_one_that_we_write() -> None:
    texts = [re.sub(r'"\s*\n\s*f?"', "", path.read_text("utf-8")) for path in (ROOT / "rollout").rglob("*.py")]
    source = "\n".join(texts)
    quoted = messages_of((ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"))
    assert len(quoted) > 30
    not_ours = {message for message in quoted if not all(part in source for part in re.split(r"\.{3}|[\d.]+", message))}
    assert not_ours == {"rollout: command not found"}


def test_the_table_of_run_json_has_every_key() -> None:
    table = (
        (ROOT / "docs/run-directory.md").read_text(encoding="utf-8").partition("## run.json\n")[2].partition("\n## ")[0]
    )
    keys = [field.name for record in (RunRecord, EngineRecord) for field in fields(record)]
    assert not [key for key in keys if f"`{key}`" not in table and f"`engine.{key}`" not in table]
    (of_replicas,) = [line for line in table.splitlines() if line.startswith("| `engine.replicas`")]
    assert not [field.name for field in fields(ReplicaRecord) if f"`{field.name}`" not in of_replicas]

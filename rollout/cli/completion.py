"""Completions of the word that is being typed: commands, groups, presets, keys, values, files and runs.

`eval "$(rollout -sc install=bash)"` makes the shell ask. Hydra, which takes a second, is asked only about its own keys.
"""

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import get_origin

from rollout.cli.commands import COMMANDS, Command, named
from rollout.cli.completion_scripts import INSTALL, UNINSTALL
from rollout.cli.help import known_topics
from rollout.cli.latest import NAME as LATEST
from rollout.config import RunConfig
from rollout.config.keys import Field, config_fields, required
from rollout.config.presets import groups
from rollout.errors import UserError
from rollout.files import at_home
from rollout.store.layout import MANIFEST

_OF_RUNS = ("--help", "--multirun", "--cfg", "--resolve", "--config-dir", "--info", "--hydra-help", "--version")
_OF_OPTIONS = {
    **dict.fromkeys(("--cfg", "-c"), ("job", "hydra", "all")),
    **dict.fromkeys(("--info", "-i"), ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")),
}
_FOLDER_OPTIONS = ("--config-dir", "-cd")
_PATHS = {
    *("path", "file", "folder", "input", "output", "output_dir", "run", "run_dir"),
    *("chat_template", "dropped", "lora", "tokenizer"),
}
"""The last parts of keys whose values are paths."""
_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")
_UNFINISHED = ("=", ".", "/")
"""What a candidate ends with that is not the whole word."""
_SPECIAL = re.compile(r"([^\w@%+=:,./~\[\]{}-])")


def complete(asked: list[str]) -> None:
    """Print the script of a shell, or the candidates for the command line in COMP_LINE up to COMP_POINT.

    Raises UserError for words that name neither.
    """
    action, _, shell = "".join(asked[:1]).partition("=")
    if len(asked) != 1 or action not in ("install", "uninstall", "query") or shell not in INSTALL:
        raise UserError(f"-sc {' '.join(asked)}: write -sc install=SHELL or -sc uninstall=SHELL; SHELL is {_shells()}")
    if action == "query":
        print("\n".join(query(shell)))
    else:
        print((INSTALL if action == "install" else UNINSTALL)[shell])


def _shells() -> str:
    *others, last = INSTALL
    return f"{', '.join(others)} or {last}"


def query(shell: str) -> list[str]:
    """The candidates as the script of `shell` takes them, from the environment that it sets."""
    line = os.environ.get("COMP_LINE", "")
    breaks = os.environ.get("ROLLOUT_WORDBREAKS", "")
    typed = read(line[: int(os.environ.get("COMP_POINT", len(line)))], breaks)
    found = sorted(set(candidates(typed.words, typed.word)))
    return [typed.as_typed(word) for word in found] if shell == "bash" and breaks else found


@dataclass(frozen=True)
class Typed:
    """A command line up to the cursor."""

    words: list[str]
    """Those before the one that is being typed, without quotes and without the program."""
    word: str
    """The one that is being typed, without quotes."""
    kept: int
    """How many characters of it the shell leaves as they are: for bash, a word begins anew behind an `=`."""
    quote: str
    """The quotation mark that is open."""

    def as_typed(self, candidate: str) -> str:
        """`candidate`, of which the characters that are kept are left out, as bash is to insert it."""
        text = candidate[self.kept :] if candidate.startswith(self.word[: self.kept]) else candidate
        if self.quote:
            return text  # bash closes the quotation
        is_in_list = re.search(r"=\[[^\]]*$", candidate) is not None
        return _SPECIAL.sub(r"\\\1", text) + " " * (not candidate.endswith(_UNFINISHED) and not is_in_list)


def read(line: str, breaks: str = "") -> Typed:
    """`line` in words, as a shell would read it; `breaks` are characters behind which the shell begins a word anew."""
    words, word, quote, kept, outside = list[str](), "", "", 0, 0
    is_begun, rest = False, iter(line)
    for character in rest:
        if character.isspace() and not quote:
            words += [word] * is_begun
            is_begun, word, kept = False, "", 0
            continue
        is_begun = True
        if character == quote:
            quote, kept = "", outside
        elif character in ("'", '"') and not quote:
            quote, kept, outside = character, len(word), kept
        elif character == "\\" and quote != "'":
            word += next(rest, "")
        else:
            word += character
            kept = len(word) if character in breaks and not quote else kept
    return Typed(_arguments(words), word, kept, quote)


def _arguments(words: list[str]) -> list[str]:
    """`words` without the program and what stands before it."""
    programs = [place for place, word in enumerate(words) if Path(word).name == "rollout"]
    return words[(programs[0] if programs else 0) + 1 :]


def candidates(words: list[str], word: str) -> Iterator[str]:
    """What `word` may become behind `words`. One that ends in `=`, `.` or `/` goes on."""
    command = named(words[0]) if words else None
    if command is not None:
        yield from _of_command(command, words[1:], word)
    else:
        if not words:
            yield from _beginning(word, (command.name for command in COMMANDS))
        yield from _of_run(words, word)


def _beginning(word: str, names: Iterable[str]) -> Iterator[str]:
    return (name for name in names if name.startswith(word))


# Commands


def _of_command(command: Command, words: list[str], word: str) -> Iterator[str]:
    if command.name == "help":
        yield from _parts(word, known_topics())
        return
    keys = {} if command.keys in (None, RunConfig) else {item.name: item for item in dataclasses.fields(command.keys)}
    name, equals, _ = word.partition("=")
    if equals and name in keys:
        yield from _values(word, Field(keys[name].default, keys[name].type, keys[name].metadata))
        return
    given = {word.partition("=")[0] for word in words}
    yield from _beginning(word, (f"{name}=" for name in keys if name not in given))
    yield from _of_place(_place(command, [word for word in words if word.partition("=")[0] not in keys]), word)
    if command.keys is RunConfig and (words or "RUN" not in command.arguments):
        yield from _of_run(words, word)


def _place(command: Command, bare: list[str]) -> str | None:
    """What the next word without a key is, in the words of the command's arguments; None where there is none left."""
    places = command.places
    if places[:1] == ["FOLDER"] and command.keys is None:  # as many of them as one likes
        return "FOLDER"
    if "MORE" in command.arguments:  # the same
        return "IN"
    return places[len(bare)] if len(bare) < len(places) else None


def _of_place(place: str | None, word: str) -> Iterator[str]:
    if place in ("IN", "RUN"):
        yield from _beginning(word, [LATEST])
    if place is not None:
        for path in paths(word, only_folders=place in ("RUN", "FOLDER")):
            is_run = place == "RUN" and path.endswith("/") and (at_home(path) / MANIFEST).exists()
            yield path.removesuffix("/") if is_run else path


# Runs


def _of_run(words: list[str], word: str) -> Iterator[str]:
    last = words[-1] if words else ""
    if last in _FOLDER_OPTIONS:
        yield from paths(word, only_folders=True)
    elif last in _OF_OPTIONS:
        yield from _beginning(word, _OF_OPTIONS[last])
    elif word.startswith("-"):
        yield from _beginning(word, _OF_RUNS)
    elif word.partition("=")[0] in _FOLDERS and "=" in word:
        yield from _values(word, Field("", str, {}))
    elif re.match(r"[+~]|hydra[./]", word) or {*_FOLDER_OPTIONS, "--config-path", "-cp"} & set(words):
        yield from _of_hydra(words, word)
    elif "=" in word:
        yield from _value_of_run(word)
    else:
        yield from _beginning(word, (f"{group.name}=" for group in groups()))
        yield from _parts(
            word, (f"{key}." if isinstance(field.value, dict) else f"{key}=" for key, field in config_fields())
        )
        yield from _beginning(word, ("hydra.", "hydra/")) if word else ()


def _value_of_run(word: str) -> Iterator[str]:
    key = word.partition("=")[0]
    presets = {group.name: [preset.name for preset in group.presets] for group in groups()}
    fields = dict(config_fields())
    if key in presets:
        head = word[: re.search("[^=,]*$", word).start()]  # type: ignore[union-attr]
        yield from _beginning(word, (f"{head}{preset}" for preset in presets[key]))
    elif key in fields:
        yield from _values(word, fields[key])


def _of_hydra(words: list[str], word: str) -> Iterator[str]:
    """What Hydra has for its own keys and for presets in a folder of the user's."""
    from rollout.cli.launch import run

    said = StringIO()
    os.environ["COMP_LINE"] = " ".join(["rollout", *words, word])
    with redirect_stdout(said):
        run(["-sc", "query=bash"])
    yield from said.getvalue().split()


# Words


def _values(word: str, field: Field) -> Iterator[str]:
    """`word`, a key with the beginning of a value, with the values that it may have."""
    key, _, text = word.partition("=")
    kind, limits = required(field.type), field.limits
    if "choices" in limits:
        head = word[: re.search(r"[^=,\[]*$", word).start()]  # type: ignore[union-attr]
        head += "[" * (get_origin(kind) is list and not text)
        yield from _beginning(word, (f"{head}{choice}" for choice in limits["choices"]))
    elif kind is bool:
        yield from _beginning(word, (f"{key}=true", f"{key}=false"))
    elif key.rpartition(".")[2] in _PATHS or key in _FOLDERS or re.match(r"\.{0,2}/|~", text):
        yield from (f"{key}={path}" for path in paths(text, only_folders=key in _FOLDERS))
    elif not text and kind in (int, float) and isinstance(field.value, int | float):
        yield f"{word}{field.value}"


def _parts(word: str, names: Iterable[str]) -> Iterator[str]:
    """Of dotted names those that begin with `word`, up to the next dot: their number is large."""
    for name in _beginning(word, names):
        dot = name.find(".", len(word))
        yield name if dot < 0 else name[: dot + 1]


def paths(text: str, only_folders: bool = False) -> Iterator[str]:
    """The paths that begin with `text`, folders with a slash behind. Hidden ones only where `text` asks for them."""
    folder, slash, beginning = text.rpartition("/")
    try:
        entries = list(os.scandir(at_home(folder + slash) if slash else "."))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(beginning) and (beginning.startswith(".") or not entry.name.startswith(".")):
            is_folder = entry.is_dir()
            if is_folder or not only_folders:
                is_odd = not slash and entry.name.startswith(("-", "~"))
                yield f"{'./' * is_odd}{folder}{slash}{entry.name}{'/' * is_folder}"

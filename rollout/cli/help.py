"""`python -m rollout help`: what there is, from the table of commands, the schema's own words and the files in `conf/`.

Neither Hydra nor OmegaConf nor Arrow is imported here: help must answer at once.
"""

import ast
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import get_origin

import rollout
from rollout.cli.arguments import ASKS
from rollout.cli.commands import COMMANDS, Command, named
from rollout.config import RunConfig
from rollout.config.keys import Key, Section, keys_of, required, sections, shown
from rollout.config.presets import Group, Preset, groups
from rollout.config.template import template
from rollout.errors import UserError, did_you_mean
from rollout.terminal.columns import columns, longest, separated, unbroken, wrapped

ALL = "all"
"""The topic of every key there is."""
CONFIG = "config"
"""The topic of a file of values to begin with."""

_SHORT = 16  # characters of a default that stays on one line
_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list, as [a,b]"}
_WORDS = {
    "OUT": "the folder to write to",
    "RUN": "the folder of a run, or `latest`: the run under outputs/ that started last. What the config of somebody "
    "else's run would execute, or connect to, needs trust=true",
    "FOLDER": "a folder that holds runs, such as that of a sweep",
    "overrides": "GROUP=PRESET and GROUP.KEY=VALUE, as for a run",
}
"""What stands for something in the arguments of commands."""
_USAGES = (
    ("[GROUP=PRESET ...] [GROUP.KEY=VALUE ...]", "a run"),
    ("-m [GROUP=PRESET,PRESET ...] [GROUP.KEY=VALUE,VALUE ...]", "a sweep: a run for every combination"),
    ("COMMAND ...", "what comes before a run and after it"),
)
_EXAMPLES = (
    ("experiment=quick_test", "does my set-up work?"),
    ("data.path=input.parquet model.path=Qwen/Qwen3-8B sampling.n_samples=16", "my prompts, my model"),
    ("sampling=high_temp hardware=dual_gpu model.path=/models/x data.path=input.parquet", "with presets"),
    ("-m sampling.temperature=0.3,0.7,1.0 sampling.n_samples=4,16", "a sweep of six jobs"),
    ("dry_run=true data.path=input.parquet", "check what needs no model, run nothing"),
    ("--cfg job", "every key and the value it would have"),
)
_MORE = (
    ("help sampling", "a group: its presets, and every key with its default"),
    ("help sampling.top_p", "a key; `help top_p` too"),
    (f"help {ALL}", "every key of every group"),
    (f"help {CONFIG}", "a preset of your own to begin with: a file with every key as a comment"),
    ("--hydra-help", "the options of Hydra, which reads the command line"),
    ('eval "$(rollout -sc install=bash)"', "makes the shell complete commands, keys and files; also zsh and fish"),
    ("--version", "the version"),
    ("import rollout", 'in Python: rollout.run("sampling.n_samples=4", input=...), see help(rollout.run)'),
)


def topics_in(arguments: list[str]) -> list[str]:
    """What the `arguments` of `python -m rollout` want explained, with the command `help` or an option that asks."""
    if not arguments:
        return []
    if arguments[0] == "help":
        return [word for word in arguments[1:] if word not in ASKS]
    if (command := named(arguments[0])) is not None:
        return [command.name]
    return [word for word in arguments if "=" not in word and next(_explained(word), None) is not None]


def show(topics: list[str]) -> None:
    """Print what there is to say of them. Raises UserError for one that there is not."""
    print(text(topics))


def text(topics: list[str]) -> str:
    """What there is to say of the `topics`, of the whole program where there are none. Raises UserError."""
    return "\n\n\n".join(map(_topic, topics)) if topics else "\n".join(_overview())


def known_topics() -> Iterator[str]:
    """Every topic: commands, groups, sections and keys."""
    yield from (command.name for command in COMMANDS)
    yield from (group.name for group in groups())
    yield from (section.name for section in sections())
    yield from (key.name for key in keys_of())
    yield from (ALL, CONFIG)


def _topic(word: str) -> str:
    if lines := list(_explained(word)):
        return "\n".join(lines)
    from rollout.cli.synonyms import meant  # which imports Hydra's grammar

    if (cure := meant(word, "1")) is not None:
        key, _, preset = cure.partition("=")
        return "\n".join(_explained(key if preset == "1" else cure))
    short = {name.rpartition(".")[2] for name in known_topics()}
    raise UserError(f"help {word}: no such command, group or key, {_nearest(word, short)}")


def _nearest(word: str, short: set[str]) -> str:
    near = did_you_mean(word, set(known_topics()) if "." in word else short)
    return near if near.startswith("did") else f"see `{program()} help`"


def _explained(word: str) -> Iterator[str]:
    """The lines about a topic; none where there is no such topic."""
    if word == ALL:
        yield from _everything()
    elif word == CONFIG:
        yield from template().splitlines()
    elif (command := named(word)) is not None:
        yield from _of_command(command)
    elif word.partition("=")[0] in {group.name for group in groups()} | {section.name for section in sections()}:
        yield from _of_group(word.partition("=")[0])
    elif keys := _keys_named(word):
        yield from separated(_of_key(key) for key in keys)
    else:
        yield from _of_preset_or_command_key(word)


def _of_preset_or_command_key(word: str) -> Iterator[str]:
    found = [group.name for group in groups() if word in (preset.name for preset in group.presets)]
    if found:
        yield from separated(_of_group(name) for name in found)
        return
    own = [(command, key) for command in COMMANDS for key in _own_keys(command) if key.name == word]
    yield from separated(_of_command_key(command, key) for command, key in own)


# The whole program


def _overview() -> Iterator[str]:
    about = str(rollout.__doc__).partition("\n")[0]
    yield from wrapped(f"rollout {rollout.__version__}. {about}", indent=0)
    yield from ("", "Usage")
    for usage, meaning in _USAGES:
        yield from wrapped(f"{program()} {usage}", indent=2)
        yield f"      {meaning}"
    yield from ("", f"Commands ({program()} help COMMAND)")
    for command in COMMANDS:
        yield from columns([(command.name, command.meaning)], left=longest(command.name for command in COMMANDS))
        yield from _shell_line(command.example, indent=6)
    yield from ("", f"Groups and their presets ({program()} help GROUP)")
    for group in groups():
        yield from wrapped(f"{group.name}: {_meaning(group.name)}", indent=2)
        yield from columns([(preset.name, _summary(group, preset)) for preset in group.presets], indent=4)
    yield from ("", f"Other keys ({program()} help GROUP)")
    named_above = {group.name for group in groups()}
    others = [(section.name, section.meaning) for section in sections() if section.name not in named_above]
    single = [(key.name, _with_default(key)) for key in keys_of() if "." not in key.name]
    yield from columns([*((name, meaning) for name, meaning in others if "." not in name), *single])
    yield from ("", "Examples")
    for words, meaning in _EXAMPLES:
        yield f"  # {meaning}"
        yield from _shell_line(words, indent=2)
    yield from ("", f"More ({program()} ...)")
    yield from columns(_MORE)


def _meaning(group: str) -> str:
    """What a group of presets is for."""
    known = {section.name: section.meaning for section in sections()}
    return known.get(group, "Values of several groups at once, for a purpose.")


def _summary(group: Group, preset: Preset) -> str:
    return " ".join([preset.comment[0], *_marks(group, preset)])


def _marks(group: Group, preset: Preset) -> list[str]:
    return [unbroken(f"({group.defaults[preset.name]})")] if preset.name in group.defaults else []


def _everything() -> Iterator[str]:
    yield "Every key, as GROUP.KEY=VALUE, with its meaning and default"
    for section in sections():
        yield from ("", *wrapped(f"{section.name}: {section.meaning}", indent=0))
        yield from columns((key.name, _with_default(key)) for key in _keys_in(section))
    yield ""
    yield from columns((key.name, _with_default(key)) for key in keys_of() if "." not in key.name)


# One topic


def _of_command(command: Command) -> Iterator[str]:
    yield from wrapped(f"usage: {program()} {command.name} {command.arguments}", indent=0)
    yield from wrapped(f"{command.meaning[0].upper()}{command.meaning[1:]}.", indent=2)
    for paragraph in _docstring(command):
        yield from ("", *wrapped(paragraph, indent=2))
    if words := [(word, meaning) for word, meaning in _WORDS.items() if word in _placeholders(command)]:
        yield from ("", *columns(words))
    if command.keys is RunConfig:
        yield from ("", f"Keys: those of a run ({program()} help {ALL})")
    elif command.keys is not None:
        named = command.places if len(command.places) <= len(command.paths) else []  # else a key takes several
        places = ", ".join(f"{place} is {key}" for place, key in zip(named, command.paths, strict=False))
        yield from ("", "Keys, as KEY=VALUE" + (f" ({places})" if places else ""))
        yield from columns((key.name, _with_default(key)) for key in _own_keys(command))
    yield from ("", "Example", *_shell_line(command.example, indent=2))


def _placeholders(command: Command) -> set[str]:
    """The words of its arguments that stand for something, where no key of its own says it."""
    words = set("".join(c if c.isalnum() else " " for c in command.arguments).split())
    return words if command.keys in (None, RunConfig) else set()


def _docstring(command: Command) -> list[str]:
    """What the module of a command says of it behind its first paragraph, where it has one to itself; not imported."""
    module = command.function.partition(":")[0]
    if module.split(".")[1] != command.name or (spec := find_spec(module)) is None or spec.origin is None:
        return []
    paragraphs = (ast.get_docstring(ast.parse(Path(spec.origin).read_text("utf-8"))) or "").split("\n\n")
    return paragraphs[1:]


def _own_keys(command: Command) -> list[Key]:
    return [] if command.keys in (None, RunConfig) else list(keys_of(command.keys))


def _of_group(name: str) -> Iterator[str]:
    group = next((group for group in groups() if group.name == name), None)
    inside = [section for section in sections() if f"{section.name}.".startswith(f"{name}.")]
    yield from wrapped(f"{name}: {_meaning(name)}", indent=0)
    if group is not None:
        yield from ("", f"Presets, as {name}=PRESET")
        yield from columns([(preset.name, _at_length(group, preset)) for preset in group.presets])
    for section in inside:
        if keys := list(_keys_in(section)):
            yield from ("", f"Keys, as {section.name}.KEY=VALUE")
            yield from columns((key.name.rpartition(".")[2], _with_default(key)) for key in keys)


def _at_length(group: Group, preset: Preset) -> str:
    changes = ", ".join(f"{key}={shown(value)}" for key, value in preset.values.items())
    return " ".join([*preset.comment, *([f"Sets {changes}."] if changes else []), *_marks(group, preset)])


def _keys_in(section: Section) -> Iterator[Key]:
    return (key for key in keys_of() if key.name.rpartition(".")[0] == section.name)


def _keys_named(word: str) -> list[Key]:
    """The keys of a run that `word` is, or the end of, or that hold it as a name of the user's."""
    keys = list(keys_of())
    if found := [key for key in keys if f".{key.name}".endswith(f".{word}")]:
        return found
    return [key for key in keys if get_origin(key.field.type) is dict and word.startswith(f"{key.name}.")]


def _of_key(key: Key) -> Iterator[str]:
    yield f"{key.name}={key.default}"
    yield from wrapped(key.explanation, indent=2)
    yield f"  Type: {_type(key)}."
    if given := list(_given(key)):
        yield from wrapped(f"Given by the presets {', '.join(given)}.", indent=2)
    last = key.name.rpartition(".")[2]
    if others := [command.name for command in COMMANDS if last in (own.name for own in _own_keys(command))]:
        yield from wrapped(f"Commands with a key `{last}` of their own: {', '.join(others)}.", indent=2)


def _of_command_key(command: Command, key: Key) -> Iterator[str]:
    yield f"{key.name}={'...' if key.is_required else key.default}, a key of the command {command.name}"
    yield from wrapped(key.explanation, indent=2)
    yield f"  Type: {_type(key)}."


def _given(key: Key) -> Iterator[str]:
    """The presets that give `key` a value, with the value."""
    for group in groups():
        for preset in group.presets:
            values = preset.values
            for name in {key.name, key.name.removeprefix(f"{group.name}.")}:
                if name in values:
                    yield f"{group.name}={preset.name} ({shown(values[name])})"


def _type(key: Key) -> str:
    kind = required(key.field.type)
    words = _TYPES.get(get_origin(kind) or kind, f"names and values, as {key.name}.NAME=VALUE")
    return words if kind is key.field.type else f"{words}, or null"


def program() -> str:
    """How this program was started: the name to show before arguments."""
    return "rollout" if Path(sys.argv[0]).name == "rollout" else "python -m rollout"


def _shell_line(words: str, indent: int) -> list[str]:
    """A command as one types it, on as many lines as it takes."""
    first, *rest = wrapped(f"{program()} {words}", indent, room=2)
    lines = [first, *(f"    {line}" for line in rest)]
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def _with_default(key: Key) -> str:
    default = "(must be given)" if key.is_required else f"(default: {key.default})"
    return f"{key.explanation} {unbroken(default) if len(default) < _SHORT else default}"

"""The commands of `python -m rollout COMMAND`: what help and completion say of each, and the function that does it."""

import importlib
from dataclasses import dataclass
from typing import Any

from rollout.config import (
    AnalyzeCommand,
    CompareCommand,
    ExportCommand,
    FilterCommand,
    FlattenCommand,
    PrepareConfig,
    RunConfig,
    RunsCommand,
    ScoreCommand,
    WatchCommand,
)


@dataclass(frozen=True)
class Command:
    """One command, as `rollout NAME ARGUMENTS`."""

    name: str
    arguments: str
    """What comes behind the name, for help: words in capitals are the user's."""
    meaning: str
    """What it does, in one line."""
    example: str
    """What might be typed behind `rollout`."""
    function: str
    """`module:function`, called with the arguments. Imported only when the command is given."""
    before: tuple[str, ...] = ()
    """Words that stand before the arguments, as if they had been typed."""
    keys: type[Any] | None = None
    """The dataclass with its keys: RunConfig where it takes the overrides of a run, None where it has no key or few."""
    paths: tuple[str, ...] = ()
    """The keys of words that are given without a key, in their order."""

    @property
    def places(self) -> list[str]:
        """The words of `arguments` that stand for something of the user's, in their order."""
        words = (word.strip("[]") for word in self.arguments.split())
        return [word for word in words if word.isalpha() and word.isupper()]

    def run(self, arguments: list[str]) -> None:
        """Do it; exits with the code of the command."""
        module, _, function = self.function.partition(":")
        getattr(importlib.import_module(module), function)([*self.before, *arguments])


_BOTH = ("input", "output")

COMMANDS = (
    Command(
        "test",
        "[overrides]",
        "the smallest real run: a few prompts, to see that all is in place",
        "test",
        "rollout.cli.launch:run",
        before=("experiment=quick_test",),
        keys=RunConfig,
    ),
    Command(
        "demo",
        "[overrides]",
        "a small run to look at: 12 prompts, answered 4 times each by a real model",
        "demo",
        "rollout.cli.launch:run",
        before=("experiment=demo",),
        keys=RunConfig,
    ),
    Command(
        "prepare",
        "IN OUT [key=value ...]",
        "make an input file from data of any form",
        "prepare questions.csv input.parquet template='{question}'",
        "rollout.prepare.__main__:main",
        keys=PrepareConfig,
        paths=_BOTH,
    ),
    Command(
        "analyze",
        "IN [output=analysis.json] [key=value ...]",
        "show how long responses are, how they ended, how often they repeat, their scores",
        "analyze latest by=source",
        "rollout.cli.files:analyze",
        keys=AnalyzeCommand,
        paths=("input",),
    ),
    Command(
        "score",
        "IN OUT scorer=math ground_truth=answer [key=value ...]",
        "score every response against the right answer",
        "score latest scored.parquet scorer=numeric_match ground_truth=answer",
        "rollout.cli.files:score",
        keys=ScoreCommand,
        paths=_BOTH,
    ),
    Command(
        "filter",
        "IN OUT [min_length=100] [where=level=easy] [dropped=FILE] [key=value ...]",
        "keep the responses that satisfy every rule",
        "filter scored.parquet kept.parquet min_score=1 finish_reasons=stop",
        "rollout.cli.files:filter_",
        keys=FilterCommand,
        paths=_BOTH,
    ),
    Command(
        "flatten",
        "IN OUT [key=value ...]",
        "write one row per response",
        "flatten latest flat.parquet",
        "rollout.cli.files:flatten",
        keys=FlattenCommand,
        paths=_BOTH,
    ),
    Command(
        "export",
        "IN OUT [format=messages] [key=value ...]",
        "write responses, chats, pairs, prompts or tokens for others to read",
        "export kept.parquet sft.jsonl format=messages",
        "rollout.cli.files:export",
        keys=ExportCommand,
        paths=_BOTH,
    ),
    Command(
        "compare",
        "A B [MORE ...] [key=value ...]",
        "say which of several runs or files is better, row by row, and how sure that is",
        "compare outputs/base outputs/tuned",
        "rollout.cli.compare:command",
        keys=CompareCommand,
        paths=("inputs",),
    ),
    Command(
        "resume",
        "RUN [overrides]",
        "generate the missing samples of a run, or more samples",
        "resume latest",
        "rollout.resume:main",
        keys=RunConfig,
    ),
    Command(
        "watch",
        "RUN [once=true] [report=true] [key=value ...]",
        "look at a run or a sweep while it works, from anywhere and without touching it",
        "watch latest",
        "rollout.cli.watch:watch",
        keys=WatchCommand,
        paths=("run",),
    ),
    Command(
        "runs",
        "[FOLDER] [sort=score] [last=20] [status=done] [key=value ...]",
        "list runs and sweeps: when, how they ended, what differs, how fast, scores",
        "runs last=20",
        "rollout.cli.runs:runs",
        keys=RunsCommand,
        paths=("folder",),
    ),
    Command(
        "replay",
        "RUN [overrides]",
        "repeat a run in a new folder",
        "replay latest sampling.seed=1",
        "rollout.replay:main",
        keys=RunConfig,
    ),
    Command(
        "verify",
        "RUN [rows=32] [hardware=...]",
        "generate rows of a run again and compare every sample",
        "verify latest rows=8",
        "rollout.verify.__main__:main",
    ),
    Command(
        "merge",
        "FOLDER [FOLDER ...] OUT",
        "merge the results of a job array",
        "merge outputs/big outputs/big-merged",
        "rollout.merge.__main__:main",
    ),
    Command(
        "help",
        "[COMMAND | GROUP | KEY | all]",
        "explain a command, a group of keys, a key, or all of them",
        "help sampling",
        "rollout.cli.help:show",
    ),
)
"""In the order in which a user needs them."""

RUN_WORDS = {"run", "generate", "sample", "start"}
"""Commands of other programs for what this one does without a command."""


def named(name: str) -> Command | None:
    """The command of exactly this name."""
    return next((command for command in COMMANDS if command.name == name), None)

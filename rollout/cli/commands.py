"""The commands of `python -m rollout COMMAND`: what help and completion say of each, and the module that does it."""

import importlib
from dataclasses import dataclass


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
    module: str
    """Its `main(arguments)` does it. Imported only when the command is given."""

    def run(self, arguments: list[str]) -> None:
        """Do it; exits with the code of the command."""
        importlib.import_module(self.module).main(arguments)


COMMANDS = (
    Command(
        "prepare",
        "IN OUT [key=value ...]",
        "make an input file from data of any form",
        "prepare questions.csv input.parquet template='{question}'",
        "rollout.prepare.__main__",
    ),
    Command("resume", "RUN [overrides]", "generate what a run still owes", "resume latest", "rollout.resume"),
    Command("replay", "RUN [overrides]", "repeat a run in a new folder", "replay latest", "rollout.replay"),
    Command(
        "verify",
        "RUN [rows=32]",
        "generate rows of a run again and compare every sample",
        "verify latest rows=8",
        "rollout.verify.__main__",
    ),
    Command(
        "merge",
        "FOLDER OUT",
        "make one result of a job array's",
        "merge outputs/big outputs/big-merged",
        "rollout.merge.__main__",
    ),
)
"""In the order in which one meets them."""


def named(name: str) -> Command | None:
    """The command of exactly this name."""
    return next((command for command in COMMANDS if command.name == name), None)

"""`python -m rollout` and the console script: a command, or without one a run.

Hydra is not imported here: `--help` must answer at once.
"""

import sys
from pathlib import Path

from rollout.cli.commands import named
from rollout.cli.completion import OPTIONS
from rollout.cli.completion import main as complete
from rollout.cli.help import asked, show
from rollout.cli.one_line_errors import one_line_errors


def main() -> None:
    """The command. Exit code 0, 1 after a mistake or a failed run, 130 after Ctrl-C, 143 after SIGTERM."""
    with one_line_errors():
        folder = str(Path.cwd())  # as with `python -m`: a scorer of the user's is looked for there
        if folder not in sys.path:
            sys.path.insert(0, folder)
        arguments = sys.argv[1:]
        if (topics := asked(arguments)) is not None:
            show(topics)
        elif arguments and (command := named(arguments[0])) is not None:
            command.run(arguments[1:])
        elif OPTIONS & set(arguments):
            complete(arguments)
        else:
            from rollout.cli.launch import run

            run(arguments)

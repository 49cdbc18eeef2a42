"""`python -m rollout replay RUN_DIR [overrides] [-m]`: a new run from the saved, fully resolved config of another.

The new run has a folder of its own, `outputs/...` unless `hydra.run.dir` says otherwise, and run.json names the run it
repeats. Overrides are those of `python -m rollout`: `group=preset` replaces a whole group of the saved config,
`group.key=value` changes one value, `-m` sweeps. Where the input, the model's files or the versions differ from what
was recorded, a warning names both.
"""

import sys

from rollout.cli.arguments import run_folder, show_help
from rollout.cli.help import text
from rollout.cli.launch import launch
from rollout.cli.one_line_errors import one_line_errors
from rollout.config import trust


def main(arguments: list[str]) -> None:
    """The command. Exit codes as of `python -m rollout`."""
    with one_line_errors():
        show_help(arguments, lambda: text(["replay"]))
        trusted, overrides = trust.asked(arguments[1:])
        launch(overrides, run_folder(arguments[0]), trusted)


if __name__ == "__main__":
    main(sys.argv[1:])

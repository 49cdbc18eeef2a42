"""`python -m rollout.replay RUN_DIR [overrides] [-m]`: a new run from the saved, fully resolved config of another.

The new run has a folder of its own, `outputs/...` unless `hydra.run.dir` says otherwise, and run.json names the run it
repeats. Overrides are those of `python -m rollout`: `group=preset` replaces a whole group of the saved config,
`group.key=value` changes one value, `-m` sweeps. Where the input, the model's files or the versions differ from what
was recorded, a warning names both.
"""

import sys

from rollout.cli.main import launch, one_line_errors, run_folder, show_help
from rollout.config import trust

USAGE = "usage: python -m rollout.replay RUN_DIR [sampling.seed=1] [hardware=...] [any override] [-m] [trust=true]"


def main() -> None:
    """The command. Exit codes as of `python -m rollout`."""
    with one_line_errors():
        show_help(sys.argv[1:], f"{__doc__}\n{USAGE}")
        trusted, arguments = trust.asked(sys.argv[2:])
        launch(arguments, run_folder(sys.argv[1]), trusted)


if __name__ == "__main__":
    main()

"""`python -m rollout.replay RUN_DIR [overrides] [-m]`: a new run from the saved, fully resolved config of another.

The new run has a folder of its own, `outputs/...` unless `hydra.run.dir` says otherwise, and run.json names the run it
repeats. Overrides are those of `python -m rollout`: `group=preset` replaces a whole group of the saved config,
`group.key=value` changes one value, `-m` sweeps. Where the input, the model's files or the versions differ from what
was recorded, a warning names both.
"""

import sys
from pathlib import Path

from rollout.cli.main import launch, one_line_errors
from rollout.config import trust

USAGE = "usage: python -m rollout.replay RUN_DIR [sampling.seed=1] [hardware=...] [any override] [-m] [trust=true]"


def main() -> None:
    """The command. Exit codes as of `python -m rollout`."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__ + "\n" + USAGE)
        sys.exit(0 if sys.argv[1:] in (["--help"], ["-h"]) else 1)
    with one_line_errors():
        trusted, arguments = trust.asked(sys.argv[2:])
        launch(arguments, Path(sys.argv[1]), trusted)


if __name__ == "__main__":
    main()

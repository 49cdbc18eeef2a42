"""`python -m rollout resume RUN_DIR [overrides]`: generate what a run still owes, and nothing else.

Continues a run that was killed, interrupted or failed, with the same seeds; adds samples to a finished one when
`sampling.n_samples` is larger than before. What determines the samples must be as it was; hardware may change.
"""

import sys
from pathlib import Path

from rollout.cli import saved_config
from rollout.cli.arguments import run_folder, show_help
from rollout.cli.help import text
from rollout.cli.one_line_errors import one_line_errors
from rollout.config import trust
from rollout.files import short
from rollout.store import run_record


def main(arguments: list[str]) -> None:
    """The command. Exit codes as of `python -m rollout`."""
    with one_line_errors():
        show_help(arguments, lambda: text(["resume"]))
        trusted, overrides = trust.asked(arguments[1:])
        resume(run_folder(arguments[0]), overrides, trusted)


def resume(run_dir: Path, overrides: list[str], trusted: bool = False) -> None:
    """Finish the run in `run_dir`.

    Raises UserError when it is another experiment now, not a run, or not `trusted` although it needs it.
    """
    run_record.read(run_dir)  # before a lock is made in a folder that is none
    if not trusted:
        trust.refuse_links(run_dir)

    from rollout import lifecycle
    from rollout.cli.dry_run import plan
    from rollout.engine.cache import release

    run = saved_config.load(run_dir, overrides, trusted)
    if run.dry_run:
        plan(run, run_dir, may_continue=True)
        return
    try:
        if lifecycle.resume(run, run_dir) is None:
            print(f"{short(run_dir)}: nothing to do, the run is complete")
    finally:
        release()


if __name__ == "__main__":
    main(sys.argv[1:])

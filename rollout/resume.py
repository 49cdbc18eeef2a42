"""`python -m rollout.resume RUN_DIR [overrides]`: generate what a run still owes, and nothing else.

Continues a run that was killed, interrupted or failed, with the same seeds; adds samples to a finished one when
`sampling.n_samples` is larger than before. What determines the samples must be as it was; hardware may change.
"""

import sys
from pathlib import Path

from rollout.cli import saved_config
from rollout.cli.main import one_line_errors
from rollout.config import trust
from rollout.store import run_record

USAGE = (
    "usage: python -m rollout.resume RUN_DIR [sampling.n_samples=16] [hardware=...] [any key that may change] "
    "[trust=true]"
)


def main() -> None:
    """The command. Exit codes as of `python -m rollout`."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__ + "\n" + USAGE)
        sys.exit(0 if sys.argv[1:] in (["--help"], ["-h"]) else 1)
    with one_line_errors():
        trusted, overrides = trust.asked(sys.argv[2:])
        resume(Path(sys.argv[1]), overrides, trusted)


def resume(run_dir: Path, overrides: list[str], trusted: bool = False) -> None:
    """Finish the run in `run_dir`.

    Raises UserError when it is another experiment now, not a run, or not `trusted` although it needs it.
    """
    run_record.read(run_dir)  # before a lock is made in a folder that is none
    if not trusted:
        trust.refuse_links(run_dir)

    from rollout.cli.dry_run import show_plan
    from rollout.engine.cache import release
    from rollout.lifecycle import execute
    from rollout.preflight import preflight, to_continue
    from rollout.store.lock import locked

    with locked(run_dir):
        run = saved_config.load(run_dir, overrides, trusted)
        table = preflight(run, run_dir)
        if run.dry_run:
            show_plan(run, table)
            return
        digest_now = to_continue(run, table, run_dir)
        if digest_now is None:
            print(f"{run_dir}: nothing to do, the run is complete")
            return
        saved_config.save(run, run_dir)
        try:
            execute(run, table, run_dir, digest_now=digest_now)
        finally:
            release()


if __name__ == "__main__":
    main()

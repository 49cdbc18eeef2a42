"""`python -m rollout.resume RUN_DIR [overrides]`: generate what a run still owes, and nothing else.

Continues a run that was killed, interrupted or failed, with the same seeds; adds samples to a finished one when
`sampling.n_samples` is larger than before. What determines the samples must be as it was; hardware may change.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rollout import manifest, saved
from rollout.cli import one_line_errors
from rollout.config import RunConfig
from rollout.digest import differences, digest
from rollout.errors import UserError

USAGE = "usage: python -m rollout.resume RUN_DIR [sampling.n_samples=16] [hardware=...] [any key that may change]"


def main() -> None:
    """The command. Exit codes as of `python -m rollout`."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__ + "\n" + USAGE)
        sys.exit(0 if sys.argv[1:] in (["--help"], ["-h"]) else 1)
    with one_line_errors():
        resume(Path(sys.argv[1]), sys.argv[2:])


def resume(run_dir: Path, overrides: list[str]) -> None:
    """Finish the run in `run_dir`. Raises UserError when it is another experiment now, or not a run."""
    manifest.read(run_dir)  # before a lock is made in a folder that is none

    from rollout.dry_run import show_plan
    from rollout.engine import release
    from rollout.lock import locked
    from rollout.run import execute, is_complete, preflight

    with locked(run_dir):
        before = manifest.read(run_dir)  # again: what another process did meanwhile counts
        run = saved.load(run_dir, overrides)
        table = preflight(run)
        if run.dry_run:
            show_plan(run, table)
            return
        now = digest(run, table)
        if problems := [*differences(before["digest"], now), *_shrunk(before["config"], run)]:
            raise UserError(*problems)
        if is_complete(run, table, run_dir, before):
            print(f"{run_dir}: nothing to do, the run is complete")
            return
        saved.save(run, run_dir)
        try:
            execute(run, table, run_dir, digest_now=now)
        finally:
            release()


def _shrunk(before: dict[str, Any], run: RunConfig) -> Iterator[str]:
    """A run keeps what it has: fewer samples or rows than before are a mistake."""
    for key, now, then in (
        ("sampling.n_samples", run.sampling.n_samples, before["sampling"]["n_samples"]),
        ("data.limit", run.data.limit, before["data"]["limit"]),
    ):
        if now is not None and (then is None or now < then):
            yield f"{key}={now}: this run has {'all' if then is None else then}; give that many or more"


if __name__ == "__main__":
    main()

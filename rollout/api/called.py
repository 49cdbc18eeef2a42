"""What every call has in common: one at a time, mistakes as UserError, and a process that is unchanged afterwards."""

import atexit
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import RLock

from rollout.cli.one_line_errors import line_of
from rollout.engine.cache import release
from rollout.errors import UserError
from rollout.process.signals import Interrupted
from rollout.store import run_record
from rollout.terminal.console import unseen

_one_at_a_time = RLock()  # there is one engine, and one screen


class Stopped(KeyboardInterrupt):
    """Ctrl-C has stopped a run, cleanly."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback."""
        return [str(self)]


@contextmanager
def called(run_dir: Path | None = None) -> Iterator[None]:
    """Do a call's work in the body; another thread's call waits.

    Raises UserError for what a command would tell in one line; Stopped after Ctrl-C and SystemExit after
    SIGTERM, once what is finished is kept, in words that say how to continue the run in `run_dir`.
    """
    with _one_at_a_time, _as_before_wandb():
        _release_at_exit()
        try:
            yield
        except Interrupted as error:
            if error.at_once:
                end_engine()
            if error.signum != signal.SIGINT:
                raise SystemExit(error.exit_code) from None
            raise Stopped(_how_to_continue(run_dir)) from None
        except Exception as error:
            if (line := None if isinstance(error, UserError) else line_of(error)) is None:
                raise
            raise UserError(line) from error


def end_engine() -> None:
    """Shut the engine down, if there is one."""
    with _one_at_a_time, unseen():
        release()


def _how_to_continue(run_dir: Path | None) -> str:
    if run_dir is None or not run_record.exists(run_dir):
        return "stopped cleanly, nothing was begun"
    return f"stopped cleanly, what is finished is kept; continue with rollout.open_run({str(run_dir)!r}).resume()"


@cache
def _release_at_exit() -> None:
    atexit.register(end_engine)


@contextmanager
def _as_before_wandb() -> Iterator[None]:
    """W&B leaves hooks and variables, by which the program's own use of it would go too."""
    variables, hook, leave = _wandb_variables(), sys.excepthook, sys.exit
    try:
        yield
    finally:
        for name in _wandb_variables().keys() - variables:
            del os.environ[name]
        os.environ.update(variables)
        sys.excepthook, sys.exit = hook, leave


def _wandb_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}

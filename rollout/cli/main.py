"""`python -m rollout` and the console script: Hydra composes, `lifecycle.py` runs, mistakes end in one line.

Nothing heavy is imported here: `--help`, tab completion and most mistakes must answer at once.
"""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rollout.cli import hydra_options, saved_config
from rollout.cli.compose import register
from rollout.cli.hydra_errors import explain
from rollout.config import RunConfig, trust
from rollout.config.fields import build
from rollout.config.presets import conf_dir
from rollout.errors import UserError
from rollout.process.signals import Interrupted
from rollout.store import lineage
from rollout.store.run_record import ReplayOf
from rollout.sweep import jobs

if TYPE_CHECKING:
    from rollout.lifecycle import Asked

_STARTED = time.time()

_PATH_ERRNOS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.EDQUOT,
}
"""Errors about a path that its owner can cure, not we."""


def main() -> None:
    """The command. Exit code 0, 1 after a mistake or a failed run, 130 after Ctrl-C, 143 after SIGTERM."""
    if (folder := str(Path.cwd())) not in sys.path:  # as with `python -m`: a scorer of the user's is looked for there
        sys.path.insert(0, folder)
    with one_line_errors():
        trusted, arguments = trust.asked(sys.argv[1:])
        run_dir, arguments = hydra_options.saved_run(arguments)
        launch(arguments, run_dir, trusted)


def launch(arguments: list[str], replayed: Path | None = None, trusted: bool = False) -> None:
    """Run what `arguments` ask for, a job or a sweep; from the saved config of the run in `replayed`, if any.

    What of that config is not used without trust is refused unless `trusted`.
    """
    # without this Hydra prints its own, longer version of an error and exits before we can explain it
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    register()
    arguments = sorted(arguments, key=lambda word: word not in ("-m", "--multirun"))  # argparse wants options first
    hydra_options.check(arguments)
    replay_of = None if replayed is None else lineage.replay_source(replayed)
    before = None if replayed is None else saved_config.register_saved(replayed)
    if replayed is not None and before is not None and not trusted:
        trust.refuse_before_sweep(before, [word for word in arguments if not word.startswith("-")], replayed)

    def check(run: RunConfig) -> None:
        if replayed is not None and before is not None and not trusted:
            trust.refuse(run, before, HydraConfig.get().overrides.task, replayed)

    command = Command(sys.orig_argv, check, replay_of)

    def job(cfg: DictConfig) -> float | None:
        return _job(cfg, command)

    sys.argv[1:] = arguments
    name = "config" if replayed is None else saved_config.NAME
    try:
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name=name)(job)()
    finally:
        if (cache := sys.modules.get("rollout.engine.cache")) is not None:  # else nothing was loaded
            cache.release()


@dataclass(frozen=True)
class Command:
    """What all jobs of a command have in common, in whatever process they are."""

    typed: list[str]
    """As Python was started."""
    check: Callable[[RunConfig], None]
    """Raises UserError for what the config of a job may not ask for."""
    replay_of: ReplayOf | None


def _job(cfg: DictConfig, command: Command) -> float | None:
    """Do one job. Returns the sweep's objective; a job that is no sweep's has none."""
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode != RunMode.MULTIRUN or cfg.dry_run:
        try:
            _run(cfg, run_dir, command)
        except UserError as error:
            _exit_with(*error.problems)  # here, because Hydra would print every override before letting it through
        return None
    return jobs.do_job(run_dir, cfg.sweep, lambda: _run_of_sweep(cfg, run_dir, command), command.typed)


def _run(cfg: DictConfig, run_dir: Path, command: Command) -> None:
    with _nothing_left_behind(run_dir):
        run = _built(cfg, command)
        from rollout.lifecycle import start

        if run.dry_run:
            from rollout.cli.dry_run import show_plan
            from rollout.preflight import preflight

            if cfg.sweep.objective is not None:
                jobs.check_objective(cfg.sweep.objective)
            show_plan(run, preflight(run, run_dir))
            _remove_if_ours(run_dir)
        else:
            start(run, run_dir, _asked(command))


def _run_of_sweep(cfg: DictConfig, run_dir: Path, command: Command) -> None:
    """The same for a job of a sweep, which continues what an earlier command has left of it."""
    with _nothing_left_behind(run_dir):
        run = _built(cfg, command)
        from rollout import lifecycle
        from rollout.files import short
        from rollout.store import run_record

        if run.data.path is not None:
            jobs.refuse_as_input(Path(run.data.path).expanduser())
        if not run_record.exists(run_dir):
            lifecycle.start(run, run_dir, _asked(command))
        elif lifecycle.resume(run, run_dir, _asked(command)) is None:
            print(f"{short(run_dir)}: done already")


def _asked(command: Command) -> "Asked":
    """Hydra's files as Hydra would have saved them by itself, had it known that the folder is free."""
    from rollout.lifecycle import Asked

    of_hydra = HydraConfig.get()
    files = {"hydra.yaml": OmegaConf.create({"hydra": of_hydra}), "overrides.yaml": of_hydra.overrides.task}
    return Asked(jobs.name(), command.replay_of, {name: OmegaConf.to_yaml(value) for name, value in files.items()})


def _built(cfg: DictConfig, command: Command) -> RunConfig:
    try:
        run = build(cfg)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error
    command.check(run)
    return run


@contextmanager
def _nothing_left_behind(run_dir: Path) -> Iterator[None]:
    """Hydra has made the run folder by now; remove it again when nothing comes of the run.

    Only an empty folder that is no older than this process: any other was somebody's before.
    """
    try:
        yield
    except BaseException:
        _remove_if_ours(run_dir)
        raise


def _remove_if_ours(run_dir: Path) -> None:
    with suppress(OSError):  # for one, that it is not empty
        if not run_dir.is_symlink() and run_dir.stat().st_mtime >= _STARTED:
            run_dir.rmdir()


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit with code 1 and one line per problem for a mistake, with 130 or 143 after a signal."""
    try:
        yield
    except UserError as error:
        _exit_with(*error.problems)
    except (HydraException, OmegaConfBaseException) as error:
        _exit_with(explain(error))
    except OSError as error:
        if error.errno not in _PATH_ERRNOS or error.filename is None:
            raise
        _exit_with(f"{error.filename}: {error.strerror}; choose another path, or change its permissions or free space")
    except Interrupted as error:
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # before the run had begun
        sys.exit(130)


def _exit_with(*problems: str) -> NoReturn:
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(1)

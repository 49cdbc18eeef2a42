"""`python -m rollout` and the console script: Hydra composes, `lifecycle.py` runs, mistakes end in one line.

Nothing heavy is imported here: `--help`, tab completion and most mistakes must answer at once.
"""

import errno
import os
import sys
import time
import traceback
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

from rollout.cli import hydra_options, mistakes, saved_config
from rollout.cli.compose import compose_run, register
from rollout.cli.hydra_errors import explain
from rollout.config import RunConfig, trust
from rollout.config.check import check as check_config
from rollout.config.fields import build
from rollout.config.overrides import FOLDERS, as_typed, key_of
from rollout.config.presets import conf_dir
from rollout.errors import UserError
from rollout.files import as_argument, user_path
from rollout.process.signals import Interrupted
from rollout.store import lineage
from rollout.store.run_record import ReplayOf
from rollout.sweep import jobs
from rollout.terminal.streams import forgive_output

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
    with one_line_errors():
        folder = str(Path.cwd())  # as with `python -m`: a scorer of the user's is looked for there
        if folder not in sys.path:
            sys.path.insert(0, folder)
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
    arguments = _understood(arguments, replayed)
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


def _understood(arguments: list[str], replayed: Path | None) -> list[str]:
    """The command for Hydra: options first, texts quoted. Raises UserError for what is wrong with it, all at once."""
    is_sweep = hydra_options.is_sweep(arguments)
    if asked := [word for word in arguments if word in ("-h", "--help", "--hydra-help")]:
        return asked[:1]  # whatever else is wrong
    if not {"-sc", "--shell-completion"} & set(arguments):  # whose overrides are unfinished words
        others = None if is_sweep else lambda words: _other_problems(words, replayed)
        mistakes.refuse(arguments, is_sweep, others, [] if replayed is None else [saved_config.NAME])
    arguments = as_typed(mistakes.options_first(mistakes.without_plus(arguments)), is_sweep)
    hydra_options.check(arguments)
    return arguments


def _other_problems(words: list[str], replayed: Path | None) -> Iterator[str]:
    """What else is wrong with a command, whose `words` by themselves are right."""
    overrides = [word for word in words if "=" in word and not word.startswith("-") and key_of(word)[:5] != "hydra"]
    if mistakes.config_dirs(words):  # whose presets are known to Hydra's own command line only
        return
    try:
        run = compose_run(*overrides) if replayed is None else saved_config.load(replayed, overrides, trusted=True)
        if run.data.path is None:
            yield from check_config(run)
        else:
            from rollout.preflight import preflight

            preflight(run)
    except UserError as error:
        yield from error.problems
    except (HydraException, OmegaConfBaseException) as error:
        yield explain(error)


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
    os.chdir(HydraConfig.get().runtime.cwd)  # hydra.job.chdir: paths mean what they meant where they were typed
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

            _check_objective(run)
            show_plan(run, preflight(run, run_dir))
            _remove_if_ours(run_dir)
        else:
            start(run, run_dir, _asked(command))


def _run_of_sweep(cfg: DictConfig, run_dir: Path, command: Command) -> None:
    """The same for a job of a sweep, which continues what an earlier command has left of it."""
    with _nothing_left_behind(run_dir):
        run = _built(cfg, command)
        _check_objective(run)
        from rollout import lifecycle
        from rollout.files import short
        from rollout.store import run_record

        if run.data.path is not None:
            jobs.refuse_as_input(user_path(run.data.path))
        if not run_record.exists(run_dir):
            lifecycle.start(run, run_dir, _asked(command))
        elif lifecycle.resume(run, run_dir, _asked(command)) is None:
            print(f"{short(run_dir)}: done already")


def _check_objective(run: RunConfig) -> None:
    if run.sweep.objective is not None:
        jobs.check_objective(run.sweep.objective, run.postprocess.steps)


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
    return jobs.sampled_once_if_greedy(run) if HydraConfig.get().mode == RunMode.MULTIRUN else run


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
    """Exit with code 1 and one line per problem for a mistake, with 130 or 143 after a signal.

    What is printed inside never raises, whatever reads it.
    """
    forgive_output()
    try:
        yield
    except UserError as error:
        _exit_with(*error.problems)
    except (HydraException, OmegaConfBaseException) as error:
        _exit_with(explain(error))
    except OSError as error:
        if error.filename is None or not (error.errno in _PATH_ERRNOS or _is_of_new_folder(error)):
            raise
        path = _named(str(error.filename))
        _exit_with(f"{path}: {error.strerror}; choose another path, or change its permissions or free space")
    except Interrupted as error:
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # before the run had begun
        sys.exit(130)


def _named(path: str) -> str:
    """`path` with what was typed of the folder that Hydra could not make because of it."""
    typed = next((word for word in sys.argv[1:] if key_of(word) in FOLDERS and path in word), path)
    return typed if typed.endswith(path) else f"{typed}: {path}"


def _is_of_new_folder(error: OSError) -> bool:
    """Whether it is about a folder that could not be made: some places, such as /proc, have no error of their own."""
    return traceback.extract_tb(error.__traceback__)[-1].name == "mkdir"


def show_help(arguments: list[str], text: str) -> None:
    """Print `text` and exit where the `arguments` of a command ask for help, or where there are none."""
    is_asked = bool({"--help", "-h"} & set(arguments))
    if is_asked or not arguments:
        print(text)
        sys.exit(0 if is_asked else 1)


def run_folder(word: str) -> Path:
    """The folder that the first argument of a command names. Raises UserError for a key there."""
    key, equals, value = word.partition("=")
    if word.startswith("-") and not user_path(word).exists():
        raise UserError(f"{word}: the run's folder comes first; see --help")
    if equals and key in ("run_dir", "hydra.run.dir", "input", "data.path") and not user_path(word).exists():
        raise UserError(f"{word}: the folder comes first and has no key; write {as_argument(user_path(value))}")
    return user_path(word)


def _exit_with(*problems: str) -> NoReturn:
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(1)

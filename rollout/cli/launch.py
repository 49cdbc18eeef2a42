"""Runs and sweeps: Hydra composes, `lifecycle.py` runs.

Nothing heavy is imported here: tab completion and most mistakes must answer at once.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rollout.cli import hydra_options, mistakes, saved_config
from rollout.cli.compose import compose_run, register
from rollout.cli.hydra_errors import EXPLAINED, explain
from rollout.cli.one_line_errors import exit_with, line_of
from rollout.config import RunConfig, trust
from rollout.config.check import check as check_config
from rollout.config.fields import build
from rollout.config.overrides import as_typed, key_of
from rollout.config.presets import conf_dir
from rollout.errors import UserError
from rollout.files import user_path
from rollout.store import lineage
from rollout.store.run_record import ReplayOf
from rollout.sweep import jobs, objective

if TYPE_CHECKING:
    from rollout.lifecycle import Asked

_STARTED = time.time()


def run(arguments: list[str]) -> None:
    """Do what the `arguments` of `python -m rollout` ask for."""
    trusted, arguments = trust.asked(arguments)
    run_dir, arguments = hydra_options.saved_run(arguments)
    launch(arguments, run_dir, trusted)


def launch(arguments: list[str], replayed: Path | None = None, trusted: bool = False) -> None:
    """Run what `arguments` ask for, a job or a sweep; from the saved config of the run in `replayed`, if any.

    What of that config is not used without trust is refused unless `trusted`.
    """
    # without this Hydra prints its own, longer version of an error and exits before we can explain it
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    register()
    arguments = understood(arguments, replayed)
    replay_of = None if replayed is None else lineage.replay_source(replayed)
    before = None if replayed is None else _saved(replayed, arguments)
    if replayed is not None and before is not None and not trusted:
        trust.refuse_before_sweep(before, [word for word in arguments if not word.startswith("-")], replayed)

    def check(run: RunConfig) -> None:
        if replayed is not None and before is not None and not trusted:
            trust.refuse(run, before, HydraConfig.get().overrides.task, replayed)

    command = Invocation(sys.orig_argv, check, replay_of)

    def job(cfg: DictConfig) -> float | None:
        return _job(cfg, command)

    sys.argv[1:] = arguments
    name = "config" if replayed is None else saved_config.NAME
    try:
        hydra.main(version_base="1.3", config_path=conf_dir(), config_name=name)(job)()
    finally:
        if (cache := sys.modules.get("rollout.engine.cache")) is not None:  # else nothing was loaded
            cache.release()


def _saved(run_dir: Path, arguments: list[str]) -> RunConfig:
    """Give the replayed config to Hydra, and return it. Says so if the run has an `output`, which is left out."""
    if (output := saved_config.read(run_dir).output) is not None and not any(key_of(w) == "output" for w in arguments):
        print(
            f"note: {output} stays the replayed run's; give output=FILE to have this result elsewhere", file=sys.stderr
        )
    return saved_config.register_saved(run_dir, with_output=False)


def understood(arguments: list[str], replayed: Path | None = None) -> list[str]:
    """The command for Hydra: options first, texts quoted. Raises UserError for what is wrong with it, all at once."""
    is_sweep = hydra_options.is_sweep(arguments)
    if "--hydra-help" in arguments:
        return ["--hydra-help"]  # whatever else is wrong
    if not {"-sc", "--shell-completion"} & set(arguments):  # whose overrides are unfinished words
        others = None if is_sweep else lambda words: _other_problems(words, replayed)
        mistakes.refuse(arguments, is_sweep, others, [] if replayed is None else [saved_config.NAME])
    arguments = as_typed(mistakes.options_first(mistakes.without_plus(arguments)), is_sweep)
    hydra_options.check(arguments)
    return arguments


def _other_problems(words: list[str], replayed: Path | None) -> Iterator[str]:
    """What else is wrong with a command whose single `words` are right."""
    overrides = [word for word in words if "=" in word and not word.startswith("-") and key_of(word)[:5] != "hydra"]
    if mistakes.config_dirs(words):  # whose presets are known to Hydra's own command line only
        return
    try:
        if replayed is None:
            run = compose_run(*overrides)
        else:
            run = saved_config.load(replayed, overrides, trusted=True, with_output=False)
        if run.data.path is None:
            yield from check_config(run)
        else:
            from rollout.preflight import preflight

            preflight(run)
    except UserError as error:
        yield from error.problems
    except EXPLAINED as error:
        yield explain(error)


@dataclass(frozen=True)
class Invocation:
    """What all jobs of a command have in common, in whichever process they run."""

    typed: list[str]
    """As Python was started."""
    check: Callable[[RunConfig], None]
    """Raises UserError for what the config of a job may not ask for."""
    replay_of: ReplayOf | None


def _job(cfg: DictConfig, command: Invocation) -> float | None:
    """Do one job. Returns the sweep's objective; a job that is no sweep's has none."""
    os.chdir(HydraConfig.get().runtime.cwd)  # hydra.job.chdir: paths mean what they meant where they were typed
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().mode != RunMode.MULTIRUN or cfg.dry_run:
        try:
            _run(cfg, run_dir, command)
        except UserError as error:
            exit_with(*error.problems)  # here, because Hydra would print every override before letting it through
        except OSError as error:
            if (line := line_of(error)) is None:
                raise
            exit_with(line)
        return None
    return jobs.do_job(run_dir, cfg.sweep, lambda: _run_of_sweep(cfg, run_dir, command), command.typed)


def _run(cfg: DictConfig, run_dir: Path, command: Invocation) -> None:
    with _nothing_left_behind(run_dir):
        run = _built(cfg, command)
        from rollout.lifecycle import start

        if run.dry_run:
            from rollout.cli.dry_run import plan

            _check_objective(run)
            plan(run, run_dir, may_continue=HydraConfig.get().mode == RunMode.MULTIRUN)
            _remove_if_ours(run_dir)
        else:
            start(run, run_dir, _asked(command))


def _run_of_sweep(cfg: DictConfig, run_dir: Path, command: Invocation) -> None:
    """As `_run`, for a job of a sweep, which continues what an earlier command has left of it."""
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
        objective.check(run.sweep.objective, run.postprocess.steps)


def _asked(command: Invocation) -> "Asked":
    """Hydra's files as Hydra would have saved them by itself, had it known that the folder is free."""
    from rollout.lifecycle import Asked

    of_hydra = HydraConfig.get()
    files = {"hydra.yaml": OmegaConf.create({"hydra": of_hydra}), "overrides.yaml": of_hydra.overrides.task}
    return Asked(jobs.name(), command.replay_of, {name: OmegaConf.to_yaml(value) for name, value in files.items()})


def _built(cfg: DictConfig, command: Invocation) -> RunConfig:
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

"""`python -m rollout` and the console script: Hydra composes, `run.py` runs, mistakes end in one line.

Nothing heavy is imported here: `--help`, tab completion and most mistakes must answer at once.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rollout.compose import conf_dir, register
from rollout.config import build
from rollout.errors import UserError
from rollout.hydra_errors import explain
from rollout.interrupt import Interrupted
from rollout.saved import save

_at_end = ExitStack()


def main() -> None:
    """The command. Exit code 0, 1 after a mistake or a failed run, 130 after Ctrl-C, 143 after SIGTERM."""
    # without this Hydra prints its own, longer version of an error and exits before we can explain it
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    register()
    with one_line_errors(), _at_end:
        _app()


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="config")
def _app(cfg: DictConfig) -> None:
    try:
        _run(cfg, Path(HydraConfig.get().runtime.output_dir))
    except UserError as error:
        if _sweep_name() is None:
            _exit_with(*error.problems)  # here, because Hydra would print every override before letting it through
        _print_problems(*error.problems)  # now, because Hydra keeps it until the whole sweep is over
        raise


def _run(cfg: DictConfig, run_dir: Path) -> None:
    with _nothing_left_behind(run_dir):
        try:
            run = build(cfg)
        except OmegaConfBaseException as error:
            raise UserError(explain(error)) from error
        from rollout.engine import release
        from rollout.lock import locked
        from rollout.run import execute, preflight, refuse_used

        table = preflight(run)
        if run.dry_run:
            from rollout.dry_run import show_plan

            show_plan(run, table)
            return
        refuse_used(run_dir)
    _at_end.callback(release)
    with locked(run_dir):
        refuse_used(run_dir)  # once more: another process may have come first
        save(run, run_dir)
        _save_hydra(run_dir / ".hydra")
        execute(run, table, run_dir, group=_sweep_name())


def _sweep_name() -> str | None:
    """The W&B group of a sweep's jobs: the sweep's folder, as in outputs/."""
    hydra_cfg = HydraConfig.get()
    is_sweep = hydra_cfg.mode is not None and hydra_cfg.mode.name == "MULTIRUN"
    return "/".join(Path(hydra_cfg.sweep.dir).parts[-2:]) if is_sweep else None


def _save_hydra(folder: Path) -> None:
    """What Hydra would have saved by itself, had it known that the folder is free."""
    OmegaConf.save({"hydra": HydraConfig.get()}, folder / "hydra.yaml")
    OmegaConf.save(HydraConfig.get().overrides.task, folder / "overrides.yaml")


@contextmanager
def _nothing_left_behind(run_dir: Path) -> Iterator[None]:
    """Hydra has made the run folder by now; until something is written there, remove it again."""
    try:
        yield
    finally:
        if run_dir.is_dir() and not any(run_dir.iterdir()):
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
    except Interrupted as error:
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # before the run had begun
        sys.exit(130)


def _exit_with(*problems: str) -> NoReturn:
    _print_problems(*problems)
    sys.exit(1)


def _print_problems(*problems: str) -> None:
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)

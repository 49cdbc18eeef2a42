"""Hydra's own command-line options: refuse those that do harm or end in a traceback, and recognise a saved run."""

import argparse
import os
import shlex
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TypeVar

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString

from rollout.config.overrides import FOLDERS, key_of
from rollout.errors import UserError
from rollout.files import holds_keys, real
from rollout.store.layout import CSV, HTML, JOBS, MANIFEST, SWEEP_CONFIG

T = TypeVar("T")

_ONE_OF = ("run", "cfg", "multirun", "shell_completion", "info")
_OF_A_SWEEP = (SWEEP_CONFIG, CSV, HTML)
"""Files that a sweep writes to its folder, beside one for each job in JOBS."""
_REPLAY = "`python -m rollout replay RUN_DIR`"


def check(arguments: list[str]) -> None:
    """Raise UserError for what Hydra would answer with a traceback, or by loading a pickle."""
    options = _parsed(lambda: get_args_parser().parse_args(arguments))
    if options.experimental_rerun is not None:
        raise UserError(f"--experimental-rerun: would load a pickle, which can run any program; use {_REPLAY}")
    if options.resolve and options.cfg is None:
        raise UserError("--resolve: belongs to --cfg; write `--cfg job --resolve`")
    given = [name.replace("_", "-") for name in _ONE_OF if getattr(options, name)]
    if len(given) > 1:
        raise UserError(f"--{given[0]}, --{given[1]}: Hydra does one of these at a time; leave one out")
    if Path(options.config_dir or "").name == ".hydra":
        raise UserError(f"--config-dir={options.config_dir}: Hydra would not read the config in it; use {_REPLAY}")
    if not options.shell_completion:  # whose overrides are unfinished words
        for override in OverridesParser.create().parse_overrides(options.overrides):
            if not override.is_delete() or override.key_or_group.startswith("hydra.callbacks"):
                _check_override(override, is_sweep(arguments))
        _check_optimizer(options.overrides)


def is_sweep(arguments: list[str]) -> bool:
    """Whether `arguments` ask for a sweep, with the option or with `hydra.mode`."""
    return bool({"-m", "--multirun"} & set(arguments)) or "hydra.mode=MULTIRUN" in arguments


def _parsed(parse: Callable[[], T]) -> T:
    """What argparse makes of the options. Raises UserError with its words for what it refuses."""
    said = StringIO()
    try:
        with redirect_stderr(said):
            return parse()
    except SystemExit as error:  # after "usage: ...", "PROGRAM: error: REASON"
        raise UserError(f"{said.getvalue().rpartition(': error: ')[2].strip()}; see --help") from error


def _check_override(override: Override, of_sweep: bool) -> None:
    """What Hydra would accept, to fail later or elsewhere."""
    key, value = override.key_or_group, override.value()
    if key in (*FOLDERS, "hydra.sweep.subdir") and not str(value).strip():
        raise UserError(f"{key}={value}: names no folder; give one, or leave it out")
    if key.startswith("hydra.callbacks"):
        raise UserError(f"{override.input_line}: a sweep needs them to say how it ended; leave it out")
    if key.startswith("hydra.sweeper.params") and value is not None:
        raise UserError(f"{override.input_line}: Hydra cannot merge this; write {_params(value)}")
    if key == "hydra/launcher" and value == "submitit_slurm" and shutil.which("srun") is None:
        raise UserError(
            f"{key}={value}: there is no SLURM here (no program srun); start it where sbatch works, or choose "
            "hydra/launcher=submitit_local or hydra/launcher=joblib"
        )
    if of_sweep and not override.is_sweep_override():
        _check_folder(key, str(value))


def _params(value: object) -> str:
    """The keys of `hydra.sweeper.params` as overrides."""
    params = value if isinstance(value, dict) else {"KEY": "VALUE,VALUE"}
    words = [f"{key}={item.text if isinstance(item, QuotedString) else item}" for key, item in params.items()]
    return shlex.join(["-m", *words])


def _check_folder(key: str, value: str) -> None:
    """A sweep has a folder of its own, with one for each job in it."""
    if key == "output" and "${" not in value and value != "None":
        name = Path(value)
        cure = shlex.quote(f"{key}={name.with_name(f'{name.stem}-${{hydra:job.num}}{name.suffix}')}")
        raise UserError(f"output={value}: is one file for all jobs; write {cure}, or leave it out")
    if key == "hydra.run.dir":
        raise UserError(f"hydra.run.dir={value}: a sweep does not use it; set hydra.sweep.dir")
    if key == "hydra.sweep.subdir" and "${" not in value:
        cure = shlex.quote(f"{key}={value}-${{hydra.job.num}}")
        raise UserError(f"hydra.sweep.subdir={value}: is one folder for all jobs; write {cure}")
    if key == "hydra.sweep.dir":
        folder = Path(value)
        if (folder / MANIFEST).exists():
            raise UserError(f"hydra.sweep.dir={folder}: the folder of a run; choose another one")
        if found := _of_somebody_else(folder):
            raise UserError(f"hydra.sweep.dir={folder}: {found} already exists there; choose another folder")


def _check_optimizer(overrides: list[str]) -> None:
    """A sweeper that optimizes needs a number from each job."""
    given = {key_of(word): word.partition("=")[2] for word in overrides}
    sweeper = given.get("hydra/sweeper", "basic")
    if sweeper != "basic" and given.get("dry_run") == "true":
        raise UserError(
            f"dry_run=true: hydra/sweeper={sweeper} needs the numbers of real jobs; leave out one of the two"
        )
    if sweeper != "basic" and not {"sweep.objective", "experiment"} & given.keys():
        raise UserError(
            f"hydra/sweeper={sweeper}: needs a number to optimize; add sweep.objective=throughput.output_tok_s, or "
            "score.mean where responses are scored"
        )


def _of_somebody_else(folder: Path) -> str | None:
    """A file that a sweep in `folder` would replace and that none has written."""
    for path in (folder / JOBS).glob("*.json"):
        if not holds_keys(path, {"num", "run_dir", "overrides", "status"}):
            return f"{JOBS}/{path.name}"
    found = [] if (folder / JOBS).is_dir() else [name for name in _OF_A_SWEEP if os.path.lexists(folder / name)]
    return found[0] if found else None


def saved_run(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """The run folder that `--config-path RUN_DIR/.hydra --config-name config` means, and the other arguments.

    Hydra itself would lose the schema and our settings with these two, and would obey a `hydra:` in the file.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-path", "-cp")
    parser.add_argument("--config-name", "-cn")
    options, others = _parsed(lambda: parser.parse_known_args(arguments))
    folder = Path(options.config_path or "").absolute()
    if folder.name != ".hydra" and (folder := real(folder)).name != ".hydra":
        return None, arguments
    if options.config_name not in (None, "config", "config.yaml"):
        raise UserError(f"--config-name={options.config_name}: holds no run's config; leave it out")
    return folder.parent, others

"""`rollout.run`, `rollout.open_run`, `rollout.release`."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import yaml

from rollout import lifecycle
from rollout.api.called import called, end_engine
from rollout.api.hydra_apart import hydra_apart
from rollout.api.run_folder import Run
from rollout.api.words import words_of
from rollout.cli import hydra_options
from rollout.cli.compose import compose_with_folder, register
from rollout.cli.latest import named_path
from rollout.cli.launch import understood
from rollout.config import RunConfig, trust
from rollout.config.check import check as check_config
from rollout.config.overrides import hydra_word, key_of
from rollout.data.given import as_table
from rollout.data.parquet_output import write_parquet
from rollout.errors import UserError
from rollout.files import disk_full_explained, short, user_path
from rollout.preflight import refuse_used
from rollout.store import run_record
from rollout.store.layout import INPUT, LOCK
from rollout.store.lock import locked

if TYPE_CHECKING:
    import pandas as pd

Input: TypeAlias = "str | os.PathLike[str] | pd.DataFrame | pd.Series[Any] | pa.Table | list[Any]"
"""What prompts may come as."""


def run(
    *overrides: str,
    input: "Input | None" = None,  # noqa: A002 - the word for it everywhere else, too
    run_dir: str | os.PathLike[str] | None = None,
    **groups: Any,
) -> Run:
    """Do a run, as `python -m rollout OVERRIDES` does, and return it. The engine stays loaded for the next one.

    `input` is a file's path, a frame (pandas, or any that Arrow reads) with a column `prompt` (or data.prompt_key), or
    a list of texts or chats; None: what `data.path` says. Values are saved in the run's folder as input.parquet.
    `run_dir` is the folder, which must not hold a run; None: outputs/DATE/TIME. A group of the config can be given as
    a preset or as a dictionary too: `sampling={"n_samples": 4}, hardware="cpu"`.

    Raises UserError with all mistakes, one line each, as the command does. After Ctrl-C the KeyboardInterrupt says how
    to continue; what has finished is kept, whatever is raised.
    """
    words = words_of(overrides, groups)
    if run_dir is not None and "hydra.run.dir" in map(key_of, words):
        raise UserError("hydra.run.dir, run_dir: both name the folder; leave one out")
    if run_dir is not None:
        words.append(hydra_word("hydra.run.dir", os.fspath(run_dir)))
    if input is not None and "data.path" in map(key_of, words):
        raise UserError("data.path, input: both say what the prompts are; leave one out")
    if isinstance(input, str | os.PathLike):
        words.append(hydra_word("data.path", os.fspath(input)))
        input = None  # noqa: A001 - as above
    with called():
        config, folder = _composed(words)
        table = None if input is None else _table(input, config)
    with called(folder):
        asked = lifecycle.Asked(is_call=True, hydra_files={"overrides.yaml": yaml.safe_dump(words, allow_unicode=True)})
        with _input_in(folder, config, table) as config:
            lifecycle.start(config, folder, asked)
    return Run(folder, _was_made_here=True)


def open_run(run_dir: str | os.PathLike[str]) -> Run:
    """The run in the folder `run_dir`; `latest`: the one under outputs/ that started last.

    Raises UserError for a folder that is none of a run.
    """
    word = os.fspath(run_dir)
    path = named_path(word, say=False)
    if path != user_path(word):
        print(f"{word}: {short(path)}")
    run_record.read(path)
    return Run(path.absolute())


def release() -> None:
    """Shut the engine down that the runs so far have left loaded, and give its memory back."""
    end_engine()


def _composed(words: list[str]) -> tuple[RunConfig, Path]:
    """The config and the absolute folder of a new run. Raises UserError for what is wrong with `words`, all at once."""
    options = [word for word in words if word.startswith("-")]
    if options or hydra_options.is_sweep(words):
        word = options[0] if options else "hydra.mode=MULTIRUN"
        raise UserError(f"{word}: options and sweeps are the command's (python -m rollout {word} ...); leave it out")
    with hydra_apart():
        register()
        config, folder = compose_with_folder(understood(trust.asked(words)[1]))
    if config.dry_run:
        raise UserError("dry_run=true: prints a plan, which is the command's (python -m rollout); leave it out")
    return config, user_path(str(folder)).absolute()


def _table(given: Input, config: RunConfig) -> pa.Table:
    """The input as a table. Raises UserError with what is wrong with it, and with the config."""
    try:
        return as_table(given, config.data.prompt_key)
    except UserError as error:
        raise UserError(*check_config(config), *error.problems) from error


@contextmanager
def _input_in(run_dir: Path, config: RunConfig, table: pa.Table | None) -> Iterator[RunConfig]:
    """Save `table` in `run_dir` as the input of the run that the body does. Nothing of it is left where none begins."""
    is_new, ours = not run_dir.exists(), list[str]()
    try:
        if table is not None:
            _save_input(run_dir, config, table)
            ours.append(INPUT)
            config = dataclasses.replace(config, data=dataclasses.replace(config.data, path=str(run_dir / INPUT)))
        yield config
    except BaseException:
        if not run_record.exists(run_dir):
            _remove(run_dir, ours, is_new)
        raise


def _save_input(run_dir: Path, config: RunConfig, table: pa.Table) -> None:
    with locked(run_dir), disk_full_explained(short(run_dir), "free some space, then call again"):
        refuse_used(config, run_dir)
        if os.path.lexists(run_dir / INPUT):
            raise UserError(f"hydra.run.dir={short(run_dir)}: {INPUT} already exists there; choose another folder")
        write_parquet(run_dir / INPUT, table.schema, table.to_batches())


def _remove(run_dir: Path, names: list[str], is_new: bool) -> None:
    """Delete files of a run that has not begun; where the folder is new, the lock and the folder as well."""
    with suppress(OSError):  # for one, that the folder was never made, or is not empty
        for name in [*names, *([LOCK] if is_new else [])]:
            (run_dir / name).unlink(missing_ok=True)
        if is_new:
            run_dir.rmdir()

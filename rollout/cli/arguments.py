"""What the commands have in common: help, the run that is named first, and checks of the files to read and write."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rollout.cli.latest import named_path
from rollout.errors import UserError
from rollout.files import as_argument, real, short, user_path
from rollout.store.layout import is_kept_by_a_run

ASKS = {"--help", "-h"}
"""The options that ask for help, whatever else is in the command."""


def asks_for_help(arguments: list[str]) -> bool:
    """Whether one of the `arguments` does."""
    return bool(ASKS & set(arguments))


def show_help(arguments: list[str], text: Callable[[], str]) -> None:
    """Print the `text` and exit where the `arguments` of a command ask for help, or where there are none."""
    if asks_for_help(arguments) or not arguments:
        print(text())
        sys.exit(0 if arguments else 1)


def run_folder(word: str) -> Path:
    """The folder that the first argument of a command names. Raises UserError for a key there."""
    key, equals, value = word.partition("=")
    if word.startswith("-") and not user_path(word).exists():
        raise UserError(f"{word}: the run's folder comes first; see --help")
    if equals and key in ("run_dir", "hydra.run.dir", "input", "data.path") and not user_path(word).exists():
        raise UserError(f"{word}: the folder comes first and has no key; write {as_argument(user_path(value))}")
    if re.match(r"[a-z_]+(\.[a-z_]+)*=", word) and not user_path(word).exists():
        raise UserError(f"{word}: the run's folder comes first; write it before this, or `latest`")
    return named_path(word)


def output_problems(
    key: str, output: Path, suffixes: tuple[str, ...], is_read: Callable[[Path], bool], overwrite: bool
) -> Iterator[str]:
    """Why the file `output`, the value of `key`, cannot be written; `is_read` tells of a path whether it is input."""
    folder = real(output).parent
    if not output.name.endswith(suffixes) or output.name in suffixes:
        yield f"{key}={output}: must end in {', '.join(suffixes)}"
    elif output.is_dir():
        yield f"{key}={output}: is a folder; choose another name"
    elif not folder.is_dir():
        yield f"{key}={output}: there is no folder {short(folder)}; make it, or choose another"
    elif not os.access(folder, os.W_OK):
        yield f"{key}={output}: nothing can be written to {short(folder)}; change its permissions, or choose another"
    elif is_read(output):
        yield f"{key}={output}: is the input, or inside it; choose another name"
    elif is_kept_by_a_run(output):
        yield f"{key}={output}: is a file that a run keeps; choose another name"
    elif os.path.lexists(output) and not overwrite:
        yield f"{key}={output}: already exists; choose another name, or set overwrite=true"

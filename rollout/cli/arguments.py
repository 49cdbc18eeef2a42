"""What the commands have in common: the folder that comes first, and help."""

import sys
from pathlib import Path

from rollout.errors import UserError
from rollout.files import as_argument, user_path


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

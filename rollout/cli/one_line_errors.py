"""How a command ends: one line for each mistake of the user's, an exit code, and a traceback for a bug.

Hydra is not imported here: `--help` must answer at once.
"""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from rollout.errors import UserError
from rollout.files import DISK_FULL, named_in
from rollout.process.signals import Interrupted
from rollout.terminal.streams import forgive_output

_PATH_ERRNOS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    *DISK_FULL,
}
"""Errors about a path that the user can cure."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Exit with code 1 and one line per problem for a mistake, with 130, 143 or 129 after a signal.

    What is printed inside never raises, whatever reads it.
    """
    forgive_output()
    try:
        yield
    except UserError as error:
        exit_with(*error.problems)
    except Interrupted as error:
        sys.exit(error.exit_code)
    except KeyboardInterrupt:  # before the run had begun
        sys.exit(130)
    except Exception as error:
        if (line := line_of(error)) is None:
            raise
        exit_with(line)


def line_of(error: Exception) -> str | None:
    """The line about an error that a library raised for a mistake of the user's; None for any other."""
    return _of_hydra(error) or _of_path(error)


def _of_hydra(error: Exception) -> str | None:
    """The line about an error of Hydra's or OmegaConf's; None for any other."""
    if "hydra" not in sys.modules:
        return None
    from rollout.cli.hydra_errors import EXPLAINED, explain

    return explain(error) if isinstance(error, EXPLAINED) else None


def _of_path(error: Exception) -> str | None:
    """The line about a path that its owner can make usable; None for any other error."""
    if not isinstance(error, OSError):
        return None
    if error.filename is None:
        return f"the disk is full ({error.strerror}); free some space" if error.errno in DISK_FULL else None
    given = Path(str(error.filename))
    if error.errno not in _PATH_ERRNOS and not _is_of_something_new(error, given):
        return None
    path = _named(str(named_in(given)))
    is_broken_link = os.path.islink(given) and not os.path.exists(given)  # noqa: PTH110, PTH114 (a Path raises)
    reason = "a link to nowhere" if is_broken_link else error.strerror
    return f"{path}: {reason}; choose another path, or change its permissions or free space"


def _named(path: str) -> str:
    """`path` with what was typed of the folder that Hydra could not make because of it."""
    if "hydra" not in sys.modules:
        return path
    from rollout.config.overrides import FOLDERS, key_of

    typed = next((word for word in sys.argv[1:] if key_of(word) in FOLDERS and path in word), path)
    return typed if typed.endswith(path) else f"{typed}: {path}"


def _is_of_something_new(error: OSError, path: Path) -> bool:
    """Whether a folder or a file could not be made: some places, such as /proc, have no error of their own."""
    is_folder = traceback.extract_tb(error.__traceback__)[-1].name == "mkdir"
    return is_folder or (error.errno == errno.ENOENT and named_in(path) != path)


def exit_with(*problems: str) -> NoReturn:
    """Print a line for each of them, and exit with code 1."""
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(1)

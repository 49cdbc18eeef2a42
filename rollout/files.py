"""Write a file so that, whatever happens, it is complete or does not exist; and paths as users type them."""

import errno
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rollout.errors import UserError

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""The errno of an OSError for lack of space."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; at the end it takes the name `path`, and both survive a power cut.

    The temporary name begins with a dot, which every dataset reader ignores. When the body raises, nothing is left.
    """
    partial = partial_of(path)
    if partial.is_symlink():  # never write through a link that somebody has put there
        partial.unlink()
    try:
        partial.open("wb").close()  # an error here names the file, as those of the libraries that write do not
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """The temporary name of a file that is being written."""
    return path.with_name(f".{path.name}.partial")


def named_in(partial: Path) -> Path:
    """The file whose temporary name `partial` is; any other path as it is."""
    match = re.fullmatch(r"\.(.+)\.partial", partial.name)
    return partial if match is None else partial.with_name(match[1])


def matching(pattern: Path) -> list[Path]:
    """The files of one folder whose names fit the last part of `pattern`, with *, ? and [...]; sorted."""
    folder = pattern.parent
    return sorted(path for path in folder.iterdir() if fnmatch(path.name, pattern.name)) if folder.is_dir() else []


@contextmanager
def disk_full_explained(where: str, cure: str | Callable[[], str]) -> Iterator[None]:
    """Raise UserError when the body cannot write for lack of space. `where` names what it writes to; `cure` may be a
    function, for a text that takes time to make.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        said = cure if isinstance(cure, str) else cure()
        raise UserError(f"{where}: the disk is full ({error.strerror or error}); {said}") from error


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths name one file: also through links, and where the file does not exist yet."""
    try:
        return one.samefile(other)
    except OSError:
        return real(one) == real(other)


def real(path: Path) -> Path:
    """Where `path` leads once links are followed; one of a circle of links leads to itself, where `resolve` raises."""
    return Path(os.path.realpath(path))


def is_read_once(path: Path) -> bool:
    """Whether it is a pipe or a device: it gives what it holds once only, and may wait for ever for a writer."""
    return path.exists() and not path.is_file() and not path.is_dir()


def holds_keys(path: Path, keys: set[str]) -> bool:
    """Whether the file is a JSON object with all of `keys`: this is how a file of ours is recognised."""
    try:
        return bool(keys <= json.loads(path.read_text(encoding="utf-8")).keys())
    except (OSError, ValueError, AttributeError):
        return False


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def at_home(text: str) -> Path:
    """The path that a user has typed: `~` is the home folder, but a name may begin with `~`."""
    return Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises for an unknown user


def user_path(text: str) -> Path:
    """As `at_home`, but absolute if Arrow would misread it: `~x` as a user's home, `s3:x` as a URI."""
    path = at_home(text)
    return path.absolute() if str(path).startswith("~") or ":" in str(path) else path


def short(path: Path) -> str:
    """`path` as a user would type it: relative to the current folder if it is inside."""
    text = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
    return f"./{text}" if text.startswith(("-", "~")) else text


def as_argument(path: Path) -> str:
    """`path` as a shell argument: quoted, and so written that it cannot be taken for an option or a key."""
    text = short(path)
    return shlex.quote(f"./{text}" if "=" in text and not text.startswith(("/", "./")) else text)

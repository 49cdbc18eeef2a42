"""The error for an input file that does not exist."""

import shlex
from glob import has_magic
from pathlib import Path

from rollout.data.text_files import COMPRESSED
from rollout.errors import UserError
from rollout.files import as_argument, matching


def no_such_file(path: Path, key: str) -> UserError:
    """The error to raise if the config `key` names a file that does not exist."""
    if has_magic(path.name) and matching(path):
        return UserError(f"{key}={path}: is a pattern; give a file{_joined(path)}")
    where = "" if path.is_absolute() else f" (it is relative to {Path.cwd()})"
    return UserError(f"{key}={path}: no such file; check the path{where}")


def refuse_other_than_a_file(path: Path, key: str) -> None:
    """Raise UserError, naming the config `key`, for a pattern or a folder where one file of responses is read. What
    joins files of prompts, as `no_such_file` says, would drop the responses.
    """
    if path.is_dir():
        raise UserError(f"{key}={path}: is a folder; give a file of responses")
    if path.exists() or not has_magic(path.name) or not (found := matching(path)):
        return
    cure = f"give one file at a time, such as {as_argument(found[0])}"
    if key == "inputs":
        cure = "give the files themselves: without quotes around it, the shell does"
    raise UserError(f"{key}={path}: is a pattern; {cure}")


def _joined(pattern: Path) -> str:
    """How to join the files that fit `pattern`; not for CSV files, whose headers would become rows."""
    if pattern.suffix == ".parquet":
        return f", or make one of those that fit: python -m rollout prepare {shlex.quote(str(pattern))} input.parquet"
    kind = "".join(pattern.suffixes[-2:] if pattern.suffix in COMPRESSED else pattern.suffixes[-1:])
    if not kind.startswith((".jsonl", ".txt")):
        return ""
    return f", or make one of those that fit: cat {pattern} > input{kind}"

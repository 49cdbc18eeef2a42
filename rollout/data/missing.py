"""The error for an input file that does not exist."""

import shlex
from glob import has_magic
from pathlib import Path

from rollout.data.text_files import COMPRESSED
from rollout.errors import UserError
from rollout.files import matching


def no_such_file(path: Path, key: str) -> UserError:
    """The error to raise if the config `key` names a file that does not exist."""
    if has_magic(path.name) and matching(path):
        return UserError(f"{key}={path}: is a pattern; give a file{_joined(path)}")
    where = "" if path.is_absolute() else f" (it is relative to {Path.cwd()})"
    return UserError(f"{key}={path}: no such file; check the path{where}")


def _joined(pattern: Path) -> str:
    """How to join the files that fit `pattern`; not for CSV files, whose headers would become rows."""
    if pattern.suffix == ".parquet":
        return f", or make one of those that fit: python -m rollout prepare {shlex.quote(str(pattern))} input.parquet"
    kind = "".join(pattern.suffixes[-2:] if pattern.suffix in COMPRESSED else pattern.suffixes[-1:])
    if not kind.startswith((".jsonl", ".txt")):
        return ""
    return f", or make one of those that fit: cat {pattern} > input{kind}"

"""metrics.jsonl, read: a line of numbers for each interval, see `rollout.tracking.metrics`."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rollout.store.layout import METRICS

_TAIL_BYTES = 256 << 10  # more than a line of a thousand replicas has


def all_lines(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Every line, oldest first; none where there is no such file."""
    if (run_dir / METRICS).exists():
        yield from _read((run_dir / METRICS).read_bytes().splitlines())


def newest_line(run_dir: Path) -> dict[str, Any] | None:
    """The last whole line; None where there is none. The file's beginning is not read."""
    try:
        with (run_dir / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return None
    return next(_read(reversed(lines)), None)


def _read(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:  # a killed session's last line, or one that is just being written
            continue
        if isinstance(values, dict):
            yield values

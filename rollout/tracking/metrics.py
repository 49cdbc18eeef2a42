"""metrics.jsonl: the numbers of a run over time."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from rollout.store.layout import METRICS
from rollout.store.metrics import newest_line
from rollout.tracking.progress import Snapshot


@contextmanager
def metrics_file(run_dir: Path) -> Iterator[Callable[[Snapshot], None]]:
    """Yield a function that appends a snapshot to metrics.jsonl, one JSON object per line."""
    with (run_dir / METRICS).open("a", encoding="utf-8") as file:

        def write(now: Snapshot) -> None:
            numbers = {name: _rounded(value) for name, value in dataclasses.asdict(now).items() if value != ()}
            file.write(json.dumps({"time": round(time.time(), 3)} | numbers) + "\n")
            file.flush()

        yield write


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point(Snapshot):
    """A line of metrics.jsonl."""

    time: float
    """When it was written, in seconds since 1970."""


def newest_point(run_dir: Path) -> Point | None:
    """The newest line of metrics.jsonl; None if there is none, or if another version wrote it."""
    try:
        return msgspec.convert(newest_line(run_dir), Point)
    except msgspec.ValidationError:
        return None


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(item) for item in value]
    return round(value, 3) if isinstance(value, float) else value

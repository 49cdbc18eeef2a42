"""Whether `rollout watch` and its report can be relied on while a run is killed at random moments and resumed.

    python -m benchmarks.watch [--kills 60] [--seed 0]

Runs on the echo engine are looked at from this process as fast as that goes, killed, looked at again, and resumed until
they are done. After every kill the numbers are compared with those of the parts, read in another way, a report is
written, and the run's files must be as they were, to the byte and to the nanosecond. Ends at the first that is not so.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from rollout.cli.watched import WatchedRun

_RUN = (
    *("engine.kind=echo", "hardware=cpu", "tracking=disabled", "tracking.interval_seconds=0.1"),
    *("data.path=input.parquet", "sampling.n_samples=4", "data.max_error_fraction=1"),
    *("engine.echo.step_seconds=0.005", "engine.echo.max_steps=15", "engine.echo.refuse_word=refuseme"),
    *("store.flush_seconds=0.05", "store.flush_samples=100"),
)
_ROWS = 3000
_MOMENTS = (0.5, 4.0)  # seconds after the start between which it is killed
_WRITES = set("wax+")


class Process(Protocol):
    """A command that runs."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> int: ...


def main() -> None:
    """Parse the command line, kill and look, print how often."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, looks, found = random.Random(options.seed), 0, list[str]()
    with tempfile.TemporaryDirectory() as name, untouched(Path(name)):
        folder = Path(name)
        _write_input(folder / "input.parquet")
        for number in range(options.kills):
            run_dir, page = folder / f"run-{number // 5}", folder / f"{number}.html"
            looks += watch_until_killed(_started(run_dir), run_dir, rng.uniform(*_MOMENTS))
            found.append(check(run_dir, page))
    counts = ", ".join(f"{found.count(status)} {status}" for status in sorted(set(found)))
    print(f"{options.kills} kills, {looks:,} looks while it ran; found after them: {counts}")


def watch_until_killed(process: Process, run_dir: Path, seconds: float, pause: float = 0.0) -> int:
    """Look at the run again and again, and kill it after so many seconds. Returns how often it was looked at."""
    watched, looks, deadline = WatchedRun(run_dir), 0, time.monotonic() + seconds
    done = 0
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(pause)
        if not (run_dir / ".lock").exists():
            continue
        watched.look()
        is_its = watched.seen.seen.holder is not None and watched.seen.seen.holder.pid == process.pid
        assert watched.goes_on or watched.seen.seen.status == "done" or not is_its, list(watched.describe())
        assert list(watched.describe())
        assert watched.progress_line()
        assert done <= watched.seen.durable.num_done <= watched.seen.num_done
        done, looks = watched.seen.durable.num_done, looks + 1
    process.kill()
    process.wait()
    return looks


def check(run_dir: Path, page: Path | None) -> str:
    """Compare what a look at a run that was killed says with what its parts hold. Returns how the run is.

    A report goes to `page`, where that is asked for.
    """
    before = files_of(run_dir)
    if not (run_dir / ".lock").exists():
        return "not begun"
    watched = WatchedRun(run_dir)
    watched.look()
    assert not watched.goes_on, list(watched.describe())
    if page is not None:
        assert not list(watched.write_report(page)) or watched.seen.seen.record is None
    durable, parts = watched.seen.durable, sorted(run_dir.glob("samples/part-*.parquet"))
    samples = pa.concat_tables(pq.read_table(path) for path in parts).to_pylist() if parts else []
    done = {(one["row_id"], one["sample_idx"]): one for one in samples if one["error"] is None}
    failed = {(one["row_id"], one["sample_idx"]) for one in samples} - done.keys()
    assert (durable.num_done, durable.num_failed) == (len(done), len(failed))
    assert durable.num_rows == len({row_id for row_id, _ in {*done, *failed}})
    tokens = sum(one["num_generated_tokens"] for one in done.values())
    assert round(durable.tokens.mean * len(done)) == tokens if durable.tokens else not done
    assert files_of(run_dir) == before
    return watched.seen.seen.status


def files_of(run_dir: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file and folder there: when it was changed, and what it holds."""
    paths = [*run_dir.rglob("*"), *([run_dir] if run_dir.exists() else [])]
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in paths}


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """In the body this process must not lock anything, nor change the folder of a run in `folder`."""
    is_on = True

    def hook(event: str, values: tuple[object, ...]) -> None:
        if not is_on:
            return
        changes = event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.utime", "os.link")
        opens = event == "open" and bool(_WRITES & set(str(values[1] or "")))
        if event == "fcntl.flock" or ((changes or opens) and _is_of_a_run(folder, values[0])):
            raise AssertionError(f"{event} {values}")

    sys.addaudithook(hook)
    try:
        yield
    finally:
        is_on = False


def _is_of_a_run(folder: Path, path: object) -> bool:
    """Whether it is in a folder of `folder`."""
    return str(path).startswith(str(folder)) and Path(str(path)).parent != folder


def _started(run_dir: Path) -> subprocess.Popen[bytes]:
    """The command of the run, or the one that resumes it."""
    words = ("resume", run_dir.name) if (run_dir / "run.json").exists() else (*_RUN, f"hydra.run.dir={run_dir.name}")
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, "-m", "rollout", *words], cwd=run_dir.parent, stdout=quiet, stderr=quiet)


def _write_input(path: Path) -> None:
    texts = [None if row % 97 == 3 else f"question {row}{' refuseme' * (row % 50 == 7)}" for row in range(_ROWS)]
    pq.write_table(pa.table({"prompt": texts}), path)


if __name__ == "__main__":
    main()

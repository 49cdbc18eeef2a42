"""A sweep of six jobs in one command against six commands of one job each, on this machine with the embedded model.

python -m benchmarks.sweep [repeats]

Whole commands are timed, imports and loading included; the two ways take turns.
"""

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

JOB = ("hardware=cpu", "tracking=disabled", "data.limit=4", "sampling.max_tokens=32", "sampling.n_samples=2")
TEMPERATURES, SEEDS = ("0.3", "0.7", "1.0"), ("1", "2")


def one_sweep(folder: Path) -> None:
    """One command, six jobs."""
    swept = (f"sampling.temperature={','.join(TEMPERATURES)}", f"sampling.seed={','.join(SEEDS)}")
    command("-m", *JOB, *swept, f"hydra.sweep.dir={folder}")


def six_commands(folder: Path) -> None:
    """Six commands, one job each."""
    for number, (temperature, seed) in enumerate(itertools.product(TEMPERATURES, SEEDS)):
        job = (f"sampling.temperature={temperature}", f"sampling.seed={seed}", f"hydra.run.dir={folder / str(number)}")
        command(*JOB, *job)


def command(*arguments: str) -> None:
    """Run `python -m rollout ARGUMENTS` to its end."""
    subprocess.run([sys.executable, "-m", "rollout", *arguments], check=True, stdout=subprocess.DEVNULL)


def compare(repeats: int, sweep: Callable[[Path], None], commands: Callable[[Path], None]) -> None:
    """Print the seconds of each way, which is given a folder for its results, and their ratio."""
    seconds: dict[str, list[float]] = {"one sweep": [], "six commands": []}
    for _ in range(repeats):
        for way, do in (("one sweep", sweep), ("six commands", commands)):
            with tempfile.TemporaryDirectory() as folder:
                start = time.monotonic()
                do(Path(folder))
                seconds[way].append(time.monotonic() - start)
    for way, runs in seconds.items():
        print(f"{way:12} {statistics.median(runs):6.1f} s  ({', '.join(f'{run:.1f}' for run in runs)})")
    ratios = [ours / theirs for ours, theirs in zip(*seconds.values(), strict=True)]
    print(f"ratio        {statistics.median(ratios):6.2f}")


if __name__ == "__main__":
    compare(int(sys.argv[1]) if len(sys.argv) > 1 else 1, one_sweep, six_commands)

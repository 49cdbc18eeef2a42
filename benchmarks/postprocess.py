"""Post-processing of a million responses: time and peak memory of each step, and of the same flatten with pandas.

    python -m benchmarks.make_rollouts big.parquet
    python -m benchmarks.postprocess big.parquet [repeats]

Every measurement is a process of its own, whose peak is what the kernel counted. The two ways to flatten
take turns; ratios are of medians.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.memory import peak_mib

LISTS = ["responses", "finish_reasons", "num_generated_tokens", "seeds"]


def with_steps(*steps: str) -> Callable[[Path, Path], None]:
    """Run these steps as the command does."""

    def do(rollouts: Path, folder: Path) -> None:
        from rollout.config import DataConfig, ExportConfig, FilterConfig, PostprocessConfig
        from rollout.postprocess.source import open_source
        from rollout.postprocess.step import Work
        from rollout.postprocess.steps import run_steps

        rules = FilterConfig(min_length=100, drop_duplicates=True)
        config = PostprocessConfig(list(steps), filter=rules, export=ExportConfig("export.jsonl.zst"))
        run_steps(Work(open_source(rollouts), folder, config, DataConfig()))

    return do


def with_pandas(rollouts: Path, folder: Path) -> None:
    """What a notebook does: read, explode, number, write."""
    import pandas as pd

    flat = pd.read_parquet(rollouts).explode(LISTS, ignore_index=True)
    flat["sample_idx"] = flat.groupby("row_id").cumcount()
    flat.to_parquet(folder / "flat.parquet", compression="zstd")


WAYS = {
    "pandas.explode": with_pandas,
    "flatten": with_steps("flatten"),
    "filter": with_steps("filter"),
    "analyze": with_steps("analyze"),
    "export": with_steps("export"),
    "all four": with_steps("flatten", "filter", "analyze", "export"),
}


def measure(way: str, rollouts: Path) -> tuple[float, float]:
    """(seconds, peak MiB) of one way in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.postprocess", str(rollouts), "--way", way]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak = result.stdout.split()
    return float(seconds), float(peak)


def _do(way: str, rollouts: Path) -> None:
    with tempfile.TemporaryDirectory(dir=rollouts.parent) as folder:
        WAYS[way](rollouts, Path(folder))
    print(_since_start(), peak_mib())


def _since_start() -> float:
    """Seconds since this process was started, its imports included."""
    ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def main(rollouts: Path, repeats: int) -> None:
    """Print the table and the two ratios."""
    pair = [{way: measure(way, rollouts) for way in ("pandas.explode", "flatten")} for _ in range(repeats)]
    results = {way: [once[way] for once in pair] for way in pair[0]}
    results |= {way: [measure(way, rollouts)] for way in WAYS if way not in results}
    for way, runs in results.items():
        seconds, peaks = zip(*runs, strict=True)
        print(f"{way:15} {statistics.median(seconds):6.1f} s  {max(peaks):6.0f} MiB")
    for number, name in enumerate(("time", "memory")):
        ours, theirs = (statistics.median(run[number] for run in results[way]) for way in ("flatten", "pandas.explode"))
        print(f"flatten / pandas.explode, {name}: {ours / theirs:.2f}")


if __name__ == "__main__":
    if "--way" in sys.argv:
        _do(sys.argv[3], Path(sys.argv[1]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3)

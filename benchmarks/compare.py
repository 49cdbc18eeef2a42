"""`rollout compare` on two runs of 100,000 rows x 8 scored responses: time, CPU time and peak memory.

    python -m benchmarks.compare FOLDER [rows] [samples]

The two are made in FOLDER where they are not there yet: the same responses (0.6 GB of text each), other scores. The
command is a process of its own, its imports are in its time, and its peak is what the kernel counted.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa

from benchmarks.make_rollouts import make
from benchmarks.memory import peak_mib
from rollout.data.parquet_output import write_parquet
from rollout.postprocess.score import SCHEMA
from rollout.postprocess.source import open_source
from rollout.store.layout import OUTPUT, SCORES

_HARDER = 0.8
"""A row that passes with probability p in the one passes with this times p in the other."""


def make_runs(folder: Path, num_rows: int, n_samples: int) -> list[Path]:
    """Two folders with results as of a run, without its run.json."""
    runs = [folder / f"{name}-{num_rows}x{n_samples}" for name in ("a", "b")]
    for run, factor in zip(runs, (1.0, _HARDER), strict=True):
        run.mkdir(parents=True, exist_ok=True)
        if not (run / OUTPUT).exists() and factor == 1.0:
            make(run / OUTPUT, num_rows, n_samples)
        elif not (run / OUTPUT).exists():
            shutil.copyfile(runs[0] / OUTPUT, run / OUTPUT)
        if not (run / SCORES).exists():
            _score(run, factor)
    return runs


def _score(run: Path, factor: float) -> None:
    """Scores of 0 and 1, as a scorer would write them; the pass rates of the rows are uniform."""
    random = np.random.default_rng(round(100 * factor))

    def scores(batch: pa.RecordBatch) -> pa.RecordBatch:
        _, row = np.unique(batch.column("row_id").to_numpy(), return_inverse=True)
        passes = random.random(batch.num_rows) < factor * random.random(row[-1] + 1)[row]
        answers = np.where(passes, "right", random.integers(0, 5, batch.num_rows).astype(str))
        columns = {
            **{name: batch.column(name) for name in ("row_id", "sample_idx")},
            "score": pa.array(passes.astype(np.float64)),
            "pass_rate": pa.array(passes.astype(np.float64)),
            "extracted_answer": pa.array(answers, pa.string()),
            "score_error": pa.nulls(batch.num_rows, pa.string()),
            "response_crc32": pa.array([crc32(text.encode()) for text in batch.column("response").to_pylist()]),
        }
        return pa.RecordBatch.from_arrays([columns[column.name] for column in SCHEMA], schema=SCHEMA)

    write_parquet(run / SCORES, SCHEMA, map(scores, open_source(run / OUTPUT).batches()))


def measure(runs: list[Path], folder: Path) -> None:
    """Compare them once and print what it took."""
    words = [*map(str, runs), f"output={folder / 'comparison'}", "overwrite=true"]
    before, start = os.times(), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", "--child", *words], capture_output=True, text=True, check=False
    )
    seconds, after = time.monotonic() - start, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    print(done.stdout, done.stderr, sep="\n")
    print(f"{seconds:.1f} s, {cpu:.1f} s of CPU, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def _child(words: list[str]) -> None:
    from rollout.cli.compare import command

    command(words)
    print(f"peak {peak_mib():.0f} MiB")


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        _child(sys.argv[2:])
    else:
        rows, samples = (int(size) for size in (sys.argv[2:4] or (100_000, 8)))
        measure(make_runs(Path(sys.argv[1]), rows, samples), Path(sys.argv[1]))

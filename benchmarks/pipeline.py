"""How fast everything around the engine is, and whether its memory grows: read, feed, store and finalize.

    python -m benchmarks.pipeline [OVERRIDE ...] [--n-samples 8] [--samples 100000 1000000]

Every size runs in a process of its own, with the echo engine, which costs next to nothing. Prints samples per second
from the first row read to rollouts.parquet, the same per second of CPU time, for a machine that has other work too, and
the process's peak memory. With `--adaptive` every sample is scored by exact_match while others are made, and asked for
in rounds; none passes, so every row gets its budget, and the figures compare. With token ids and log-probabilities of
responses of 256 tokens: `sampling.logprobs=raw engine.echo.response_tokens=256`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.memory import peak_mib
from rollout import lifecycle
from rollout.cli.compose import compose_run

_ROWS_PER_BATCH = 10_000

_ADAPTIVE = [
    "adaptive=first_pass",
    "postprocess.score.scorer=exact_match",
    "postprocess.score.ground_truth=answer",
]


def main() -> None:
    """Parse the command line, measure each size, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--n-samples", type=int, default=8)
    parser.add_argument("--adaptive", action="store_true", help="score while sampling, and ask for samples in rounds")
    parser.add_argument("--one", action="store_true", help="measure the one size in this process, print JSON")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="of the config")
    options = parser.parse_args()
    options.overrides += _ADAPTIVE if options.adaptive else []
    if options.one:
        print(json.dumps(measure(options.samples[0], options.n_samples, options.overrides)))
        return
    print(f"{'samples':>10} {'seconds':>8} {'samples/s':>10} {'per CPU s':>10} {'peak MiB':>9} {'ratio':>6}")
    first_peak = None
    for samples in options.samples:
        command = [sys.executable, "-m", "benchmarks.pipeline", *options.overrides, "--one"]
        command += ["--n-samples", str(options.n_samples), "--samples", str(samples)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        result = json.loads(output.splitlines()[-1])
        seconds, peak = result["seconds"], result["peak_mib"]
        first_peak = first_peak or peak
        rates = f"{samples / seconds:>10,.0f} {samples / result['cpu_seconds']:>10,.0f}"
        print(f"{samples:>10,} {seconds:>8.1f} {rates} {peak:>9.0f} {peak / first_peak:>6.2f}")


def measure(samples: int, n_samples: int, overrides: list[str]) -> dict[str, float]:
    """One run of `samples` samples in this process: seconds, seconds of CPU time and peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "input.parquet"
        write_prompts(source, samples // n_samples)
        run = compose_run(
            f"data.path={source}",
            "engine.kind=echo",
            "engine.echo.max_steps=20",
            "hardware=cpu",
            "hardware.max_num_seqs=256",
            f"sampling.n_samples={n_samples}",
            "postprocess=none",
            "tracking=disabled",
            *overrides,
        )
        run_dir = Path(folder) / "run"
        start, cpu_start = time.monotonic(), time.process_time()
        lifecycle.start(run, run_dir)
        seconds, cpu_seconds = time.monotonic() - start, time.process_time() - cpu_start
        assert pq.read_metadata(run_dir / "rollouts.parquet").num_rows == samples // n_samples
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_mib": peak_mib()}


def write_prompts(path: Path, rows: int) -> None:
    """Chats of about 30 words, a batch at a time, so that making them needs no memory either."""
    chat = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    schema = pa.schema([("prompt", chat), ("answer", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, _ROWS_PER_BATCH):
            numbers = range(start, min(start + _ROWS_PER_BATCH, rows))
            chats = [[{"role": "user", "content": f"question {i}: " + "word " * 30}] for i in numbers]
            writer.write_batch(pa.record_batch([pa.array(chats, chat), pa.array(map(str, numbers))], schema=schema))


if __name__ == "__main__":
    main()

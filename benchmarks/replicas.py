"""What the driver of several replicas can do: samples per second handed out and taken in, and whether memory grows.

    python -m benchmarks.replicas [--replicas 1 2 4 8 64] [--samples 200000] [--n-samples 8]

Real Ray actors with the echo engine, which costs next to nothing, each in a process of its own; a driver of its own for
every number of replicas. Prints samples per second from the first task handed out to the last sample durable (all
processes share this machine's cores), the same per second of the driver's own CPU time, and the driver's peak memory.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.memory import peak_mib
from benchmarks.pipeline import write_prompts
from rollout.cli.compose import compose_run
from rollout.engine.cache import release
from rollout.lifecycle import start


def main() -> None:
    """Parse the command line, measure each number of replicas, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4, 8, 64])
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--n-samples", type=int, default=8)
    parser.add_argument("--one", action="store_true", help="measure the one number in this process, print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.replicas[0], options.samples, options.n_samples)))
        return
    print(f"{'replicas':>8} {'seconds':>8} {'samples/s':>10} {'per driver CPU s':>17} {'driver peak MiB':>16}")
    for replicas in options.replicas:
        command = [sys.executable, "-m", "benchmarks.replicas", "--one", "--replicas", str(replicas)]
        command += ["--samples", str(options.samples), "--n-samples", str(options.n_samples)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        result = json.loads(output.splitlines()[-1])
        print(
            f"{replicas:>8} {result['seconds']:>8.1f} {options.samples / result['seconds']:>10,.0f} "
            f"{options.samples / result['cpu_seconds']:>17,.0f} {result['peak_mib']:>16.0f}",
            flush=True,
        )


def measure(replicas: int, samples: int, n_samples: int) -> dict[str, float]:
    """One run in this process, on actors that have done a small one before: its generation stage."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run(folder / "warm_up", replicas, 64 * replicas, n_samples)
        cpu = time.process_time()
        seconds = _run(folder / "run", replicas, samples, n_samples)
        cpu = time.process_time() - cpu
        release()
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak_mib()}


def _run(folder: Path, replicas: int, samples: int, n_samples: int) -> float:
    """Seconds of the generation stage; the driver's CPU time includes reading the input and writing the output."""
    source = folder.with_suffix(".parquet")
    write_prompts(source, samples // n_samples)
    run = compose_run(
        f"data.path={source}",
        f"sampling.n_samples={n_samples}",
        f"hardware.replicas={replicas}",
        "hardware=cpu",
        "hardware.max_num_seqs=256",
        "engine.kind=echo",
        "postprocess=none",
        "tracking=disabled",
    )
    return start(run, folder).seconds["generate"]


if __name__ == "__main__":
    main()

"""How fast a journal is merged into rollouts.parquet, and how much memory that takes, for one writer and for many.

    python -m benchmarks.finalize [--samples 1000000] [--n-samples 8] [--characters 4500] [--writers 1 64]

Writes the journal of a run with that many engines (rows handed out in turn, a part of `store.flush_samples` samples
each time a writer has as many), then finalizes it in a process of its own. Responses are of random words, and half to
one and a half times as long as `--characters`.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.memory import peak_mib
from benchmarks.pipeline import write_prompts
from rollout.config import DataConfig, StoreConfig
from rollout.data.prompts import open_input
from rollout.data.row_sampling import SampleCounts
from rollout.records import Sample
from rollout.store.finalize import finalize
from rollout.store.journal import Journal, writer_name
from rollout.store.layout import JOURNAL, OUTPUT

_WORDS = 5000
_TEXT_CHARACTERS = 64 << 20  # responses are cut out of this much text


def main() -> None:
    """Parse the command line, measure each number of writers, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--n-samples", type=int, default=8)
    parser.add_argument("--characters", type=int, default=4500)
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--one", type=Path, help="finalize this folder in this process, print JSON")
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one, options.n_samples)))
        return
    print(f"{'writers':>8} {'parts':>7} {'GB':>6} {'seconds':>8} {'samples/s':>10} {'peak MiB':>9}")
    for writers in options.writers:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_prompts(folder / "input.parquet", options.samples // options.n_samples)
            write_journal(folder, options.samples, options.n_samples, options.characters, writers)
            command = [sys.executable, "-m", "benchmarks.finalize", "--one", name]
            command += ["--n-samples", str(options.n_samples)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            result = json.loads(output.splitlines()[-1])
            num_shards = len(list((folder / JOURNAL).iterdir()))
            size = (folder / OUTPUT).stat().st_size / 1e9
        print(
            f"{writers:>8} {num_shards:>7,} {size:>6.2f} {result['seconds']:>8.1f} "
            f"{options.samples / result['seconds']:>10,.0f} {result['peak_mib']:>9.0f}",
            flush=True,
        )


def write_journal(folder: Path, samples: int, n_samples: int, characters: int, writers: int) -> None:
    """The parts of a run on so many engines, each of which has worked on every so-many-th row."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randrange(2, 10))) for _ in range(_WORDS)]
    text = " ".join(draw.choices(words, k=_TEXT_CHARACTERS // 6))
    last_cut = len(text) - 2 * characters
    journals = [Journal(folder, StoreConfig(), writer_name(index)) for index in range(writers)]
    for number in range(samples):
        row_id, index = divmod(number, n_samples)
        start, length = draw.randrange(last_cut), draw.randrange(characters // 2, characters * 3 // 2)
        response = text[start : start + length]
        journals[row_id % writers].add(
            Sample(row_id, index, number, response, "stop", 40, length // 4, None, truncated_prompt=None)
        )
    for journal in journals:
        journal.flush()


def measure(folder: Path, n_samples: int) -> dict[str, float]:
    """Seconds, and this process's peak memory in MiB, of one `finalize`."""
    table = open_input(DataConfig(path=str(folder / "input.parquet")))
    start = time.monotonic()
    finalize(folder, table, SampleCounts.equal(table.num_rows, n_samples), {})
    seconds = time.monotonic() - start
    return {"seconds": seconds, "peak_mib": peak_mib()}


if __name__ == "__main__":
    main()

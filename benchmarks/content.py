"""Hashing a checkpoint against `cat` of the same files, cold cache, in alternation.

    python -m benchmarks.content FOLDER [--gib 16] [--files 4] [--repeats 3]

Writes files of random bytes to FOLDER, which must be on the disk to measure and is removed again. Before each reading
the kernel is asked to forget them (posix_fadvise(2)). Prints both rates, their ratio, and what a second look takes.
"""

import argparse
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from rollout.engine.content import _cache_file, folder_content

_BLOCK = 64 << 20


def main() -> None:
    """Write, read in turns, print a line for each repeat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gib", type=float, default=16.0)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    options.folder.mkdir()
    try:
        write_files(options.folder, int(options.gib * (1 << 30)) // options.files, options.files)
        time.sleep(3)  # files younger than two seconds are not kept in the cache
        for _ in range(options.repeats):
            print(compared(options.folder), flush=True)
    finally:
        _cache_file(options.folder).unlink(missing_ok=True)
        shutil.rmtree(options.folder)


def write_files(folder: Path, size: int, count: int) -> None:
    """`count` files of `size` bytes, no two blocks of which are the same."""
    block = bytearray(os.urandom(_BLOCK))
    for number in range(count):
        with (folder / f"model-{number:05d}-of-{count:05d}.safetensors").open("wb") as file:
            for place, start in enumerate(range(0, size, _BLOCK)):
                block[:16] = number.to_bytes(8) + place.to_bytes(8)
                file.write(block[: size - start])
            os.fsync(file.fileno())


def compared(folder: Path) -> str:
    """One reading by `cat`, one by us, and a second look."""
    files = sorted(folder.iterdir())
    size = sum(file.stat().st_size for file in files)
    _forget(files)
    cat = _seconds(lambda: subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, check=True))
    _forget(files)
    _cache_file(folder).unlink(missing_ok=True)
    hashed = _seconds(lambda: folder_content(folder))
    again = _seconds(lambda: folder_content(folder))
    return (
        f"{size / (1 << 30):.1f} GiB: cat {size / cat / 1e9:.2f} GB/s, hashed {size / hashed / 1e9:.2f} GB/s, "
        f"ratio {cat / hashed:.2f}; again {again * 1000:.1f} ms"
    )


def _forget(files: list[Path]) -> None:
    for path in files:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _seconds(do: Callable[[], object]) -> float:
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

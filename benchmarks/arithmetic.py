"""Prompts with a ground truth that a small model sometimes gets right: sums and products of small numbers.

    python -m benchmarks.arithmetic OUT [--rows 200] [--seed 0]

Writes `prompt`, `answer` and `level` (0 to 3) to OUT, a Parquet file. For runs with `sampling.max_tokens=8
postprocess.score.scorer=numeric postprocess.score.ground_truth=answer`: the chat shows how to answer in one number. Of
the answers of the embedded model about one in twenty is right, up to one in three for some prompts.
"""

import argparse
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

_SHOWN = (("2 + 2", 4), ("3 + 5", 8), ("6 x 2", 12), ("20 + 7", 27))
"""Turns that come before the question; told in words to give the number only, so small a model does not."""

_LEVELS = ((4, "+"), (9, "+"), (5, "x"), (30, "+"))
"""The largest number of a problem, and what is done with the two."""


class Problem(NamedTuple):
    """`text` is what stands before the equals sign."""

    text: str
    answer: int
    level: int


def problems(rows: int, seed: int = 0) -> Iterator[Problem]:
    """One of each level in turn; the same for the same seed."""
    drawn = random.Random(seed)
    for row in range(rows):
        largest, sign = _LEVELS[row % len(_LEVELS)]
        a, b = drawn.randint(1, largest), drawn.randint(1, largest)
        yield Problem(f"{a} {sign} {b}", a + b if sign == "+" else a * b, row % len(_LEVELS))


def chat_of(problem: Problem) -> list[dict[str, str]]:
    """The turns that are shown, and the question."""
    shown = [
        turn
        for text, answer in _SHOWN
        for turn in ({"role": "user", "content": f"{text} ="}, {"role": "assistant", "content": str(answer)})
    ]
    return [*shown, {"role": "user", "content": f"{problem.text} ="}]


def write(path: Path, rows: int, seed: int = 0) -> None:
    """The problems as an input of a run."""
    found = list(problems(rows, seed))
    chats = [chat_of(problem) for problem in found]
    answers, levels = [str(problem.answer) for problem in found], [problem.level for problem in found]
    pq.write_table(pa.table({"prompt": chats, "answer": answers, "level": levels}), path)


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(options.out, options.rows, options.seed)


if __name__ == "__main__":
    main()

"""Text files as lines, also compressed ones."""

from collections.abc import Iterator
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TextIO, cast

import pyarrow as pa

COMPRESSED = (".gz", ".zst")

_BLOCK_LINES = 1024
_CHARACTERS = 1 << 20


def open_text(path: Path) -> TextIO:
    """The text of a file, unpacked where it is compressed."""
    if path.suffix not in COMPRESSED:
        return path.open(encoding="utf-8-sig", newline="\n")
    return TextIOWrapper(cast(BinaryIO, pa.input_stream(path)), encoding="utf-8-sig", newline="\n")


def is_utf8(path: Path) -> bool:
    """Whether all of the text in a file is. Read again only where something is wrong with it."""
    try:
        with open_text(path) as file:
            while file.read(_CHARACTERS):
                pass
    except UnicodeDecodeError:
        return False
    except OSError:  # of a compressed file that is none: another mistake
        return True
    return True


def line_blocks(path: Path, first_row: int = 0) -> Iterator[list[tuple[int, str]]]:
    """Lines that are not blank, without the first `first_row` of them, each with its number from 1."""
    with open_text(path) as file:
        rows = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        lines = islice(rows, first_row, None)
        while block := list(islice(lines, _BLOCK_LINES)):
            yield block

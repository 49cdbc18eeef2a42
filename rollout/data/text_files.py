"""The lines of text files, also compressed ones."""

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
    """The text of a file, decompressed if needed."""
    if path.suffix not in COMPRESSED:
        return path.open(encoding="utf-8-sig", newline="\n")
    return TextIOWrapper(cast(BinaryIO, pa.input_stream(path)), encoding="utf-8-sig", newline="\n")


def is_utf8(path: Path) -> bool:
    """Whether all text in a file is UTF-8. Reads the whole file; only used to explain an error."""
    try:
        with open_text(path) as file:
            while file.read(_CHARACTERS):
                pass
    except UnicodeDecodeError:
        return False
    except OSError:  # not really a compressed file: a different mistake
        return True
    return True


def line_blocks(path: Path, first_row: int = 0) -> Iterator[list[tuple[int, str]]]:
    """Blocks of lines that are not blank, without the first `first_row` of them, each with its line number from 1."""
    with open_text(path) as file:
        rows = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
        lines = islice(rows, first_row, None)
        while block := list(islice(lines, _BLOCK_LINES)):
            yield block

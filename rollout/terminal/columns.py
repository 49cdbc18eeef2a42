"""Text for people to read in a terminal or a file: wrapped at its width, and in two columns."""

import shutil
import textwrap
from collections.abc import Iterable, Iterator

WIDEST = 110
"""Most characters in a line; longer ones are hard to read."""
_NARROWEST = 40
_LONGEST_NAME = 28
_NO_BREAK = "\N{NO-BREAK SPACE}"


def columns(rows: Iterable[tuple[str, str]], indent: int = 2, left: int = 0) -> Iterator[str]:
    """Names and what they mean, side by side; a long name has a line to itself."""
    rows = list(rows)
    left = max(left, longest(name for name, _ in rows))
    for name, meaning in rows:
        lines = list(wrapped(meaning, indent + left + 2)) or [""]
        if len(name) <= left:
            lines[0] = f"{' ' * indent}{name:<{left}}  {lines[0].lstrip()}".rstrip()
        else:
            lines.insert(0, f"{' ' * indent}{name}")
        yield from lines


def longest(names: Iterable[str]) -> int:
    """Characters of the longest name, without those that get their own line."""
    return max((len(name) for name in names if len(name) <= _LONGEST_NAME), default=4)


def wrapped(text: str, indent: int, room: int = 0) -> list[str]:
    """`text` in lines as wide as the terminal, less `room` for what the caller adds behind them."""
    margin = " " * indent
    if text.startswith(" "):  # an example, laid out by hand
        return textwrap.indent(textwrap.dedent(text), margin).splitlines()
    width = max(_NARROWEST, min(shutil.get_terminal_size().columns, WIDEST) - room)
    wrapper = textwrap.TextWrapper(width, margin, margin, break_long_words=False, break_on_hyphens=False)
    return [line.replace(_NO_BREAK, " ") for line in wrapper.wrap(text)]


def separated(parts: Iterable[Iterable[str]]) -> Iterator[str]:
    """The lines of all parts, with an empty one between two."""
    for number, part in enumerate(parts):
        yield from [""] * (number > 0)
        yield from part


def unbroken(text: str) -> str:
    """`text` for `wrapped`, to stay on one line."""
    return text.replace(" ", _NO_BREAK)

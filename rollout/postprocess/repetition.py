"""Responses that got stuck: a text that ends by saying the same thing over and over."""

LOOP_REPEATS = 4
LOOP_CHARACTERS = 64
"""A response loops when it ends in one passage, of any length, repeated at least this often over at least this many
characters."""

_PROBES = (16, 64)  # characters at the end whose earlier copy tells how long the passage may be


def is_looping(text: str) -> bool:
    """Whether `text` ends in a loop; the last repetition may be cut off anywhere.

    The distance from the end to the nearest earlier copy of the last few characters is the one length the passage can
    have; then the end must equal itself shifted by that length. Exact repetition only: a list that counts upwards is
    no loop.
    """
    return not text.isspace() and any(_repeats(text, _distance(text, probe)) for probe in _PROBES)


def _distance(text: str, probe: int) -> int:
    """How far before its end `text` last had the same `probe` characters; 0 where it never had."""
    start = len(text) - probe
    earlier = text.rfind(text[start:], 0, len(text) - 1) if start > 0 else -1
    return start - earlier if earlier >= 0 else 0


def _repeats(text: str, period: int) -> bool:
    covered = max(LOOP_REPEATS * period, LOOP_CHARACTERS)
    end = text[-covered:]
    return period > 0 and covered <= len(text) and end[period:] == end[:-period]

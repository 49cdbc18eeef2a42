"""Scorers whose pass rates are known: `tests.graders:NAME` on the command line."""

import os
import time
import zlib
from typing import Any


def number_of(response: str) -> float:
    """Evenly spread over [0, 1): one for each response of the echo engine, which names its prompt and seed."""
    return zlib.crc32(response.encode()) / 2**32


def by_rate(response: str, ground_truth: float, row: dict[str, Any]) -> bool:
    """Responses pass at the rate that the row says."""
    return number_of(response) < ground_truth


def votes(response: str, ground_truth: Any, row: dict[str, Any]) -> dict[str, Any]:
    """One of four answers, the first of which is as frequent as the row says."""
    number = number_of(response)
    return {"score": None, "answer": "a" if number < row["rate"] else "bcd"[int(1000 * number) % 3]}


def rough(response: str, ground_truth: float, row: dict[str, Any]) -> bool:
    """By rate, but for the responses that make it hang, die or raise."""
    match int(1000 * number_of(response)) % 40:
        case 0:
            time.sleep(60)
        case 1:
            os._exit(7)
        case 2:
            raise RuntimeError("no idea")
    return by_rate(response, ground_truth, row)


def share(response: str, ground_truth: Any, row: dict[str, Any]) -> float:
    """A score that is spread evenly over [0, 1)."""
    return number_of(response)

"""Scorers as users write them, good and bad; named `tests.postprocess.own_scorers:NAME` on the command line."""

import os
import sys
import time
from typing import Any

import numpy as np


def contains(response: str, ground_truth: Any, row: dict[str, Any]) -> bool:
    return ground_truth in response


def of_the_row(response: str, ground_truth: Any, row: dict[str, Any]) -> float:
    return len(row["prompt"][0]["content"]) + len(row)


def with_answer(response: str, ground_truth: Any, row: dict[str, Any]) -> dict[str, Any]:
    return {"score": 0.5, "answer": response.upper()}


def undecided(response: str, ground_truth: Any, row: dict[str, Any]) -> float | None:
    return None if response == "?" else float(response)


def with_numpy(response: str, ground_truth: Any, row: dict[str, Any]) -> Any:
    return np.array(["a"])[0] == response


def never(response: str, ground_truth: Any, row: dict[str, Any]) -> float:
    raise RuntimeError("not today")


def hangs(response: str, ground_truth: Any, row: dict[str, Any]) -> float:
    time.sleep(60)
    return 1.0


def dies(response: str, ground_truth: Any, row: dict[str, Any]) -> float:
    os._exit(7)


class _Slow(Exception):
    def __str__(self) -> str:
        time.sleep(60)
        return "at last"


def misbehaving(response: str, ground_truth: Any, row: dict[str, Any]) -> Any:
    """Does what the response says, as nothing that is graded should be able to."""
    match response:
        case "raise":
            raise RuntimeError("no idea")
        case "raise slowly":
            raise _Slow
        case "text":
            return "1.0"
        case "infinite":
            return float("inf")
        case "surrogate":
            raise ValueError("\ud800")
        case "exit":
            sys.exit(3)
        case "hang":
            while True:
                time.sleep(0.01)
        case "hang and catch everything":
            while True:
                try:
                    time.sleep(60)
                except BaseException:
                    continue
        case "die":
            os._exit(7)
    return 1.0

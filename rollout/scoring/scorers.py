"""Scoring one response: the scorers that come with us, and a function of yours.

A function of yours is called with the response, the ground truth and a dictionary of the input's columns. It returns a
number, true or false, None for no score, or a dictionary with `score` and, for majority@k, `answer`:

    def contains(response: str, ground_truth: str, row: dict) -> bool:
        return ground_truth in response
"""

import importlib
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from rollout.config import ScoreConfig
from rollout.data.text import as_text
from rollout.errors import UserError


class Scored(NamedTuple):
    """What a scorer says of a response. Without a score there may be an `error` that says why."""

    score: float | None
    answer: str | None = None
    error: str | None = None


Row = Mapping[str, Any]
Scorer = Callable[[str, Any, Row], Scored]
"""What `scorer_of` returns. It raises what it likes; `rollout.scoring.workers` deals with that."""

_LARGEST = 1e100  # far from where sums of scores overflow; NaN and infinity are not below it

_NUMBER = re.compile(r"(?:(?<![\d)])[-+])?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?")
"""Digits with or without commas between thousands, a fraction, an exponent; in `5-3` the minus is no sign."""


def exact_match(response: str, ground_truth: Any) -> Scored:
    """1 for the ground truth itself, up to white space around it."""
    answer = response.strip()
    return Scored(float(answer == as_text(ground_truth).strip()), answer)


def numeric_match(response: str, ground_truth: Any) -> Scored:
    """1 when the last number in the response equals the last one in the ground truth.

    What lm-evaluation-harness calls `flexible-extract` for GSM8K. Raises ValueError for a ground truth without one.
    """
    truth = _last_number(as_text(ground_truth))
    if truth is None:
        raise ValueError("no number in the ground truth")
    found = _last_number(response)
    return Scored(float(found == truth), None if found is None else f"{found.normalize():f}")


def _last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text.replace("\N{MINUS SIGN}", "-"))
    return Decimal(found[-1].replace(",", "")) if found else None


def regex(pattern: str, response: str, ground_truth: Any) -> Scored:
    """1 when the pattern's last match gives the ground truth; without a ground truth, when there is a match."""
    matches = list(re.finditer(pattern, response))
    if not matches:
        return Scored(0.0)
    answer = (matches[-1][1] if matches[-1].re.groups else matches[-1][0]) or ""
    return Scored(1.0 if ground_truth is None else float(answer.strip() == as_text(ground_truth).strip()), answer)


def math(response: str, ground_truth: Any) -> Scored:
    r"""1 when the response's final answer is mathematically equal to the ground truth, by the math-verify library.

    The ground truth is an expression, `\frac{1}{2}`, or a text with a `\boxed{}` or `$...$` one. Raises ValueError for
    one that cannot be parsed.
    """
    from math_verify import parse, verify

    text = as_text(ground_truth)
    # the library's own limit would take the alarm clock that rollout.scoring.workers uses for every scorer
    truth = parse(text if "\\boxed" in text or "$" in text else f"\\boxed{{{text}}}", parsing_timeout=None)
    if not truth:
        raise ValueError(f"the ground truth {text!r} is no expression")
    answer = parse(response, parsing_timeout=None)
    score = float(verify(truth, answer, timeout_seconds=None))
    return Scored(score, str(answer[0]) if answer else None)


BUILT_IN = {"exact_match": exact_match, "numeric_match": numeric_match, "math": math}


def scorer_of(score: ScoreConfig) -> Scorer:
    """The function that `score.scorer` names. Raises UserError when there is none."""
    name = score.scorer or ""
    if name in BUILT_IN or name == "regex":
        function = partial(regex, score.pattern or "") if name == "regex" else BUILT_IN[name]
        return lambda response, ground_truth, _row: function(response, ground_truth)
    module_name, _, function_name = name.partition(":")
    key = f"postprocess.score.scorer={name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"{key}: {error}; give a module that Python finds from this folder") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{key}: importing {module_name} raises {type(error).__name__}: {error}; fix it") from error
    own = getattr(module, function_name, None)
    if not callable(own):
        raise UserError(f"{key}: {module_name} has no function {function_name}; check the name")
    return partial(_own, own)


def _own(function: Callable[[str, Any, Row], Any], response: str, ground_truth: Any, row: Row) -> Scored:
    result = function(response, ground_truth, row)
    answer = None
    if isinstance(result, Mapping):
        answer, result = result.get("answer"), result["score"]
    answer = None if answer is None else as_text(answer)
    if result is None:
        return Scored(None, answer)
    if not isinstance(result, (Real, np.bool_)):  # numpy's numbers are
        raise TypeError(f"returned {type(result).__name__}, not a number")
    if not abs(float(result)) < _LARGEST:
        raise ValueError(f"returned {result}")
    return Scored(float(result), answer)

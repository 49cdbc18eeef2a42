"""Score one response: the built-in scorers, and functions of users.

A function of yours is called with the response, the ground truth and a dictionary of the input's columns. It returns a
number, true or false, None for no score, or a dictionary with `score` and, for majority@k, `answer`:

    def contains(response: str, ground_truth: str, row: dict) -> bool:
        return ground_truth in response
"""

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from rollout.config import ScoreConfig
from rollout.data.text import as_text
from rollout.errors import UserError
from rollout.scoring.numbers import last_number, number_text


class Scored(NamedTuple):
    """The result of a scorer for a response. If the score or the answer is missing, `error` may say why."""

    score: float | None
    answer: str | None = None
    error: str | None = None


Row = Mapping[str, Any]
Scorer = Callable[[str, Any, Row], Scored]
"""What `scorer_of` returns. It may raise anything; `rollout.scoring.processes` handles that."""

_THINKING = re.compile(r"<(/?)think(?:ing)?>|\[(/?)THINK\]")
_LARGEST = 1e100  # small enough that sums of scores do not overflow; NaN and infinity are not below it


def exact_match(response: str, ground_truth: str | None) -> Scored:
    """1 if the response is the ground truth, apart from white space around it."""
    answer = response.strip()
    if ground_truth is not None and answer == ground_truth.strip():
        return Scored(1.0, answer)
    return Scored(0.0, answer) if answer else no_answer("nothing in it")


def numeric_match(response: str, ground_truth: str | None) -> Scored:
    """1 if the last number in the response equals the last one in the ground truth.

    lm-evaluation-harness calls this `flexible-extract` for GSM8K; here more forms of numbers are read, see
    `rollout.scoring.numbers`. Raises ValueError for a ground truth without a number.
    """
    truth = None if ground_truth is None else last_number(ground_truth)
    if truth is None and ground_truth is not None:
        raise ValueError("no number in the ground truth")
    found = last_number(response)
    return no_answer("no number in it") if found is None else Scored(float(found == truth), number_text(found))


def regex(pattern: str, response: str, ground_truth: str | None) -> Scored:
    """1 if the last match of the pattern gives the ground truth; without a ground truth, if there is a match."""
    matches = list(re.finditer(pattern, response))
    if not matches:
        return Scored(0.0) if ground_truth is None else no_answer("the pattern does not match")
    answer = (matches[-1][1] if matches[-1].re.groups else matches[-1][0]) or ""
    return Scored(1.0 if ground_truth is None else float(answer.strip() == ground_truth.strip()), answer)


def math(response: str, ground_truth: str | None) -> Scored:
    r"""1 if the response's final answer is mathematically equal to the ground truth (`rollout.scoring.expressions`).

    The ground truth is an expression, `\frac{1}{2}`, or a text with an expression in `\boxed{}` or `$...$`. Raises
    ValueError for an empty one.
    """
    from rollout.scoring.expressions import answers_of, are_equal, truth_of  # math-verify is an extra

    truth = None if ground_truth is None else truth_of(ground_truth)
    if truth is not None and not truth.values and not truth.text:
        raise ValueError(f"the ground truth {ground_truth!r} is no expression")
    answers = answers_of(response)
    for answer in answers:
        if truth is not None and are_equal(truth, answer):
            return Scored(1.0, answer.shown())
    shown = next((answer.shown() for answer in answers if answer.values), None)
    return no_answer("no expression in it") if shown is None else Scored(0.0, shown)


BUILT_IN = {"exact_match": exact_match, "numeric_match": numeric_match, "math": math}
"""They find an answer even without a ground truth; their score means nothing then."""


def scorer_of(score: ScoreConfig) -> Scorer:
    """The function that `score.scorer` names. Raises UserError if there is none."""
    name = score.scorer or ""
    if name == "regex":
        return partial(_of_pattern, partial(regex, score.pattern or ""), score.after)
    if name in BUILT_IN:
        return partial(_of_answer, BUILT_IN[name], score.after)
    module_name, _, function_name = name.partition(":")
    key = f"postprocess.score.scorer={name}"
    try:
        module = _imported(module_name, function_name)
    except ModuleNotFoundError as error:
        raise UserError(f"{key}: {error}; give a module that Python finds from this folder") from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{key}: importing {module_name} raises {type(error).__name__}: {error}; fix it") from error
    own = getattr(module, function_name, None)
    if not callable(own):
        raise UserError(f"{key}: {module_name} has no function {function_name}; check the name")
    return partial(_own, own, score.after)


def _imported(name: str, function: str) -> ModuleType:
    """The module as its file is now: from a notebook, the file or the function may have been written only since."""
    importlib.invalidate_caches()
    known = sys.modules.get(name)
    if known is not None and not hasattr(known, function):
        return importlib.reload(known)
    return importlib.import_module(name)


def _of_pattern(
    function: Callable[[str, Any], Scored], after: str | None, response: str, ground_truth: Any, _row: Row
) -> Scored:
    """Score the response's answer with a pattern; without a ground truth, the pattern may also match the thinking."""
    is_search = ground_truth is None and after is None
    answer = response if is_search else answer_in(response, after)
    return answer if isinstance(answer, Scored) else _of_any(function, answer, ground_truth)


def _of_answer(
    function: Callable[[str, Any], Scored], after: str | None, response: str, ground_truth: Any, _row: Row
) -> Scored:
    """Score the response's answer, which is never in its thinking, with a built-in scorer; without a ground truth there
    is no score.
    """
    answer = answer_in(response, after)
    found = answer if isinstance(answer, Scored) else _of_any(function, answer, ground_truth)
    return Scored(None, found.answer) if ground_truth is None else found


def _of_any(function: Callable[[str, Any], Scored], answer: str, ground_truth: Any) -> Scored:
    """Score with any ground truth of a list. Raises the error of `function` if it can use none of them."""
    if not isinstance(ground_truth, list):
        return function(answer, None if ground_truth is None else as_text(ground_truth))
    found, problem = list[Scored](), ValueError("the ground truth is a list without an answer")
    for truth in ground_truth:
        try:
            found += [] if truth is None else [function(answer, as_text(truth))]
        except ValueError as error:
            problem = error
    if not found:
        raise problem
    return max(found, key=lambda scored: scored.score or 0.0)


def answer_in(response: str, after: str | None) -> str | Scored:
    """The part of the response that may contain the answer: after the last `after`, if that is not None, and after the
    thinking, `<think>` to `</think>`. If there is no such part, a score of 0.
    """
    marks = list(_THINKING.finditer(response))
    if marks and not (marks[-1][1] or marks[-1][2]):
        return no_answer(f"its {marks[-1][0]} never ends")
    begin = marks[-1].end() if marks else 0
    if after is not None and (found := response.rfind(after)) < 0:
        return no_answer(f"no {after!r} in it")
    return response[begin:] if after is None else response[max(begin, found + len(after)) :]


def no_answer(reason: str) -> Scored:
    """The score of a response without an answer."""
    return Scored(0.0, None, f"no answer: {reason}")


def _own(
    function: Callable[[str, Any, Row], Any], after: str | None, response: str, ground_truth: Any, row: Row
) -> Scored:
    if after is not None:
        _, found, response = response.rpartition(after)
        if not found:
            return no_answer(f"no {after!r} in it")
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

"""Checks of a scorer before there is a response to score."""

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from rollout.config import ScoreConfig
from rollout.data.json_text import rows_of
from rollout.errors import UserError, did_you_mean
from rollout.scoring.inputs import truths_of
from rollout.scoring.scorers import BUILT_IN, scorer_of
from rollout.scoring.workers import scoring

NAMES = (*BUILT_IN, "regex")
"""The words that `score.scorer` takes, beside module:function."""


def scorer_problems(score: ScoreConfig) -> Iterator[str]:
    """Why `score.scorer`, which is set, cannot be called: one line for each reason."""
    name = score.scorer or ""
    if name not in NAMES and not re.fullmatch(r"[\w.]+:\w+", name):
        yield f"postprocess.score.scorer={name}: no such scorer, {did_you_mean(name, NAMES)} (or give module:function)"
    elif name == "regex":
        yield from _pattern_problems(score.pattern)
    elif name == "math" and importlib.util.find_spec("math_verify") is None:
        yield 'postprocess.score.scorer=math: needs the math-verify library; pip install "rollout[math]"'
    else:
        try:
            scorer_of(score)
        except UserError as error:
            yield from error.problems


def _pattern_problems(pattern: str | None) -> Iterator[str]:
    if pattern is None:
        yield "postprocess.score.scorer=regex: no pattern is set; set postprocess.score.pattern"
        return
    try:
        re.compile(pattern)
    except re.error as error:
        yield f"postprocess.score.pattern={pattern}: no regular expression ({error}); fix it"


def scorer_warning(score: ScoreConfig, first: pa.RecordBatch) -> str | None:
    """The scorer's error for a made-up response to one of the input's first rows, if any.

    The scorer is called as in the run, in its own process. It may still be correct, so this is only a warning.
    """
    truths = truths_of(first, score)
    row = next((row for row, truth in enumerate(truths) if truth is not None), 0)
    response = f"{score.after or ''} A made-up response. The answer is \\boxed{{1}}."
    made_up = [(response, truths[row], rows_of(first.slice(row, 1))[0])] if first.num_rows else []
    with scoring(replace(score, workers=1)) as score_all:
        reasons = [scored.error for scored in score_all(made_up) if scored.score is None and scored.error]
    return next(
        (f"postprocess.score.scorer={score.scorer}: of a made-up response: {reason}" for reason in reasons), None
    )

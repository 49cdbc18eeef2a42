"""What of a response counts as its answer, and what a list of ground truths means."""

from typing import Any

import pytest

from rollout.config import ScoreConfig
from rollout.scoring.scorers import Scored, scorer_of

OWN = "tests.postprocess.own_scorers"


def scored(response: str, truth: Any = "4", scorer: str = "numeric_match", **keys: Any) -> Scored:
    return scorer_of(ScoreConfig(scorer, **keys))(response, truth, {})


@pytest.mark.parametrize(
    ("response", "after", "score", "error"),
    [
        ("so 3</think>It is 4", "</think>", 1, None),
        ("4 or 3</think>3", "</think>", 0, None),
        ("first #### 3, then #### 4 apples", "####", 1, None),
        ("it must be 4", "</think>", 0, "no answer: no '</think>' in it"),
        ("so 4</think>", "</think>", 0, "no answer: no number in it"),
        ("", "</think>", 0, "no answer: no '</think>' in it"),
        ("<think>#### 4", "####", 0, "no answer: its <think> never ends"),
        ("<think>#### 4</think>I do not know", "####", 0, "no answer: no number in it"),
        ("<think>#### 3</think>#### 4", "####", 1, None),
    ],
)
def test_what_stands_after_the_last_occurrence_is_scored(
    response: str, after: str, score: float, error: str | None
) -> None:
    found = scored(response, after=after)
    assert (found.score, found.error) == (score, error)


THINKING = [
    ("<think>it is 4", 0),
    ("<think>it is 4\n\nWait, 4", 0),
    ("Sure. <think>4", 0),
    ("<think>3</think>4", 1),
    ("<think>4</think>3", 0),
    ("<think>4</think>I do not know", 0),
    ("<think>3</think>4<think>now 4 again", 0),
    ("it was opened by the template, 3</think>4", 1),
    ("<thinking>4", 0),
    ("<thinking>3</thinking>4", 1),
    ("[THINK]3[/THINK]4", 1),
    ("[THINK]4", 0),
    ("I think 4", 1),
]


@pytest.mark.parametrize(("response", "score"), THINKING)
@pytest.mark.parametrize("scorer", ["numeric_match", "math", "regex"])
def test_thinking_is_never_the_answer(response: str, score: float, scorer: str) -> None:
    assert scored(response, scorer=scorer, pattern=r"\d").score == score


def test_an_exact_answer_may_follow_thinking() -> None:
    assert scored("<think>3?</think>\n\n4\n", scorer="exact_match").score == 1


def test_a_pattern_without_a_ground_truth_may_be_about_thinking() -> None:
    assert scored("<think>hm", None, "regex", pattern="<think>").score == 1


def test_a_function_of_ones_own_sees_what_after_leaves_and_else_all() -> None:
    own = f"{OWN}:contains"
    assert scored("<think>4", scorer=own).score == 1
    assert scored("4</think>3", scorer=own, after="</think>").score == 0
    assert scored("4", scorer=own, after="</think>") == (0, None, "no answer: no '</think>' in it")


@pytest.mark.parametrize(
    ("scorer", "truth", "response", "score"),
    [
        ("exact_match", ["Paris", "paris"], "paris", 1),
        ("exact_match", ["Paris", "paris"], "London", 0),
        ("exact_match", ["Paris", None], "Paris", 1),
        ("exact_match", [42.0, 43.0], "43", 1),
        ("exact_match", [["a", "b"]], '["a", "b"]', 1),
        ("numeric_match", ["4", "5"], "it is 5", 1),
        ("numeric_match", [4, 5], "it is 6", 0),
        ("numeric_match", ["four", "4"], "4", 1),
        ("numeric_match", [0.1, 0.2], "0.2", 1),
        ("regex", ["A", "B"], "answer: B", 1),
        ("regex", ["A", "B"], "answer: C", 0),
        ("math", [r"\frac{1}{2}", "3"], r"\boxed{0.5}", 1),
        ("math", [r"\frac{1}{2}", "3"], r"\boxed{4}", 0),
    ],
)
def test_a_list_as_ground_truth_means_any_of_them(scorer: str, truth: list[Any], response: str, score: float) -> None:
    assert scored(response, truth, scorer, pattern=r"answer: (\w)").score == score


@pytest.mark.parametrize("truth", [[], [None], ["four"]])
def test_a_list_without_an_answer_gives_no_score(truth: list[Any]) -> None:
    with pytest.raises(ValueError, match="ground truth"):
        scored("4", truth)


@pytest.mark.parametrize(
    ("scorer", "response", "reason"),
    [
        ("numeric_match", "none", "no number in it"),
        ("math", "I do not know", "no expression in it"),
        ("regex", "none", "the pattern does not match"),
        ("exact_match", " \n", "nothing in it"),
    ],
)
def test_no_answer_is_a_score_of_0_that_says_why(scorer: str, response: str, reason: str) -> None:
    assert scored(response, scorer=scorer, pattern=r"\d") == (0, None, f"no answer: {reason}")

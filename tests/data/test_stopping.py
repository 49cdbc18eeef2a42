"""When a row has enough samples: by the numbers of its samples, never by the order in which they came."""

from itertools import product

import pytest

from rollout.config import AdaptiveConfig
from rollout.data.stopping import DONE, FAILED, NO_TRUTH, PASSED, SCORED, judge, round_ends, wilson

NOT_YET, UNSCORED, WRONG, RIGHT = 0, DONE, DONE | SCORED, DONE | SCORED | PASSED
NO_GROUND_TRUTH, RIGHT_ON_A_SECOND_TRY = WRONG | NO_TRUTH, RIGHT | FAILED
OF = {
    "-": NOT_YET,
    "?": UNSCORED,
    "0": WRONG,
    "1": RIGHT,
    "x": FAILED,
    "n": NO_GROUND_TRUTH,
    "r": RIGHT_ON_A_SECOND_TRY,
}


def verdict(rule: AdaptiveConfig, samples: str, answers: str = "") -> tuple[int, str | None]:
    """Of a row whose samples are, by number: not there, unscored, wrong, right, failed, without a ground truth."""
    return judge(rule, bytes(OF[sample] for sample in samples), [ord(answer) - ord("-") for answer in answers])


@pytest.mark.parametrize(
    ("rounds", "budget", "ends"),
    [
        ([2, 2, 4, 8], 16, (2, 4, 8, 16)),
        ([2, 2, 4, 8], 35, (2, 4, 8, 16, 24, 32, 35)),
        ([2, 2, 4, 8], 5, (2, 4, 5)),
        ([1], 3, (1, 2, 3)),
        ([8], 1, (1,)),
    ],
)
def test_the_last_round_repeats_and_is_cut_to_the_budget(rounds: list[int], budget: int, ends: tuple[int, ...]) -> None:
    assert round_ends(tuple(rounds), budget) == ends


@pytest.mark.parametrize(
    ("until", "samples", "expected"),
    [
        ("passes", "--------", (2, None)),
        ("passes", "1-------", (2, None)),  # the other one of the round may take longer
        ("passes", "-1------", (2, None)),
        ("passes", "01------", (2, "passes")),
        ("passes", "1?------", (2, None)),
        ("passes", "00------", (4, None)),
        ("passes", "00-1----", (4, None)),
        ("passes", "0001----", (4, "passes")),
        ("passes", "00000000", (8, "budget")),
        ("passes", "00000001", (8, "passes")),
        ("mixed", "11------", (4, None)),
        ("mixed", "1110----", (4, "mixed")),
        ("mixed", "10------", (2, "mixed")),
        ("mixed", "11111111", (8, "budget")),
        ("passes", "xx------", (2, "error")),  # a bad row
        ("mixed", "1x------", (2, "mixed")),  # one that failed does not pass
        ("passes", "rx------", (4, None)),  # also when a second try gave a response
        ("passes", "nn------", (4, None)),
        ("passes", "nnnnnnnn", (8, "budget")),
    ],
)
def test_a_row_is_judged_when_its_round_is_there(until: str, samples: str, expected: tuple[int, str | None]) -> None:
    assert verdict(AdaptiveConfig(until=until), samples) == expected


def test_so_many_have_to_pass() -> None:
    rule = AdaptiveConfig(until="passes", passes=3, rounds=[2])
    assert verdict(rule, "1011--") == (4, "passes")
    assert verdict(rule, "1010--") == (6, None)


def test_an_interval_is_narrow_enough_or_outside_what_is_of_interest() -> None:
    low, high = wilson(8, 0)
    narrow = AdaptiveConfig(until="interval", rounds=[8], width=high - low + 1e-9)
    assert verdict(narrow, "0" * 8 + "-" * 24) == (8, "interval")
    assert verdict(narrow, "01" * 4 + "-" * 24) == (16, None)
    easy = AdaptiveConfig(until="interval", rounds=[8], width=0.01, high=0.6)
    assert verdict(easy, "1" * 8 + "-" * 24) == (8, "interval")
    hard = AdaptiveConfig(until="interval", rounds=[8], width=0.01, low=0.4)
    assert verdict(hard, "0" * 8 + "-" * 24) == (8, "interval")
    assert verdict(narrow, "n" * 32) == (32, "budget")  # nothing is known of a row without a ground truth


def test_wilson_of_ten() -> None:
    assert wilson(10, 5) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(10, 0) == pytest.approx((0.0, 0.2775), abs=1e-4)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("aa------", (4, None)),  # six more may agree on another
        ("aaaa----", (8, None)),  # four more may tie
        ("aaaab---", (8, None)),
        ("aaaabbbb", (8, "budget")),  # a tie
        ("aaaaabbb", (8, "agree")),
        ("--------", (8, "budget")),  # no sample has an answer
    ],
)
def test_an_answer_leads_once_it_cannot_be_overtaken_or_tied_with(answers: str, expected: tuple[int, str]) -> None:
    samples = "0" * 8 if expected[1] == "budget" else "".join("-0"[answer != "-"] for answer in answers)
    assert verdict(AdaptiveConfig(until="agree"), samples, answers) == expected


def test_agreement_is_what_the_full_budget_would_say() -> None:
    rule = AdaptiveConfig(until="agree", rounds=[1])
    for answers in product("abc-", repeat=6):
        end, reason = verdict(rule, "0" * 6, "".join(answers))
        counts = sorted(((answers.count(answer), answer) for answer in "abc"), reverse=True)
        if reason == "agree":
            leading = max("abc", key=answers[:end].count)
            assert counts[0] == (answers.count(leading), leading)
            assert counts[0][0] > counts[1][0]
        else:
            assert counts[0][0] == counts[1][0]


def test_a_prefix_that_is_enough_stays_enough_whatever_comes_behind_it() -> None:
    for samples in product("01x", repeat=4):
        end, reason = verdict(AdaptiveConfig(until="mixed", rounds=[1]), "".join(samples))
        for more in ("----", "0101", "xxxx"):
            cut = "".join(samples)[:end] + more
            if reason == "mixed":
                assert verdict(AdaptiveConfig(until="mixed", rounds=[1]), cut) == (end, reason)

"""A best one only where the intervals say so."""

import numpy as np
import pytest

from rollout.scoring.intervals import Estimate, mean_of, share_of
from rollout.scoring.ties import best_of, is_better


def share(passed: int, rows: int) -> Estimate:
    return share_of([1.0] * passed + [0.0] * (rows - passed))


def test_the_difference_of_two_shares_is_judged_as_newcombe_does() -> None:
    """Of 56/70 against 48/80 his table II has 0.0524 to 0.3339."""
    assert is_better(share(56, 70), share(48, 80))
    assert not is_better(share(56, 70), share(53, 80))
    assert not is_better(share(48, 80), share(56, 70))


def test_what_cannot_be_told_from_the_best_is_a_tie() -> None:
    assert best_of({0: share(100, 200), 1: share(140, 200), 2: share(135, 200)}) == [1, 2]
    assert best_of({0: share(100, 200), 1: share(160, 200)}) == [1]
    assert best_of({0: share(100, 200), 1: share(160, 200)}, highest=False) == [0]
    assert best_of({}) == []


def test_the_more_are_compared_the_more_it_takes() -> None:
    two = {0: share(100, 200), 1: share(121, 200)}
    assert best_of(two) == [1]
    assert best_of(two | {number: share(100, 200) for number in range(2, 20)}) == [1, 0, *range(2, 20)]


@pytest.mark.parametrize(
    "others",
    [[share(0, 19), share(19, 19)], [mean_of([0.3] * 50), mean_of([0.7] * 50)], [mean_of([0.3]), mean_of([0.7])]],
    ids=["few rows", "no spread", "one row"],
)
def test_few_rows_and_rows_all_alike_tell_nothing(others: list[Estimate]) -> None:
    assert len(best_of(dict(enumerate(others)))) == 2


def test_a_best_one_is_wrongly_found_in_at_most_one_case_of_twenty() -> None:
    rng = np.random.default_rng(0)
    draws = rng.binomial(8, rng.beta(2, 5, (400, 5, 100))) / 8  # five jobs that are equally good
    found = sum(len(best_of({job: share_of(rows) for job, rows in enumerate(jobs)})) == 1 for jobs in draws)
    assert found / len(draws) < 0.05

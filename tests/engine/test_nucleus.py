"""What a seeded draw is: which tokens can be drawn, how often, with which noise, and that the kernels do the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.engine import nucleus

pytestmark = pytest.mark.long

ALL = 1 << 30
ROOT = Path(__file__).parents[2]


def kept(logits: list[float], top_p: float = 1.0, top_k: int = ALL) -> list[int]:
    mask = nucleus.kept(torch.tensor([logits]), torch.tensor([top_p]), torch.tensor([top_k]))
    return [int(token) for token in mask[0].nonzero()]


def by_hand(logits: list[float], top_p: float, top_k: int) -> list[int]:
    """The same, token by token."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))[:top_k]
    mass = torch.tensor(logits, dtype=torch.float64).exp().tolist()
    whole, before, found = sum(mass[token] for token in order), 0.0, list[int]()
    for token in order:
        if not found or before / whole < top_p - 1e-9 or top_p == 1.0:
            found.append(token)
        before += mass[token]
    return sorted(found)


def test_of_equal_logits_the_lower_ids_are_kept() -> None:
    assert kept([1.0, 2.0, 1.0, 1.0, 1.0], top_k=3) == [0, 1, 2]
    assert kept([0.0, 0.0, 0.0, 0.0], top_p=0.6) == [0, 1, 2]  # two are half of the mass, which is less than 0.6
    assert kept([0.0, -0.0, 0.0, 0.0], top_p=0.3) == [0, 1]


def test_the_likeliest_token_is_always_kept() -> None:
    assert kept([0.0, 9.0, 0.0], top_p=1e-6) == [1]


def test_top_p_is_of_the_mass_that_top_k_leaves() -> None:
    equal = [0.0] * 100
    assert kept(equal, top_p=0.845) == list(range(85))
    assert kept(equal, top_p=0.845, top_k=10) == list(range(9))


@settings(deadline=None)  # the first call of torch takes long
@given(
    logits=st.lists(st.integers(-6, 6).map(lambda number: number / 2), min_size=1, max_size=30),
    top_p=st.sampled_from([0.1037, 0.5013, 0.9021, 1.0]),
    top_k=st.sampled_from([1, 2, 5, ALL]),
)
def test_what_is_kept_is_what_going_through_the_tokens_one_by_one_keeps(
    logits: list[float], top_p: float, top_k: int
) -> None:
    assert kept(logits, top_p, top_k) == by_hand(logits, top_p, top_k)


def test_the_noise_is_made_of_philox() -> None:
    zero = torch.tensor(0)
    assert int(nucleus._philox(zero, zero)) == 0x6627E8D5  # the known answer of Random123's philox4x32-10


def drawn(logits: torch.Tensor, rows: int, top_p: float, top_k: int = ALL, temperature: float = 1.0) -> torch.Tensor:
    """Tokens of so many rows with the same logits, each with a seed of its own."""
    return nucleus.draw(
        logits.expand(rows, -1),
        torch.full((rows,), temperature),
        torch.full((rows,), top_p),
        torch.full((rows,), top_k),
        torch.arange(rows) * 7919,
        torch.arange(rows) % 50,
    )


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, ALL), (0.9, ALL), (0.8, 12)])
def test_tokens_come_as_often_as_their_probabilities_say(top_p: float, top_k: int) -> None:
    logits = torch.linspace(2.0, -2.0, 40)[None]
    mask = nucleus.kept(logits, torch.tensor([top_p]), torch.tensor([top_k]))
    expected = torch.softmax(logits.double().masked_fill(~mask, -torch.inf), dim=1)[0] * 20_000
    counts = torch.bincount(drawn(logits, 20_000, top_p, top_k), minlength=40).double()
    assert counts[~mask[0]].sum() == 0
    cells = expected > 0
    freedom = int(cells.sum()) - 1
    chi_square = float(((counts - expected)[cells] ** 2 / expected[cells]).sum())
    assert chi_square < freedom + 3.1 * (2 * freedom) ** 0.5 + 5  # above its 99.9 % quantile


def test_what_is_cut_off_decides_which_token_wins_and_never_by_which_noise() -> None:
    logits = torch.linspace(3.0, -3.0, 60)[None]
    everything, part = drawn(logits, 500, 1.0), drawn(logits, 500, 0.7)
    inside = nucleus.kept(logits, torch.tensor([0.7]), torch.tensor([ALL]))[0][everything]
    assert 0 < int(inside.sum()) < 500
    assert torch.equal(everything[inside], part[inside])


def test_temperature_0_takes_the_likeliest_token() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    assert drawn(logits, 20, 0.9, temperature=0.0).tolist() == [1] * 20


def test_the_kernels_draw_and_keep_what_is_defined_in_a_batch_and_alone() -> None:
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.engine.kernel_draws"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    found = json.loads(printed)
    assert len(found) == 18
    assert {case: differ for case, differ in found.items() if any(differ.values())} == {}

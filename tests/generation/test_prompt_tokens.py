"""Counting the tokens of prompts before a run: which of them, how many, and what the context means for them."""

import importlib.util
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.config import EchoConfig, HardwareConfig, RunConfig
from rollout.engine.echo_engine import EchoEngine
from rollout.generation import prompt_tokens
from rollout.generation.prompt_tokens import (
    MAX_PROMPTS,
    EvenSample,
    NoTokenizer,
    PromptTokens,
    count_tokens,
    load_renderer,
)
from rollout.records import Prompt
from tests.conftest import chat


def prompts(*lengths: int) -> list[Prompt]:
    """Rows whose prompts have so many tokens for the echo engine, the role's included."""
    return [Prompt(row, chat("word " * (length - 1))) for row, length in enumerate(lengths)]


def sample_of(rows: range) -> EvenSample:
    sample = EvenSample()
    for row in rows:
        sample.add(Prompt(row, chat("hi")))
    return sample


def counted(lengths: tuple[int, ...], max_tokens: int = 10, too_long: str = "error", **more: Any) -> PromptTokens:
    run = RunConfig()
    run.sampling.max_tokens, run.data.too_long = max_tokens, too_long
    return count_tokens(prompts(*lengths), EchoEngine(EchoConfig(max_model_len=20), HardwareConfig()), run, **more)


def test_a_small_input_is_taken_whole() -> None:
    sample = sample_of(range(MAX_PROMPTS))
    assert sorted(prompt.row_id for prompt in sample.prompts) == list(range(MAX_PROMPTS))


@pytest.mark.parametrize("rows", [range(2001), range(50_000), range(70_000, 130_000)])
@pytest.mark.parametrize("period", [2, 7, 8, 100])
def test_of_a_large_one_a_part_is_taken_in_which_nothing_that_repeats_is_missed(rows: range, period: int) -> None:
    taken = [prompt.row_id for prompt in sample_of(rows).prompts]
    assert MAX_PROMPTS // 4 < len(taken) <= MAX_PROMPTS
    expected = len(taken) / period
    for phase in range(period):
        assert sum(row % period == phase for row in taken) == pytest.approx(expected, abs=max(6, 0.35 * expected))


@given(st.integers(1, 30_000), st.integers(0, 10**9))
def test_every_tenth_of_the_input_has_its_share_of_whatever_beginning_is_looked_at(count: int, first: int) -> None:
    taken = [prompt.row_id - first for prompt in sample_of(range(first, first + count)).prompts]
    for looked_at in (taken, taken[: len(taken) // 3]):
        for tenth in range(10):
            here = sum(tenth * count // 10 <= row < (tenth + 1) * count // 10 for row in looked_at)
            assert abs(here - len(looked_at) / 10) < 6


def test_long_prompts_are_not_all_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_tokens, "_MAX_CHARACTERS", 100_000)
    sample = EvenSample()
    for row in range(500):
        sample.add(Prompt(row, chat("x" * 10_000)))
    assert sample.seen == 500
    assert 1 <= len(sample.prompts) <= 10


def test_lengths_and_the_longest_row() -> None:
    found = counted((3, 9, 5))
    assert found.lengths is not None
    assert (found.lengths.min, found.lengths.p50, found.lengths.max) == (3, 5, 9)
    assert (found.looked_at, found.longest, found.too_long, found.refused) == (3, 1, 0, [])


@pytest.mark.parametrize(
    ("too_long", "refused"), [("error", [1, 2, 3]), ("truncate_left", []), ("reduce_max_tokens", [2, 3])]
)
def test_what_does_not_fit_is_counted_and_what_cannot_be_sampled_is_named(too_long: str, refused: list[int]) -> None:
    found = counted((10, 11, 20, 99), too_long=too_long)
    assert found.too_long == 3
    assert [prompt.row_id for prompt in found.refused] == refused


def test_a_prompt_that_the_template_refuses_costs_itself_only() -> None:
    engine = EchoEngine(EchoConfig(refuse_word="no"), HardwareConfig())
    found = count_tokens([Prompt(0, chat("no")), Prompt(1, chat("yes"))], engine, RunConfig())
    assert [(prompt.row_id, prompt.error) for prompt in found.refused] == [(0, "refused: no")]
    assert found.lengths is not None
    assert found.lengths.max == 2
    assert count_tokens([], engine, RunConfig()).lengths is None


def test_it_ends_in_time_with_what_it_has() -> None:
    assert counted((3,) * 50, max_seconds=-1.0).looked_at == 1


def test_without_vllm_or_a_tokenizer_it_says_so_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(NoTokenizer, match="vLLM is not installed here"):
        load_renderer(RunConfig())

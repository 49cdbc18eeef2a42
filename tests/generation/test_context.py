"""Prompts that do not fit the context, and what each policy makes of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.config import SamplingConfig
from rollout.errors import PromptError
from rollout.generation.context import Fitted, fit_to_context

BOS = 1


def up_to(max_tokens: int, min_tokens: int = 0) -> SamplingConfig:
    return SamplingConfig(max_tokens=max_tokens, min_tokens=min_tokens)


@pytest.mark.parametrize("too_long", ["error", "truncate_left", "reduce_max_tokens"])
def test_what_fits_stays_as_it_is(too_long: str) -> None:
    assert fit_to_context([BOS, 5, 6], up_to(7), 10, too_long, BOS) == Fitted([BOS, 5, 6], 7, [])


def test_an_error_names_all_three_numbers() -> None:
    with pytest.raises(PromptError, match=r"3 tokens and sampling\.max_tokens is 8; the context holds 10"):
        fit_to_context([BOS, 5, 6], up_to(8), 10, "error", BOS)


def test_the_oldest_tokens_go_but_the_first_of_all_stays() -> None:
    assert fit_to_context([BOS, 5, 6, 7, 8], up_to(7), 10, "truncate_left", BOS) == Fitted([BOS, 7, 8], 7, [5, 6])


def test_without_a_beginning_token_simply_the_oldest_go() -> None:
    assert fit_to_context([4, 5, 6, 7, 8], up_to(7), 10, "truncate_left", None) == Fitted([6, 7, 8], 7, [4, 5])


def test_the_response_takes_what_the_prompt_leaves() -> None:
    assert fit_to_context([4, 5, 6], up_to(100), 10, "reduce_max_tokens", None) == Fitted([4, 5, 6], 7, [])


@pytest.mark.parametrize(("too_long", "length"), [("reduce_max_tokens", 10), ("truncate_left", 12)])
def test_a_prompt_that_leaves_no_room_at_all_is_an_error(too_long: str, length: int) -> None:
    with pytest.raises(PromptError):
        fit_to_context([7] * length, up_to(10), 10, too_long, None)


def test_a_response_that_would_be_shorter_than_min_tokens_is_the_rows_error() -> None:
    assert fit_to_context([4, 5, 6], up_to(100, 7), 10, "reduce_max_tokens", None).max_tokens == 7
    with pytest.raises(PromptError, match=r"sampling\.min_tokens=8, but the prompt leaves room for only 7"):
        fit_to_context([4, 5, 6], up_to(100, 8), 10, "reduce_max_tokens", None)


@given(st.lists(st.integers(2, 99), min_size=1, max_size=40), st.integers(1, 30), st.integers(2, 50), st.booleans())
def test_a_cut_prompt_and_its_rest_are_the_whole_and_fill_the_context(
    tokens: list[int], max_tokens: int, context: int, has_bos: bool
) -> None:
    whole = [BOS, *tokens] if has_bos else tokens
    try:
        cut = fit_to_context(whole, up_to(max_tokens), context, "truncate_left", BOS)
    except PromptError:
        assert max_tokens >= context - has_bos
        return
    assert cut.max_tokens == max_tokens
    assert sorted(cut.token_ids + cut.removed) == sorted(whole)
    assert cut.token_ids[-1] == whole[-1]  # the generation prompt is never cut off
    assert len(cut.token_ids) + max_tokens == (context if cut.removed else len(whole) + max_tokens)

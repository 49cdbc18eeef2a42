"""Thinking told from answers by vLLM's own parsers: without an engine, against vLLM's server, and in engines."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollout.config import ModelConfig
from rollout.engine.cache import EngineSpec, acquire, release
from rollout.errors import UserError
from tests.conftest import chat
from tests.engine.server import answer_of
from tests.engine.test_vllm import rows_of_run, tiny
from tests.tiny_model import write_tiny_model

pytestmark = pytest.mark.slow

PARSERS = ("qwen3", "deepseek_r1", "glm45", "kimi_k2", "minimax_m2", "mimo", "step3")
PIECES = [
    "<think>",
    "</think>",
    "</think>\n\n",
    "the fox",
    " ",
    "\n",
    "",
    "北京",
    "<",
    "</think",
    "</s>",
    "<tool_call>",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("reasoning") / "model")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer  # here, because it takes seconds, and to collect the tests needs none of it

    return AutoTokenizer.from_pretrained(folder)


def thinking(folder: Path, tokenizer: Any, parser: str, **template: Any) -> Any:
    from rollout.engine.vllm_reasoning import Thinking

    model = ModelConfig(str(folder), reasoning_parser=parser, chat_template_kwargs=template)
    return Thinking(model, tokenizer, "llama")


def split(thinking: Any, tokenizer: Any, ids: list[int], prompt: str = "<user>hi\n<assistant>") -> Any:
    kept = ids[:-1] if ids[-1:] == [tokenizer.eos_token_id] else ids
    text = tokenizer.decode(kept, skip_special_tokens=not thinking.keeps_special_tokens)
    return thinking.split(text, ids, tokenizer.encode(prompt, add_special_tokens=False))


def texts(count: int) -> list[str]:
    """Thinking that is closed, unclosed, empty, nested, opened again, or not there."""
    chance = random.Random(0)
    usual = ["<think>a fox</think>\n\n4", "a fox</think>4", "<think></think>4", "<think>\n\n</think>\n\n4", "<think>a"]
    usual += ["<think>a</think>", "<think>a<think>b</think>c</think>d", "a</think>b<think>c", "</think>4", "a", ""]
    return usual + ["".join(chance.choices(PIECES, k=chance.randint(1, 9))) for _ in range(count - len(usual))]


@pytest.mark.parametrize("parser", PARSERS)
def test_a_response_is_split_as_vllms_server_does_it(parser: str, folder: Path, tokenizer: Any) -> None:
    ours, unclosed = thinking(folder, tokenizer, parser), 0
    for text in texts(200):
        ids = tokenizer.encode(text, add_special_tokens=False)
        found = split(ours, tokenizer, ids)
        reasoning, answer, counted = answer_of(parser, tokenizer, ids)
        assert (found.reasoning, found.answer) == (reasoning, answer), text
        assert found.num_tokens <= len(ids)
        assert not found.answer or found.closed
        if (
            found.reasoning
            and text.startswith("<think>")
            and text.count("think>") <= 2
            and parser == "deepseek_r1"
            and counted
        ):
            assert found.num_tokens == counted
        unclosed += not found.closed
    assert 20 < unclosed < 150


@pytest.mark.parametrize("parser", ["qwen3", "deepseek_r1"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a fox</think>\n\n4", ("a fox", "\n\n4", 5, True)),
        ("a fox", ("a fox", "", 5, False)),
        ("a fox</think>", ("a fox", "", 5, True)),
        ("</think>4", ("", "4", 0, True)),
    ],
)
def test_a_template_may_open_the_thinking(
    parser: str, text: str, expected: tuple[str, str, int, bool], folder: Path, tokenizer: Any
) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    found = split(thinking(folder, tokenizer, parser), tokenizer, ids, "<user>hi\n<assistant><think>\n")
    count = len(tokenizer.encode("a fox", add_special_tokens=False)) if expected[2] else 0
    assert found == type(found)(*expected[:2], count, expected[3])


@pytest.mark.parametrize("parser", ["qwen3", "deepseek_r1"])
def test_where_the_prompt_has_closed_the_thinking_all_is_answer(parser: str, folder: Path, tokenizer: Any) -> None:
    ids, prompt = tokenizer.encode("the fox", add_special_tokens=False), "<user>hi\n<assistant><think>\n\n</think>\n\n"
    for template in ({}, {"enable_thinking": False}):
        found = split(thinking(folder, tokenizer, parser, **template), tokenizer, ids, prompt)
        assert (found.reasoning, found.answer, found.num_tokens, found.closed) == ("", "the fox", 0, True)
    again = tokenizer.encode("<think>so</think>the fox", add_special_tokens=False)
    found = split(thinking(folder, tokenizer, parser), tokenizer, again, prompt)
    assert (found.reasoning, found.answer) == ("so", "the fox")


def test_thinking_of_an_earlier_turn_closes_nothing_where_it_is_opened_again(folder: Path, tokenizer: Any) -> None:
    history = "<user>hi\n<assistant><think>a</think>4\n<user>and?\n<assistant>"
    ids = tokenizer.encode("<think>the fox", add_special_tokens=False)
    found = split(thinking(folder, tokenizer, "deepseek_r1"), tokenizer, ids, history)
    assert (found.reasoning, found.answer, found.closed) == ("the fox", "", False)


@pytest.mark.parametrize(
    ("parser", "line"),
    [
        ("qwen", "model.reasoning_parser=qwen: vLLM has no such parser, did you mean qwen3?"),
        ("ernie45x", "model.reasoning_parser=ernie45x: vLLM has no such parser, did you mean ernie45?"),
        ("minimax_m3", "model.reasoning_parser=minimax_m3: not for this model (MiniMaxM3ReasoningParser reasoning"),
        ("openai_gptoss", "model.reasoning_parser=openai_gptoss: not for this model ("),
    ],
)
def test_a_parser_that_cannot_work_is_one_line_before_the_model_is_loaded(parser: str, line: str, folder: Path) -> None:
    from rollout.engine.vllm_reasoning import problems

    (problem,) = problems(ModelConfig(str(folder), reasoning_parser=parser))
    assert problem.startswith(line)


def test_a_tokenizer_without_the_parsers_tokens_is_refused(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    from rollout.engine.vllm_reasoning import problems

    bare = Path(shutil.copytree(folder, tmp_path / "bare"))
    about = json.loads((bare / "tokenizer.json").read_text())
    about["added_tokens"] = [token for token in about["added_tokens"] if "think" not in token["content"]]
    (bare / "tokenizer.json").write_text(json.dumps(about))
    (bare / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}')
    (problem,) = problems(ModelConfig(str(bare), reasoning_parser="deepseek_r1"))
    assert "could not locate think start/end tokens in the tokenizer" in problem
    run = tiny(tmp_path, f"model.path={bare}", "model.reasoning_parser=deepseek_r1")
    with pytest.raises(UserError) as refused:  # of a model that is downloaded only when its engine is loaded
        acquire(EngineSpec.of(run))
    assert refused.value.problems == (problem,)


MARKS = ["<|channel>", "<channel|>"]
"""Gemma4's marks of thinking, which are special tokens."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for runs of a tiny model with Gemma4's marks, too."""
    import torch
    from transformers import AutoTokenizer

    home = tmp_path_factory.mktemp("thinking")
    model = write_tiny_model(home / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.save_pretrained(model)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield home
    release()
    torch.set_num_threads(num_threads)


def often(home: Path, *tokens: str) -> str:
    """The override that makes these tokens likely."""
    ids = json.loads((home / "model/tokenizer.json").read_text())["added_tokens"]
    likely = ", ".join(f"{token['id']}: 7" for token in ids if token["content"] in tokens)
    return f"sampling.extra.logit_bias={{{likely}}}"


def samples(rows: list[dict[str, Any]]) -> list[tuple[str, str, int, bool]]:
    """(response, reasoning, tokens of it, whether it is closed) of every sample."""
    names = ("responses", "reasonings", "num_reasoning_tokens", "reasoning_closed")
    return [sample for row in rows for sample in zip(*(row[name] for name in names), strict=True)]


OPENS = [{"prompt": chat(f"question {number} <think>")} for number in range(6)]
"""Prompts after which the model thinks."""


def test_a_budget_ends_the_thinking(home: Path) -> None:
    given, budget = "model.reasoning_parser=deepseek_r1", "sampling.extra.thinking_token_budget=20"
    free = samples(rows_of_run(home, "free", given, rows=OPENS))
    cut = samples(rows_of_run(home, "budget", given, budget, rows=OPENS))
    assert sum(count == 24 and not closed for _, _, count, closed in free) > 9  # which is max_tokens
    assert 0 < max(count for _, _, count, _ in cut) < 20  # what stands behind the mark in the prompt counts, too
    assert sum(closed for _, _, _, closed in cut) > 15


@pytest.mark.parametrize(
    "given",
    [
        ("model.reasoning_parser=deepseek_r1",),
        # which takes all for answer unless the template's variables say otherwise
        ("model.reasoning_parser=deepseek_v3", "model.chat_template_kwargs.thinking=true"),
    ],
)
def test_the_form_of_a_response_is_that_of_the_answer_after_its_thinking(given: tuple[str, ...], home: Path) -> None:
    choice = "sampling.structured_outputs.choice=[yes,no]"
    found = samples(rows_of_run(home, f"{given[0]}-choice", *given, choice, often(home, "</think>"), rows=OPENS))
    thoughts = {reasoning for answer, reasoning, _, closed in found if closed and answer in ("yes", "no")}
    assert len(thoughts) > 3
    assert all(answer in ("yes", "no") for answer, _, _, closed in found if closed)


def test_a_budget_that_no_request_can_have_is_a_line_of_the_run(home: Path) -> None:
    """vLLM asks the parser for its marks without the template's variables, and this one then has none."""
    given = ("model.reasoning_parser=deepseek_v3", "model.chat_template_kwargs.thinking=true")
    run = tiny(home, *given, "sampling.extra.thinking_token_budget=9")
    with pytest.raises(UserError, match="sampling: vLLM refuses these parameters: thinking_token_budget is set but"):
        acquire(EngineSpec.of(run)).engine.configure(run.sampling)


def test_a_row_with_values_of_its_own_keeps_the_marks_that_are_special_tokens(home: Path) -> None:
    given = ("model.reasoning_parser=gemma4", "data.sampling_key=own", often(home, *MARKS))
    prompts = [chat(f"question {number}") for number in range(6)]
    of_run = [{"prompt": prompt, "own": None} for prompt in prompts]
    of_row = [{"prompt": prompt, "own": '{"max_tokens": 24}'} for prompt in prompts]  # which is the run's
    found = samples(rows_of_run(home, "of-run", *given, rows=of_run))
    assert found == samples(rows_of_run(home, "of-row", *given, rows=of_row))
    assert sum(bool(reasoning) for _, reasoning, _, _ in found) > 3

"""Split a response into thinking and answer as vLLM's server does, with vLLM's own parsers.

It takes the server's own steps: a parser for each response, made with the template's variables; texts with special
tokens if the parser asks for them; and the parser's function for whole responses. One case differs: if the prompt has
closed the thinking (as templates do with `enable_thinking=false`) and the response does not open it again, the whole
response is the answer. There the server's result depends on whether the client asked for a stream.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser import ParserManager
from vllm.reasoning import ReasoningParserManager
from vllm.tokenizers import get_tokenizer

from rollout.config import ModelConfig
from rollout.engine import models
from rollout.engine.model_files import model_type
from rollout.errors import UserError, did_you_mean

KEY = "model.reasoning_parser"


@dataclass(frozen=True)
class Thought:
    """The parts of a response."""

    reasoning: str
    """Empty if there is none."""
    answer: str
    """Empty if the thinking never closed."""
    num_tokens: int
    """Tokens of the thinking, without the marks around it, up to the first mark that ends it."""
    closed: bool
    """Whether the thinking has ended, in the response or in the prompt."""


class Thinking:
    """Tells thinking from answer in the responses of one model."""

    def __init__(self, model: ModelConfig, tokenizer: Any, kind: str | None, model_config: Any = None) -> None:
        """`kind` is the model_type of the model's config, `model_config` vLLM's, if the model is loaded.

        Raises UserError for a parser that vLLM lacks, or whose tokens the tokenizer lacks.
        """
        self.name, self._tokenizer = model.reasoning_parser or "", tokenizer
        kwargs = dict(model.chat_template_kwargs)
        self._arguments: dict[str, Any] = {"chat_template_kwargs": kwargs, "model_config": model_config}
        self._request = ChatCompletionRequest(messages=[], chat_template_kwargs=kwargs)
        is_harmony = kind == "gpt_oss"
        self._parser_class = _parser_class(self.name, is_harmony)
        try:
            parser = self._parser()
            self._request = parser.adjust_request(self._request)
            if not is_harmony:
                parser.parse("", self._request)  # some only tell where thinking ends
        except Exception as error:  # RuntimeError, ValueError, ..., depending on the parser
            raise UserError(
                f"{KEY}={self.name}: not for this model ({error}); choose the model's own parser, or leave it out"
            ) from error
        own = parser.reasoning_parser or parser
        self._start = _token(tokenizer, getattr(own, "reasoning_start_str", None))
        self._end_text = getattr(own, "reasoning_end_str", None)
        end = _token(tokenizer, self._end_text)
        # since 0.32 a parser may know several, such as that of a tool call
        self._ends = frozenset(getattr(own, "reasoning_end_token_ids", ())) or frozenset({end} - {None})
        self.keeps_special_tokens = not self._request.skip_special_tokens
        """Whether the text of responses needs special tokens: some of them are marks of thinking."""

    def split(self, text: str, token_ids: list[int], prompt_token_ids: list[int]) -> Thought:
        """A response's parts. Raises any error of the parser about a response that it cannot read."""
        parser = self._parser()
        if hasattr(parser, "set_prompt_token_ids"):  # since 0.32
            parser.set_prompt_token_ids(prompt_token_ids)
        found, content, _ = parser.parse(text, self._request, model_output_token_ids=token_ids)
        reasoning, answer = found or "", content or ""
        if not answer and self._is_closed_before(parser, token_ids, prompt_token_ids):
            return Thought("", text, 0, closed=True)
        closed = bool(answer) or self._closes(parser, text, token_ids)
        return Thought(reasoning, answer, self._count(parser, token_ids) if reasoning else 0, closed)

    def _closes(self, parser: Any, text: str, token_ids: list[int]) -> bool:
        """Whether the thinking ends in a response without an answer."""
        if not self._ends and self._end_text is not None:  # some models write the mark as several tokens
            return self._end_text in text
        return bool(parser.is_reasoning_end(token_ids))

    def _is_closed_before(self, parser: Any, token_ids: list[int], prompt_token_ids: list[int]) -> bool:
        opens_again = self._start is None or self._start in token_ids
        return not opens_again and bool(parser.is_reasoning_end(prompt_token_ids))

    def _parser(self) -> Any:
        return self._parser_class(self._tokenizer, None, **self._arguments)

    def _count(self, parser: Any, token_ids: list[int]) -> int:
        """Count thinking tokens. vLLM's own count needs the token that opens them, which is often in the prompt."""
        if not self._ends:
            return int(parser.count_reasoning_tokens(token_ids)) if hasattr(parser, "count_reasoning_tokens") else 0
        last = next((place for place, token in enumerate(token_ids) if token in self._ends), len(token_ids))
        return sum(token != self._start for token in token_ids[:last])


def tell_variables(input_processor: Any, variables: dict[str, Any]) -> None:
    """Let requests with structured outputs tell the engine's parser the template's variables, as the server's do.

    Parsers such as deepseek_v3 take all for answer unless the variables say that the model thinks.
    """
    make = input_processor.process_inputs

    def made(*args: Any, **kwargs: Any) -> Any:
        request = make(*args, **kwargs)
        if request.sampling_params.structured_outputs is not None:
            request.reasoning_parser_kwargs = {"chat_template_kwargs": variables}
        return request

    input_processor.process_inputs = made


def problems(model: ModelConfig) -> Iterator[str]:
    """What is wrong with `model.reasoning_parser`, if the model's tokenizer is on this machine."""
    name, known = model.reasoning_parser, ReasoningParserManager.list_registered()
    if name is None:
        return
    if name not in known:
        yield f"{KEY}={name}: vLLM has no such parser, {did_you_mean(name, known)}"
    elif (tokenizer := _tokenizer(model)) is not None:
        try:
            Thinking(model, tokenizer, _kind(model))
        except UserError as error:
            yield from error.problems


def _kind(model: ModelConfig) -> str | None:
    folder = models.local_folder(model.path, model.revision)
    return None if folder is None else model_type(folder)


def _tokenizer(model: ModelConfig) -> Any:
    """The tokenizer as vLLM will load it; None if it is not here or cannot be loaded, which the engine explains."""
    revision = None if model.tokenizer else model.revision
    folder = models.local_folder(model.tokenizer or model.path, revision)
    with suppress(Exception):
        return None if folder is None else get_tokenizer(str(folder), trust_remote_code=model.trust_remote_code)
    return None


def _parser_class(name: str, is_harmony: bool) -> Any:
    try:
        return ParserManager.get_parser(reasoning_parser_name=name, is_harmony=is_harmony)
    except Exception as error:
        raise UserError(f"{KEY}={name}: vLLM cannot make this parser: {error}; choose another one") from error


def _token(tokenizer: Any, text: str | None) -> int | None:
    """The token that is exactly `text`, or None."""
    found = None if text is None else tokenizer.get_vocab().get(text)
    return None if found is None else int(found)

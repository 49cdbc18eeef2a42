"""What vLLM's server makes of a finished response: its own function for chats without a stream, without the server."""

import asyncio
from collections.abc import AsyncIterator
from functools import cache
from types import SimpleNamespace
from typing import Any


def answer_of(parser: str, tokenizer: Any, token_ids: list[int], text: str | None = None) -> tuple[str, str, int]:
    """(reasoning, content, reasoning tokens as usage has them since 0.32) of the response of these tokens; "" for null.

    `text` is what the engine has made of them; None for what the tokenizer does.
    """
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.chat_completion.serving import RequestResponseMetadata
    from vllm.outputs import CompletionOutput, RequestOutput

    chat = _chat(parser, tokenizer)
    request = ChatCompletionRequest(messages=[{"role": "user", "content": "hi"}])
    made = chat.parser_cls(tokenizer, None, chat_template_kwargs={}, model_config=chat.model_config)
    request = made.adjust_request(request)
    ids = token_ids[:-1] if token_ids[-1:] == [tokenizer.eos_token_id] else token_ids
    if text is None:
        text = tokenizer.decode(ids, skip_special_tokens=request.skip_special_tokens)
    reason = "stop" if len(ids) < len(token_ids) else "length"
    output = CompletionOutput(0, text, token_ids, None, None, finish_reason=reason)

    async def outputs() -> AsyncIterator[RequestOutput]:
        yield RequestOutput("id", "hi", [3, 4], None, [output], finished=True)

    response = asyncio.run(
        chat.chat_completion_full_generator(
            request, outputs(), "id", "model", [], tokenizer, RequestResponseMetadata(request_id="id"), parser=made
        )
    )
    message, details = response.choices[0].message, getattr(response.usage, "completion_tokens_details", None)
    return message.reasoning or "", message.content or "", details.reasoning_tokens if details else 0


@cache
def _chat(parser: str, tokenizer: Any) -> Any:
    """The object that serves /v1/chat/completions, with what its function for whole responses looks at."""
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.parser import ParserManager

    chat: Any = OpenAIServingChat.__new__(OpenAIServingChat)
    chat.parser_cls = ParserManager.get_parser(reasoning_parser_name=parser, model_name="model", is_harmony=False)
    about = SimpleNamespace(model_type="llama")
    chat.model_config = SimpleNamespace(model="model", hf_config=about, hf_text_config=about)
    chat.response_role = "assistant"
    chat.enable_auto_tools = chat.enable_log_outputs = chat.enable_per_request_metrics = False
    chat.enable_prompt_tokens_details = False
    chat._include_reasoning_tokens_details = True
    chat.request_logger = chat.system_fingerprint = None
    chat.default_chat_template_kwargs = {}
    return chat

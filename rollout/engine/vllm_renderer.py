"""A chat as the model reads it, from vLLM's own renderer: that of an engine or, in a dry run, one made from files.

Both work in the same way, so a dry run counts exactly what a run samples from.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from jinja2 import TemplateSyntaxError
from vllm.config import DeviceConfig, VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.renderers import ChatParams, renderer_from_config

from rollout.config import HardwareConfig, ModelConfig
from rollout.engine import models, vllm_arguments
from rollout.engine.protocol import Rendered
from rollout.engine.vllm_refusal import refusal
from rollout.errors import PromptError, UserError
from rollout.records import Message


class VLLMRenderer:
    """A model's tokenizer and chat template, used by vLLM's renderer."""

    def __init__(self, renderer: Any, tokenizer: Any, model_config: Any, model: ModelConfig) -> None:
        """`renderer` and `model_config` are vLLM's; nothing else uses `tokenizer`.

        Raises UserError for a chat template that is missing or cannot be compiled.
        """
        self.max_model_len: int = model_config.max_model_len
        self.bos_token_id: int | None = tokenizer.bos_token_id
        self._vocab_size: int = model_config.get_vocab_size()
        self._tokenizer = tokenizer
        self._renderer = copy.copy(renderer)
        self._renderer.tokenizer = tokenizer
        self._chat_params = chat_params(model, tokenizer)
        self._refuse_broken_template(model)

    def _refuse_broken_template(self, model: ModelConfig) -> None:
        """Raise UserError for a template that is broken or missing, which is not the fault of a row."""
        try:
            self.render([{"role": "user", "content": "hello"}])
        except PromptError as error:  # a template that only refuses this chat is sound
            causes = list(_causes(error))
            if broken := next((cause for cause in causes if isinstance(cause, TemplateSyntaxError)), None):
                where = model.chat_template or model.path
                raise UserError(f"model.chat_template={where}: {broken}; fix the template") from error
            if any(type(cause).__name__ == "ChatTemplateResolutionError" for cause in causes):
                raise UserError(
                    f"model.path={model.path}: its tokenizer has no chat template; set model.chat_template=FILE.jinja"
                ) from error

    def render(self, messages: list[Message], tools: list[dict[str, Any]] | None = None) -> Rendered:
        """Render as `LLM.chat` does: vLLM converts a chat, for example its tool calls, to the form that templates
        expect.
        """
        try:
            # vLLM writes into the chat that it gets
            params = self._chat_params if tools is None else _with_tools(self._chat_params, tools)
            _, prompt = self._renderer.render_messages(copy.deepcopy(messages), params)
            text, token_ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
            if text is None:
                text = self._tokenizer.decode(token_ids)
            else:
                # the template has written the special tokens already; adding them again would double the first one
                token_ids = self._tokenizer.encode(text, add_special_tokens=False)
        except Exception as error:  # a template is a program of the model's, and may raise any error about a chat
            raise PromptError(f"the chat template refuses it: {refusal(error)}") from error
        if not token_ids:
            raise PromptError("the prompt has no tokens")
        if max(token_ids) >= self._vocab_size:  # vLLM would crash
            raise PromptError(
                f"the prompt has the token {max(token_ids)}, and the model knows {self._vocab_size} tokens"
            )
        return Rendered(text, token_ids)

    def decode(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids))


def renderer_of_files(model: ModelConfig, hardware: HardwareConfig) -> VLLMRenderer:
    """The renderer of an engine for `model`, from its config and tokenizer: no weights are read, no GPU is used.

    Raises UserError as VLLMRenderer does, and any error of vLLM if the files are not available.
    """
    arguments = EngineArgs(model=models.resolve(model.path), **vllm_arguments.engine_kwargs(model, hardware))
    config = arguments.create_model_config()
    # without this, the CUDA build needs a GPU; a renderer does not use the device
    renderer = renderer_from_config(VllmConfig(model_config=config, device_config=DeviceConfig(device="cpu")))
    return VLLMRenderer(renderer, renderer.tokenizer, config, model)


def chat_params(model: ModelConfig, tokenizer: Any) -> ChatParams:
    """The parameters that `LLM.chat` would make from its arguments."""
    own = model.chat_template_kwargs
    begins_a_turn = not own.get("continue_final_message", False)
    # the tokenizers of Mistral's own library only give tokens
    tokenize = type(tokenizer).__name__ == "MistralTokenizer"
    kwargs = {"tokenize": tokenize, "add_generation_prompt": begins_a_turn, **own}
    return ChatParams(chat_template=models.own_template(model), chat_template_kwargs=kwargs)


def _with_tools(params: ChatParams, tools: list[dict[str, Any]]) -> ChatParams:
    return replace(params, chat_template_kwargs={**params.chat_template_kwargs, "tools": copy.deepcopy(tools)})


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The causes of `error`, the nearest first."""
    while (cause := error.__cause__ or error.__context__) is not None:
        yield cause
        error = cause

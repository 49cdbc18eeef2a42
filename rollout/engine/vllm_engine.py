"""vLLM behind the Engine protocol. Only this module and `vllm_arguments` import vllm; written against 0.26 to 0.33.

One vLLM request per sample, token ids in, finished outputs only. Measured on an H200, eight requests with n=1 run as
fast as one with n=8, and each can be stored, seeded and resumed by itself.
"""

import copy
import gc
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from jinja2 import TemplateSyntaxError
from vllm import LLM, SamplingParams
from vllm.renderers import ChatParams
from vllm.v1.engine.exceptions import EngineDeadError

from rollout.config import HardwareConfig, ModelConfig, SamplingConfig
from rollout.engine import models, vllm_arguments, vllm_worker
from rollout.engine.protocol import EngineStats, Rendered
from rollout.engine.vllm_arguments import refusal
from rollout.errors import EngineDied, PromptError, UserError
from rollout.files import user_path
from rollout.records import Message, Request, Sample


class VLLMEngine:
    """One vLLM engine with its own copy of the tokenizer for the feeder thread."""

    def __init__(self, model: ModelConfig, hardware: HardwareConfig) -> None:
        self.llm = LLM(**_engine_kwargs(model, hardware))
        self._engine = self.llm.llm_engine
        config = self._engine.vllm_config
        self.max_num_seqs: int = config.scheduler_config.max_num_seqs
        self.max_model_len: int = config.model_config.max_model_len
        self._vocab_size: int = config.model_config.get_vocab_size()
        # the engine decodes with its tokenizer while the feeder thread encodes; a fast tokenizer is not made for both
        self._tokenizer = copy.deepcopy(self.llm.get_tokenizer())
        self._renderer = copy.copy(self._engine.renderer)
        self._renderer.tokenizer = self._tokenizer
        self.bos_token_id: int | None = self._tokenizer.bos_token_id
        tells = config.parallel_config.worker_extension_cls == vllm_worker.NAME
        self.kv_cache_bytes: int | None = self.llm.collective_rpc("kv_cache_bytes_found")[0] if tells else None
        self._params: dict[str, Any] = {}
        self._unfinished: dict[str, Request] = {}
        try:
            self._chat_params = _chat_params(model, self._tokenizer)
            self._refuse_broken_template(model)
        except UserError:
            self.shutdown()
            raise

    def _refuse_broken_template(self, model: ModelConfig) -> None:
        """A template that cannot be compiled, or that is missing, is no row's fault."""
        try:
            self.render([{"role": "user", "content": "hello"}])
        except PromptError as error:  # a template that merely refuses this chat is sound
            causes = list(_causes(error))
            if broken := next((cause for cause in causes if isinstance(cause, TemplateSyntaxError)), None):
                where = model.chat_template or model.path
                raise UserError(f"model.chat_template={where}: {broken}; fix the template") from error
            if any(type(cause).__name__ == "ChatTemplateResolutionError" for cause in causes):
                raise UserError(
                    f"model.path={model.path}: its tokenizer has no chat template; set model.chat_template=FILE.jinja"
                ) from error

    def configure(self, sampling: SamplingConfig) -> None:
        self._params = vllm_arguments.sampling_kwargs(sampling)

    def describe(self) -> str:
        params, default = SamplingParams(**self._params), SamplingParams()
        names = [name for name in self._params if name not in vllm_arguments.PER_REQUEST]
        always = ("max_tokens", "temperature")
        shown = [name for name in names if name in always or getattr(params, name) != getattr(default, name)]
        return ", ".join(f"{name}={getattr(params, name)}" for name in shown)

    def render(self, messages: list[Message]) -> Rendered:
        """As `LLM.chat` does: vLLM brings a chat into the form that templates expect, for one tool calls' arguments."""
        try:
            # vLLM writes into the chat that it is given
            _, prompt = self._renderer.render_messages(copy.deepcopy(messages), self._chat_params)
            text, token_ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
            if text is None:
                text = self._tokenizer.decode(token_ids)
            else:
                # the template has written the special tokens already; adding them again would double the first one
                token_ids = self._tokenizer.encode(text, add_special_tokens=False)
        except Exception as error:  # a template is a program of the model's, and may raise anything about a chat
            raise PromptError(f"the chat template refuses it: {refusal(error)}") from error
        if not token_ids:
            raise PromptError("the prompt has no tokens")
        if max(token_ids) >= self._vocab_size:  # vLLM would die of it
            raise PromptError(
                f"the prompt has the token {max(token_ids)}, and the model knows {self._vocab_size} tokens"
            )
        return Rendered(text, token_ids)

    def decode(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids))

    def add(self, request: Request) -> None:
        key = f"{request.row_id}:{request.sample_idx}"
        try:
            # vLLM changes the params object it is given, so every request gets its own
            params = SamplingParams(**self._params | {"max_tokens": request.max_tokens, "seed": request.seed})
            self._engine.add_request(key, {"prompt_token_ids": request.prompt_token_ids}, params)
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        except Exception as error:  # whatever it is, vLLM says it of this request, and the others can continue
            raise PromptError(refusal(error)) from error
        self._unfinished[key] = request

    def step(self) -> list[Sample]:
        try:
            outputs = self._engine.step()
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        return [self._sample(output) for output in outputs if output.finished]

    def stats(self) -> EngineStats:
        totals = {"vllm:num_requests_running": 0, "vllm:num_requests_waiting": 0, "vllm:generation_tokens": 0}
        for metric in self.llm.get_metrics():
            if metric.name in totals:
                totals[metric.name] += int(metric.value)
        running, waiting, generated = totals.values()
        return EngineStats(running, waiting, generated)

    def abort(self) -> None:
        unfinished = list(self._unfinished)
        self._unfinished.clear()
        with suppress(EngineDeadError):  # then there is nothing left to abort
            self._engine.abort_request(unfinished)

    def shutdown(self) -> None:
        self._engine.engine_core.shutdown()
        del self.llm, self._engine
        gc.collect()

    def _sample(self, output: Any) -> Sample:
        request = self._unfinished.pop(output.request_id)
        (completion,) = output.outputs
        failed = completion.finish_reason in ("abort", "error")
        return Sample(
            request.row_id,
            request.sample_idx,
            request.seed,
            response=None if failed else completion.text,
            finish_reason="error" if failed else completion.finish_reason,
            num_prompt_tokens=len(request.prompt_token_ids),
            num_generated_tokens=len(completion.token_ids),
            error=f"the engine ended it: {completion.finish_reason}" if failed else None,
            truncated_prompt=request.truncated_prompt,
        )


def _engine_kwargs(model: ModelConfig, hardware: HardwareConfig) -> dict[str, Any]:
    """Arguments of `vllm.LLM`. Raises UserError for an engine_kwargs key that vLLM does not have."""
    return {"model": models.resolve(model.path)} | vllm_arguments.engine_kwargs(model, hardware)


def _chat_params(model: ModelConfig, tokenizer: Any) -> ChatParams:
    """What `LLM.chat` would make of its arguments."""
    template = None if model.chat_template is None else user_path(model.chat_template).read_text("utf-8")
    own = model.chat_template_kwargs
    begins_a_turn = not own.get("continue_final_message", False)
    # the tokenizers of Mistral's own library give tokens only
    tokenize = type(tokenizer).__name__ == "MistralTokenizer"
    kwargs = {"tokenize": tokenize, "add_generation_prompt": begins_a_turn, **own}
    return ChatParams(chat_template=template, chat_template_kwargs=kwargs)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What `error` was raised from, and that from, and so on."""
    while (cause := error.__cause__ or error.__context__) is not None:
        yield cause
        error = cause

"""vLLM behind the Engine protocol. The only module that imports vllm; written against 0.26 to 0.33.

One vLLM request per sample, token ids in, finished outputs only. Measured on an H200, eight requests with n=1 run as
fast as one with n=8, and each can be stored, seeded and resumed by itself.
"""

import copy
import dataclasses
import gc
import inspect
import logging
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2 import TemplateSyntaxError
from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.exceptions import EngineDeadError

from rollout.config import HardwareConfig, ModelConfig, SamplingConfig
from rollout.engine import devices, models, vllm_worker
from rollout.engine.protocol import EngineStats, Rendered
from rollout.errors import EngineDied, PromptError, UserError, did_you_mean
from rollout.records import Message, Request, Sample

log = logging.getLogger(__name__)

_OURS_IN_SAMPLING_PARAMS = {"n", "seed", "output_kind"}
"""Fields that the generation stage sets itself: one request per sample, a seed of its own, one output at its end."""


_OURS_IN_SAMPLING = {"n_samples", "seed", "extra"}
"""Fields of SamplingConfig that are no argument of SamplingParams; the others have vLLM's names."""

_MODEL_ARGUMENTS = ("tokenizer", "revision", "max_model_len", "quantization", "load_format", "trust_remote_code")
_HARDWARE_ARGUMENTS = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "gpu_memory_utilization",
    "max_num_seqs",
    "max_num_batched_tokens",
    "enable_prefix_caching",
    "enforce_eager",
    "dtype",
    "kv_cache_dtype",
)
"""Fields of ModelConfig and HardwareConfig that are arguments of vLLM's engine under the same names."""


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
        self.bos_token_id: int | None = self._tokenizer.bos_token_id
        tells = config.parallel_config.worker_extension_cls == vllm_worker.NAME
        self.kv_cache_bytes: int | None = self.llm.collective_rpc("kv_cache_bytes_found")[0] if tells else None
        self._params: dict[str, Any] = {}
        self._unfinished: dict[str, Request] = {}
        try:
            self._template_kwargs = _template_kwargs(model, self._tokenizer)
            self._refuse_broken_template(model)
        except UserError:
            self.shutdown()
            raise

    def _refuse_broken_template(self, model: ModelConfig) -> None:
        """A template that cannot be compiled is no row's fault."""
        try:
            self.render([{"role": "user", "content": "hello"}])
        except PromptError as error:  # a template that merely refuses this chat is sound
            if isinstance(error.__cause__, TemplateSyntaxError):
                where = model.chat_template or model.path
                raise UserError(f"model.chat_template={where}: {error.__cause__}; fix the template") from error

    def configure(self, sampling: SamplingConfig) -> None:
        try:
            params = _sampling_kwargs(sampling)
            SamplingParams(**params)
        except UserError:
            raise
        except Exception as error:  # a ValueError, a TypeError or one of vLLM's own, by its version
            raise UserError(f"sampling: vLLM refuses these parameters: {_refusal(error)}") from error
        self._params = params

    def describe(self) -> str:
        params, default = SamplingParams(**self._params), SamplingParams()
        names = [name for name in self._params if name not in _OURS_IN_SAMPLING_PARAMS]
        always = ("max_tokens", "temperature")
        shown = [name for name in names if name in always or getattr(params, name) != getattr(default, name)]
        return ", ".join(f"{name}={getattr(params, name)}" for name in shown)

    def render(self, messages: list[Message]) -> Rendered:
        try:
            text = self._tokenizer.apply_chat_template(messages, **self._template_kwargs)
            # the template has written the special tokens already; adding them again would double the first one
            token_ids = self._tokenizer.encode(text, add_special_tokens=False)
        except Exception as error:  # a template is a program of the model's, and may raise anything about a chat
            raise PromptError(f"the chat template refuses it: {type(error).__name__}: {error}") from error
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
            raise PromptError(_refusal(error)) from error
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


def _refusal(error: Exception) -> str:
    """Why vLLM refuses something: its words, with the kind of error where that is none of those it writes reasons in.

    Those are ValueError up to 0.26, and VLLMValidationError since.
    """
    is_said = isinstance(error, ValueError) or type(error).__name__ == "VLLMValidationError"
    return str(error) if is_said else f"{type(error).__name__}: {error}"


def _engine_kwargs(model: ModelConfig, hardware: HardwareConfig) -> dict[str, Any]:
    """Arguments of `vllm.LLM`. Raises UserError for an engine_kwargs key that vLLM does not have."""
    ours = {
        "model": models.resolve(model.path),
        "tokenizer_revision": model.revision if model.tokenizer is None else None,
        **{name: getattr(model, name) for name in _MODEL_ARGUMENTS},
        **{name: getattr(hardware, name) for name in _HARDWARE_ARGUMENTS},
        "disable_log_stats": False,  # running, waiting and tokens so far, for the progress line
    }
    known = set(inspect.signature(EngineArgs).parameters)
    _refuse("hardware.engine_kwargs", hardware.engine_kwargs, known, set(ours))
    engine_kwargs = hardware.engine_kwargs
    if devices.lacks_multicast(hardware):
        log.info("NVLink multicast is switched off on this machine: no fused all-reduce, which needs it")
        engine_kwargs = _with_defaults(engine_kwargs, _NO_FUSED_ALL_REDUCE)
    return {key: value for key, value in ours.items() if value is not None} | engine_kwargs


_NO_FUSED_ALL_REDUCE = {"compilation_config": {"pass_config": {"fuse_allreduce_rms": False}}}


def _with_defaults(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`values`, and of `defaults` what they do not say, in dictionaries within them too."""
    both = {
        name: _with_defaults(values[name], default)
        for name, default in defaults.items()
        if isinstance(default, dict) and isinstance(values.get(name), dict)
    }
    return defaults | values | both


def _sampling_kwargs(sampling: SamplingConfig) -> dict[str, Any]:
    """Arguments of SamplingParams but for the seed. Raises UserError for an `extra` key that vLLM does not have."""
    ours = {field.name: getattr(sampling, field.name) for field in dataclasses.fields(sampling)}
    ours = {name: value for name, value in ours.items() if name not in _OURS_IN_SAMPLING}
    ours["output_kind"] = RequestOutputKind.FINAL_ONLY
    extra = dict(sampling.extra)
    known = set(inspect.signature(SamplingParams).parameters)
    _refuse("sampling.extra", extra, known, set(ours) | _OURS_IN_SAMPLING_PARAMS)
    if isinstance(structured := extra.get("structured_outputs"), dict):
        known = set(inspect.signature(StructuredOutputsParams).parameters)
        _refuse("sampling.extra.structured_outputs", structured, known, set())
        extra["structured_outputs"] = StructuredOutputsParams(**structured)
    return ours | extra


def _refuse(key: str, given: Iterable[str], known: set[str], ours: set[str]) -> None:
    public = [name for name in known if not name.startswith("_")]
    problems = []
    for name in given:
        if name in ours:
            problems.append(f"{key}.{name}: this project sets it; use the config key of that name")
        elif name not in known:
            problems.append(f"{key}.{name}: vLLM has no such argument, {did_you_mean(name, public)}")
    if problems:
        raise UserError(*problems)


def _template_kwargs(model: ModelConfig, tokenizer: Any) -> dict[str, Any]:
    """Arguments of `apply_chat_template`. Raises UserError for a model that has no template."""
    template = None if model.chat_template is None else Path(model.chat_template).expanduser().read_text("utf-8")
    if template is None and getattr(tokenizer, "chat_template", "unknown") is None:
        raise UserError(
            f"model.path={model.path}: its tokenizer has no chat template; set model.chat_template=FILE.jinja"
        )
    chosen = {} if template is None else {"chat_template": template}
    own = model.chat_template_kwargs
    begins_a_turn = not own.get("continue_final_message", False)
    return {"tokenize": False, "add_generation_prompt": begins_a_turn, **chosen, **own}

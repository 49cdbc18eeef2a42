"""vLLM behind the Engine protocol. Only the modules named `vllm_...` import vllm, 0.26 to 0.33.

One vLLM request per sample, token ids in, finished outputs only. Measured on an H200, eight requests with n=1 run as
fast as one with n=8, and each can be stored, seeded and resumed by itself.
"""

import copy
import gc
import logging
from contextlib import suppress
from typing import Any

import numpy as np
import vllm
from vllm import LLM, SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError

from rollout.config import HardwareConfig, ModelConfig, SamplingConfig
from rollout.config.check import token_id_problems
from rollout.engine import models, vllm_arguments, vllm_reasoning, vllm_weights, vllm_worker
from rollout.engine.protocol import EngineStats, GpuShare, Rendered, WeightsNotPut
from rollout.engine.vllm_logprobs import keep_sampled_only, sampled
from rollout.engine.vllm_lora import LoadedAdapters
from rollout.engine.vllm_reasoning import Thinking, tell_variables
from rollout.engine.vllm_refusal import refusal
from rollout.engine.vllm_renderer import VLLMRenderer
from rollout.errors import EngineDied, PromptError, UserError
from rollout.records import Message, Request, Sample, failed_sample

log = logging.getLogger(__name__)

_METRICS = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:generation_tokens",
    "vllm:num_preemptions",
)

_PAIR_WORKER = "rollout.engine.vllm_pair_worker.PairWorker"
"""For two GPUs that share a model. Only a worker imports it."""
_SCHEDULER = "rollout.engine.vllm_scheduler.scheduler"
"""Only the engine's process imports it."""
_VERSION = "0.26."
"""The version of vLLM for which both were written."""


class VLLMEngine:
    """One vLLM engine with its own copy of the tokenizer for the feeder thread."""

    def __init__(
        self, model: ModelConfig, hardware: HardwareConfig, logprobs: str = "none", lora_rank: int | None = None
    ) -> None:
        """`logprobs` is the `sampling.logprobs` that it can be asked for, beside "none"; `lora_rank` the largest rank
        of its adapters, or None without adapters.
        """
        self.llm = _loaded(model, _engine_kwargs(model, hardware, logprobs, lora_rank))
        self._engine = self.llm.llm_engine
        config = self._engine.vllm_config
        if config.structured_outputs_config.reasoning_parser:
            tell_variables(self._engine.input_processor, dict(model.chat_template_kwargs))
        self.max_num_seqs: int = config.scheduler_config.max_num_seqs
        self.max_model_len: int = config.model_config.max_model_len
        self.kv_cache_tokens: int | None = config.cache_config.kv_cache_size_tokens
        tells = hardware.engine_kwargs.get("worker_extension_cls") == vllm_worker.NAME
        self.share_of_next: GpuShare | None = vllm_worker.share_of_next(self.llm.collective_rpc) if tells else None
        self.sampler = self._take_sampler(hardware)
        if config.parallel_config.worker_cls == _PAIR_WORKER and all(self.llm.collective_rpc("adds_with_ours")):
            log.info("the two GPUs add what each has computed with rollout's kernel")
        self.steps = 0
        self._params: dict[str, Any] = {}
        self._logprobs = "none"
        self._thinking: Thinking | None = None
        self._adapters, self._lora = LoadedAdapters(), None
        self._unfinished: dict[str, Request] = {}
        # the engine decodes with its tokenizer while the feeder encodes; a fast tokenizer does not support both at once
        tokenizer = copy.deepcopy(self.llm.get_tokenizer())
        try:
            self._renderer = VLLMRenderer(self._engine.renderer, tokenizer, config.model_config, model)
        except UserError:
            self.shutdown()
            raise
        self.bos_token_id: int | None = self._renderer.bos_token_id
        # objects that exist by now stay until the end: searching them for cycles again and again costs four times as
        # much as reading what the engine sends, if log-probabilities come with it
        gc.collect()
        gc.freeze()

    def use(self, model: ModelConfig) -> None:
        self._thinking = None
        if model.reasoning_parser is not None:
            # not the feeder's copy: thinking is told from answers in the thread of the engine's output
            config = self._engine.vllm_config.model_config
            self._thinking = Thinking(model, self.llm.get_tokenizer(), config.hf_config.model_type, config)
        self._lora = None if model.lora is None else self._adapters.ready(model.lora, self._engine)

    def reload(self, model: ModelConfig) -> None:
        try:
            told = self.llm.collective_rpc("put_weights", args=(models.resolve(model.path),))
            problem = vllm_weights.problem(told)
            if problem is None and not self.llm.reset_prefix_cache():
                problem = "its prefix cache is in use"
        except Exception as error:  # after any error of vLLM half-way, the weights are neither the old nor the new ones
            raise WeightsNotPut(refusal(error)) from error
        if problem is not None:
            raise WeightsNotPut(problem)

    def configure(self, sampling: SamplingConfig) -> None:
        if problems := self._token_problems(sampling, "sampling", "sampling.extra"):
            raise UserError(*problems)
        self._params = self._with_marks(vllm_arguments.sampling_kwargs(sampling))
        self._refuse_at_once()
        self._logprobs = sampling.logprobs

    def prepare(self, sampling: SamplingConfig, key: str) -> dict[str, Any]:
        if problems := self._token_problems(sampling, key, key):
            raise PromptError("; ".join(problems))
        backend = self._engine.vllm_config.structured_outputs_config.backend
        return self._with_marks(vllm_arguments.prepared(sampling, key, backend))

    def _refuse_at_once(self) -> None:
        """Raise UserError for parameters of the run that this engine would refuse for every request."""
        params = SamplingParams(**self._params | _copied(self._params))
        try:
            self._engine.input_processor.process_inputs(
                "", {"prompt_token_ids": [0]}, params, self._engine.get_supported_tasks()
            )
        except EngineDeadError:  # which the first request finds, where an engine is started again
            return
        except Exception as error:  # a ValueError or one of vLLM's own, depending on its version
            raise UserError(f"sampling: vLLM refuses these parameters: {refusal(error)}") from error

    def _token_problems(self, sampling: SamplingConfig, key: str, key_of_others: str) -> list[str]:
        num_tokens = self._engine.vllm_config.model_config.get_vocab_size()
        return list(token_id_problems(sampling, num_tokens, key, key_of_others))

    def _with_marks(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """`kwargs` of SamplingParams, with special tokens in the text if the parser needs them."""
        needs_them = self._thinking is not None and self._thinking.keeps_special_tokens
        return kwargs | {"skip_special_tokens": False} if needs_them else kwargs

    def describe(self) -> str:
        said = vllm_arguments.in_words(self._params)
        return ", ".join(said if self._logprobs == "none" else [*said, f"logprobs={self._logprobs}"])

    def render(self, messages: list[Message], tools: list[dict[str, Any]] | None = None) -> Rendered:
        return self._renderer.render(messages, tools)

    def decode(self, token_ids: list[int]) -> str:
        return self._renderer.decode(token_ids)

    def add(self, request: Request) -> None:
        key = f"{request.row_id}:{request.sample_idx}"
        try:
            kwargs = self._params if request.parameters is None else request.parameters
            # vLLM changes the params object that it gets, so every request has its own, with its own contents
            own = {"max_tokens": request.max_tokens, "seed": request.seed, **_copied(kwargs)}
            params, prompt = SamplingParams(**kwargs | own), {"prompt_token_ids": request.prompt_token_ids}
            self._engine.add_request(key, prompt, params, lora_request=self._lora)
            if self._logprobs != "none":
                keep_sampled_only(self._engine, key)
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        except Exception as error:  # any error is about this request only, and the others can continue
            raise PromptError(refusal(error)) from error
        self._unfinished[key] = request

    def step(self) -> list[Sample]:
        self.steps += 1
        try:
            outputs = self._engine.step()
        except EngineDeadError as error:
            raise EngineDied(str(error)) from error
        return [self._sample(output) for output in outputs if output.finished]

    def stats(self) -> EngineStats:
        totals = dict.fromkeys(_METRICS, 0)
        for metric in self.llm.get_metrics():
            if metric.name in totals:
                totals[metric.name] += int(metric.value)
        running, waiting, generated, preemptions = totals.values()
        return EngineStats(running, waiting, generated, preemptions)

    def abort(self) -> None:
        unfinished = list(self._unfinished)
        self._unfinished.clear()
        with suppress(EngineDeadError):  # then there is nothing left to abort
            self._engine.abort_request(unfinished)

    def shutdown(self) -> None:
        self._engine.engine_core.shutdown()
        del self.llm, self._engine
        gc.unfreeze()
        gc.collect()

    def _take_sampler(self, hardware: HardwareConfig) -> str:
        """Draw with our sampler if it is asked for and fits, on all ranks or on none. Returns which sampler draws."""
        if hardware.device != "cuda" or hardware.fast_sampler == "off":
            return "vllm"
        given = self._engine.vllm_config.parallel_config.worker_extension_cls
        reason: str | None = f"hardware.engine_kwargs.worker_extension_cls={given} is in its place"
        if given == vllm_worker.NAME:
            reason = vllm_worker.take_fast_sampler(self.llm.collective_rpc)
        if reason is not None:
            log.info("tokens are drawn by vLLM's own sampler: %s", reason)
        return "rollout" if reason is None else "vllm"

    def _sample(self, output: Any) -> Sample:
        request = self._unfinished.pop(output.request_id)
        (completion,) = output.outputs
        try:
            said = self._said(request, completion)
        except PromptError as error:
            return failed_sample(request.row_id, request.sample_idx, request.seed, str(error))
        failed = completion.finish_reason in ("abort", "error")
        return Sample(
            request.row_id,
            request.sample_idx,
            request.seed,
            finish_reason="error" if failed else completion.finish_reason,
            num_prompt_tokens=len(request.prompt_token_ids),
            num_generated_tokens=len(completion.token_ids),
            error=f"the engine ended it: {completion.finish_reason}" if failed else None,
            truncated_prompt=request.truncated_prompt,
            **({} if failed or request.kept_prompt is None else _tokens(request, completion)),
            **({"response": None} if failed else said),
        )

    def _said(self, request: Request, completion: Any) -> dict[str, Any]:
        """The fields of a Sample that hold its text. Raises PromptError if a parser cannot read it."""
        if self._thinking is None:
            return {"response": completion.text}
        try:
            return _thought(self._thinking, request, completion)
        except Exception as error:  # any error of a parser is about this response only, and the others can continue
            raise PromptError(
                f"model.reasoning_parser={self._thinking.name}: cannot read the response: {refusal(error)}"
            ) from error


def _thought(thinking: Thinking, request: Request, completion: Any) -> dict[str, Any]:
    """The fields of a Sample that hold its answer and its thinking."""
    thought = thinking.split(completion.text, list(completion.token_ids), request.prompt_token_ids)
    return {
        "response": thought.answer,
        "reasoning": thought.reasoning,
        "num_reasoning_tokens": thought.num_tokens,
        "reasoning_closed": thought.closed,
    }


def _tokens(request: Request, completion: Any) -> dict[str, Any]:
    """The fields of a Sample that hold token ids and log-probabilities."""
    token_ids = np.array(completion.token_ids, np.int32)
    logprobs = None if completion.logprobs is None else sampled(completion.logprobs, len(token_ids))
    return {
        "prompt_token_ids": request.kept_prompt,
        "response_token_ids": token_ids,
        "response_logprobs": logprobs,
    }


def _engine_kwargs(
    model: ModelConfig, hardware: HardwareConfig, logprobs: str = "none", lora_rank: int | None = None
) -> dict[str, Any]:
    """Arguments of `vllm.LLM`. Raises UserError for an engine_kwargs key that vLLM does not have."""
    of_adapters = {} if lora_rank is None else {"enable_lora": True, "max_lora_rank": lora_rank}
    kwargs = vllm_arguments.engine_kwargs(model, hardware, logprobs) | of_adapters
    ours = {"model": models.resolve(model.path), "worker_extension_cls": vllm_worker.NAME}
    if vllm.__version__.startswith(_VERSION):
        ours["scheduler_cls"] = _SCHEDULER
        is_pair = hardware.device == "cuda" and hardware.tensor_parallel_size == 2
        if is_pair and hardware.fast_all_reduce == "auto":
            ours["worker_cls"] = _PAIR_WORKER
    return ours | kwargs


def _loaded(model: ModelConfig, kwargs: dict[str, Any]) -> LLM:
    try:
        return LLM(**kwargs)
    except Exception as error:
        # vLLM makes the parser before it loads the weights; of a hub model the tokenizer is here by now
        if found := list(vllm_reasoning.problems(model)):
            raise UserError(*found) from error
        raise


def _copied(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with copies of those that vLLM writes into."""
    found = kwargs.get("structured_outputs")
    return {} if found is None else {"structured_outputs": copy.copy(found)}

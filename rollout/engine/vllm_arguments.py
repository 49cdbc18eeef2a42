"""Config -> arguments of vLLM for sampling and for an engine, checked by its own classes before anything is loaded."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, StructuredOutputsParams

from rollout.config import HardwareConfig, ModelConfig, RepetitionDetectionConfig, SamplingConfig, constraints
from rollout.config.thinking import engine_parser
from rollout.engine.vllm_annotations import built, structure
from rollout.engine.vllm_constraints import backend_of, constraint_refusal
from rollout.engine.vllm_invariance import CHUNKED, WHOLE_PROMPTS, invariant
from rollout.engine.vllm_refusal import refusal
from rollout.errors import PromptError, UserError

PER_REQUEST = {"n", "seed", "output_kind"}
"""Fields of SamplingParams that we set ourselves: one request per sample, a seed of its own, one output at its end."""

_NOT_OF_VLLM = {"n_samples", "seed", "logprobs", "extra", "structured_outputs", "repetition_detection", "order"}
"""Fields of SamplingConfig that are not arguments of SamplingParams; all others have vLLM's names."""

OF_LOGPROBS = {"logprobs": 0}
"""Arguments of SamplingParams that ask for the log-probability of each sampled token and of no other."""

_MODEL = ("tokenizer", "revision", "max_model_len", "quantization", "load_format", "trust_remote_code")
_HARDWARE = (
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


def sampling_kwargs(
    sampling: SamplingConfig, key: str = "sampling", key_of_others: str = "sampling.extra"
) -> dict[str, Any]:
    """Arguments of SamplingParams except the seed. Raises UserError for what vLLM does not accept.

    The lines name `key`, and `key_of_others` for fields of vLLM that have no key of their own.
    """
    ours = {field.name: getattr(sampling, field.name) for field in dataclasses.fields(sampling)}
    ours = {name: value for name, value in ours.items() if name not in _NOT_OF_VLLM}
    ours["output_kind"] = RequestOutputKind.FINAL_ONLY
    if sampling.logprobs != "none":
        ours |= OF_LOGPROBS
    ours |= _structures(sampling)
    kwargs = ours | built(SamplingParams, key_of_others, sampling.extra, {*ours, *PER_REQUEST})
    try:
        SamplingParams(**kwargs)
    except Exception as error:  # a ValueError, a TypeError or one of vLLM's own, depending on its version
        raise UserError(f"{key}: vLLM refuses these parameters: {refusal(error)}") from error
    return kwargs


def in_words(kwargs: dict[str, Any]) -> list[str]:
    """`sampling_kwargs` for the log: always max_tokens and temperature, of all others what differs from vLLM's own."""
    params, default = SamplingParams(**kwargs), SamplingParams()
    found = list[str]()
    for name in kwargs:
        value, is_hidden = getattr(params, name), name in PER_REQUEST or name in OF_LOGPROBS
        if not is_hidden and (name in ("max_tokens", "temperature") or value != getattr(default, name)):
            found += [f"{name}.{key}={item}" for key, item in _set(value)] or [f"{name}={value}"]
    return found


def _set(value: Any) -> Iterator[tuple[str, Any]]:
    """The fields of a structure of vLLM's that are not as by default, by name; nothing for any other value."""
    for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        given = getattr(value, field.name)
        if not field.name.startswith("_") and given != field.default:
            yield field.name, given


def prepared(sampling: SamplingConfig, key: str, backend: str) -> dict[str, Any]:
    """The `sampling_kwargs` of a row whose sampling is at `key`; `backend` is the engine's for structured outputs.

    Raises PromptError for what vLLM does not accept, also for a schema that it cannot use.
    """
    try:
        kwargs = sampling_kwargs(sampling, key, key)
    except UserError as error:
        raise PromptError("; ".join(error.problems)) from error
    for problem in constraint_refusal(kwargs, key, backend):
        raise PromptError(problem)
    return kwargs


def _structures(sampling: SamplingConfig) -> dict[str, Any]:
    """The arguments that are vLLM's own structures; a dictionary in their place breaks the engine core."""
    given = constraints.constraint(sampling.structured_outputs)
    found = {"structured_outputs": structure(StructuredOutputsParams, constraints.KEY, given)} if given else {}
    if (rules := sampling.repetition_detection) != RepetitionDetectionConfig():
        key = "sampling.repetition_detection"
        found["repetition_detection"] = structure(RepetitionDetectionParams, key, dataclasses.asdict(rules))
    return found


def engine_kwargs(model: ModelConfig, hardware: HardwareConfig, logprobs: str = "none") -> dict[str, Any]:
    """Arguments of `vllm.LLM` except the model's path; `logprobs` is `sampling.logprobs`.

    Raises UserError for a key of engine_kwargs that vLLM does not have.
    """
    ours = {
        "tokenizer_revision": model.revision if model.tokenizer is None else None,
        **{name: getattr(model, name) for name in _MODEL},
        **{name: getattr(hardware, name) for name in _HARDWARE},
        "disable_log_stats": False,  # running, waiting and tokens so far, for the progress line
        "logprobs_mode": "processed_logprobs" if logprobs == "processed" else None,  # vLLM's own is raw_logprobs
    }
    if hardware.batch_invariant:
        ours |= WHOLE_PROMPTS
    own = built(EngineArgs, "hardware.engine_kwargs", hardware.engine_kwargs, {"model", *ours} - {CHUNKED})
    if hardware.batch_invariant:
        own = invariant(own)
    # as the server's engine: a grammar begins where thinking ends, and a budget of thinking can end it
    ours["reasoning_parser"] = engine_parser(model, hardware)
    return {key: value for key, value in ours.items() if value is not None} | own


def problems(sampling: SamplingConfig, model: ModelConfig, hardware: HardwareConfig) -> Iterator[str]:
    """One line for each thing in the config that vLLM would refuse."""
    for check in (partial(sampling_kwargs, sampling), partial(engine_kwargs, model, hardware)):
        try:
            check()
        except UserError as error:
            yield from error.problems
    yield from _constraint_problems(sampling, hardware)


def _constraint_problems(sampling: SamplingConfig, hardware: HardwareConfig) -> Iterator[str]:
    """Why vLLM would refuse the schema, expression or grammar of every request: one line or none."""
    try:
        kwargs = sampling_kwargs(sampling)
    except UserError:  # which has its own line
        return
    key = "sampling.extra" if "structured_outputs" in sampling.extra else "sampling"
    yield from constraint_refusal(kwargs, key, backend_of(hardware))

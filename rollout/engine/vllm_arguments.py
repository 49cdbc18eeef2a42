"""`sampling.extra` and `hardware.engine_kwargs` against vLLM's own classes, before anything is loaded.

vLLM's annotations say what an argument is: values are converted to it, and dictionaries become vLLM's structures.
"""

import copy
import dataclasses
import enum
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter, ValidationError
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind, StructuredOutputsParams

from rollout.config import HardwareConfig, ModelConfig, RepetitionDetectionConfig, SamplingConfig, constraints
from rollout.errors import PromptError, UserError, did_you_mean

_NUMBERS_ARE_TEXT = ConfigDict(coerce_numbers_to_str=True)  # where text belongs: the config's 42 may have been meant so

PER_REQUEST = {"n", "seed", "output_kind"}
"""Fields of SamplingParams that we set ourselves: one request per sample, a seed of its own, one output at its end."""

_NOT_OF_VLLM = {"n_samples", "seed", "logprobs", "extra", "structured_outputs", "repetition_detection", "order"}
"""Fields of SamplingConfig that are no argument of SamplingParams as they are; the others have vLLM's names."""

OF_LOGPROBS = {"logprobs": 0}
"""Arguments of SamplingParams that give each sampled token's log-probability, and no others."""

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


_CHUNKED = "enable_chunked_prefill"
_WHOLE_PROMPTS = {"enable_prefix_caching": False, _CHUNKED: False}
"""Under batch_invariant: vLLM's kernels round the rest of a prompt, behind what was cached or computed in an earlier
step, in another way than a whole one. Measured with vLLM 0.26 on an H200: of 1,024 samples with the cache, 174 were
those without it."""


def sampling_kwargs(
    sampling: SamplingConfig, key: str = "sampling", key_of_others: str = "sampling.extra"
) -> dict[str, Any]:
    """Arguments of SamplingParams but for the seed. Raises UserError for what vLLM does not accept.

    The lines name `key`, and `key_of_others` for fields of vLLM's that have no key of their own.
    """
    ours = {field.name: getattr(sampling, field.name) for field in dataclasses.fields(sampling)}
    ours = {name: value for name, value in ours.items() if name not in _NOT_OF_VLLM}
    ours["output_kind"] = RequestOutputKind.FINAL_ONLY
    if sampling.logprobs != "none":
        ours |= OF_LOGPROBS
    ours |= _structures(sampling)
    kwargs = ours | _built(SamplingParams, key_of_others, sampling.extra, {*ours, *PER_REQUEST})
    try:
        SamplingParams(**kwargs)
    except Exception as error:  # a ValueError, a TypeError or one of vLLM's own, by its version
        raise UserError(f"{key}: vLLM refuses these parameters: {refusal(error)}") from error
    return kwargs


def prepared(sampling: SamplingConfig, key: str, backend: str) -> dict[str, Any]:
    """The same for the sampling of one row, which stands at `key`; `backend` is the engine's for structured outputs.

    Raises PromptError, for a schema that vLLM cannot use too.
    """
    try:
        kwargs = sampling_kwargs(sampling, key, key)
    except UserError as error:
        raise PromptError("; ".join(error.problems)) from error
    for problem in _refused_constraint(kwargs, key, backend):
        raise PromptError(problem)
    return kwargs


def backend_of(hardware: HardwareConfig) -> str:
    """What vLLM uses for structured outputs."""
    return str(hardware.engine_kwargs.get("structured_outputs_config", {}).get("backend", "auto"))


def _structures(sampling: SamplingConfig) -> dict[str, Any]:
    """The arguments that are structures of vLLM's own; a dictionary in their place breaks the engine core."""
    given = constraints.constraint(sampling.structured_outputs)
    found = {"structured_outputs": _structure(StructuredOutputsParams, constraints.KEY, given)} if given else {}
    if (rules := sampling.repetition_detection) != RepetitionDetectionConfig():
        key = "sampling.repetition_detection"
        found["repetition_detection"] = _structure(RepetitionDetectionParams, key, dataclasses.asdict(rules))
    return found


def engine_kwargs(model: ModelConfig, hardware: HardwareConfig, logprobs: str = "none") -> dict[str, Any]:
    """Arguments of `vllm.LLM` but for the model's path; `logprobs` is `sampling.logprobs`.

    Raises UserError for an engine_kwargs that vLLM has not.
    """
    ours = {
        "tokenizer_revision": model.revision if model.tokenizer is None else None,
        **{name: getattr(model, name) for name in _MODEL},
        **{name: getattr(hardware, name) for name in _HARDWARE},
        "disable_log_stats": False,  # running, waiting and tokens so far, for the progress line
        "logprobs_mode": "processed_logprobs" if logprobs == "processed" else None,  # vLLM's own is raw_logprobs
    }
    if hardware.batch_invariant:
        ours |= _WHOLE_PROMPTS
    own = _built(EngineArgs, "hardware.engine_kwargs", hardware.engine_kwargs, {"model", *ours} - {_CHUNKED})
    return {key: value for key, value in ours.items() if value is not None} | own


def problems(sampling: SamplingConfig, model: ModelConfig, hardware: HardwareConfig) -> Iterator[str]:
    """What vLLM would refuse of the two keys: one line each."""
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
    except UserError:  # which is another line
        return
    key = "sampling.extra" if "structured_outputs" in sampling.extra else "sampling"
    yield from _refused_constraint(kwargs, key, backend_of(hardware))


def _refused_constraint(kwargs: dict[str, Any], key: str, backend: str) -> Iterator[str]:
    """Why vLLM's `backend` would refuse the structured outputs in arguments that stand at `key`: one line or none."""
    structure = kwargs.get("structured_outputs")
    if structure is None:
        return
    if reason := _refusal_of(_Constraint(repr(structure), structure), backend):
        name, value = next((name, value) for name, value in vars(structure).items() if value is not None)
        shown = value if len(str(value)) <= _SHOWN else f"{str(value)[: _SHOWN - 3]}..."
        yield f"{key}.structured_outputs.{name}={shown}: vLLM refuses it: {reason}"


_SHOWN = 80  # characters of a schema in an error


@dataclasses.dataclass(frozen=True)
class _Constraint:
    """Structured outputs, equal where they say the same: rows often share a schema, and it is looked at once."""

    text: str
    params: StructuredOutputsParams = dataclasses.field(compare=False)


@lru_cache(maxsize=1 << 10)
def _refusal_of(constraint: _Constraint, backend: str) -> str | None:
    reasons = list[str]()
    for validate in _validators(backend):
        try:
            # which write into what they are given
            validate(SamplingParams(structured_outputs=copy.copy(constraint.params)))
        except Exception as error:  # whatever the library raises about a text that it cannot read
            reasons.append(refusal(error))
        else:
            return None
    if not reasons:
        return None
    # of a regular expression the first library says most, of the others the last, which vLLM asks in the end
    reason = reasons[0 if constraint.params.regex is not None else -1]
    return " ".join(reason.split())


def _validators(backend: str) -> list[Callable[[SamplingParams], None]]:
    """What vLLM asks about a constraint; of several, one that agrees is enough."""
    from vllm.v1.structured_output.backend_guidance import validate_guidance_grammar
    from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar

    known = {"xgrammar": [validate_xgrammar_grammar], "guidance": [validate_guidance_grammar]}
    return known["xgrammar"] + known["guidance"] if backend == "auto" else known.get(backend, [])


def refusal(error: Exception) -> str:
    """Why vLLM refuses something: its words, with the kind of error where that is none of those it writes reasons in.

    Those are ValueError up to 0.26, and VLLMValidationError since.
    """
    is_said = isinstance(error, ValueError) or type(error).__name__ == "VLLMValidationError"
    text = _PLACE.sub("", str(error)).strip()
    return text if is_said else f"{type(error).__name__}: {text}"


_PLACE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")
"""What a library in C++ writes before its words: the time, of which two equal runs would differ, and its source."""


def _built(owner: type, key: str, given: dict[str, Any], ours: Iterable[str]) -> dict[str, Any]:
    """`given` as arguments of `owner`. Raises UserError with a line for each that is unknown, ours or mistyped."""
    found, built = [*_unknown(owner, key, given, set(ours))], dict[str, Any]()
    if found:
        raise UserError(*found)
    for name, value in given.items():
        try:
            built[name] = _value(_annotation(owner, name), f"{key}.{name}", value)
        except UserError as error:
            found += error.problems
    if found:
        raise UserError(*found)
    return built


_KEYS = {"logprobs_mode": "sampling.logprobs", "n": "n_samples"}
"""What we call otherwise than vLLM."""


def _unknown(owner: type, key: str, given: Iterable[str], ours: set[str]) -> Iterator[str]:
    known = set(inspect.signature(owner).parameters)
    public = [name for name in known if not name.startswith("_")]
    for name in given:
        if name in ours:
            yield f"{key}.{name}: this project sets it; use {_KEYS.get(name, 'the config key of that name')}"
        elif name not in known:
            yield f"{key}.{name}: vLLM has no such argument, {did_you_mean(str(name), public)}"


def _value(annotation: Any, key: str, value: Any) -> Any:
    """`value` as `annotation` wants it. Raises UserError where it cannot be that."""
    kinds = _alternatives(annotation)
    structure = next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)
    if isinstance(value, dict) and structure is not None:
        return _structure(structure, key, value)
    if kinds == [structure] and (isinstance(value, str | list) or (value is not None and _is_of_sampling(structure))):
        raise UserError(f"{key}={value}: must be a dictionary")
    if value is None or structure is not None or any(_is_enum(kind) for kind in kinds):
        return value  # vLLM has short forms of its own for these
    try:
        return TypeAdapter(annotation, config=_NUMBERS_ARE_TEXT).validate_python(value)
    except (PydanticUserError, PydanticUndefinedAnnotation):  # there are types that pydantic cannot check
        return value
    except ValidationError as error:
        raise UserError(f"{key}={value}: must be {_words(kinds)}") from error


def _structure(owner: type, key: str, given: dict[str, Any]) -> Any:
    """The structure that a dictionary stands for; of the engine's, which vLLM makes itself, the checked dictionary."""
    built = _built(owner, key, given, ())
    if not _is_of_sampling(owner):
        return built
    try:
        return owner(**built)
    except Exception as error:  # as in `sampling_kwargs`
        raise UserError(f"{key}: vLLM refuses it: {refusal(error)}") from error


def _is_of_sampling(owner: Any) -> bool:
    """Whether a structure is one of sampling: the engine's look at the machine when they are made."""
    return bool(owner.__module__ == SamplingParams.__module__)


def _annotation(owner: type, name: str) -> Any:
    """What vLLM writes behind the field `name`; Any where that cannot be told, as of names imported for typing only."""
    found = (inspect.get_annotations(base) for base in owner.__mro__)
    written: Any = next((annotations[name] for annotations in found if name in annotations), Any)
    if not isinstance(written, str):
        return written
    try:
        return eval(written, dict(vars(sys.modules[owner.__module__])))  # vLLM's own source, read once more
    except Exception:  # whatever its version writes
        return Any


def _alternatives(annotation: Any) -> list[Any]:
    """The types that a value may have, but for None."""
    if get_origin(annotation) is typing.Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _alternatives(part)]
    return [] if annotation is None or annotation is type(None) else [annotation]


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


_NAMES = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    set: "a list",
    tuple: "a list",
    dict: "a dictionary",
}


_MANY = {str: "texts", int: "whole numbers", float: "numbers"}


def _words(kinds: list[Any]) -> str:
    """The types as people call them."""
    found = list[str]()
    for kind in kinds:
        if get_origin(kind) is Literal:
            found += map(str, get_args(kind))
        else:
            found.append(_name(kind))
    return " or ".join(dict.fromkeys(found))


def _name(kind: Any) -> str:
    origin, items = get_origin(kind) or kind, get_args(kind)
    name = _NAMES.get(origin, getattr(origin, "__name__", str(origin)))
    many = [_MANY[item] for item in items if isinstance(item, type) and item in _MANY]
    if len(many) < len(items) or not items:
        return name
    return f"{name} of {many[0]}" if origin is not dict else f"{name} from {many[0]} to {many[1]}"

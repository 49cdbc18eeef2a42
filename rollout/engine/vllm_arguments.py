"""`sampling.extra` and `hardware.engine_kwargs` against vLLM's own classes, before anything is loaded.

vLLM's annotations say what an argument is: values are converted to it, and dictionaries become vLLM's structures.
"""

import dataclasses
import enum
import inspect
import sys
import typing
from collections.abc import Iterable, Iterator
from functools import partial
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter, ValidationError
from vllm import SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import RequestOutputKind

from rollout.config import HardwareConfig, ModelConfig, SamplingConfig
from rollout.errors import UserError, did_you_mean

_NUMBERS_ARE_TEXT = ConfigDict(coerce_numbers_to_str=True)  # where text belongs: the config's 42 may have been meant so

PER_REQUEST = {"n", "seed", "output_kind"}
"""Fields of SamplingParams that we set ourselves: one request per sample, a seed of its own, one output at its end."""

_NOT_OF_VLLM = {"n_samples", "seed", "logprobs", "extra"}
"""Fields of SamplingConfig that are no argument of SamplingParams; the others have vLLM's names."""

OF_LOGPROBS = {"logprobs": 0, "flat_logprobs": True}
"""Arguments of SamplingParams that give each sampled token's log-probability, and no others, in plain arrays."""

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


def sampling_kwargs(sampling: SamplingConfig) -> dict[str, Any]:
    """Arguments of SamplingParams but for the seed. Raises UserError for what vLLM does not accept."""
    ours = {field.name: getattr(sampling, field.name) for field in dataclasses.fields(sampling)}
    ours = {name: value for name, value in ours.items() if name not in _NOT_OF_VLLM}
    ours["output_kind"] = RequestOutputKind.FINAL_ONLY
    if sampling.logprobs != "none":
        ours |= OF_LOGPROBS
    kwargs = ours | _built(SamplingParams, "sampling.extra", sampling.extra, {*ours, *PER_REQUEST})
    try:
        SamplingParams(**kwargs)
    except Exception as error:  # a ValueError, a TypeError or one of vLLM's own, by its version
        raise UserError(f"sampling: vLLM refuses these parameters: {refusal(error)}") from error
    return kwargs


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
    own = _built(EngineArgs, "hardware.engine_kwargs", hardware.engine_kwargs, {"model", *ours})
    return {key: value for key, value in ours.items() if value is not None} | own


def problems(sampling: SamplingConfig, model: ModelConfig, hardware: HardwareConfig) -> Iterator[str]:
    """What vLLM would refuse of the two keys: one line each."""
    for check in (partial(sampling_kwargs, sampling), partial(engine_kwargs, model, hardware)):
        try:
            check()
        except UserError as error:
            yield from error.problems


def refusal(error: Exception) -> str:
    """Why vLLM refuses something: its words, with the kind of error where that is none of those it writes reasons in.

    Those are ValueError up to 0.26, and VLLMValidationError since.
    """
    is_said = isinstance(error, ValueError) or type(error).__name__ == "VLLMValidationError"
    return str(error) if is_said else f"{type(error).__name__}: {error}"


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


_KEYS = {"logprobs_mode": "sampling.logprobs"}
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

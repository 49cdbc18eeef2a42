"""Structured outputs that vLLM would refuse: its own checks of schemas, expressions and grammars, without an engine."""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams

from rollout.config import HardwareConfig
from rollout.engine.vllm_refusal import refusal


def backend_of(hardware: HardwareConfig) -> str:
    """The library that vLLM uses for structured outputs."""
    return str(hardware.engine_kwargs.get("structured_outputs_config", {}).get("backend", "auto"))


def constraint_refusal(kwargs: dict[str, Any], key: str, backend: str) -> Iterator[str]:
    """Why vLLM's `backend` would refuse the structured outputs in `kwargs`: one line or none.

    `key` is the place of the arguments in the config.
    """
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
    """Structured outputs, equal if their texts are: rows often share a schema, which is then checked once."""

    text: str
    params: StructuredOutputsParams = dataclasses.field(compare=False)


@lru_cache(maxsize=1 << 10)
def _refusal_of(constraint: _Constraint, backend: str) -> str | None:
    reasons = list[str]()
    for validate in _validators(backend):
        try:
            # a copy, because the checks write into what they are given
            validate(SamplingParams(structured_outputs=copy.copy(constraint.params)))
        except Exception as error:  # any error of the library about a text that it cannot read
            reasons.append(refusal(error))
        else:
            return None
    if not reasons:
        return None
    # the first library says most about a regular expression; else the last one, which vLLM asks at the end
    reason = reasons[0 if constraint.params.regex is not None else -1]
    return " ".join(reason.split())


def _validators(backend: str) -> list[Callable[[SamplingParams], None]]:
    """VLLM's checks of a constraint; it is accepted if one of them accepts it."""
    from vllm.v1.structured_output.backend_guidance import validate_guidance_grammar
    from vllm.v1.structured_output.backend_xgrammar import validate_xgrammar_grammar

    known = {"xgrammar": [validate_xgrammar_grammar], "guidance": [validate_guidance_grammar]}
    return known["xgrammar"] + known["guidance"] if backend == "auto" else known.get(backend, [])

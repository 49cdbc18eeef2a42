"""The parser that tells an engine where thinking ends, and what only works with one."""

from collections.abc import Iterator

from rollout.config.sampling import SamplingConfig
from rollout.config.schema import HardwareConfig, ModelConfig

_PARSER, _BUDGET = "reasoning_parser", "thinking_token_budget"


def engine_parser(model: ModelConfig, hardware: HardwareConfig) -> str | None:
    """The name of the engine's parser: `model.reasoning_parser`, unless `hardware.engine_kwargs` has its own."""
    given = hardware.engine_kwargs
    if _PARSER in given:
        return None if given[_PARSER] is None else str(given[_PARSER])
    return None if _PARSER in (given.get("structured_outputs_config") or {}) else model.reasoning_parser


def budget_problems(sampling: SamplingConfig, model: ModelConfig, hardware: HardwareConfig, key: str) -> Iterator[str]:
    """Why an engine would refuse the budget of thinking in `sampling`, whose place is `key`: one line or none."""
    budget = sampling.extra.get(_BUDGET)
    has_marks = engine_parser(model, hardware) is not None or hardware.engine_kwargs.get("reasoning_config")
    if isinstance(budget, int) and budget >= 0 and not has_marks:
        yield (
            f"{key}.{_BUDGET}={budget}: needs model.reasoning_parser, which knows where thinking ends; "
            "set it, or leave the budget out"
        )

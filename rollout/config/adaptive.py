"""Every key of `adaptive`: when a row has enough samples."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rollout.config.limits import limited as _field

if TYPE_CHECKING:
    from rollout.config.schema import RunConfig


RULES = ("passes", "mixed", "interval", "agree")


@dataclass
class AdaptiveConfig:
    """When a row has enough samples, before it has `sampling.n_samples`."""

    until: str | None = _field(None, choices=RULES)
    """When a row has enough samples: once `passes` of them pass; once one passes and one fails; once the interval of
    its pass rate is narrow enough or lies outside `low` to `high`; once no answer can overtake the leading one or tie
    with it. Samples are scored while others are generated. null: every row gets `sampling.n_samples`."""
    passes: int = _field(1, ge=1)
    """For `until=passes`: the number of samples that must pass."""
    width: float = _field(0.2, gt=0.0, le=1.0)
    """For `until=interval`: enough once Wilson's 95 % interval of the pass rate is narrower than this."""
    low: float = _field(0.0, ge=0.0, le=1.0)
    """For `until=interval`: also enough once the whole interval lies below this."""
    high: float = _field(1.0, ge=0.0, le=1.0)
    """For `until=interval`: also enough once the whole interval lies above this."""
    rounds: list[int] = _field([2, 2, 4, 8])
    """A row is judged after rounds of these sizes; the last size repeats, up to `sampling.n_samples` in total."""


def adaptive_problems(run: "RunConfig") -> Iterator[str]:
    """Values of `adaptive` that contradict each other or the run: one line each."""
    rule, budget = run.adaptive, run.sampling.n_samples
    if rule.until is None:
        return
    yield from _round_problems(rule, budget)
    if run.sampling.temperature == 0 and budget == 1:  # with more samples that is refused anyway
        yield f"adaptive.until={rule.until}: temperature=0 makes every sample of a prompt the same; raise it"
    if rule.until == "passes" and rule.passes > budget:
        yield f"adaptive.passes={rule.passes}: more than sampling.n_samples={budget}; lower it, or raise n_samples"
    if rule.until == "mixed" and budget == 1:
        yield "adaptive.until=mixed: needs two samples, and sampling.n_samples=1; raise it"
    if rule.until == "interval" and not rule.low < rule.high:
        yield f"adaptive.low={rule.low}: must be less than adaptive.high={rule.high}"


def adaptive_warnings(run: "RunConfig") -> Iterator[str]:
    """Valid values that are rarely intended: one line each."""
    budget = run.sampling.n_samples
    if run.adaptive.until == "interval" and budget < _ENOUGH:
        yield (
            f"adaptive.until=interval: with sampling.n_samples={budget} few pass rates become known to a width of "
            f"{run.adaptive.width}; {_ENOUGH} or more are recommended"
        )
    if run.adaptive.until is not None and run.adaptive.rounds[0] == budget:
        yield f"adaptive.rounds={run.adaptive.rounds}: the first round is the whole budget, so nothing is saved"


_ENOUGH = 32


def _round_problems(rule: AdaptiveConfig, budget: int) -> Iterator[str]:
    if not rule.rounds:
        yield "adaptive.rounds=[]: give the size of at least one round, as [2,2,4,8]"
    elif min(rule.rounds) < 1:
        yield f"adaptive.rounds={rule.rounds}: a round has at least 1 sample"
    else:
        begun = 0
        for size in rule.rounds:
            if begun < budget < size:
                yield (
                    f"adaptive.rounds={rule.rounds}: a round of {size} is more than sampling.n_samples={budget}, all "
                    "that a row gets; make it smaller, or raise n_samples"
                )
                return
            begun += size

"""`sweep.objective`: the metric of each job that an optimizing sweeper gets, and whether higher is better."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write

from rollout.config import SweepConfig
from rollout.config.limits import value_problems
from rollout.errors import UserError, did_you_mean
from rollout.store.layout import ANALYSIS, MANIFEST

Direction = Literal["maximize", "minimize"]

UNWANTED = ("truncated", "empty", "duplicate", "looping", "unclosed", "failed")
"""Shares of the responses, as in truncated_fraction, for which lower is better."""

_HIGHER = ("score", "scores", "throughput", "distinct_responses")
"""Parts of run.json and analysis.json with numbers for which higher is better."""
_LOWER = (
    *("seconds", "truncated_fraction", "empty", "duplicates", "looping", "failed", "rows_with_errors", "errors"),
    *("thinking.unclosed", "totals.failed"),
    *(f"score{s}.{name}" for s in ("", "s") for name in ("no_answer", "cut_off", "unscored", "same_prompts_se")),
    *(f"estimates.{name}_fraction" for name in UNWANTED),
)
"""Parts with numbers for which lower is better. If two names fit, the longer one counts."""


def direction(path: str) -> Direction | None:
    """Whether lower or higher is better; None if that depends on what the user wants, as with lengths."""
    if path.endswith((".se", ".n", ".trusted", ".std")):
        return None
    lower, higher = (_longest(path, names) for names in (_LOWER, _HIGHER))
    return None if lower == higher else "minimize" if lower > higher else "maximize"


def _longest(path: str, names: Sequence[str]) -> int:
    """The number of characters in the longest name that is `path` or a parent of it."""
    return max((len(name) for name in names if path == name or path.startswith(f"{name}.")), default=0)


@dataclasses.dataclass(frozen=True)
class _Place:
    """The key that sets the direction of a sweeper."""

    key: str
    """The key below hydra.sweeper."""
    words: Mapping[Direction, str | bool]


_PLACES = {
    "OptunaSweeper": _Place("direction", {"maximize": "maximize", "minimize": "minimize"}),
    "NevergradSweeper": _Place("optim.maximize", {"maximize": True, "minimize": False}),
    "AxSweeper": _Place("ax_config.experiment.minimize", {"maximize": False, "minimize": True}),
}
"""Last part of `_target_` -> place. For other optimizing sweepers, the user sets the direction."""


def direct(config: DictConfig) -> None:
    """Set the direction of the sweeper in `config`, that of a whole sweep, for `sweep.objective`, and say so.

    A direction set by the user stays. Raises UserError for mistakes that no job could correct.
    """
    asked, sweeper = config.sweep, config.hydra.sweeper
    (choices,) = (item.metadata for item in dataclasses.fields(SweepConfig) if item.name == "direction")
    if problems := [*value_problems("sweep.direction", asked.direction, choices)]:
        raise UserError(*problems)
    if asked.objective is None:
        if asked.direction is not None:
            raise UserError(f"sweep.direction={asked.direction}: of which number? add sweep.objective=score.mean")
        return
    check(asked.objective, ["analyze", "score"])  # only the name; each job checks its steps
    place = _PLACES.get(str(sweeper._target_).rpartition(".")[2])
    if place is not None:
        _direct(config, asked, place)


def _direct(config: DictConfig, asked: DictConfig, place: _Place) -> None:
    key = f"hydra.sweeper.{place.key}"
    typed = next((word for word in config.hydra.overrides.hydra if word.partition("=")[0].lstrip("+") == key), None)
    if isinstance(OmegaConf.select(config, key), ListConfig):
        raise UserError(f"{typed or key}: sweep.objective is one number; leave it out, or give one direction")
    wanted = asked.direction or direction(asked.objective)
    if typed is None:
        if wanted is None:
            raise UserError(
                f"sweep.objective={asked.objective}: is more of it better, or less? add sweep.direction=maximize or "
                "sweep.direction=minimize"
            )
        with read_write(config), open_dict(config):
            OmegaConf.update(config, key, place.words[wanted])
    told = _told(OmegaConf.select(config, key), place)
    if told is None:
        raise UserError(f"{typed or key}: choose from {', '.join(map(str, place.words.values())).lower()}")
    if asked.direction is not None and told != asked.direction:
        raise UserError(f"sweep.direction={asked.direction}: {typed} says the opposite; leave one of the two out")
    print(f"sweep: looks for the {'highest' if told == 'maximize' else 'lowest'} {asked.objective}")


def _told(word: Any, place: _Place) -> Direction | None:
    said = getattr(word, "name", word)  # Optuna's are members of an enumeration
    return next((direction for direction, known in place.words.items() if known == said), None)


def metric(path: str) -> str | None:
    """The column of sweep.csv with this number; None for one without an error bar."""
    first, _, rest = path.partition(".")
    name, _, k = rest.partition(".")
    if first == "truncated_fraction":
        return first
    if first not in ("score", "scores"):
        return None
    known = {"mean": "mean_score", "pass_rate": "pass_rate", "pass_at_k": f"pass@{k}", "majority_at_k": f"majority@{k}"}
    return known.get(name)


def check(path: str, steps: list[str]) -> None:
    """Raise UserError for a number that no job can have, before hours are spent on one. `steps` are those of a job."""
    from rollout.postprocess.analyze import Analysis
    from rollout.records import Totals
    from rollout.scoring.summary import ScoreSummary
    from rollout.store.run_record import STAGES, Throughput

    first, _, rest = path.partition(".")
    parts = {"totals": _numbers(Totals), "throughput": _numbers(Throughput), "seconds": set(STAGES)}
    of_analysis = {item.name for item in dataclasses.fields(Analysis)} - {"by"}
    of_scores = {item.name for item in dataclasses.fields(ScoreSummary)}
    step, known, name = None, {*parts, "score", *of_analysis}, first
    if first in parts:
        known, name = parts[first], rest
    elif first in ("score", "scores"):
        step, known, name = "score", of_scores, rest.partition(".")[0]
    elif first in of_analysis:
        step = "analyze"
    if name not in known:
        raise UserError(f"sweep.objective={path}: no such number, {did_you_mean(name, known)}")
    if step is not None and step not in steps:
        raise UserError(f"sweep.objective={path}: comes from the step {step}; add it to postprocess.steps")


def _numbers(kind: type) -> set[str]:
    return {item.name for item in dataclasses.fields(kind)}


def value(run_dir: Path, path: str) -> float:
    """The number at the dotted `path` in run.json or analysis.json. Raises UserError if there is none."""
    known: dict[str, Any] = {}
    for file in (MANIFEST, ANALYSIS):
        if (run_dir / file).exists():
            known |= json.loads((run_dir / file).read_text(encoding="utf-8"))
    found: Any = known | {"score": known.get("scores")}
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise UserError(
            f"sweep.objective={path}: the job has no such number; see {MANIFEST} and {ANALYSIS} in {run_dir}"
        )
    return float(found)

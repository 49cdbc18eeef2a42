"""What a step of post-processing is. Each step's module defines one `Step`; `steps.py` lists them all."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from rollout.config import DataConfig, PostprocessConfig, ScoreConfig
from rollout.data.column_path import path_problem
from rollout.postprocess.source import Source
from rollout.scoring.stopped_early import Estimator, estimator_of, made_by
from rollout.store.run_record import RunRecord

if TYPE_CHECKING:
    from rollout.postprocess.analyze import Analysis

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is known of the steps before a single response exists."""

    config: PostprocessConfig
    data: DataConfig
    schema: pa.Schema
    """Of the responses, flat."""
    scored: bool = False
    """Whether the responses have scores already."""
    is_command: bool = False
    """Whether a step is done by itself, on files that the user names."""
    until: str | None = None
    """The rule by which the run stops rows, `adaptive.until`."""

    def before(self, step: str) -> list[str]:
        """The names of the steps that come before `step`."""
        return self.config.steps[: self.config.steps.index(step)]

    def has_scores(self, step: str) -> bool:
        """Whether `step` finds scores."""
        return self.scored or "score" in self.before(step)

    def cure_for_scores(self, step: str) -> str:
        """What to do where `step` needs scores and finds none."""
        if self.is_command:
            return "score the responses first, see `rollout help score`, or name a file's column of them with score_key"
        return f"put score before {step} in postprocess.steps"

    def path_problems(self, key: str, path: str) -> Iterator[str]:
        """Why `path`, the value of `key`, leads into no column of the responses."""
        if problem := path_problem(self.schema, path):
            yield f"{key}={path}: {problem}"


@dataclass(frozen=True)
class Work:
    """What a step finds, and leaves for the next one."""

    source: Source
    output_dir: Path
    config: PostprocessConfig
    data: DataConfig
    record: RunRecord | None = None
    """Of the run, if one has made the responses."""
    journal_scores: "JournalScores | None" = None
    """The scores that its responses have already, if it is a run that scores while it samples."""
    analysis: "Analysis | None" = None
    """What `analyze` has found, if it has been done."""
    is_whole: bool = True
    """Whether no step has dropped responses of `source`."""

    @property
    def scoring(self) -> ScoreConfig:
        """What the scores of `source` were made with: that of `config`, as far as nothing else is known."""
        return made_by(self.source.scored_by, self.config.score)

    @property
    def early(self) -> Estimator | None:
        """What the scores of `config` can tell of rows that the run's rule has stopped, see `estimator_of`.

        None where responses were dropped: how many of a row's samples pass says nothing then of when the row stopped.
        """
        if self.record is None or not self.is_whole:
            return None
        return estimator_of(self.record.config, self.scoring)


class JournalScores(Protocol):
    """Scores that were made with the responses; see `rollout.store.journal_reader.Scores`."""

    def of(self, row_id: int, num_rows: int) -> pa.Table: ...


def _no_problems(_: Plan) -> Iterator[str]:
    yield from ()


def _never(_: PostprocessConfig) -> bool:
    return False


@dataclass(frozen=True)
class Step:
    """One step: its name in `postprocess.steps`, and what it does."""

    name: str
    run: Callable[[Work], Work]
    """Do it. Raises UserError for data that it cannot work on."""
    outputs: Callable[[PostprocessConfig], list[str]]
    """The files that it writes, relative to the output folder unless the user named another."""
    problems: Callable[[Plan], Iterator[str]] = _no_problems
    """Everything that would keep it from running: one line each, for the user."""
    needs_scores: Callable[[PostprocessConfig], bool] = _never
    """Whether it cannot be done without scores."""


def log_counts(step: str, counts: dict[str, int]) -> None:
    """What a step has done, in one line."""
    log.info("%s: %s", step, ", ".join(f"{count:,} {name}" for name, count in counts.items()))

"""A side of a comparison: responses, and facts about the run that made them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rollout.config import DataConfig, RunConfig, ScoreConfig
from rollout.postprocess.origin import scoring_of
from rollout.postprocess.source import Source
from rollout.store.run_record import RunRecord
from rollout.store.speed import generated_by


@dataclass(frozen=True)
class Side:
    """One side of a comparison. A difference is a later side minus an earlier one."""

    name: str
    """Its name in tables: A, B, ..."""
    label: str
    """The side as the user wrote it."""
    path: Path
    source: Source
    """Its responses, with the column `score` if there are scores."""
    data: DataConfig
    """Where its prompts are."""
    truth: str | None
    """Dotted path to its right answers; None if it is not known."""
    run: RunConfig | None = None
    """The config of the run, or of the merge, that made it."""
    record: RunRecord | None = None
    """The record of the run that made it; a merge has none."""

    @property
    def is_scored(self) -> bool:
        """Whether there is a column with scores."""
        return "score" in self.source.schema.names

    @property
    def scoring(self) -> ScoreConfig | None:
        """The settings with which its run or a later command scored it; None if they are not known."""
        if not self.is_scored:
            return None
        score = scoring_of(self.source.origin, self.run)
        return None if score.scorer is None else score

    @property
    def scorer(self) -> str | None:
        """The scorer in words."""
        if (score := self.scoring) is None:
            return None
        more = (("pattern", score.pattern), ("after", score.after))
        return ", ".join([str(score.scorer), *(f"{name}={value}" for name, value in more if value is not None)])


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the responses of a side cost: all of them, also those of rows that were not matched. None: not known."""

    prompt_tokens: int | None
    """Each row's prompt counts once."""
    generated_tokens: int | None
    tokens_per_pass: float | None
    """Generated tokens per response that passes."""
    seconds: float | None
    """Time in which all sessions of the run generated; None too if that is not known of one of them."""
    output_tok_s: float | None
    """Tokens that these sessions generated per second of that time."""
    machine: str | None
    """The GPUs of the newest session's machine, or CPU."""


def cost_of(side: Side, generated: int | None, passed: int) -> Cost:
    """`generated` is the number of tokens in all responses, `passed` the number of responses that pass."""
    record = side.record
    worked = None if record is None else generated_by(side.path, record)
    total = generated if record is None or record.totals is None else record.totals.generated_tokens
    return Cost(
        prompt_tokens=None if record is None or record.totals is None else record.totals.prompt_tokens,
        generated_tokens=total,
        tokens_per_pass=total / passed if total is not None and passed else None,
        seconds=None if worked is None else worked.seconds,
        output_tok_s=None if worked is None else worked.output_tok_s,
        machine=None if record is None else _machine(record.provenance.gpus),
    )


def _machine(gpus: list[str]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in Counter(gpus).items()) or "CPU"


def side_name(number: int) -> str:
    """A to Z, then AA, AB, ..."""
    more, last = divmod(number, 26)
    return (side_name(more - 1) if more else "") + chr(ord("A") + last)

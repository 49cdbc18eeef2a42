"""What a Parquet file of responses says of them in its footer: how their chats were made, and their scores.

A run's result says the former in its digest. Files that are made of others say both in words of their own, so that a
system prompt and `pass_score` hold for whatever is done with them next. Other kinds of files have no place for it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from rollout.config import DataConfig, RunConfig, ScoreConfig
from rollout.scoring.stopped_early import MADE_WITH, made_by
from rollout.store.digest import source_of_scorer
from rollout.store.footer import DIGEST

T = TypeVar("T")

_CHATS = "rollout.chats"
_SCORED_BY = "rollout.scored_by"
"""As JSON. Files of earlier versions lack the first, and `pass_score` in the second."""


@dataclass(frozen=True)
class Chats:
    """How the prompts became what the model read."""

    prompt_key: str
    system_prompt: str | None = None
    continue_final_message: bool = False


@dataclass(frozen=True)
class Scoring:
    """What scores were made with: the fields of ScoreConfig that matter to their values."""

    scorer: str | None = None
    ground_truth: str | None = None
    pattern: str | None = None
    after: str | None = None
    pass_score: float | None = None
    """None: not known."""
    source: str | None = None
    """The hash of the file that has a function of the user's; None: not known, or one that comes with us."""

    @classmethod
    def of(cls, score: ScoreConfig) -> "Scoring":
        source = source_of_scorer(score)
        return cls(score.scorer, score.ground_truth, score.pattern, score.after, score.pass_score, source)


@dataclass(frozen=True)
class Origin:
    """Where responses come from. None: not known."""

    chats: Chats | None = None
    scoring: Scoring | None = None

    @property
    def scored_by(self) -> ScoreConfig | None:
        """What the scores were made with: the fields in `rollout.scoring.stopped_early.MADE_WITH`."""
        if self.scoring is None:
            return None
        return ScoreConfig(**{name: getattr(self.scoring, name) for name in MADE_WITH})

    @property
    def pass_score(self) -> float | None:
        """The score from which a response passed, where they were made."""
        return None if self.scoring is None else self.scoring.pass_score

    @property
    def data(self) -> DataConfig:
        """Where the chats are; the defaults where nothing tells."""
        if self.chats is None:
            return DataConfig()
        return DataConfig(prompt_key=self.chats.prompt_key, system_prompt=self.chats.system_prompt)

    @property
    def continues(self) -> bool | None:
        """Whether the responses continue a last message of the assistant."""
        return None if self.chats is None else self.chats.continue_final_message

    def footer(self) -> dict[str, str]:
        """As a Parquet file keeps it."""
        told = {_CHATS: self.chats, _SCORED_BY: self.scoring}
        return {
            name: json.dumps(asdict(value), ensure_ascii=False) for name, value in told.items() if value is not None
        }


NOT_KNOWN = Origin()


def scoring_of(origin: Origin, run: RunConfig | None) -> ScoreConfig:
    """What the scores of responses were made with, as far as it is known; else what their `run` makes them with."""
    score = made_by(origin.scored_by, ScoreConfig() if run is None else run.postprocess.score)
    return score if origin.pass_score is None else replace(score, pass_score=origin.pass_score)


def origin_of(path: Path) -> Origin:
    """What a file says; nothing is known of any but Parquet that can be read, nor of what is not as we write it."""
    said = _footer(path)
    chats = _read(said, _CHATS, Chats)
    return Origin(_chats_of_run(said) if chats is None else chats, _read(said, _SCORED_BY, Scoring))


def scoring_in_digest(path: Path) -> Scoring | None:
    """What a run made scores with on which its samples depend, as `adaptive.until` does."""
    digest = _read(_footer(path), DIGEST, dict[str, Any]) or {}
    said = {field.name: digest.get(f"postprocess.score.{field.name}") for field in fields(Scoring)}
    try:
        return msgspec.convert(said, Scoring)
    except msgspec.ValidationError:
        return None


def _footer(path: Path) -> Mapping[bytes, bytes]:
    """Empty where a file has none."""
    if path.suffix != ".parquet":
        return {}
    try:
        return pq.read_schema(path).metadata or {}
    except pa.ArrowInvalid:
        return {}


def with_scoring(origin: Origin, scores: Path) -> Origin:
    """`origin` of responses whose scores are in the file `scores`."""
    return replace(origin, scoring=origin_of(scores).scoring)


def _read(said: Mapping[bytes, bytes], name: str, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(said[name.encode()], type=kind)
    except (KeyError, msgspec.MsgspecError):
        return None


def _chats_of_run(said: Mapping[bytes, bytes]) -> Chats | None:
    """From the digest of a run's result."""
    digest = _read(said, DIGEST, dict[str, Any]) or {}
    try:
        return msgspec.convert(
            {
                "prompt_key": digest["data.prompt_key"],
                "system_prompt": digest["data.system_prompt"],
                "continue_final_message": bool(digest["model.chat_template_kwargs"].get("continue_final_message")),
            },
            Chats,
        )
    except (KeyError, AttributeError, msgspec.ValidationError):
        return None

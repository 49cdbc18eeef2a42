"""Several commands in one process, for tests: a model is loaded once. `python -m tests.one_process < COMMANDS`.

COMMANDS is JSON: a list of (folder, arguments). Prints a last line with the exit code of each, as JSON.
"""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

from rollout.cli.main import main
from rollout.engine import cache


def do_all(asked: list[tuple[Path, list[str]]]) -> None:
    """Do these commands, each in its folder, in one process; each must work."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.one_process"],
        cwd=Path(__file__).parents[1],
        input=json.dumps(asked, default=str),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    codes = json.loads(result.stdout.splitlines()[-1])
    failed = [command for command, code in zip(asked, codes, strict=True) if code]
    assert not failed, result.stdout + result.stderr


def code_of(folder: str, arguments: list[str]) -> int:
    """Do what `python -m rollout ARGUMENTS` does in this folder, but keep the engine. Returns the exit code."""
    with mock.patch.object(sys, "argv", ["rollout", *arguments]), contextlib.chdir(folder):
        try:
            main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    with mock.patch.object(cache, "release"):
        codes = [code_of(*command) for command in asked]
    cache.release()
    print(json.dumps(codes))

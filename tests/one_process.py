"""Several commands in one process, for tests: a model is loaded once. `python -m tests.one_process < COMMANDS`.

COMMANDS is JSON: a list of (folder, arguments). Prints a last line with the exit code of each, as JSON.
"""

import contextlib
import json
import sys
from unittest import mock

from rollout.cli.main import main
from rollout.engine import cache


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

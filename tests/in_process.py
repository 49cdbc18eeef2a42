"""Running a command in this process: what it prints and its exit code, without the second that a start takes.

For commands that end before a run begins: what a run prints goes to descriptor 1, not to `sys.stdout`.
"""

import contextlib
import importlib
import io
import subprocess
import sys
from pathlib import Path
from unittest import mock


def run_here(*arguments: str, cwd: Path, module: str = "rollout") -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS` in the folder `cwd`."""
    place = {"rollout": "rollout.cli.main", "rollout.resume": "rollout.resume", "rollout.replay": "rollout.replay"}
    main = importlib.import_module(place.get(module, f"{module}.__main__")).main
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", [module, *arguments]),
        mock.patch.object(sys, "path", list(sys.path)),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main(*([] if module == "rollout" else [list(arguments)]))
        except SystemExit as end:
            code = int(end.code or 0)
    return subprocess.CompletedProcess(arguments, code, output.getvalue(), errors.getvalue())

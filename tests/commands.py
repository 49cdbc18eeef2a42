"""Running the command line as a user would: `run_fresh` in a Python of its own, the others in a fork of one.

Most commands take less time than importing the package does. A fork of a process that has imported it
(tests/preloaded.py) has done that already, and is a process like any other: it has its own arguments, folder,
environment and output, can be killed, and leaves nothing behind in the tests. What the imports themselves do, a
shell's line and real engines want a fresh Python.
"""

import atexit
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from contextlib import chdir
from multiprocessing import active_children, forkserver, get_context
from pathlib import Path

ECHO = ("engine.kind=echo", "hardware=cpu", "tracking=disabled")
"""Overrides of a run without a model and without W&B."""

Completed = subprocess.CompletedProcess[str]

_ROOT = Path(__file__).parents[1]
_NAME = "command"
_fork = get_context("forkserver")
_fork.set_forkserver_preload(["tests.preloaded"])


def command(*arguments: str, module: str = "rollout") -> list[str]:
    """The command line of `python -m MODULE ARGUMENTS`."""
    return [sys.executable, "-m", module, *arguments]


def run_fresh(*arguments: str, cwd: Path, module: str = "rollout") -> Completed:
    """Run `python -m MODULE ARGUMENTS` to its end, imports and all."""
    return subprocess.run(
        command(*arguments, module=module), cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def run_command(*arguments: str, cwd: Path, module: str = "rollout") -> Completed:
    """The same, forked."""
    process = start_command(*arguments, cwd=cwd, module=module)
    output, errors = process.communicate(timeout=300)
    return Completed(process.args, process.wait(), output, errors)


def start_command(*arguments: str, cwd: Path, module: str = "rollout") -> "Running":
    """Start it, forked. It is killed if it outlives the test."""
    return Running(arguments, cwd, module)


def kill_those_left() -> None:
    """End the forked commands that still run."""
    for process in active_children():
        if process.name == _NAME:
            process.kill()


class Running:
    """A forked command. Its methods are those of `subprocess.Popen`."""

    def __init__(self, arguments: tuple[str, ...], cwd: Path, module: str) -> None:
        self.args = command(*arguments, module=module)
        self._output = tempfile.TemporaryDirectory(prefix="rollout-test-")
        self._printed = (Path(self._output.name, "stdout"), Path(self._output.name, "stderr"))
        asked = (module, arguments, cwd, dict(os.environ), *self._printed)
        self._process = _fork.Process(target=_main, args=asked, name=_NAME)
        with chdir(_ROOT):  # where the process that is forked looks for `tests` when it begins
            forkserver.ensure_running()
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def send_signal(self, signum: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        output, errors = (path.read_text(encoding="utf-8") for path in self._printed)
        return output, errors


def _main(module: str, arguments: tuple[str, ...], cwd: Path, environment: dict[str, str], *output: Path) -> None:
    """Do in this fork what `python -m MODULE ARGUMENTS` would do in `cwd`."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    sys.orig_argv = command(*arguments, module=module)
    sys.path.insert(0, str(cwd))
    tempfile.tempdir = None  # TMPDIR may be another one now
    for descriptor, path in zip((1, 2), output, strict=True):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    finally:
        atexit._run_exitfuncs()  # which the end of such a process leaves out


def resume(*arguments: str, cwd: Path) -> Completed:
    """`python -m rollout.resume ARGUMENTS`, to its end."""
    return run_command(*arguments, cwd=cwd, module="rollout.resume")


def replay(*arguments: str, cwd: Path) -> Completed:
    """`python -m rollout.replay ARGUMENTS`, to its end."""
    return run_command(*arguments, cwd=cwd, module="rollout.replay")


def merge(*arguments: str, cwd: Path) -> Completed:
    """`python -m rollout.merge ARGUMENTS`, to its end."""
    return run_command(*arguments, cwd=cwd, module="rollout.merge")


def verify(*arguments: str, cwd: Path) -> Completed:
    """`python -m rollout.verify ARGUMENTS`, to its end."""
    return run_command(*arguments, cwd=cwd, module="rollout.verify")

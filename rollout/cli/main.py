"""`python -m rollout` and the console script: help, completion, a command, or a run.

What each of them needs is imported for it only: help must answer at once, and none needs Hydra but a run.
"""

import shlex
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

import rollout
from rollout.cli.arguments import asks_for_help
from rollout.cli.commands import COMMANDS, RUN_WORDS, named
from rollout.cli.one_line_errors import one_line_errors
from rollout.errors import UserError, nearest

_COMPLETION = {"-sc", "--shell-completion"}


def main() -> None:
    """The command. Exit code 0, 1 after a mistake or a failed run; after a signal 130 (Ctrl-C), 143 (SIGTERM) or 129
    (SIGHUP).
    """
    with one_line_errors():
        folder = str(Path.cwd())  # as with `python -m`: a scorer of the user's is looked for there
        if folder not in sys.path:
            sys.path.insert(0, folder)
        _do(sys.argv[1:])


def _do(arguments: list[str]) -> None:
    command = named(arguments[0]) if arguments else None
    if not arguments or asks_for_help(arguments) or (command is not None and command.name == "help"):
        from rollout.cli.help import text, topics_in

        print(text(topics_in(arguments)))
    elif arguments == ["--version"]:
        print(f"rollout {rollout.__version__}")
    elif command is not None:
        _leave_pandas_out()
        command.run(arguments[1:])
    elif _COMPLETION & set(arguments):
        from rollout.cli.completion import complete

        complete([word for word in arguments if word not in _COMPLETION])
    elif arguments[0] == "postprocess":
        raise UserError(f"postprocess: no such command; write {_postprocess(arguments[1:])}")
    elif arguments[0] not in RUN_WORDS and (meant := nearest(arguments[0], [command.name for command in COMMANDS])):
        raise UserError(f"{arguments[0]}: no such command, did you mean {' or '.join(meant)}?")
    else:
        _leave_pandas_out()
        from rollout.cli.launch import run

        run(arguments)


def _postprocess(words: list[str]) -> str:
    """The command line that does what `rollout postprocess WORDS` was meant to do."""
    keys = [word for word in words if "=" in word or word.startswith("-")]
    given = next((word for word in words if word not in keys), None)
    if given is not None:
        keys.insert(0, f"{'input' if Path(given).is_file() else 'run_dir'}={given}")
    elif not any(word.startswith(("run_dir=", "input=")) for word in keys):
        keys.insert(0, "run_dir=RUN_DIR")
    return f"python -m rollout.postprocess {shlex.join(keys)}"


def _leave_pandas_out() -> None:
    """Keep Arrow from importing pandas to see whether what it converts is of pandas: nothing of ours is.

    It would take every command 0.1 s and 35 MB. Only a process that does nothing but a command may be told so: from
    then on Arrow takes the NaN of a pandas object for a number.
    """
    import pyarrow as pa

    if "pandas" not in sys.modules:
        sys.meta_path.insert(0, _NoPandas())
        pa.array([])  # the first conversion looks for it, and no other
        del sys.meta_path[0]


class _NoPandas(MetaPathFinder):
    """Makes pandas look as if it were not installed."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(name=fullname)

"""The documentation as tests read it: its pages, their blocks of code, and the commands in them."""

import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_PROGRAM = ("python -m rollout ", "rollout ")
_PRINTED = r"""
show() { printf '%s\0' "$@" >&3; printf '\036' >&3; }
rollout() { show "$@"; }
python() { shift 2; show "$@"; }
"""


def code_blocks(text: str, language: str = "") -> list[str]:
    """The blocks between fences of this language in a Markdown text."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [content for fence, content in fences if fence == language]


def commands(text: str, *languages: str) -> list[list[str]]:
    """The arguments of every command of this program in the blocks of these languages, as a shell gives them to it.

    Blocks that show mistakes are left out.
    """
    found = [block for language in languages for block in code_blocks(text, language)]
    blocks = [block.replace("\\\n", "") for block in found if "\nerror: " not in block]
    lines = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return as_arguments([line for line in lines if line.startswith(_PROGRAM)])


def as_arguments(lines: list[str]) -> list[list[str]]:
    """The arguments of each of these commands, as bash gives them to the program."""
    with tempfile.TemporaryDirectory() as folder:  # a command may write what it prints to a file
        script = _PRINTED + "\n".join(lines)
        asked = ["bash", "-c", f"exec 3>&1 >/dev/null; {script}"]
        printed = subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=True).stdout
    found = [command.removesuffix("\0").split("\0") for command in printed.split("\x1e")[:-1]]
    assert len(found) == len(lines), printed
    return found

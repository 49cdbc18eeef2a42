"""Write `configuration.md` beside this file from the dataclasses in `rollout/config/schema.py`: `make docs`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from rollout.config import RunConfig, arguments
from rollout.config.fields import Field, config_fields

HEADER = """\
# Configuration

Every key, its default and its meaning, made from `rollout/config/schema.py` by `make docs`. Change a key on the command
line with `key=value`, a whole group with `group=preset`. `python -m rollout --cfg job` prints what a command would run
with.
"""


def main() -> None:
    """Write the file."""
    (Path(__file__).parent / "configuration.md").write_text(configuration(), encoding="utf-8")


def configuration() -> str:
    """The page, as Markdown."""
    docs, page, group = field_docs(), [HEADER], ""
    for key, field in config_fields():
        head = key.rpartition(".")[0] or "run"
        if head != group:
            group = head
            page.append(f"\n## {group}\n\n| key | default | meaning |\n|---|---|---|\n")
        page.append(f"| `{key}` | `{_shown(field.value)}` | {docs[key]}{_limits(field)} |\n")
    return "".join(page)


def field_docs(kind: type[Any] = RunConfig, prefix: str = "") -> dict[str, str]:
    """The string under every field of `kind` and of the dataclasses in it, by key, on one line."""
    found = {prefix + name: text for name, text in arguments.field_docs(kind).items()}
    for item in dataclasses.fields(kind):
        if isinstance(item.type, type) and dataclasses.is_dataclass(item.type):
            found |= field_docs(item.type, f"{prefix}{item.name}.")
    return found


def _shown(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value


def _limits(field: Field) -> str:
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    if "choices" in field.limits:
        return " One of " + ", ".join(f"`{word}`" for word in field.limits["choices"]) + "."
    bounds = " and ".join(f"{words[name]} {field.limits[name]}" for name in words if name in field.limits)
    return f" {bounds.capitalize()}." if bounds else ""


if __name__ == "__main__":
    main()

"""Write `configuration.md` and `template.yaml` beside this file from what `rollout/config/` says: `make docs`."""

from pathlib import Path

from rollout.config.keys import keys_of, sections
from rollout.config.template import template

HEADER = """\
# Configuration

Every key, its default and its meaning, made from `rollout/config/schema.py` by `make docs`. Change a key on the command
line with `key=value`, a whole group with `group=preset`. `python -m rollout --cfg job` prints what a command would run
with.
"""


def main() -> None:
    """Write the files."""
    for name, content in {"configuration.md": configuration(), "template.yaml": template()}.items():
        (Path(__file__).parent / name).write_text(content, encoding="utf-8")


def configuration() -> str:
    """The page, as Markdown."""
    meanings, page, group = {section.name: section.meaning for section in sections()}, [HEADER], ""
    for key in keys_of():
        head = key.name.rpartition(".")[0] or "run"
        if head != group:
            group = head
            about = f"{meanings[head]}\n\n" if head in meanings else ""
            page.append(f"\n## {group}\n\n{about}| key | default | meaning |\n|---|---|---|\n")
        page.append(f"| `{key.name}` | `{key.default}` | {key.explanation} |\n")
    return "".join(page)


if __name__ == "__main__":
    main()

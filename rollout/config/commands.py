"""The keys of the commands that work on files: their names, types, defaults, limits and meaning, as `schema.py` has
those of a run. `arguments.py` reads them from the words of a command.
"""

from dataclasses import dataclass, field

from rollout.config.schema import ExportFormat, FilterConfig, ScoreConfig

_ESCAPES = {"escapes": True}


@dataclass(kw_only=True)
class FileCommand:
    """What is read and written: keys, or simply the first and the second path."""

    input: str
    """A file of responses (.parquet; .jsonl or .csv, also with .gz or .zst), the folder of a run, or `latest`: the run
    that started last."""
    output: str
    """The file to write: .parquet, .jsonl or .csv, the last two also with .gz or .zst. Never the input."""
    overwrite: bool = False
    """Replace an output that exists already."""


@dataclass(kw_only=True)
class FlattenCommand(FileCommand):
    """`rollout flatten`: one row per response."""


@dataclass(kw_only=True)
class AnalyzeCommand:
    """`rollout analyze`: the numbers that say whether responses are worth using."""

    input: str
    """A file of responses (.parquet; .jsonl or .csv, also with .gz or .zst), the folder of a run, or `latest`: the run
    that started last."""
    output: str | None = None
    """Write the numbers to this file too; ends in .json. null: only show them."""
    overwrite: bool = False
    """Replace an output that exists already."""
    by: str | None = None
    """Column whose values make groups, each analyzed by itself; a dotted path leads into structs and JSON. null: the
    one that the run had, if any."""
    clusters: bool | None = None
    """Error bars are over the groups of `by`, not over rows: for questions about a common text. null: as the run had
    it, else false."""
    pass_score: float | None = field(default=None, metadata={"gt": float("-inf")})
    """A response with at least this score passes. null: as the run had it, else 1."""


@dataclass(kw_only=True)
class FilterCommand(FilterConfig, FileCommand):
    """`rollout filter`: the responses that every rule lets through, one per row."""

    dropped: str | None = None
    """Write the others to this file, with the rule that each does not satisfy in `dropped_by`."""


@dataclass(kw_only=True)
class ExportCommand(ExportFormat, FileCommand):
    """`rollout export`: responses, chats, preference pairs, prompts or tokens for others to read."""

    output: str
    """The file to write: .parquet, .jsonl or .csv, the last two also with .gz or .zst, or .pt for slime. Never the
    input."""
    prompt_key: str | None = None
    """Column that holds the chat, where chats are made. null: that of the run, else `prompt`."""
    system_prompt: str | None = field(default=None, metadata=_ESCAPES)
    """Put before every chat that does not begin with a system message of its own. null: that of the run, if any."""


@dataclass(kw_only=True)
class ScoreCommand(ScoreConfig, FileCommand):
    """`rollout score`: the responses, one per row, with their scores. Scores that they have are replaced."""

    scorer: str = field()


@dataclass
class PrepareConfig:
    """`rollout prepare`: data of any form -> an input file. No part of a run's config."""

    input: str = field(metadata={"pattern": True})
    """A .parquet, .jsonl, .csv or .txt file (one prompt a line; all but .parquet also with .gz or .zst), a folder of
    Parquet files, a pattern such as 'data/train-*.parquet', or a folder that `save_to_disk` of `datasets` wrote."""
    output: str
    """The file to write; ends in .parquet."""
    prompt_key: str = "prompt"
    """Column that holds the chat or the text, as `data.prompt_key` of a run. Not used with a template."""
    template: str | None = field(default=None, metadata=_ESCAPES)
    """One user message made from columns, for example '{question}\\nAnswer with a number.'; {column.field} reaches
    into structs and JSON, {{ and }} are braces, \\n a new line, \\\\ a backslash. A row with a null is refused."""
    system_prompt: str | None = field(default=None, metadata=_ESCAPES)
    """Put before every chat that does not begin with a system message of its own; \\n as in a template."""
    keep: list[str] | None = None
    """Columns to keep beside the prompt. null: all but the prompt_key's own and those whose names a run needs."""
    drop_duplicates: bool = False
    """Of rows with exactly the same chat keep the first. Takes about 100 bytes of memory per row."""
    limit: int | None = field(default=None, metadata={"ge": 1})
    """Use only the first rows of the input. null: all."""
    overwrite: bool = False
    """Replace an output that already exists."""

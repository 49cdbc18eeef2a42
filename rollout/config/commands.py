"""The keys of the commands that work on files: names, types, defaults, limits and meaning, as `schema.py` has for a
run. `arguments.py` reads them from the words of a command.
"""

from dataclasses import dataclass, field

from rollout.config.schema import ExportFormat, FilterConfig, ScoreConfig

_ESCAPES = {"escapes": True}

STATUSES = ("preparing", "running", "silent", "done", "interrupted", "failed", "killed")
"""The possible states of a run, seen from outside."""

RUN_COLUMNS = ("started", "status", "model", "rows", "samples", "tok_s", "score", "folder")
"""The columns by which a list of runs can be sorted."""


SCORE_KEYS = ("score", "scores")
"""The columns of a file that are taken for scores where the user names none."""


@dataclass(kw_only=True)
class Input:
    """The input: given as a key, or simply as the first path."""

    input: str
    """A file of responses (.parquet; .jsonl or .csv, also with .gz or .zst), the folder of a run, or `latest`: the run
    that started last."""
    unfinished: bool = False
    """Of a run without a result, because it works or was stopped, take the samples that are durable."""
    prompt_key: str | None = None
    """Column that holds the prompt or the chat. In a file without row_id, consecutive responses with the same one are
    of one row. null: that of the run, else `prompt`."""


@dataclass(kw_only=True)
class ScoreKey:
    """The scores of the input."""

    score_key: list[str] | None = None
    """Columns of a file that may hold the scores; the first that it has is used, and it must have one: a score per
    response, or a list in each row. It becomes `score`. null: `score` or `scores`; []: only `score`. Runs have their
    own."""


@dataclass(kw_only=True)
class FileCommand(Input):
    """The input and the output, which may be the second path."""

    output: str
    """The file to write: .parquet, .jsonl or .csv, the last two also with .gz or .zst. Never the input."""
    overwrite: bool = False
    """Replace an output that exists already."""


@dataclass(kw_only=True)
class FlattenCommand(ScoreKey, FileCommand):
    """`rollout flatten`: one row per response."""


@dataclass(kw_only=True)
class AnalyzeCommand(ScoreKey, Input):
    """`rollout analyze`: the numbers that say whether responses are worth using."""

    output: str | None = None
    """Write the numbers to this file too; ends in .json. null: only show them."""
    overwrite: bool = False
    """Replace an output that exists already."""
    by: str | None = None
    """Column whose values make groups, each analyzed by itself; a dotted path leads into structs and JSON. null: the
    one that the run had, if any."""
    clusters: bool | None = None
    """Error bars are over the groups of `by`, not over rows: for questions about a common text. null: as in the run,
    else false."""
    pass_score: float | None = field(default=None, metadata={"gt": float("-inf")})
    """A response with at least this score passes. null: as in the run, else 1."""


@dataclass(kw_only=True)
class FilterCommand(ScoreKey, FilterConfig, FileCommand):
    """`rollout filter`: the responses that every rule lets through, one per row."""

    dropped: str | None = None
    """Write the other responses to this file; their column `dropped_by` names the rule that they do not satisfy."""


@dataclass(kw_only=True)
class ExportCommand(ScoreKey, ExportFormat, FileCommand):
    """`rollout export`: responses, chats, preference pairs, prompts, answers or tokens for others to read."""

    output: str
    """The file to write: .parquet, .jsonl or .csv, the last two also with .gz or .zst, or .pt for slime. Never the
    input."""
    system_prompt: str | None = field(default=None, metadata=_ESCAPES)
    """Put before every chat that does not begin with a system message of its own. null: that of the run, if any."""
    continue_final_message: bool | None = None
    """Whether the responses continue a last message of the assistant: in chats, both are then one turn. null: as in
    the run, else false."""


@dataclass(kw_only=True)
class ScoreCommand(ScoreConfig, FileCommand):
    """`rollout score`: the responses, one per row, with their scores. Existing scores are replaced."""

    scorer: str = field(metadata={"hint": "exact_match, numeric_match, math, regex or module:function"})


@dataclass(kw_only=True)
class CompareCommand:
    """`rollout compare`: which of several runs is better, row by row."""

    inputs: list[str]
    """Two or more of: runs, `latest`, merges, files of responses; or the folder of a sweep, for its finished jobs.
    Differences are a later one minus an earlier one: for A B they are B - A."""
    output: str = "."
    """The folder for compare.json and compare.html; created if it does not exist."""
    overwrite: bool = False
    """Replace files of these names that this command has not written."""
    pairs: str = field(default="all", metadata={"choices": ("all", "first")})
    """What is compared: every two, or the first with each other one."""
    clusters: str | None = None
    """Column whose values group rows that are not independent, such as questions on one text; a dotted path leads into
    structs and JSON. null: only copies of a row are a group."""
    pass_score: float | None = field(default=None, metadata={"gt": float("-inf")})
    """A response with at least this score passes. null: as in the runs, else 1."""
    prompt_key: list[str] | None = None
    """Columns that may hold the prompt; the first that a file has is used. null: that of the run, else `prompt`."""
    ground_truth: list[str] | None = None
    """Columns, or dotted paths, that may hold the right answer; rows are matched by it and the prompt. null: that of
    the run, or of one of the others."""
    score_key: list[str] | None = None
    """Columns of a file that may hold the scores; the first that it has is used, and it must have one: a score per
    response, or a list in each row. null: `score` or `scores`; []: only `score`. Runs have their own."""
    rows: int = field(default=50, metadata={"ge": 0})
    """Number of rows to show side by side in compare.html: those that differ most."""


@dataclass(kw_only=True)
class WatchCommand:
    """`rollout watch`: a run from outside, while it works or after it was killed."""

    run: str
    """The folder of a run or of a sweep, or `latest`: the run that started last."""
    once: bool = False
    """Show the state once, instead of watching until the run ends."""
    every: float = field(default=2.0, metadata={"ge": 0.1, "le": 86400.0})
    """Seconds between two updates."""
    report: bool = False
    """Write a page of the durable samples: now, then at most once a minute, and when the run has ended."""
    output: str | None = None
    """The page to write; ends in .html. null: in the folder where the command is given, named after the run."""
    overwrite: bool = False
    """Replace a page that exists already."""


@dataclass(kw_only=True)
class RunsCommand:
    """`rollout runs`: the runs and sweeps under a folder, the newest last."""

    folder: str = "outputs"
    """Where to look, however deep. The folder of a sweep stands for its jobs."""
    sort: str = field(default="started", metadata={"choices": RUN_COLUMNS})
    """Column to sort by; the largest value comes last."""
    last: int | None = field(default=None, metadata={"ge": 1})
    """Show only this many lines, the last ones. null: all."""
    status: list[str] | None = field(default=None, metadata={"choices": STATUSES})
    """Only those with one of these: `killed` ended without a final status, `silent` runs on another machine and has
    written nothing for ten minutes, `preparing` has not begun to sample."""
    model: str | None = None
    """Only those whose model name contains this text."""
    jobs: bool = False
    """A line for each job of a sweep, instead of one for the sweep."""
    format: str | None = field(default=None, metadata={"choices": ("table", "csv", "json")})
    """How to show the list; a table leaves out what does not fit. null: by the name of the output, else a table."""
    output: str | None = None
    """Write to this file instead of the screen; ends in .csv or .json."""
    overwrite: bool = False
    """Replace an output that exists already."""


@dataclass
class PrepareConfig:
    """`rollout prepare`: data of any form -> an input file. Not a part of a run's config."""

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
    """Of rows with exactly the same chat, keep the first. Takes about 100 bytes of memory per row."""
    limit: int | None = field(default=None, metadata={"ge": 1})
    """Use only so many rows of the input. null: all."""
    seed: int | None = field(default=None, metadata={"ge": 0})
    """Take the rows of `limit` at random, in the order of the input. The same seed takes the same rows, and with a
    higher limit these and others. null: the first rows."""
    overwrite: bool = False
    """Replace an output that already exists."""

"""`python -m rollout prepare IN OUT`: data in any form -> the input of a run.

Writes a Parquet file with a column `prompt` of chats and the columns to keep, in the order of the input. For this file
`python -m rollout data.path=input.parquet` needs no other key. Rows without a usable prompt are left out and counted,
with the reason and their first positions in the input (from 0; lines from 1).
"""

import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rollout.cli.arguments import output_problems, show_help
from rollout.cli.help import text
from rollout.cli.one_line_errors import one_line_errors
from rollout.config import PrepareConfig, trust
from rollout.config.arguments import parse
from rollout.config.overrides import hydra_word
from rollout.data.text import counted
from rollout.errors import UserError
from rollout.files import disk_full_explained, matching, real, replacing, same_file, user_path
from rollout.prepare.chat_rows import CHATS_AS_JSON, PROMPT, Plan, Refusal, plan_for, read_chats
from rollout.prepare.folders import open_source
from rollout.prepare.subset import used_rows
from rollout.process.signals import stop_on_signal
from rollout.records import Message

_ROW_GROUP_BYTES = 32 << 20
_PLACES_SHOWN = 3
_SHOWN_CHARACTERS = 300

_as_json = json.JSONEncoder(ensure_ascii=False, default=str).encode
_canonical = json.JSONEncoder(ensure_ascii=False, sort_keys=True, default=str).encode


def main(arguments: list[str]) -> None:
    """Run the command. Exit codes are those of `python -m rollout`; 1 also if there is nothing to write."""
    with one_line_errors(), stop_on_signal():
        show_help(arguments, lambda: text(["prepare"]))
        _, arguments = trust.asked(arguments)  # the input is only data, so trust makes no difference
        config = parse(PrepareConfig, arguments, _path_problems, ("input", "output"))
        for line in _report_lines(prepare(config), config):
            print(line)


@dataclass
class Refused:
    """The rows refused for one reason: their number, and the places of the first ones."""

    rows: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, where: str) -> None:
        """Count a row."""
        self.rows += 1
        if len(self.places) < _PLACES_SHOWN:
            self.places.append(where)

    def __str__(self) -> str:
        return ", ".join(self.places) + (", ..." if self.rows > len(self.places) else "")


@dataclass
class Report:
    """What happened to the rows of the input."""

    plan: Plan
    read: int = 0
    written: int = 0
    duplicates: int = 0
    refused: dict[str, Refused] = field(default_factory=dict)
    first_chat: list[Message] | None = None


def prepare(config: PrepareConfig) -> Report:
    """Write `config.output`. Raises UserError if something does not fit, or if there is nothing to write."""
    source, output = user_path(config.input), user_path(config.output)
    problems = list(_output_problems(source, output, config.overwrite))
    try:
        plan = plan_for(open_source(source, "input"), config)
    except UserError as error:
        raise UserError(*problems, *error.problems) from error
    if problems:
        raise UserError(*problems)
    with disk_full_explained(f"output={output}", "free some space"), replacing(output) as partial:
        try:
            report = _write(plan, plan.chat_type, partial, config)
        except _RicherChat:
            report = _write(plan, CHATS_AS_JSON, partial, config)
        if not report.written:
            reasons = "; ".join(f"{refused.rows:,}: {reason}" for reason, refused in report.refused.items())
            raise UserError(f"input={source}: no row has a usable prompt ({reasons}); check prompt_key or template")
    return report


def _path_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the paths of a command that has other mistakes."""
    if values.get("input") is None:
        return
    source = user_path(values["input"])
    if values.get("output") is not None:
        yield from _output_problems(source, user_path(values["output"]), bool(values.get("overwrite")))
    try:
        open_source(source, "input")
    except UserError as error:
        yield from error.problems


class _RicherChat(Exception):
    """A chat does not fit the planned type: its content is not text, or, as JSON, it has other fields.

    Few inputs have such a chat. A check in advance would read every input twice, so the file is started again instead.
    """


def _write(plan: Plan, chat_type: pa.DataType, path: Path, config: PrepareConfig) -> Report:
    report, schema = Report(plan), pa.schema([(PROMPT, chat_type), *map(plan.table.schema.field, plan.keep)])
    # opened here, because Arrow's own errors about a path do not name it
    with path.open("wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for group in _row_groups(_batches(schema, report, config)):
            writer.write_table(pa.Table.from_batches(group))
    return report


def _batches(schema: pa.Schema, report: Report, config: PrepareConfig) -> Iterator[pa.RecordBatch]:
    """The batches to write; `report` counts their rows."""
    plan, chat_type = report.plan, schema.field(PROMPT).type
    seen = set[bytes]() if config.drop_duplicates else None
    for batch, positions in used_rows(plan.table, config):
        kept, chats = list[int](), list[list[Message]]()
        for place, chat in enumerate(read_chats(plan, batch, positions)):
            if isinstance(chat, Refusal):
                report.refused.setdefault(chat.reason, Refused()).add(chat.where)
            elif seen is not None and _seen_before(chat, seen):
                report.duplicates += 1
            else:
                kept.append(place)
                chats.append(chat)
        report.read += batch.num_rows
        report.written += len(chats)
        if chats:
            report.first_chat = report.first_chat or chats[0]
            columns = batch.select(plan.keep).take(pa.array(kept)).columns
            yield pa.RecordBatch.from_arrays([_chat_column(chats, chat_type), *columns], schema=schema)


def _chat_column(chats: list[list[Message]], chat_type: pa.DataType) -> pa.Array:
    """The column of `chats`. Raises _RicherChat if `chat_type` is too narrow: Arrow would silently drop fields."""
    if chat_type == CHATS_AS_JSON:
        return pa.array(map(_as_json, chats), chat_type)
    names = {part.name for part in chat_type.value_type}
    for chat in chats:
        for message in chat:
            if not (message.keys() <= names and isinstance(message["content"], str | None)):
                raise _RicherChat
    return pa.array(chats, chat_type)


def _seen_before(chat: list[Message], seen: set[bytes]) -> bool:
    """Whether an equal chat came before. 16 bytes: the chance of equal hashes among 10^12 chats is 1 in 10^14."""
    digest = blake2b(_canonical(chat).encode(), digest_size=16).digest()
    if digest in seen:
        return True
    seen.add(digest)
    return False


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Lists of batches to write as one row group: one for each batch would compress badly and be slow to read."""
    group, size = list[pa.RecordBatch](), 0
    for batch in batches:
        group.append(batch)
        size += batch.nbytes
        if size >= _ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _output_problems(source: Path, output: Path, overwrite: bool) -> Iterator[str]:
    yield from output_problems("output", output, (".parquet",), lambda path: _is_read(path, source), overwrite)


def _is_read(output: Path, source: Path) -> bool:
    """Whether `source` (a file, a folder or a pattern) includes `output`, under any name."""
    read, written = real(source), real(output)
    if written == read or (source.is_dir() and read in written.parents):
        return True
    if written.parent == read.parent and fnmatch(written.name, read.name):
        return True
    files = source.rglob("*") if source.is_dir() else [source] if source.exists() else matching(source)
    return any(same_file(output, file) for file in files)


def _report_lines(report: Report, config: PrepareConfig) -> Iterator[str]:
    refused = sum(reason.rows for reason in report.refused.values())
    duplicates = f", duplicates {report.duplicates:,}" if config.drop_duplicates else ""  # else nobody has looked
    counts = f"read {counted(report.read, 'row')}, wrote {report.written:,}, refused {refused:,}{duplicates}"
    yield f"{counts}: {config.output}"
    for reason, rows in sorted(report.refused.items(), key=lambda item: -item[1].rows):
        yield f"refused       {rows.rows:,}: {reason} ({rows})"
    yield f"columns       {', '.join([PROMPT, *report.plan.keep])}"
    if report.plan.left_out:
        yield f"left out      {', '.join(report.plan.left_out)}: a run needs the name for a column of its own"
    yield f"first prompt  {_excerpt(_as_json(report.first_chat))}"
    yield f"use it with   python -m rollout {shlex.quote(hydra_word('data.path', config.output))}"


def _excerpt(text: str) -> str:
    """The beginning of `text`, without control characters for the terminal."""
    shown = "".join(c if c.isprintable() else "?" for c in text[:_SHOWN_CHARACTERS])
    return shown if len(text) <= _SHOWN_CHARACTERS else f"{shown} ..."


if __name__ == "__main__":
    main(sys.argv[1:])

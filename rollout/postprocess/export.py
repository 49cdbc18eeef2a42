"""Write responses in the form that other programs read: as they are, as chats, preference pairs, prompts or tokens."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa

from rollout.config import DataConfig, ExportConfig, ExportFormat, PostprocessConfig, RunConfig
from rollout.data.text import as_text, counted
from rollout.errors import did_you_mean
from rollout.files import at_home, replacing
from rollout.postprocess import tokens
from rollout.postprocess.chats import FORMATS, LeftOut, Recipe, Records
from rollout.postprocess.origin import Origin
from rollout.postprocess.source import Source
from rollout.postprocess.step import Plan, Step, Work
from rollout.postprocess.writing import Part, suffixes, write
from rollout.records import SCORE_FIELDS, extras_of, flat_fields, has_thinking

log = logging.getLogger(__name__)

_NO_ROWS = "there are no responses, so there are no %ss"

_FOLLOWING = (
    "chats end in a turn of the assistant, and the response is another one behind it; if it continues that turn, "
    "`rollout export` wants continue_final_message=true"
)

_NO_ANSWERS = (
    "the scorer has found no answer in any response, so no row has a majority_answer; score with one that does: "
    "a built-in one, or a function that returns an `answer`"
)

_NOUNS = {"preference": "pair", "tokens": "sample", "slime": "sample"}


def written_in_words(count: int, export_format: str) -> str:
    """How many records of `export.format` there are: 1 as "1 pair"."""
    return counted(count, _noun(export_format))


def _noun(export_format: str) -> str:
    return _NOUNS.get(export_format, export_format.removesuffix("s"))


def export(
    source: Source,
    output_dir: Path,
    config: ExportConfig,
    data: DataConfig,
    continued: bool | None = False,
    label: str | None = None,
) -> int:
    """Write `export.file`, log how many records it has (responses, chats, pairs, prompts or samples), and return this.

    All formats but `responses` leave out failed samples, and formats with chats also rows whose prompt is not a chat.
    `continued` says whether responses continue a last message of the assistant (None: not known), `label` is the path
    to the right answers, for slime. Raises UserError for a chat that the format of the file cannot hold.
    """
    path = output_dir / at_home(config.file)
    schema, parts = records(source, config, data, bool(continued), label)
    seen = Seen(parts, config.format)
    with replacing(path) as partial:
        count = write(partial, path.name, schema, seen)
    log.info("export: %s", written_in_words(count, config.format))
    if line := seen.left_out_in_words():
        log.log(logging.INFO if count else logging.WARNING, "export: %s", line)
    if warning := seen.warning(continued):
        log.warning("export: %s", warning)
    return count


@dataclass
class Seen:
    """Parts on their way to a file, and what they have turned out to hold."""

    parts: Iterable[Part]
    format: str
    """`export.format`."""
    num_rows: int = 0
    """Rows that gave a record."""
    left_out: LeftOut = field(default_factory=LeftOut)
    has_answers: bool = False
    num_following: int = 0
    """Responses that are a turn of their own after one of the assistant."""

    def __iter__(self) -> Iterator[Part]:
        for part in self.parts:
            if isinstance(part, Records):
                self.num_rows += len({record["row_id"] for record in part.made})
                self.left_out += part.left_out
                self.has_answers |= any(record.get("majority_answer") is not None for record in part.made)
                self.num_following += sum(map(_follows, part.made))
            yield part

    def warning(self, continued: bool | None) -> str | None:
        """What a person has to know of them, once all are written; `continued` as of `export`."""
        if self.format in FORMATS and not self.num_rows and not self.left_out:
            return _NO_ROWS % _noun(self.format)
        if continued is None and self.num_following:
            return f"{self.num_following:,} {_FOLLOWING}"
        return _NO_ANSWERS if self.format == "answers" and self.num_rows and not self.has_answers else None

    def left_out_in_words(self) -> str | None:
        """What gave no record, or how many rows no pair, and why: each is counted once. None where all did."""
        if not (count := self.left_out.total()):
            return None
        if self.format != "preference":
            parts = (f"{counted(number, noun)} {reason}" for (noun, reason), number in self.left_out.most_common())
            return f"left out {', '.join(parts)}"
        reasons = ", ".join(f"{rows:,} {reason}" for (_, reason), rows in self.left_out.most_common())
        return f"no pair in {count:,} of {counted(self.num_rows + count, 'row')}: {reasons}"


def _follows(record: Mapping[str, Any]) -> bool:
    """Whether the response of a chat, or of a pair, stands behind a turn of the assistant."""
    before = record["messages"][:-1] if "messages" in record else record["prompt"] if "chosen" in record else []
    return bool(before) and before[-1]["role"] == "assistant"


def continues(run: RunConfig | None, origin: Origin) -> bool | None:
    """Whether the responses of a run, or of a file of this origin, continue a last message of the assistant; None where
    nothing tells.
    """
    return origin.continues if run is None else bool(run.model.chat_template_kwargs.get("continue_final_message"))


def records(
    source: Source, config: ExportConfig, data: DataConfig, continued: bool = False, label: str | None = None
) -> tuple[pa.Schema, Iterator[Part]]:
    """The schema of the file, and what to write: Arrow batches, or records where chats are made; see `export`."""
    names, schema = list(dict.fromkeys(config.columns or [])), source.schema
    if config.format == "responses":
        if config.columns is not None:
            schema = pa.schema([schema.field(name) for name in dict.fromkeys(["row_id", "sample_idx", *names])])
        schema = schema.with_metadata(source.file_schema.metadata)
        return schema, (batch.select(schema.names) for batch in source.batches())
    if config.format in FORMATS and FORMATS[config.format].keeps_input and config.columns is None:
        names = [name for name in _inputs(schema) if name not in {data.prompt_key, *_made(config.format)}]
    beside = [schema.field(name) for name in names]
    if config.format in tokens.FORMATS:
        made = tokens.FORMATS[config.format]
        return pa.schema([*made, *beside]), tokens.token_records(source, made, names, label)
    chats = FORMATS[config.format]
    of_record = chats.fields(schema.field(data.prompt_key), config.reasoning == "field" and has_thinking(schema))
    recipe = Recipe(data, names, continued, config)
    parts = (chats.records(batch, recipe) for batch in source.batches())
    return pa.schema([*of_record, *beside]), parts


def _inputs(schema: pa.Schema) -> list[str]:
    """The columns of the responses that came from the input."""
    ours = {field.name for field in (*flat_fields(extras_of(schema)), *SCORE_FIELDS)}
    return [name for name in schema.names if name not in ours]


def _outputs(config: PostprocessConfig) -> list[str]:
    return [str(at_home(config.export.file))]


def _needs_scores(config: PostprocessConfig) -> bool:
    return config.export.format in FORMATS and FORMATS[config.export.format].needs_scores


def _problems(plan: Plan) -> Iterator[str]:
    yield from _file_problems(plan.config.export)
    yield from format_problems(plan)


def format_problems(plan: Plan) -> Iterator[str]:
    """Everything that keeps the records from being made, whatever the file: one line each, for the user."""
    config, data, names = plan.config.export, plan.data, plan.schema.names
    made = _made(config.format)
    for name in config.columns or []:
        if name in made:
            yield f"postprocess.export.columns={name}: format={config.format} writes a field of that name; leave it out"
        elif name not in names:
            yield f"postprocess.export.columns={name}: no such column, {did_you_mean(name, names)}"
    yield from _reasoning_problems(config)
    yield from _pair_problems(config)
    if _needs_scores(plan.config) and not plan.has_scores("export"):
        yield f"postprocess.export.format={config.format}: no scores; {plan.cure_for_scores('export')}"
    if config.format in FORMATS and data.prompt_key not in names:
        yield f"data.prompt_key={data.prompt_key}: no such column, {did_you_mean(data.prompt_key, names)}"
    if config.format in tokens.FORMATS and tokens.lacks_ids(plan.schema):
        cure = (
            "sample with store.token_ids=true, or with sampling.logprobs=processed, which keeps log-probabilities too"
        )
        yield f"postprocess.export.format={config.format}: the responses have no token ids; {cure}"
    if config.format == "slime" and find_spec("torch") is None:
        yield "postprocess.export.format=slime: needs torch, which is not installed; pip install torch"


def _made(name: str) -> frozenset[str]:
    """The columns that a format has of itself: no input column can have their names there."""
    if name in tokens.FORMATS:
        return frozenset(field.name for field in tokens.FORMATS[name])
    return FORMATS[name].names() if name in FORMATS else frozenset()


def _reasoning_problems(config: ExportFormat) -> Iterator[str]:
    if len(config.reasoning_marks) != 2:
        yield (
            f"postprocess.export.reasoning_marks={config.reasoning_marks}: what stands before the thinking and what "
            "after it; give two texts"
        )


def _pair_problems(config: ExportFormat) -> Iterator[str]:
    """Keys of pairs with a format that has none. The cure is also one for a value that came from a run's config."""
    if config.format == "preference" or config.format not in {"responses", *FORMATS, *tokens.FORMATS}:
        return
    for name in ("pairs_per_row", "min_margin", "min_chosen_score"):
        value, default = getattr(config, name), getattr(ExportFormat, name)
        if value != default:
            cure = f"set format=preference, or {name}={as_text(default)}"
            yield f"postprocess.export.{name}={value}: format={config.format} makes no pairs; {cure}"


def _file_problems(config: ExportConfig) -> Iterator[str]:
    file, endings = config.file, suffixes(config.format)
    if not file.endswith(endings) or Path(file).name in endings:
        yield f"postprocess.export.file={file}: must end in {', '.join(endings)}" + (
            "" if config.format != "slime" else " with format=slime"
        )
    path = at_home(file)
    folder, is_absolute = path.parent, path.is_absolute()
    if is_absolute and not folder.is_dir():
        yield f"postprocess.export.file={file}: there is no folder {folder}; make it first"
    elif is_absolute and not os.access(folder, os.W_OK):
        yield f"postprocess.export.file={file}: nothing can be written to {folder}; change its permissions"
    elif not is_absolute and folder != Path():
        yield f"postprocess.export.file={file}: give a plain file name, or an absolute path"


def _run(work: Work) -> Work:
    config = work.config.export
    continued = continues(None if work.record is None else work.record.config, work.source.origin)
    export(work.source, work.output_dir, config, work.data, continued, work.scoring.ground_truth)
    return work


EXPORT = Step("export", _run, _outputs, _problems, _needs_scores)

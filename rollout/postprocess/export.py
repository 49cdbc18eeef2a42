"""The responses in the form that others read: as they are, as chats, or as preference pairs."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from rollout.config import DataConfig, ExportConfig, PostprocessConfig
from rollout.errors import did_you_mean
from rollout.files import at_home, replacing
from rollout.postprocess.chats import FORMATS
from rollout.postprocess.source import Source
from rollout.postprocess.step import Plan, Step, Work, log_counts
from rollout.postprocess.writing import SUFFIXES, Part, write

log = logging.getLogger(__name__)

NO_PAIRS = "no row has two responses with different scores, so there are no pairs"


def export(source: Source, output_dir: Path, config: ExportConfig, data: DataConfig, continued: bool = False) -> int:
    """Write `export.file` and return how many records it has: responses, chats or pairs.

    `messages` and `preference` leave failed samples out, and rows whose prompt is no chat; with `continued`, a last
    message of the assistant and the response are one turn. Raises UserError for a chat that the format of the file
    cannot hold.
    """
    path = output_dir / at_home(config.file)
    with replacing(path) as partial:
        return write(partial, path.name, *records(source, config, data, continued))


def records(
    source: Source, config: ExportConfig, data: DataConfig, continued: bool
) -> tuple[pa.Schema, Iterator[Part]]:
    """The schema of the file, and what to write: Arrow batches, or records where chats are made; see `export`."""
    names, schema = config.columns or [], source.schema
    if config.format == "responses":
        if config.columns is not None:
            names = list(dict.fromkeys(["row_id", "sample_idx", *names]))
            schema = pa.schema([schema.field(name) for name in names])
        return schema, (batch.select(schema.names) for batch in source.batches())
    made = FORMATS[config.format]
    fields = [*made.fields(schema.field(data.prompt_key)), *(schema.field(name) for name in names)]
    return pa.schema(fields), (made.records(batch, data, names, continued) for batch in source.batches())


def _outputs(config: PostprocessConfig) -> list[str]:
    return [str(at_home(config.export.file))]


def _needs_scores(config: PostprocessConfig) -> bool:
    return config.export.format in FORMATS and FORMATS[config.export.format].needs_scores


def _problems(plan: Plan) -> Iterator[str]:
    yield from _file_problems(plan.config.export.file)
    yield from format_problems(plan)


def format_problems(plan: Plan) -> Iterator[str]:
    """Everything that keeps the records from being made, whatever the file: one line each, for the user."""
    config, data, names = plan.config.export, plan.data, plan.schema.names
    made = FORMATS[config.format].names() if config.format in FORMATS else frozenset[str]()
    for name in config.columns or []:
        if name in made:
            yield f"postprocess.export.columns={name}: format={config.format} writes a field of that name; leave it out"
        elif name not in names:
            yield f"postprocess.export.columns={name}: no such column, {did_you_mean(name, names)}"
    if _needs_scores(plan.config) and not plan.has_scores("export"):
        yield f"postprocess.export.format={config.format}: no scores; {plan.cure_for_scores('export')}"
    if config.format != "responses" and data.prompt_key not in names:
        yield f"data.prompt_key={data.prompt_key}: no such column, {did_you_mean(data.prompt_key, names)}"


def _file_problems(file: str) -> Iterator[str]:
    if not file.endswith(SUFFIXES) or Path(file).name in SUFFIXES:
        yield f"postprocess.export.file={file}: must end in {', '.join(SUFFIXES)}"
    path = at_home(file)
    folder, is_absolute = path.parent, path.is_absolute()
    if is_absolute and not folder.is_dir():
        yield f"postprocess.export.file={file}: there is no folder {folder}; make it first"
    elif not is_absolute and folder != Path():
        yield f"postprocess.export.file={file}: give a plain file name, or an absolute path"


def _run(work: Work) -> Work:
    config = work.config.export
    of_template = {} if work.record is None else work.record.config.model.chat_template_kwargs
    continued = bool(of_template.get("continue_final_message"))
    count = export(work.source, work.output_dir, config, work.data, continued)
    log_counts("export", {config.format: count})
    if not count and config.format == "preference":
        log.warning("export: %s", NO_PAIRS)
    return work


EXPORT = Step("export", _run, _outputs, _problems, _needs_scores)

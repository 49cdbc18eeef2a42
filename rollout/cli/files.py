"""`rollout flatten`, `analyze`, `filter`, `export`, `score`: read responses, write the file that the user names.

The responses are a stream from one file to the other. Nothing else is written.
"""

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa

from rollout.cli.responses import Opened, begin, ends_in_lines
from rollout.config import (
    AnalyzeCommand,
    AnalyzeConfig,
    DataConfig,
    ExportCommand,
    ExportConfig,
    ExportFormat,
    FilterCommand,
    PostprocessConfig,
    ScoreCommand,
    ScoreConfig,
)
from rollout.data.text import counted
from rollout.files import as_argument, disk_full_explained, replacing, user_path, write_json
from rollout.postprocess.analyze import ANALYZE, analysis_of
from rollout.postprocess.export import Seen, continues, format_problems, records, written_in_words
from rollout.postprocess.filter import FILTER, Tally, only_dropped, only_kept, rule_problems
from rollout.postprocess.repeated_prompts import RepeatedPrompts
from rollout.postprocess.score import SCORE, ScoringCounts, newly_scored
from rollout.postprocess.source import Source
from rollout.postprocess.writing import Part, write
from rollout.scoring.check import scorer_problems
from rollout.scoring.stopped_early import estimator_at
from rollout.terminal.console import plain_screen
from rollout.terminal.summary import show_analysis


def flatten(arguments: list[str]) -> None:
    """`rollout flatten IN OUT`: one row per response."""
    with ends_in_lines():
        keys, opened = begin("flatten", arguments)
        rows = _write_source(keys.output, opened.source)
        print(f"wrote {counted(rows, 'response')}: {keys.output}")


def analyze(arguments: list[str]) -> None:
    """`rollout analyze IN`: tables on screen, and the same in a file where the user names one."""
    with ends_in_lines(), plain_screen() as console:
        keys, opened = begin("analyze", arguments, _analyze_problems)
        pass_score = opened.scoring.pass_score if keys.pass_score is None else keys.pass_score
        early = estimator_at(opened.run, pass_score, opened.source.scored_by)
        repeated = RepeatedPrompts()
        source = repeated.counting(opened.source)
        analysis = analysis_of(source, _analyze_config(keys, opened), pass_score, early)
        show_analysis(console, analysis)
        if note := repeated.note():
            print(f"note: {note}")
        if keys.output is not None:
            with _room_for(keys.output):
                write_json(user_path(keys.output), dataclasses.asdict(analysis))
            print(f"wrote {keys.output}")


def _analyze_config(keys: AnalyzeCommand, opened: Opened) -> AnalyzeConfig:
    """As the user says, else as the run had it."""
    of_run = AnalyzeConfig() if opened.run is None else opened.run.postprocess.analyze
    by = of_run.by if keys.by is None else keys.by
    return AnalyzeConfig(by, of_run.clusters if keys.clusters is None else keys.clusters)


def _analyze_problems(keys: AnalyzeCommand, opened: Opened | None) -> Iterator[str]:
    if opened is not None:
        config = PostprocessConfig(["analyze"], analyze=_analyze_config(keys, opened))
        yield from ANALYZE.problems(opened.plan(config))


def filter_(arguments: list[str]) -> None:
    """`rollout filter IN OUT`: the responses that every rule lets through."""
    with ends_in_lines():
        keys, opened = begin("filter", arguments, _filter_problems)
        tally = Tally()
        kept, dropped = only_kept(opened.source, keys, tally), only_dropped(opened.source, keys)
        if keys.dropped is None:
            _write_source(keys.output, kept)
        else:  # both or none
            with _room_for(keys.dropped), replacing(user_path(keys.dropped)) as partial:
                write(partial, keys.dropped, dropped.file_schema, dropped.batches())
                _write_source(keys.output, kept)
        for line in tally.warnings(keys, opened.source):
            print(f"warning: {line}", file=sys.stderr)
        for line in _kept_lines(keys, tally):
            print(line)


def _filter_problems(keys: FilterCommand, opened: Opened | None) -> Iterator[str]:
    yield from rule_problems(keys)
    if opened is not None:
        yield from FILTER.problems(opened.plan(PostprocessConfig(["filter"], filter=keys)))


def _kept_lines(keys: FilterCommand, tally: Tally) -> Iterator[str]:
    yield f"kept {tally.counts['kept']:,} of {counted(tally.counts.total(), 'response')}: {keys.output}"
    if tally.dropped:
        yield f"dropped {tally.dropped}" + (f": {keys.dropped}" if keys.dropped else "")


def export(arguments: list[str]) -> None:
    """`rollout export IN OUT`: responses, chats, preference pairs, prompts, answers or tokens."""
    with ends_in_lines(), plain_screen():
        keys, opened = begin("export", arguments, _export_problems)
        continued = keys.continue_final_message
        if continued is None:
            continued = continues(opened.run, opened.source.origin)
        label = opened.scoring.ground_truth
        schema, parts = records(opened.source, _export_config(keys), _data(keys, opened), bool(continued), label)
        seen = Seen(parts, keys.format)
        rows = _write(keys.output, schema, seen)
        print(f"wrote {written_in_words(rows, keys.format)}: {keys.output}")
        if line := seen.left_out_in_words():
            print(line if rows else f"warning: {line}", file=sys.stdout if rows else sys.stderr)
        if warning := seen.warning(continued):
            print(f"warning: {warning}", file=sys.stderr)


def _export_config(keys: ExportCommand) -> ExportConfig:
    return ExportConfig(
        file=keys.output, **{item.name: getattr(keys, item.name) for item in dataclasses.fields(ExportFormat)}
    )


def _data(keys: ExportCommand, opened: Opened) -> DataConfig:
    """Where the chats are: as the user says, else as the run had it."""
    given = {name: value for name in ("prompt_key", "system_prompt") if (value := getattr(keys, name)) is not None}
    return dataclasses.replace(opened.data, **given)


def _export_problems(keys: ExportCommand, opened: Opened | None) -> Iterator[str]:
    if opened is not None:
        config = PostprocessConfig(["export"], export=_export_config(keys))
        yield from format_problems(opened.plan(config, _data(keys, opened)))


def score(arguments: list[str]) -> None:
    """`rollout score IN OUT`: the responses with their scores; those that they had are replaced."""
    with ends_in_lines(), plain_screen():
        keys, opened = begin("score", arguments, _score_problems)
        counts = ScoringCounts()
        rows = _write_source(keys.output, newly_scored(opened.source, keys, counts))
        counts.warn()
        scored, no_answer = counts.values["scored"], counts.values["no_answer"]
        print(
            f"scored {scored:,} of {counted(rows, 'response')}, {no_answer:,} of them without an answer: {keys.output}"
        )
        print(f"go on with: python -m rollout analyze {as_argument(user_path(keys.output))}{_not_told(keys)}")


def _not_told(keys: ScoreCommand) -> str:
    """What the file does not say that its scores were made with, as a key for the next command."""
    is_told = user_path(keys.output).suffix == ".parquet" or keys.pass_score == ScoreConfig().pass_score
    return "" if is_told else f" pass_score={keys.pass_score:g}"


def _score_problems(keys: ScoreCommand, opened: Opened | None) -> Iterator[str]:
    if opened is None:
        yield from scorer_problems(keys)
    else:
        yield from SCORE.problems(opened.plan(PostprocessConfig(["score"], score=keys)))


def _write_source(output: str, source: Source) -> int:
    return _write(output, source.file_schema, source.batches())


def _write(output: str, schema: pa.Schema, parts: Iterable[Part]) -> int:
    """Write the file that the user named, complete or not at all. Returns the number of rows."""
    path = user_path(output)
    with _room_for(output), replacing(path) as partial:
        return write(partial, path.name, schema, parts)


@contextmanager
def _room_for(output: str) -> Iterator[None]:
    with disk_full_explained(f"output={output}", "free some space"):
        yield

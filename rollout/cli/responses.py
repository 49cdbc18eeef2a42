"""How commands on files begin: parse the keys, open the responses, and report every mistake in either."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from rollout.cli.arguments import output_problems, show_help
from rollout.cli.commands import named
from rollout.cli.folders import refuse_several
from rollout.cli.help import text
from rollout.cli.latest import named_path
from rollout.cli.one_line_errors import one_line_errors
from rollout.cli.so_far import responses_so_far
from rollout.config import DataConfig, PostprocessConfig, RunConfig, ScoreConfig, ScoreKey, trust
from rollout.config.arguments import parse
from rollout.errors import UserError, did_you_mean
from rollout.files import same_file, short, user_path
from rollout.postprocess.durable import Durable
from rollout.postprocess.numbering import PROMPT
from rollout.postprocess.origin import scoring_of
from rollout.postprocess.outputs import files_read
from rollout.postprocess.score import with_scores
from rollout.postprocess.source import Source, open_source
from rollout.postprocess.step import Plan
from rollout.postprocess.their_scores import open_with_scores, without_scores
from rollout.postprocess.writing import suffixes
from rollout.process.signals import stop_on_signal
from rollout.store import run_record
from rollout.store.layout import MERGED, OUTPUT, SCORES
from rollout.terminal.text import how_to_finish

_GROUPS = re.compile(
    r"(?<![\w./-])(?<!python -m rollout )(?:postprocess\.(?:score|filter|analyze|export)|data)\.(?=[a-z_]+\b)"
)
"""The groups of keys in the config of a run, which a command does not have; in a cure that is a run they stay."""


@dataclass(frozen=True)
class Opened:
    """The responses to work on, and the config of the run that made them, where one has."""

    source: Source
    run: RunConfig | None

    @property
    def data(self) -> DataConfig:
        """Where the chats are: as the run had it, or as the file says that its run had it."""
        return self.source.origin.data if self.run is None else self.run.data

    @property
    def scoring(self) -> ScoreConfig:
        """What the scores were made with, as far as it is known."""
        return scoring_of(self.source.origin, self.run)

    def plan(self, config: PostprocessConfig, data: DataConfig | None = None) -> Plan:
        """The plan by which a step of post-processing finds its problems."""
        schema = self.source.schema
        return Plan(config, data or DataConfig(), schema, scored="score" in schema.names, is_command=True)


def nothing_wrong(_keys: Any, _opened: Opened | None) -> Iterator[str]:
    """The `problems` of a command that has none of its own."""
    yield from ()


@contextmanager
def ends_in_lines() -> Iterator[None]:
    """Mistakes in the body end the command in one line each, with the keys as the command has them."""
    with one_line_errors(), stop_on_signal():
        try:
            yield
        except UserError as error:
            raise UserError(*map(_as_typed, error.problems)) from error


def _as_typed(problem: str) -> str:
    return _GROUPS.sub("", problem.replace("postprocess.export.file=", "output="))


def begin(
    name: str,
    arguments: list[str],
    problems: Callable[[Any, Opened | None], Iterator[str]] = nothing_wrong,
) -> tuple[Any, Opened]:
    """The keys of the command `name` from its `arguments`, and the responses that it reads, if it has the key for them
    with the scores that they have.

    Raises UserError with everything that is wrong with the arguments and the files, `problems` of the two included;
    these get None for responses that cannot be opened.
    """
    command = named(name)
    assert command is not None
    assert command.keys is not None
    show_help(arguments, lambda: text([name]))
    _, words = trust.asked(arguments)  # responses are data only, so trust makes no difference
    keys = parse(command.keys, words, _path_problems, command.paths)
    path = named_path(keys.input)
    found = list(_output_problems(vars(keys), path))
    opened: Opened | None = None
    try:
        prompts = PROMPT if keys.prompt_key is None else [keys.prompt_key]
        scored = isinstance(keys, ScoreKey)
        opened = _scored(path, keys, prompts) if scored else _unscored(path, keys.unfinished, prompts)
    except UserError as error:
        found += error.problems
    found += [*problems(keys, opened), *_prompt_problems(keys.prompt_key, opened)]
    if found or opened is None:
        raise UserError(*dict.fromkeys(map(_as_typed, found)))
    if opened.source.note:
        print(f"note: {opened.source.note}", file=sys.stderr)
    if next(opened.source.batches(), None) is None:
        print(f"warning: input={keys.input}: has no responses", file=sys.stderr)
    return keys, opened


def _prompt_problems(prompt_key: str | None, opened: Opened | None) -> Iterator[str]:
    """A prompt_key that is none: every response would be a row of its own."""
    names = [] if opened is None else opened.source.schema.names
    if prompt_key is not None and names and prompt_key not in names:
        yield f"prompt_key={prompt_key}: no such column, {did_you_mean(prompt_key, names)}"


def _path_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the paths, for a command in which something else is wrong already."""
    if values.get("input") is None:
        return
    try:
        path = named_path(values["input"], say=False)
        yield from _output_problems(values, path)
        open_responses(path, unfinished=bool(values.get("unfinished")))
    except UserError as error:
        yield from error.problems


def _output_problems(values: Mapping[str, Any], source: Path) -> Iterator[str]:
    """Of `output` and `dropped`, if they are given; an analysis is JSON."""
    outputs = {key: user_path(values[key]) for key in ("output", "dropped") if values.get(key) is not None}
    endings = (".json",) if "by" in values else suffixes(values.get("format", ""))
    is_read = partial(_is_read, _files_of(source))
    for key, path in outputs.items():
        yield from output_problems(key, path, endings, is_read, bool(values.get("overwrite")))
    if len(outputs) == 2 and same_file(*outputs.values()):
        yield f"dropped={outputs['dropped']}: is the output too; choose another name"


def _is_read(files: list[Path], output: Path) -> bool:
    return any(same_file(output, file) for file in files)


def _files_of(source: Path) -> list[Path]:
    """The files that are read if `source` is the input; of a run also those that it was made from."""
    if not source.is_dir():
        return [source]
    run = config_of(source) if (source / OUTPUT).exists() or run_record.exists(source) else None
    return [source / OUTPUT, source / SCORES, *(files_read(run) if run is not None else ())]


def open_responses(
    path: Path,
    key: str = "input",
    score_keys: Sequence[str] | None = None,
    unfinished: bool | None = None,
    prompts: Sequence[str] = PROMPT,
) -> Opened:
    """The responses of a file, or of the folder of a run or a merge, with the scores that they have: a folder's own,
    those of a file as in `open_with_scores`, which also explains `prompts`. With `unfinished`, of a run without a
    result those that are durable. Raises UserError, naming `key`, for any other. None for `unfinished`: the command has
    no such key.
    """
    if not path.is_dir():
        return Opened(open_with_scores(path, key, score_keys, prompts=prompts), None)
    result, scores = path / OUTPUT, path / SCORES
    if not result.exists():
        return _so_far(path, key, unfinished)
    source = with_scores(open_source(result, key), scores) if scores.exists() else open_with_scores(result, key)
    return Opened(source, config_of(path))


def _scored(path: Path, keys: Any, prompts: Sequence[str]) -> Opened:
    """As `open_responses`. Raises UserError if there are no scores where the user says that they are."""
    if not keys.score_key:
        return open_responses(path, score_keys=keys.score_key, unfinished=keys.unfinished, prompts=prompts)
    if path.is_dir():
        key = f"score_key={','.join(keys.score_key)}"
        cure = "whose scores `rollout score` makes; leave it out"
        raise UserError(f"{key}: is for files; {short(path)} is a folder, {cure}")
    return Opened(open_with_scores(path, "input", keys.score_key, prompts=prompts), None)


def _unscored(path: Path, unfinished: bool, prompts: Sequence[str]) -> Opened:
    if not path.is_dir():
        return Opened(without_scores(open_source(path, "input", prompts)), None)
    if not (path / OUTPUT).exists():
        return _so_far(path, "input", unfinished)
    return Opened(open_source(path / OUTPUT, "input"), config_of(path))


def _so_far(run_dir: Path, key: str, unfinished: bool | None) -> Opened:
    """What is durable of a run without a result. Raises UserError if that is not wanted, and for other folders."""
    refuse_several(run_dir, key)
    record = run_record.read(run_dir)  # which says what a folder is that is none of a run
    if not unfinished:
        cure = how_to_finish(run_dir) + ("" if unfinished is None else ", or take what is there: unfinished=true")
        raise UserError(f"{key}={run_dir}: has no {OUTPUT} yet; {cure}")
    durable = Durable(run_dir)
    durable.look()
    found = responses_so_far(durable, record)
    of = "" if found.asked is None else f" of {found.asked:,}"
    warnings = [
        f"{short(run_dir)}: is not finished; {durable.num_done:,}{of} samples are there, and long responses are rarer "
        "among them than in the end"
    ]
    if (rule := found.run.adaptive.until) is not None:
        warnings.append(
            f"adaptive.until={rule}: means of scores are not those of the end, because some rows have all their samples"
        )
    warnings += [] if found.problem is None else [f"{found.problem}; the columns of the input are left out"]
    for line in (*warnings, *durable.damaged.values()):
        print(f"warning: {line}", file=sys.stderr)
    return Opened(found.source, found.run)


def config_of(folder: Path) -> RunConfig | None:
    """The config of the run, or of the merge, whose result is in `folder`; None where nothing tells."""
    if run_record.exists(folder):
        return run_record.read(folder).config
    if not (folder / MERGED).exists():
        return None
    try:
        return msgspec.convert(json.loads((folder / MERGED).read_text(encoding="utf-8"))["config"], RunConfig)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / MERGED}: cannot be read; merge the runs again") from error

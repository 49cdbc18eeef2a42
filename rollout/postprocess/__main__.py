"""`python -m rollout.postprocess`: the second stage by itself, on a run or on any file with a column `responses`.

    python -m rollout.postprocess run_dir=RUN_DIR steps=[filter,export] filter.min_length=100
    python -m rollout.postprocess run_dir=RUN_DIR postprocess=sft
    python -m rollout.postprocess input=output.parquet steps=[flatten,analyze] output_dir=analysis

With run_dir the steps and their keys begin as the run had them, and the results go to its folder. With input the steps
begin as in the preset `default`, and the results go to output_dir, by default a folder beside the file. Every key of
the config's group `postprocess` may be given, without the group's name, and data.prompt_key and data.system_prompt.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rollout.cli import mistakes, saved_config
from rollout.cli.arguments import show_help
from rollout.cli.compose import compose_run
from rollout.cli.hydra_errors import explain
from rollout.cli.latest import named_path
from rollout.cli.one_line_errors import one_line_errors
from rollout.config import RunConfig, trust
from rollout.config.check import check_values
from rollout.config.overrides import key_of
from rollout.errors import UserError
from rollout.files import user_path
from rollout.process.signals import stop_on_signal
from rollout.store import run_record
from rollout.store.run_record import RunRecord

if TYPE_CHECKING:
    from rollout.postprocess.origin import Origin
    from rollout.postprocess.source import Source

_GROUP = "postprocess."
_OWN = ("run_dir", "input", "output_dir")


def main(arguments: list[str]) -> None:
    """The command. Exit codes as of `python -m rollout`."""
    with one_line_errors(), stop_on_signal():
        show_help(arguments, lambda: str(__doc__))
        try:
            postprocess(arguments)
        except UserError as error:
            raise UserError(*map(_as_typed, error.problems)) from error
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_as_typed(explain(error))) from error


def _as_typed(problem: str) -> str:
    """Keys as this command has them."""
    return re.sub(r"(?<![\w./-])postprocess\.", "", problem)


def postprocess(arguments: list[str]) -> None:
    """Run the steps that `arguments` ask for. Raises UserError for arguments, files or columns that cannot be used."""
    trusted, arguments = trust.asked(arguments)
    own, overrides = split(arguments)
    wrong, _ = mistakes.find(overrides, is_sweep=False, presets=[saved_config.NAME] if "run_dir" in own else [])
    if lines := [*(mistake.line for mistake in wrong), *_source_problems(own)]:
        raise UserError(*lines)
    if "run_dir" in own:
        _of_run(named_path(own["run_dir"]), overrides, trusted)
    else:
        path = user_path(own["input"])
        output_dir = own.get("output_dir")
        folder = path.with_name(f"{path.stem}-postprocess") if output_dir is None else user_path(output_dir)
        _of_file(path, folder, overrides)


def _source_problems(own: dict[str, str]) -> Iterator[str]:
    """What is wrong with the command's own keys, by which it knows what to work on."""
    if ("run_dir" in own) == ("input" in own):
        yield "give run_dir=RUN_DIR or input=FILE.parquet: one of the two"
    elif "output_dir" in own and "run_dir" in own:
        yield f"output_dir={own['output_dir']}: the results of a run go to its folder; leave it out"
    elif "input" in own and run_record.exists(user_path(own["input"])):
        yield f"input={own['input']}: is the folder of a run; write {shlex.quote('run_dir=' + own['input'])}"
    elif "run_dir" in own and user_path(own["run_dir"]).is_file():
        yield f"run_dir={own['run_dir']}: is a file; write {shlex.quote('input=' + own['run_dir'])}"


def split(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """The command's own keys, and overrides of the config with the group's name before its keys."""
    own, overrides = dict[str, str](), list[str]()
    for argument in arguments:
        key, equals, value = argument.partition("=")
        is_option = argument.startswith("-") or (overrides and overrides[-1].startswith("-") and not equals)
        if is_option:
            overrides.append(argument)
        elif not equals:
            raise UserError(_without_key(argument))
        elif key in own:
            raise UserError(f"{argument}: is given twice; leave one out")
        elif key in _OWN:
            own[key] = _unquoted(value)
        else:
            is_whole = key in ("postprocess", "data.prompt_key", "data.system_prompt") or key.startswith(_GROUP)
            overrides.append(argument if is_whole else _GROUP + argument)
    return own, overrides


def _unquoted(value: str) -> str:
    """A path without the quotes that Hydra's grammar may want around it in other commands."""
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if is_quoted and not Path(value).exists() else value


def _without_key(word: str) -> str:
    path = user_path(word)
    key = "run_dir" if path.is_dir() else "input" if path.is_file() else None
    if key is None:
        return f"{word}: cannot be read; write key=value, see --help, and put quotes around a value with spaces"
    return f"{word}: has no key; write {shlex.quote(f'{key}={word}')}"


def _of_run(run_dir: Path, overrides: list[str], trusted: bool) -> None:
    run_record.read(run_dir)  # before a lock is made in a folder that is none
    if not trusted:
        trust.refuse_links(run_dir)

    from rollout.store.layout import OUTPUT
    from rollout.store.lock import locked
    from rollout.terminal.text import how_to_finish

    run = saved_config.load(run_dir, overrides, trusted, ("postprocess",))
    if not (run_dir / OUTPUT).exists():
        raise UserError(f"run_dir={run_dir}: has no {OUTPUT} yet; {how_to_finish(run_dir)}")
    with locked(run_dir):
        source = _opened(run, run_dir / OUTPUT, run_dir, "run_dir")
        _run_steps(run, source, run_dir, "run_dir", run_record.read(run_dir))


def _of_file(path: Path, output_dir: Path, overrides: list[str]) -> None:
    run = compose_run(*overrides)
    source = _opened(run, path, output_dir, "input")
    _run_steps(_as_told(run, source.origin, set(map(key_of, overrides))), source, output_dir, "input", None)


def _opened(run: RunConfig, path: Path, output_dir: Path, key: str) -> "Source":
    """The responses with the scores that they have: those of an earlier command before others that are no `score`."""
    from rollout.postprocess.score import with_scores
    from rollout.postprocess.source import open_source
    from rollout.postprocess.their_scores import open_with_scores
    from rollout.store.layout import SCORES

    steps, prompts = run.postprocess.steps, [run.data.prompt_key]
    if "score" not in steps and not (output_dir / SCORES).exists():
        return open_with_scores(path, key, prompts=prompts)
    source = open_source(path, key, prompts)
    return source if "score" in (*steps, *source.schema.names) else with_scores(source, output_dir / SCORES)


def _as_told(run: RunConfig, origin: "Origin", typed: set[str]) -> RunConfig:
    """`run` with what the file says of its chats and scores, but for the keys that were `typed`."""
    data = run.data
    if "data.prompt_key" not in typed:
        data = replace(data, prompt_key=origin.data.prompt_key)
    if "data.system_prompt" not in typed:
        data = replace(data, system_prompt=origin.data.system_prompt)
    score = run.postprocess.score
    if origin.pass_score is not None and "postprocess.score.pass_score" not in typed and score.scorer is None:
        score = replace(score, pass_score=origin.pass_score)
    return replace(run, data=data, postprocess=replace(run.postprocess, score=score))


def _run_steps(run: RunConfig, source: "Source", output_dir: Path, key: str, record: RunRecord | None) -> None:
    from rollout.files import short
    from rollout.postprocess.outputs import files_read, output_problems, own
    from rollout.postprocess.score import ScoreFailed
    from rollout.postprocess.step import Plan, Work
    from rollout.postprocess.steps import outputs, problems, run_steps
    from rollout.terminal.console import plain_screen
    from rollout.terminal.summary import show_analysis

    config = run.postprocess
    inputs = [source.path] if record is None else [source.path, *files_read(run)]
    if found := [
        *check_values(config, _GROUP),
        *problems(Plan(config, run.data, source.schema, scored="score" in source.schema.names)),
        *output_problems(
            config, outputs(config), output_dir, key if record else "output_dir", inputs, own(output_dir, record)
        ),
    ]:
        raise UserError(*found)
    output_dir.mkdir(parents=True, exist_ok=True)
    with plain_screen() as console:
        failed: ScoreFailed | None = None
        try:
            analysis = run_steps(Work(source, output_dir, config, run.data, record))
        except ScoreFailed as error:
            failed, analysis = error, error.analysis
        if analysis is not None:
            show_analysis(console, analysis, "score.pass_score")
        done = [step for step in config.steps if failed is None or step not in failed.missing]
        for name in outputs(replace(config, steps=done)):
            console.print(f"wrote {short(output_dir / name)}", soft_wrap=True, markup=False)
    if failed is not None:
        raise failed
    if record is not None and record.missing is not None and "score" in config.steps:
        run_record.write(output_dir, replace(record, missing=None))


if __name__ == "__main__":
    main(sys.argv[1:])

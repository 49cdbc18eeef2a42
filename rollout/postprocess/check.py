"""What can be wrong with the steps before a single response exists: one line for each problem."""

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from rollout.config import DataConfig, ExportConfig, FilterConfig, PostprocessConfig, ScoreConfig
from rollout.data.column_path import path_problem, values_at
from rollout.data.json_text import rows_of
from rollout.errors import UserError, did_you_mean
from rollout.files import at_home
from rollout.postprocess.chats import MADE
from rollout.postprocess.export import SUFFIXES
from rollout.scoring.scorers import BUILT_IN, scorer_of
from rollout.scoring.workers import scoring


@dataclass(frozen=True)
class StepInputs:
    """What the steps start from: the columns of the responses, and what earlier steps have left."""

    schema: pa.Schema
    scores: bool = False
    analysis: bool = False


def problems(config: PostprocessConfig, data: DataConfig, inputs: StepInputs) -> Iterator[str]:
    """Everything that keeps the steps of `config` from running."""
    steps = config.steps
    yield from (f"postprocess.steps={step}: named twice; once is enough" for step in _twice(steps))
    if "score" in steps:
        yield from _score_problems(config.score, inputs)
    elif config.score.scorer is not None and not inputs.scores:
        yield f"postprocess.score.scorer={config.score.scorer}: nothing is scored; add score to postprocess.steps"
    yield from _contradictions(config.filter)
    if "filter" in steps and not _has_scores(steps, "filter", inputs):
        yield from _rules_without_scores(config.filter)
    if "analyze" in steps and config.analyze.by is not None:
        yield from _path_problems("postprocess.analyze.by", config.analyze.by, inputs.schema)
    if "export" in steps:
        yield from _export_problems(config.export, data, inputs, _has_scores(steps, "export", inputs))
    if "report" in steps:
        yield from _report_problems(steps[: steps.index("report")], inputs)


def _report_problems(before: list[str], inputs: StepInputs) -> Iterator[str]:
    if "analyze" not in before and not inputs.analysis:
        yield "postprocess.steps=report: shows what analyze finds; name analyze before it"
        return
    since = before[before.index("analyze") :] if "analyze" in before else before
    for step in ("score", "filter"):
        if step in since:
            yield f"postprocess.steps=report: analyze has not seen what {step} does; name analyze between the two"


def _twice(steps: list[str]) -> list[str]:
    return sorted({step for step in steps if steps.count(step) > 1})


def _has_scores(steps: list[str], step: str, inputs: StepInputs) -> bool:
    return inputs.scores or "score" in steps[: steps.index(step)]


def _path_problems(key: str, path: str, schema: pa.Schema) -> Iterator[str]:
    if problem := path_problem(schema, path):
        yield f"{key}={path}: {problem}"


def _score_problems(score: ScoreConfig, inputs: StepInputs) -> Iterator[str]:
    if inputs.scores:
        yield "postprocess.steps=score: the input has scores already; leave the step out, or give the file without"
    if score.scorer is None:
        yield (
            f"postprocess.steps=score: no scorer is set; set postprocess.score.scorer to {', '.join(_NAMES)} "
            "or module:function"
        )
        return
    yield from _scorer_problems(score)
    if score.ground_truth is not None:
        yield from _path_problems("postprocess.score.ground_truth", score.ground_truth, inputs.schema)
    elif score.scorer in BUILT_IN:
        yield f"postprocess.score.scorer={score.scorer}: needs the right answers; set postprocess.score.ground_truth"


def scorer_warning(score: ScoreConfig, first: pa.RecordBatch) -> str | None:
    """What the scorer has against a made-up response to one of the input's first rows, if anything.

    It is called as it will be, in a process of its own. Such a scorer may still be right: a line for a person to read.
    """
    truths = [None] * first.num_rows if score.ground_truth is None else values_at(first, score.ground_truth)
    row = next((row for row, truth in enumerate(truths) if truth is not None), 0)
    response = f"{score.after or ''} A made-up response. The answer is \\boxed{{1}}."
    made_up = [(response, truths[row], rows_of(first.slice(row, 1))[0])] if first.num_rows else []
    with scoring(replace(score, workers=1)) as score_all:
        reasons = [scored.error for scored in score_all(made_up) if scored.score is None and scored.error]
    return next(
        (f"postprocess.score.scorer={score.scorer}: of a made-up response: {reason}" for reason in reasons), None
    )


_NAMES = (*BUILT_IN, "regex")


def _scorer_problems(score: ScoreConfig) -> Iterator[str]:
    name = score.scorer or ""
    if name not in _NAMES and not re.fullmatch(r"[\w.]+:\w+", name):
        yield f"postprocess.score.scorer={name}: no such scorer, {did_you_mean(name, _NAMES)} (or give module:function)"
    elif name == "regex":
        yield from _pattern_problems(score.pattern)
    elif name == "math" and importlib.util.find_spec("math_verify") is None:
        yield 'postprocess.score.scorer=math: needs the math-verify library; pip install "rollout[math]"'
    else:
        try:
            scorer_of(score)
        except UserError as error:
            yield from error.problems


def _pattern_problems(pattern: str | None) -> Iterator[str]:
    if pattern is None:
        yield "postprocess.score.scorer=regex: no pattern is set; set postprocess.score.pattern"
        return
    try:
        re.compile(pattern)
    except re.error as error:
        yield f"postprocess.score.pattern={pattern}: no regular expression ({error}); fix it"


def _contradictions(rules: FilterConfig) -> Iterator[str]:
    for measure in ("length", "tokens", "pass_rate"):
        low, high = getattr(rules, f"min_{measure}"), getattr(rules, f"max_{measure}")
        if low is not None and high is not None and low > high:
            yield (
                f"postprocess.filter.min_{measure}={low}: more than max_{measure}={high}, "
                "which would drop everything; lower it"
            )


def _rules_without_scores(rules: FilterConfig) -> Iterator[str]:
    for name in ("min_score", "min_pass_rate", "max_pass_rate"):
        value = getattr(rules, name)
        if value is not None:
            yield f"postprocess.filter.{name}={value}: no scores; put score before filter in postprocess.steps"


def _export_problems(config: ExportConfig, data: DataConfig, inputs: StepInputs, has_scores: bool) -> Iterator[str]:
    if not config.file.endswith(SUFFIXES) or Path(config.file).name in SUFFIXES:
        yield f"postprocess.export.file={config.file}: must end in {', '.join(SUFFIXES)}"
    file = at_home(config.file)
    folder, is_absolute = file.parent, file.is_absolute()
    if is_absolute and not folder.is_dir():
        yield f"postprocess.export.file={config.file}: there is no folder {folder}; make it first"
    elif not is_absolute and folder != Path():
        yield f"postprocess.export.file={config.file}: give a plain file name, or an absolute path"
    for name in config.columns or []:
        if name in MADE[config.format]:
            yield f"postprocess.export.columns={name}: format={config.format} writes a field of that name; leave it out"
        elif name not in inputs.schema.names:
            yield f"postprocess.export.columns={name}: no such column, {did_you_mean(name, inputs.schema.names)}"
    if config.format == "preference" and not has_scores:
        yield "postprocess.export.format=preference: no scores; put score before export in postprocess.steps"
    if config.format != "responses" and data.prompt_key not in inputs.schema.names:
        yield f"data.prompt_key={data.prompt_key}: no such column, {did_you_mean(data.prompt_key, inputs.schema.names)}"

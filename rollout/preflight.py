"""What is checked before a run begins or continues, without loading anything."""

import dataclasses
import functools
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rollout.config import RunConfig, SamplingConfig
from rollout.config.check import check as check_config
from rollout.config.check import token_id_problems
from rollout.config.constraints import constraint_problems, is_constrained
from rollout.config.presets import is_of_preset, leaves
from rollout.data.prompts import open_input, taken_names
from rollout.data.row_sampling import sample_counts
from rollout.data.tables import Table
from rollout.engine import adapters, cache, devices, models
from rollout.engine.content import MODEL, TOKENIZER, content_of
from rollout.engine.model_files import context_length, highest_max_model_len, shape
from rollout.engine.startup_errors import longer_than_model
from rollout.errors import PromptError, UserError
from rollout.files import short
from rollout.generation.context import context_problem
from rollout.postprocess import second_place
from rollout.postprocess.outputs import files_read, output_problems, own
from rollout.postprocess.score import has_old_scores
from rollout.postprocess.source import flat_schema
from rollout.postprocess.step import Plan
from rollout.postprocess.steps import outputs
from rollout.postprocess.steps import problems as step_problems
from rollout.records import SCORES
from rollout.scoring.check import scorer_warning
from rollout.store import run_record
from rollout.store.digest import Digest, differences, digest, is_older
from rollout.store.journal import extent
from rollout.store.judged import how_far
from rollout.store.layout import CONFIG_FILES, JOURNAL, LOCK, LOG, METRICS, OUTPUT, RESERVE, RESULTS
from rollout.store.lock import is_of_a_run, is_unwritten
from rollout.store.run_record import RunRecord
from rollout.terminal.console import unseen
from rollout.terminal.progress_line import byte_progress
from rollout.terminal.text import resume_command


def preflight(run: RunConfig, run_dir: Path | None = None) -> Table:
    """Open the input and check what can be checked without loading anything. Raises UserError with every problem.

    `run_dir` is where the results go; None where there will be none.
    """
    sizes = _sizes(run)
    problems = [*check_config(run), *constraint_problems(run.sampling.structured_outputs)]
    problems += token_id_problems(run.sampling, _num_tokens(run, sizes), "sampling", "sampling.extra")
    problems += [*devices.check_ray(run.hardware), *adapters.problems(run.model, sizes)]
    if run.engine.kind == "vllm":
        problems += [*models.check(run.model), *_context_problems(run)]
        problems += [] if run.dry_run else devices.check(run.hardware)  # its plan says what the machine must have
        problems += [line for line in _argument_problems(run) if line not in problems]
    try:
        table = open_input(run.data)
    except UserError as error:
        raise UserError(*problems, *error.problems) from error
    problems += taken_names(table, [*run.extra_columns, *([SCORES.name] if run.adaptive.until is not None else [])])
    flat = flat_schema(table.schema, run.extra_columns)
    problems += step_problems(Plan(run.postprocess, run.data, flat, until=run.adaptive.until))
    before = None if run_dir is None or not run_record.exists(run_dir) else run_record.read(run_dir)
    problems += second_place.problems(run, run_dir, before)
    if run_dir is not None:
        own_files, inputs = own(run_dir, before), [table.path, *files_read(run)]
        problems += output_problems(
            run.postprocess, outputs(run.postprocess), run_dir, "hydra.run.dir", inputs, own_files
        )
    if problems:
        raise UserError(*problems)
    return table


def _sizes(run: RunConfig) -> dict[str, int] | None:
    """The model's shape; None for the echo engine, or if the model's files are not on this machine."""
    folder = models.local_folder(run.model.path, run.model.revision) if run.engine.kind == "vllm" else None
    return None if folder is None else shape(folder)


def _num_tokens(run: RunConfig, sizes: dict[str, int] | None) -> int | None:
    """The size of the model's vocabulary, one of its `sizes`; None where only loading can tell."""
    return None if sizes is None or "hf_overrides" in run.hardware.engine_kwargs else sizes.get("vocab_size")


def _argument_problems(run: RunConfig) -> list[str]:
    """What vLLM's own classes refuse of the keys that are passed on to vLLM.

    vLLM is not imported if only a preset sets such keys, and need not be installed where engines run on other machines.
    """
    arguments = leaves(run.hardware.engine_kwargs)
    of_preset = all(is_of_preset(f"hardware.engine_kwargs.{path}", value) for path, value in arguments)
    is_checked = run.sampling.extra or is_constrained(run.sampling.structured_outputs)
    needs_no_look = of_preset and not is_checked and run.model.reasoning_parser is None
    if needs_no_look or not _has_vllm(run):
        return []
    with cache.environment(run.hardware), unseen():  # vLLM's first look at the machine may print
        from rollout.engine import vllm_reasoning

        of_classes = _vllm_arguments(run).problems(run.sampling, run.model, run.hardware)
        return [*of_classes, *vllm_reasoning.problems(run.model)]


def parameter_check(run: RunConfig) -> Callable[[SamplingConfig], None]:
    """A function that raises PromptError for a row's sampling that vLLM would refuse, as far as that can be known
    before a model is loaded.

    vLLM is imported once a row sets a parameter that is not a key of ours; if it is not installed, nothing is refused.
    """
    arguments = functools.cache(lambda: _vllm_arguments(run))
    num_tokens, key = _num_tokens(run, _sizes(run)), str(run.data.sampling_key)

    def check(sampling: SamplingConfig) -> None:
        if problems := list(token_id_problems(sampling, num_tokens, key, key)):
            raise PromptError("; ".join(problems))
        if sampling.extra != run.sampling.extra and _has_vllm(run):
            arguments().prepared(sampling, key, arguments().backend_of(run.hardware))

    return check


def _has_vllm(run: RunConfig) -> bool:
    return run.engine.kind == "vllm" and importlib.util.find_spec("vllm") is not None


def _vllm_arguments(run: RunConfig) -> Any:
    """The module of that name, which takes 5 to 14 seconds."""
    with cache.environment(run.hardware), unseen():
        from rollout.engine import vllm_arguments

    return vllm_arguments


def scorer_warnings(run: RunConfig, table: Table) -> Iterator[str]:
    """Try the scorer on a made-up response, before the model is loaded: a warning if that fails."""
    if "score" in run.postprocess.steps:
        first = next(iter(table.batches()), None)
        if first is not None and (warning := scorer_warning(run.postprocess.score, first)):
            yield warning


def _context_problems(run: RunConfig) -> Iterator[str]:
    """Whether prompts fit into the model's context; loading the model would find the same, a minute or more later."""
    if "hf_overrides" in run.hardware.engine_kwargs:
        return
    asked, known = run.model.max_model_len, context_length(run.model)
    most = None if asked is None else highest_max_model_len(run.model)
    if asked is not None and most is not None and asked > most and not _may_be_longer(run):
        yield longer_than_model(asked, most)
    elif known is not None and (problem := context_problem(run, known)):
        yield problem


def _may_be_longer(run: RunConfig) -> bool:
    """Whether vLLM is told to take a `max_model_len` beyond the model's context."""
    name = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
    return run.hardware.env.get(name, os.environ.get(name, "0")).lower() in ("1", "true")


def refuse_used(run: RunConfig, run_dir: Path) -> None:
    """Raise UserError for a folder that holds a run already, or anything that a run would overwrite or add to."""
    if run_record.exists(run_dir) or (run_dir / JOURNAL).exists():
        raise UserError(
            f"hydra.run.dir={short(run_dir)}: holds a run already; continue it with `{resume_command(run_dir)}`, "
            "or choose another folder"
        )
    # a run that failed before it began has left these, and they may be replaced
    kept = [] if is_of_a_run(run_dir) else [LOCK, LOG, METRICS, RESERVE, *map(str, CONFIG_FILES)]
    results = [] if run.postprocess.overwrite else [*RESULTS, *outputs(run.postprocess)]
    names = [OUTPUT, *(name for name in results if not Path(name).is_absolute()), *kept]
    if found := [name for name in names if os.path.lexists(run_dir / name) and not is_unwritten(run_dir / name)]:
        raise UserError(f"hydra.run.dir={short(run_dir)}: {found[0]} already exists there; choose another folder")


def to_continue(run: RunConfig, table: Table, run_dir: Path) -> Digest | None:
    """The digest with which the run in `run_dir` continues as `run`; None when it has everything that `run` asks for.

    Raises UserError when it is another experiment, or larger.
    """
    before, now = run_record.read(run_dir), digest(run, table)
    with byte_progress("comparing the model's files with the run's") as report:
        now |= content_of(run.model, report)
    if problems := [*differences(before.digest, now), *_shrunk(before, run, run_dir)]:
        raise UserError(*problems)
    if is_older(before.digest, now):
        print(_OLDER, file=sys.stderr)
    # of a hub model that is to be downloaded again the content is compared once it is here
    now = {key: value for key, value in before.digest.items() if key in (MODEL, TOKENIZER)} | now
    return None if _is_complete(run, table, run_dir, before) else now


_OLDER = (
    "warning: this run was made by an older version, which did not record the content of the model's files and "
    "hardware.engine_kwargs: they are not compared"
)


def _shrunk(before: RunRecord, run: RunConfig, run_dir: Path) -> Iterator[str]:
    """A run keeps what it has: fewer samples or rows are a mistake, and for a shard other rows. What it was asked for
    and has not made may have been a slip.
    """
    reached = functools.cache(lambda: extent(run_dir))
    samples = ("sampling.n_samples", run.sampling.n_samples, before.config.sampling.n_samples)
    rows = ("data.limit", run.data.limit, before.config.data.limit)
    for place, (key, now, then) in enumerate((samples, rows)):
        if key == "data.limit" and run.data.num_shards > 1 and now != then:
            yield f"{key}={now}: it decides which rows are this shard's, and was {then}; leave it as it was"
        elif now is not None and (then is None or now < then):
            there = then if before.status == "done" else reached()[place]
            if there is None or now < there:
                yield f"{key}={now}: this run has {'all' if there is None else there}; give that many or more"


def _is_complete(run: RunConfig, table: Table, run_dir: Path, before: RunRecord) -> bool:
    return (
        before.status == "done"
        and all(_is_whole(run_dir / name) for name in results(run))
        and second_place.is_current(run, run_dir)
        and before.config.sampling.n_samples == run.sampling.n_samples
        and before.config.data.limit == run.data.limit
        and dataclasses.replace(before.config.postprocess, overwrite=run.postprocess.overwrite) == run.postprocess
        and before.config.adaptive == run.adaptive
        and not has_old_scores(run.postprocess, run_dir)
        and how_far(run_dir, sample_counts(table, run), run).is_complete
    )


def _is_whole(path: Path) -> bool:
    """Whether a result exists and, if it is a Parquet file, is complete: its footer can be read."""
    try:
        if path.suffix == ".parquet":
            pq.read_metadata(path)
    except (OSError, pa.ArrowInvalid):
        return False
    return path.exists()


def results(run: RunConfig) -> list[str]:
    """The files that a run writes for others to read: names in its folder, and paths elsewhere."""
    elsewhere = second_place.path_of(run)
    return [OUTPUT, *outputs(run.postprocess), *([] if elsewhere is None else [str(elsewhere)])]

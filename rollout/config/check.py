"""Values of a config that are wrong, or rarely what a user wants."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any

from rollout.config import PostprocessConfig, RepetitionDetectionConfig, RunConfig, SamplingConfig, TrackingConfig
from rollout.config.adaptive import adaptive_problems, adaptive_warnings
from rollout.config.keys import config_fields, shown
from rollout.config.limits import value_problems
from rollout.config.thinking import budget_problems


def check(run: RunConfig) -> Iterator[str]:
    """Values out of range and values that contradict each other: one line for each problem."""
    yield from check_values(run)
    yield from _cross_field_problems(run)
    if run.tracking.mode != "disabled":
        yield from _refused_by_wandb(run.tracking)


def config_warnings(run: RunConfig) -> Iterator[str]:
    """Valid values that are rarely intended: one line each."""
    for text in run.sampling.stop:
        if re.search(r"\\[nrt]", text):
            yield (
                f"sampling.stop={text}: a backslash and a letter, not a line break or tab; in a shell those are "
                "$'sampling.stop=[\"\\n\"]'"
            )
    yield from _nucleus_warning(run)
    yield from adaptive_warnings(run)
    yield from _without_their_step(run.postprocess)


def _without_their_step(config: PostprocessConfig) -> Iterator[str]:
    """Keys of steps that are not done; with a scorer that is an error, see `rollout.postprocess.steps.problems`."""
    for step in ("filter", "analyze", "export", "report"):
        node, default = getattr(config, step), getattr(PostprocessConfig(), step)
        if step not in config.steps and node != default:
            usual = {key: field.value for key, field in config_fields(default)}
            given = [f"{key}={shown(field.value)}" for key, field in config_fields(node) if field.value != usual[key]]
            yield f"postprocess.{step}.{', '.join(given)}: changes nothing; name {step} in postprocess.steps"


def _nucleus_warning(run: RunConfig) -> Iterator[str]:
    sampling = run.sampling
    cut = {"top_p": sampling.top_p < 1, "top_k": sampling.top_k > 0, "min_p": sampling.min_p > 0}
    if sampling.logprobs == "processed" and sampling.temperature > 0 and any(cut.values()):
        said = ", ".join(f"{name}={getattr(sampling, name)}" for name, cuts in cut.items() if cuts)
        yield (
            f"sampling.logprobs=processed: with {said} the probabilities are normalised over the tokens that these "
            "leave; a trainer that normalises over the whole vocabulary wants sampling.top_p=1 and no top_k or min_p"
        )


def column_warnings(run: RunConfig, columns: Iterable[str]) -> Iterator[str]:
    """Columns of the input that look like sampling settings: one line each."""
    keys = {field.name for field in dataclasses.fields(run.sampling)}
    for name in columns:
        if name in keys and name not in (run.data.prompt_key, run.data.sampling_key, run.data.tools_key):
            yield (
                f"column {name} of the input is kept but not used: every row is sampled with sampling.{name}="
                f"{getattr(run.sampling, name)}; a column of objects is, with data.sampling_key"
            )


def check_values(node: Any, prefix: str = "") -> Iterator[str]:
    """Values out of range in the dataclass `node`, whose keys begin with `prefix`: one line for each problem."""
    for key, field in config_fields(node, prefix):
        yield from value_problems(key, field.value, field.limits)


_NOT_KEPT = {
    "prompt_logprobs",
    "logprob_token_ids",
    "prompt_logprob_token_ids",
    "prompt_logprob_start",
    "detokenize",
}
"""Fields of vLLM's SamplingParams for results that a run does not keep: they only cost time."""


def sampling_problems(sampling: SamplingConfig, key: str, key_of_others: str) -> Iterator[str]:
    """Values of `sampling` that contradict each other, or ask for results that are not kept: one line each.

    `key` is their config key, `key_of_others` that of vLLM's other fields: for a row, both are in one column.
    """
    if sampling.temperature == 0 and sampling.n_samples > 1:
        yield (
            f"{key}.n_samples={sampling.n_samples}: temperature=0 makes every sample of a prompt the same; "
            f"set {key}.n_samples=1 or a temperature above 0"
        )
    if sampling.min_tokens > sampling.max_tokens:
        yield f"{key}.min_tokens={sampling.min_tokens}: more than max_tokens={sampling.max_tokens}; lower it"
    if "" in sampling.stop:
        yield f"{key}.stop={shown(sampling.stop)}: an empty text would end every response at once; leave it out"
    for name in sorted({"logprobs", "flat_logprobs"} & sampling.extra.keys()):
        yield f"{key_of_others}.{name}={sampling.extra[name]}: set sampling.logprobs=processed or raw instead"
    for name in sorted(_NOT_KEPT & sampling.extra.keys()):
        yield (
            f"{key_of_others}.{name}={sampling.extra[name]}: of a response only the text, its tokens and their own "
            "log-probabilities can be kept; leave it out"
        )
    yield from _repetition_problems(sampling.repetition_detection, f"{key}.repetition_detection")


def token_id_problems(sampling: SamplingConfig, num_tokens: int | None, key: str, key_of_others: str) -> Iterator[str]:
    """Token ids in `sampling` that a model with `num_tokens` tokens does not have: one line for each setting.

    Nothing if the number is None, not known. The keys are those of `sampling_problems`.
    """
    if num_tokens is None:
        return
    others = {f"{key_of_others}.{name}": sampling.extra.get(name) for name in ("allowed_token_ids", "logit_bias")}
    for place, ids in {f"{key}.stop_token_ids": sampling.stop_token_ids, **others}.items():
        if wrong := [number for number in _whole(ids) if not 0 <= number < num_tokens]:
            more = f" and {len(wrong) - 1} more" * (len(wrong) > 1)
            yield f"{place}: the model has no token {wrong[0]}{more}; its ids are 0 to {num_tokens - 1}"


def _whole(ids: Any) -> Iterator[int]:
    """Token ids in a list, or those that are the keys of an object: text in JSON. Other types are refused elsewhere."""
    for item in ids if isinstance(ids, list | dict) else ():
        if re.fullmatch(r"-?\d+", str(item)):
            yield int(item)


def _repetition_problems(rules: RepetitionDetectionConfig, key: str) -> Iterator[str]:
    if rules.max_pattern_size == 0:
        if rules.min_pattern_size or rules.min_count:
            yield f"{key}.max_pattern_size=0: no pattern is looked for; set it to the length of the longest, in tokens"
        return
    if rules.min_pattern_size > rules.max_pattern_size:
        yield f"{key}.min_pattern_size={rules.min_pattern_size}: more than max_pattern_size={rules.max_pattern_size}"
    if rules.min_count < 2:
        yield f"{key}.min_count={rules.min_count}: must be at least 2, the times that a pattern comes in a row"


def _cross_field_problems(run: RunConfig) -> Iterator[str]:
    data, sampling, hardware = run.data, run.sampling, run.hardware
    if data.shard_index >= data.num_shards >= 1:
        yield (
            f"data.shard_index={data.shard_index}: data.num_shards={data.num_shards} has shards 0 to "
            f"{data.num_shards - 1}; choose one of them, or raise data.num_shards"
        )
    yield from sampling_problems(sampling, "sampling", "sampling.extra")
    yield from budget_problems(sampling, run.model, hardware, "sampling.extra")
    yield from adaptive_problems(run)
    if hardware.device == "cpu" and hardware.tensor_parallel_size * hardware.pipeline_parallel_size > 1:
        yield f"hardware.tensor_parallel_size={hardware.tensor_parallel_size}: device=cpu runs one process; set it to 1"
    if hardware.device == "cpu" and hardware.replicas is None:
        yield "hardware.replicas=null: there are no GPUs to count with device=cpu; set a number"
    if hardware.replicas_per_gpu > 1 and (
        hardware.device == "cpu" or hardware.tensor_parallel_size * hardware.pipeline_parallel_size > 1
    ):
        yield (
            f"hardware.replicas_per_gpu={hardware.replicas_per_gpu}: only models on one GPU can share it; set it to 1 "
            "or leave device=cuda and both parallel sizes at 1"
        )
    if hardware.device == "cpu" and hardware.batch_invariant:
        yield (
            "hardware.batch_invariant=true: vLLM has these kernels for GPUs only; leave it out, on the CPU in float32 "
            "samples repeat without them"
        )


_LONGEST_NAME, _LONGEST_TAG = 128, 64
_NOT_IN_A_NAME = "/\\#?%:"


def _refused_by_wandb(tracking: TrackingConfig) -> Iterator[str]:
    """Names that W&B would refuse after the start of the run: its rules, as of wandb 0.31."""
    for key, name in (("project", tracking.project), ("entity", tracking.entity)):
        if name is not None and (not name.strip() or len(name) > _LONGEST_NAME or set(name) & set(_NOT_IN_A_NAME)):
            yield (
                f"tracking.{key}={name}: W&B takes 1 to {_LONGEST_NAME} characters and none of "
                f"{' '.join(_NOT_IN_A_NAME)}; choose another name"
            )
    for tag in tracking.tags:
        if not 1 <= len(tag) <= _LONGEST_TAG:
            yield f"tracking.tags={tag}: W&B takes tags of 1 to {_LONGEST_TAG} characters; shorten it or leave it out"

"""What a saved config may do, and what needs `trust=true`: a run folder from somebody else must not execute anything.

A saved config is data, and most of its values only say what to sample. Others could run code, connect, or write outside
the run's folder. These are used only if a shipped preset has them or they are known to be harmless; otherwise they are
refused, with their values, unless the user gives `trust=true` or sets ROLLOUT_TRUST=1. What the user types is always
trusted.
"""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf.errors import OmegaConfBaseException

from rollout.config import HardwareConfig, ModelConfig, PostprocessConfig, RunConfig, TrackingConfig, yaml_texts
from rollout.config.fields import from_values
from rollout.config.presets import is_of_preset, leaves
from rollout.errors import UserError
from rollout.files import real, short, user_path
from rollout.store.layout import CONFIG, JOURNAL, LOCK, LOG, LOGS, METRICS, RESERVE

OVERRIDE = "trust=true"
VARIABLE = "ROLLOUT_TRUST"

_LOAD_FORMATS = {"auto", "safetensors", "hf", "pt", "npcache", "dummy", "mistral", "bitsandbytes", "gguf"}
"""Formats of files; vLLM's other formats stream from servers or belong to plugins."""

_ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES",
    "NCCL_CUMEM_ENABLE",
    "NCCL_DEBUG",
    "NCCL_NVLS_ENABLE",
    "NCCL_P2P_DISABLE",
    "OMP_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TOKENIZERS_PARALLELISM",
    "VLLM_ALLREDUCE_USE_SYMM_MEM",
    "VLLM_ATTENTION_BACKEND",
    "VLLM_BATCH_INVARIANT",
    "VLLM_CPU_KVCACHE_SPACE",
    "VLLM_CPU_OMP_THREADS_BIND",
    "VLLM_ENABLE_V1_MULTIPROCESSING",
    "VLLM_LOGGING_LEVEL",
    "VLLM_USE_FLASHINFER_SAMPLER",
    "VLLM_USE_V2_MODEL_RUNNER",
}
"""Variables that choose between vLLM's own ways of computing, whatever their value."""

_NUMBERS = {
    *("async_scheduling", "block_size", "calculate_kv_scales", "cpu_offload_gb", "data_parallel_size"),
    *("disable_cascade_attn", "disable_custom_all_reduce", "disable_hybrid_kv_cache_manager", "disable_sliding_window"),
    *("enable_chunked_prefill", "enable_expert_parallel", "enable_lora", "kv_cache_memory_bytes"),
    *("long_prefill_token_threshold", "max_long_partial_prefills", "max_lora_rank", "max_loras"),
    *("max_num_partial_prefills", "max_parallel_loading_workers", "max_seq_len_to_capture", "num_gpu_blocks_override"),
    *("optimization_level", "seed", "stream_interval", "swap_space", "use_tqdm_on_load"),
    *("compilation_config.cudagraph_capture_sizes", "compilation_config.level", "compilation_config.mode"),
    "compilation_config.max_cudagraph_capture_size",
}
"""Arguments of vLLM's engine that only change how it computes, if the values are numbers or booleans."""

_OF_NUMBERS = ("compilation_config.pass_config.", "hf_overrides.", "rope_parameters.", "rope_scaling.")
"""Prefixes of arguments to which the same applies."""

_WORDS = {
    "distributed_executor_backend": {"mp", "ray", "uni"},
    "scheduling_policy": {"fcfs", "priority"},
    "prefix_caching_hash_algo": {"sha256", "sha256_cbor", "xxhash", "xxhash_cbor"},
}
"""Harmless words for other arguments: any other word may name a class."""

_WRITTEN_IN_PLACE = (str(CONFIG.parent), LOCK, RESERVE, LOGS, METRICS, LOG, JOURNAL, "wandb")
"""Files of a run that sessions append to, and its folders."""


@dataclass(frozen=True)
class Concern:
    """A value that is not used without trust."""

    key: str
    value: object
    effect: str
    """What the value does, as the end of a sentence."""


def asked(arguments: list[str]) -> tuple[bool, list[str]]:
    """Whether the user trusts the folder (by a word or the environment), and the other arguments."""
    words = [word for word in arguments if word.partition("=")[0] == "trust"]
    if unknown := [word for word in words if word.partition("=")[2] not in ("true", "false")]:
        raise UserError(f"{unknown[0]}: must be true or false")
    others = [word for word in arguments if word not in words]
    return words[-1] == OVERRIDE if words else os.environ.get(VARIABLE) == "1", others


def refuse(
    run: RunConfig, saved: RunConfig, overrides: Collection[str], run_dir: Path, groups: Collection[str] | None = None
) -> None:
    """Raise UserError for values of `run` that need trust and come from the config `saved` in `run_dir`.

    `groups` are the groups of the config that will be used (None: all); `overrides` are what the user gave.
    """
    given = {_key(word) for word in overrides}
    before = {concern.key: concern.value for concern in concerns(saved)}
    found = [
        concern
        for concern in concerns(run, groups)
        if concern.key not in given and before.get(concern.key, _NOTHING) == concern.value
    ]
    if found:
        raise UserError(*(_line(concern, run_dir) for concern in found))


def refuse_before_sweep(saved: RunConfig, overrides: Collection[str], run_dir: Path) -> None:
    """As `refuse`, before the jobs of a sweep are composed, for values that no override can change."""
    groups = {_key(word).split(".")[0] for word in overrides}
    untouched = {concern.key.split(".")[0] for concern in concerns(saved)} - groups
    if "experiment" not in groups:
        refuse(saved, saved, (), run_dir, untouched)


def refuse_links(run_dir: Path) -> None:
    """Raise UserError for links in a run's folder: through them a session would write elsewhere."""
    if found := [*links(run_dir)]:
        raise UserError(*(_line(concern, run_dir) for concern in found))


def links(run_dir: Path) -> Iterator[Concern]:
    """The symbolic links in `run_dir` that a session would write through; files that it replaces are not checked."""
    written = [*map(run_dir.joinpath, _WRITTEN_IN_PLACE), *(run_dir / LOGS).glob("*")]
    for path in written:
        if path.is_symlink():
            yield Concern(str(path.relative_to(run_dir)), path.readlink(), "is a link: it writes elsewhere")


def needs_trust(run_dir: Path, saved: RunConfig | None = None) -> bool:
    """Whether a session of the run in `run_dir` is refused without trust. `saved` is its config, if known."""
    if any(links(run_dir)):
        return True
    try:
        if saved is None:
            saved = from_values(yaml_texts.load((run_dir / CONFIG).read_text(encoding="utf-8")))
        return any(concerns(saved))
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException):  # no run, or none that can be continued
        return False


def concerns(run: RunConfig, groups: Collection[str] | None = None) -> Iterator[Concern]:
    """The values of `run` that need trust if they come from a saved config, for some `groups` or all (None)."""
    found = {
        "model": _of_model(run.model),
        "hardware": _of_hardware(run.hardware),
        "postprocess": _of_postprocess(run.postprocess),
        "tracking": _of_tracking(run.tracking),
        "output": _of_output(run),
    }
    for group, of_group in found.items():
        if groups is None or group in groups:
            yield from of_group


_NOTHING = object()


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _line(concern: Concern, run_dir: Path) -> str:
    return (
        f"{concern.key}={concern.value}: comes from {short(run_dir)} and {concern.effect}; if you trust it give "
        f"{OVERRIDE} (or set {VARIABLE}=1)"
    )


def _of_model(model: ModelConfig) -> Iterator[Concern]:
    if model.trust_remote_code:
        yield Concern("model.trust_remote_code", True, "runs the model's own Python code")
    if model.load_format not in _LOAD_FORMATS:
        yield Concern("model.load_format", model.load_format, "may connect to a server or run a plugin")


def _of_hardware(hardware: HardwareConfig) -> Iterator[Concern]:
    for name, value in hardware.env.items():
        key = f"hardware.env.{name}"
        if name not in _ENVIRONMENT and not is_of_preset(key, value):
            yield Concern(key, value, "sets an environment variable, which can run code")
    for path, value in leaves(hardware.engine_kwargs):
        key = f"hardware.engine_kwargs.{path}"
        if not _is_harmless(path, value) and not is_of_preset(key, value):
            yield Concern(key, value, "is an argument of vLLM's engine that may run code, connect or write elsewhere")
    if hardware.ray_address is not None and not is_of_preset("hardware.ray_address", hardware.ray_address):
        yield Concern("hardware.ray_address", hardware.ray_address, "connects to other machines")


def _of_postprocess(config: PostprocessConfig) -> Iterator[Concern]:
    scorer, file = config.score.scorer, config.export.file
    if "score" in config.steps and scorer is not None and ":" in scorer:
        yield Concern("postprocess.score.scorer", scorer, "runs a Python function")
    if "export" in config.steps and file.startswith(("/", "~")):
        yield Concern("postprocess.export.file", file, "writes outside the run's folder")


def _of_tracking(tracking: TrackingConfig) -> Iterator[Concern]:
    if tracking.mode == "online":
        yield Concern("tracking.mode", tracking.mode, "uploads samples to Weights & Biases")


def _of_output(run: RunConfig) -> Iterator[Concern]:
    """A new file below the current folder is harmless: a run replaces only its own existing files, see
    `rollout.postprocess.second_place`.
    """
    if run.output is not None:
        is_here = real(user_path(run.output)).is_relative_to(Path.cwd())
        if not is_here or run.postprocess.overwrite:
            yield Concern("output", run.output, "writes outside the run's folder")


def _is_harmless(path: str, value: Any) -> bool:
    if isinstance(value, str):
        return value in _WORDS.get(path, ())
    items = value if isinstance(value, list) else [value]
    is_listed = path in _NUMBERS or path.startswith(_OF_NUMBERS)
    return is_listed and all(item is None or isinstance(item, int | float) for item in items)

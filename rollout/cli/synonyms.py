"""Names that users type from habit (those of other programs, or ours without their group) -> our keys."""

from difflib import get_close_matches
from functools import cache
from typing import get_origin

from rollout.config.keys import config_fields, type_of
from rollout.config.overrides import quoted

_KEYS = {
    "sampling.n_samples": "n num_samples num_return_sequences num_generations samples samples_per_prompt n_responses",
    "sampling.max_tokens": "max_new_tokens max_length max_gen_tokens max_response_length response_length "
    "max_completion_tokens max_tokens_to_sample max_output_tokens",
    "sampling.min_tokens": "min_new_tokens min_length",
    "sampling.temperature": "t temp",
    "sampling.top_p": "p nucleus",
    "sampling.top_k": "k",
    "sampling.seed": "random_seed manual_seed",
    "sampling.stop": "stop_strings stop_words stop_sequences stop_str",
    "sampling.stop_token_ids": "eos_token_id",
    "sampling.structured_outputs": "structured_outputs",
    "sampling.repetition_detection": "repetition_detection",
    "sampling.structured_outputs.json": "guided_json json_schema",
    "sampling.structured_outputs.regex": "guided_regex",
    "sampling.structured_outputs.choice": "guided_choice",
    "sampling.structured_outputs.grammar": "guided_grammar",
    "model.path": "model m model_path model_name model_name_or_path model_id model_dir pretrained hf_model checkpoint "
    "ckpt pretrained_model_name_or_path",
    "model.tokenizer": "tokenizer_path tokenizer_name",
    "model.lora": "lora_path lora_modules adapter adapter_path peft",
    "model.max_model_len": "context_length context_len max_context_length max_seq_len max_seq_length max_model_length",
    "model.chat_template_kwargs.enable_thinking": "enable_thinking thinking",
    "data.path": "data input i input_file input_path input_files file files dataset dataset_path data_path val_files "
    "train_files test_files prompts prompts_file data_files jsonl parquet",
    "data.prompt_key": "prompt_column prompt_field input_key column text_column",
    "data.tools_key": "tools tools_column",
    "data.limit": "num_prompts max_samples max_examples max_rows head num_examples max_prompts",
    "data.system_prompt": "system system_message",
    "data.num_shards": "world_size num_chunks",
    "data.shard_index": "rank shard chunk_idx shard_id",
    "hardware.tensor_parallel_size": "tp tp_size tensor_parallel tensor_model_parallel_size num_gpus n_gpus gpus "
    "n_gpus_per_node gpus_per_node num_gpus_per_node",
    "hardware.pipeline_parallel_size": "pp pp_size pipeline_parallel",
    "hardware.replicas": "dp dp_size data_parallel data_parallel_size num_replicas num_engines",
    "hardware.gpu_memory_utilization": "gpu_util gpu_memory mem_fraction_static gpu_mem gpu_memory_fraction",
    "hardware.max_num_seqs": "batch_size max_batch_size max_concurrency",
    "hardware.dtype": "torch_dtype precision",
    "hardware.enable_prefix_caching": "prefix_caching",
    "postprocess.score.scorer": "reward reward_fn reward_function metric",
    "postprocess.score.ground_truth": "answer answer_key answer_column label reference",
    "postprocess.export.file": "export export_file",
    "postprocess.export.format": "export_format",
    "tracking.project": "wandb_project project_name",
    "tracking.entity": "wandb_entity",
    "tracking.tags": "wandb_tags",
    "tracking.mode": "wandb_mode",
    "dry_run": "dryrun check",
    "hydra.run.dir": "output out o output_dir output_path output_file out_dir save_dir save_path run_dir dir "
    "default_local_dir experiment_dir results_dir",
    "hydra.sweep.dir": "sweep_dir",
}
"""Our key -> what it is called elsewhere: by vLLM, Hugging Face, verl, other inference servers, or in short."""

_OF_EXTRA = (
    "ignore_eos skip_special_tokens spaces_between_special_tokens include_stop_str_in_output bad_words logit_bias "
    "allowed_token_ids"
)
_OF_ENGINE = (
    "cpu_offload_gb block_size enable_chunked_prefill distributed_executor_backend download_dir "
    "hf_overrides enable_expert_parallel kv_cache_memory_bytes speculative_config enable_lora tokenizer_mode "
    "attention_backend compilation_config scheduling_policy async_scheduling hf_token"
)
_WORDS = {
    ("do_sample", "false"): "sampling=greedy",
    ("do_sample", "true"): "sampling=default",
    ("greedy", "true"): "sampling=greedy",
    ("use_wandb", "true"): "tracking=wandb",
    ("wandb", "true"): "tracking=wandb",
    ("wandb", "false"): "tracking=disabled",
    ("debug", "true"): "hardware=debug",
    ("cpu", "true"): "hardware=cpu",
}
"""(Name, value) elsewhere -> a preset here."""


_SHORT = 4  # letters: names of so few are near to many


def meant(name: str, value: str | None) -> str | None:
    """The override that somebody means by `name`, dotted or not, with `value` (None: a flag); None where none is known.

    The last part of a dotted name decides: `actor_rollout_ref.rollout.n` is `n`.
    """
    last = _last(name)
    if word := _WORDS.get((last, (value or "true").lower())):
        return word
    key = _ending_in(name) or _known().get(last) or _known().get(last.lower())
    return None if key is None else _word(_for_value(key, value), value)


def nearly_meant(name: str, value: str | None) -> str | None:
    """The same for a slip."""
    last = _last(name)
    near = get_close_matches(last, _known(), n=1, cutoff=0.85) if len(last) > _SHORT else []
    return _word(_for_value(_known()[near[0]], value), value) if near else None


def _for_value(key: str, value: str | None) -> str:
    """Where results go is a folder, or the name of the one file that is wanted."""
    return "output" if key == "hydra.run.dir" and value is not None and value.endswith(".parquet") else key


def _last(name: str) -> str:
    return name.rpartition(".")[2].replace("-", "_")


def _ending_in(name: str) -> str | None:
    """Our key of which only the beginning is missing, or with another program's before it."""
    keys = [key for key, _ in config_fields()]
    return next((key for key in keys if "." in name and (key.endswith(f".{name}") or name.endswith(f".{key}"))), None)


def _word(key: str, value: str | None) -> str | None:
    kind = type_of(key)
    if value is None:
        return f"{key}=true" if kind is bool else None
    if get_origin(kind) is list and not value.startswith("["):
        return f"{key}=[{value}]"
    return f"{key}={quoted(value)}" if kind is str and "," in value and value[0] not in "\"'" else f"{key}={value}"


@cache
def _known() -> dict[str, str]:
    """Every name, also ours without the group; where several keys end in one name, the first of the schema."""
    known: dict[str, str] = {}
    for key, _ in config_fields():
        known.setdefault(key.rpartition(".")[2], key)
    for key, names in _KEYS.items():
        known |= dict.fromkeys(names.split(), key)
    for name in ("path", "kind", "rows", "mode", "extra", "env", "json"):  # which say too little
        known.pop(name)
    return (
        known
        | {name: f"sampling.extra.{name}" for name in _OF_EXTRA.split()}
        | {name: f"hardware.engine_kwargs.{name}" for name in _OF_ENGINE.split()}
    )

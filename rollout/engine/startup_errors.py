"""Why vLLM did not start, and how to cure it, in one line.

The engine's own process prints the reason, and ours may only get "Engine core initialization failed. See root cause
above". So the text searched is the error and what was written to rollout.log since loading began.
"""

import re
from collections.abc import Callable

from rollout.config import RunConfig


def explain(run: RunConfig, text: str) -> str | None:
    """The line about the first known reason in `text`, or None if there is none."""
    for pattern, line in _REASONS.items():
        if found := re.search(pattern, text):
            return line(run, found)
    return None


def failed_process(run: RunConfig, error: str, text: str) -> str | None:
    """The line about one of vLLM's own processes that failed for no reason known to `explain`, or None.

    `error` is what vLLM raised here, `text` what its processes wrote: the last error in it that is useful.
    """
    if not re.search(r"Engine core initialization failed|WorkerProc initialization failed", error):
        return None
    reasons = [match[0].strip() for match in _ERROR.finditer(text) if not _SAYS_NOTHING.search(match[0])]
    reasons = reasons or _DIED.findall(text) or ["one of its processes was killed or ended by itself"]
    return f"hardware, model: vLLM cannot start {run.model.path}: {reasons[-1]}"


_ERROR = re.compile(r"[\w.]*(?:Error|Exception): ?\S.*|Fatal Python error: .*")
_SAYS_NOTHING = re.compile(r"See (?:root cause above|stack trace)|RuntimeError: cancelled")
_DIED = re.compile(r"Worker proc \S+ died unexpectedly \(exit code: -?\d+\)")


def _too_little_free(run: RunConfig, found: re.Match[str]) -> str:
    free, total = float(found[1]), float(found[2])
    return (
        f"{_utilization(run)}: only {free} of {total} GiB are free; end the program that holds the rest, "
        f"or set it to at most {int(100 * free / total) / 100}"
    )


def _context_too_large(_run: RunConfig, found: re.Match[str]) -> str:
    fits = re.search(r"estimated maximum model length is (\d+)", found.string)
    cure = f"set model.max_model_len={fits[1]} or less" if fits else "set a smaller model.max_model_len"
    return (
        f"model.max_model_len={found[1]}: one such sample needs {found[2]} GiB of KV cache and there are {found[3]}; "
        f"{cure}, or raise hardware.gpu_memory_utilization"
    )


def _no_cache(run: RunConfig, _found: re.Match[str]) -> str:
    return (
        f"{_utilization(run)}: the weights of {run.model.path} leave no memory for samples; raise it, "
        "use more GPUs (hardware.tensor_parallel_size) or a smaller model"
    )


def _out_of_memory(run: RunConfig, _found: re.Match[str]) -> str:
    return (
        f"{_utilization(run)}: the GPU's memory ran out while loading {run.model.path}; use hardware=low_mem, "
        "more GPUs (hardware.tensor_parallel_size) or a smaller model"
    )


def _longer_than_model(_run: RunConfig, found: re.Match[str]) -> str:
    return longer_than_model(int(found[1]), int(found[2]))


def longer_than_model(asked: int, context: int) -> str:
    """The line about a `model.max_model_len` beyond the model's context, both in tokens."""
    return f"model.max_model_len={asked}: the model's context is {context}; lower it to that"


def _heads_not_divisible(_run: RunConfig, found: re.Match[str]) -> str:
    heads = int(found[1])
    divisors = [str(n) for n in range(1, heads + 1) if heads % n == 0]
    return (
        f"hardware.tensor_parallel_size={found[2]}: does not divide the model's {heads} attention heads; "
        f"choose from {', '.join(divisors)}"
    )


def _batch_too_small(_run: RunConfig, found: re.Match[str]) -> str:
    return (
        f"hardware.max_num_batched_tokens={found[1]}: smaller than the context of {found[2]}; "
        "raise it or set a smaller model.max_model_len"
    )


def _no_gpu(run: RunConfig, _found: re.Match[str]) -> str:
    return f"hardware.device={run.hardware.device}: vLLM finds no GPU here; use hardware=cpu"


def _needs_remote_code(run: RunConfig, _found: re.Match[str]) -> str:
    return (
        f"model.trust_remote_code=false: {run.model.path} brings Python code of its own; set it to true if you trust it"
    )


def _no_bfloat16(run: RunConfig, _found: re.Match[str]) -> str:
    return f"hardware.dtype={run.hardware.dtype}: this GPU has no bfloat16; set hardware.dtype=float16"


def _not_on_hub(run: RunConfig, _found: re.Match[str]) -> str:
    return (
        f"model.path={run.model.path}: cannot be fetched from the hub; check its name, your access and the network "
        "(HF_HUB_OFFLINE is respected), or give a local folder"
    )


def _no_weights(run: RunConfig, _found: re.Match[str]) -> str:
    return f"model.path={run.model.path}: has a config but no weights; copy them there, or set model.load_format=dummy"


def _not_invariant(_run: RunConfig, found: re.Match[str]) -> str:
    return (
        f"hardware.batch_invariant=true: no such kernels for this model, GPU or attention backend ({found[0]}); "
        "set it to false"
    )


def _no_flash_attention_2(run: RunConfig, _found: re.Match[str]) -> str:
    key = "hardware.batch_invariant=true" if run.hardware.batch_invariant else "hardware"
    return f"{key}: this vLLM comes without FlashAttention 2; set hardware.engine_kwargs.attention_backend=TRITON_ATTN"


def _refused(_run: RunConfig, found: re.Match[str]) -> str:
    return f"model, hardware: vLLM refuses these settings: {found[1].strip()}"


def _utilization(run: RunConfig) -> str:
    return f"hardware.gpu_memory_utilization={run.hardware.gpu_memory_utilization}"


_REASONS: dict[str, Callable[[RunConfig, re.Match[str]], str]] = {
    r"(?:Free|Available) memory on (?:device|node).*?\(([\d.]+)/([\d.]+) GiB\)[\s\S]*?less than": _too_little_free,
    (
        r"To serve at least one request with the models?'?s? max seq len \((\d+)\), \(?([\d.]+) GiB KV cache "
        r"is needed, which is larger than the available KV cache memory \(([\d.]+) GiB\)"
    ): _context_too_large,
    r"No available memory for the cache blocks": _no_cache,
    r"CUDA out of memory|torch\.OutOfMemoryError": _out_of_memory,
    r"User-specified max_model_len \((\d+)\) is greater than the derived max_model_len \(\w+=(\d+)": _longer_than_model,
    r"attention heads \((\d+)\) must be divisible by tensor parallel size \((\d+)\)": _heads_not_divisible,
    r"max_num_batched_tokens \((\d+)\) is smaller than max_model_len \((\d+)\)": _batch_too_small,
    r"No CUDA GPUs are available|Failed to infer device type|libcuda\.so": _no_gpu,
    r"Cannot find any model weights": _no_weights,
    r"trust_remote_code=True": _needs_remote_code,
    r"Bfloat16 is only supported on GPUs": _no_bfloat16,
    r"batch invariance not supported|batch_invariant mode is not supported for [\w.]+": _not_invariant,
    r"FA2 is unavailable": _no_flash_attention_2,
    (
        r"not a valid model identifier|couldn't connect to|OfflineModeIsEnabled|outgoing traffic has been disabled|"
        r"Repository Not Found|GatedRepo|LocalEntryNotFoundError"
    ): _not_on_hub,
    r"validation errors? for \w+\s+(?:Value error, )?([^\[\n]+)": _refused,
}
"""Reasons of vLLM 0.26 to 0.33 and the libraries below it; the first that matches counts."""

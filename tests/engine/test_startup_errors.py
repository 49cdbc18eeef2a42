"""vLLM's start-up failures, in the words of its releases 0.26 and 0.32, and the line a user reads."""

import pytest

from rollout.config import RunConfig
from rollout.engine.startup_errors import explain

MESSAGES = [
    (
        "ValueError: Free memory on device cuda:0 (11.3/139.8 GiB) on startup is less than desired GPU memory "
        "utilization (0.95, 132.81 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
        "hardware.gpu_memory_utilization=0.9: only 11.3 of 139.8 GiB are free; end the program that holds the rest, "
        "or set it to at most 0.08",
    ),
    (
        "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (9.5 GiB). Based on the available memory, the "
        "estimated maximum model length is 77808. Try increasing `gpu_memory_utilization`",
        "model.max_model_len=131072: one such sample needs 16.0 GiB of KV cache and there are 9.5; "
        "set model.max_model_len=77808 or less, or raise hardware.gpu_memory_utilization",
    ),
    (
        "To serve at least one request with the models's max seq len (4096), (2.0 GiB KV cache is needed, "
        "which is larger than the available KV cache memory (0.1 GiB). Try",
        "model.max_model_len=4096: one such sample needs 2.0 GiB of KV cache and there are 0.1; "
        "set a smaller model.max_model_len, or raise hardware.gpu_memory_utilization",
    ),
    (
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
        "hardware.gpu_memory_utilization=0.9: the weights of embedded:SmolLM2-135M-Instruct leave no memory for "
        "samples; raise it, use more GPUs (hardware.tensor_parallel_size) or a smaller model",
    ),
    (
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "hardware.gpu_memory_utilization=0.9: the GPU's memory ran out while loading embedded:SmolLM2-135M-Instruct; "
        "use hardware=low_mem, more GPUs (hardware.tensor_parallel_size) or a smaller model",
    ),
    (
        "Total number of attention heads (9) must be divisible by tensor parallel size (2).",
        "hardware.tensor_parallel_size=2: does not divide the model's 9 attention heads; choose from 1, 3, 9",
    ),
    ("RuntimeError: No CUDA GPUs are available", "hardware.device=cuda: vLLM finds no GPU here; use hardware=cpu"),
    (
        "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0.",
        "hardware.dtype=auto: this GPU has no bfloat16; set hardware.dtype=float16",
    ),
]


@pytest.mark.parametrize(("message", "line"), MESSAGES, ids=[message[:40] for message, _ in MESSAGES])
def test_a_known_reason_becomes_a_line_with_key_value_and_cure(message: str, line: str) -> None:
    log = f"(EngineCore pid=7) ERROR 11-22 [core.py:1]\n{message}\nRuntimeError: Engine core initialization failed."
    assert explain(RunConfig(), log) == line


def test_an_unknown_reason_is_left_to_its_traceback() -> None:
    assert explain(RunConfig(), "AssertionError: something new") is None

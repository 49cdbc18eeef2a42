"""Memory that does not suffice ends in one line, and what the line advises works; a sweep gives memory back."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rollout.errors import UserError
from tests.commands import run_fresh
from tests.conftest import write_input
from tests.gpu.conftest import ROWS, arguments, assert_complete, needs_gpu, rows_of, write_model

pytestmark = [pytest.mark.gpu, needs_gpu]

LARGE_CACHE = {
    "hidden_size": 1024,
    "head_dim": 128,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "num_hidden_layers": 8,
    "intermediate_size": 2816,
    "max_position_embeddings": 32768,
}
"""0.4 GB of weights, and 128 KiB of KV cache for every token: 4 GiB for the whole context."""

HOLD = """
import sys, torch
free, _ = torch.cuda.mem_get_info()
held = torch.empty(free - min(free // 2, 10 << 30), dtype=torch.uint8, device="cuda")
print("holding", flush=True)
sys.stdin.read()
"""


def share_of_gpu(gib: float) -> str:
    """The override that lets vLLM take `gib` GiB of the first GPU."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    total = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    return f"hardware.gpu_memory_utilization={gib * 1024 / int(total):.5f}"


def refusal(folder: Path, model: Path, *overrides: str) -> str:
    """The one line in which a run that cannot start ends."""
    with pytest.raises(UserError) as refused:
        rows_of(folder, "refused", model, "hardware=debug", *overrides)
    (line,) = refused.value.problems
    return line


def test_weights_that_leave_no_room_for_samples(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", **LARGE_CACHE)
    line = refusal(tmp_path, model, share_of_gpu(0.25), "model.max_model_len=1024")
    assert re.match(r"hardware\.gpu_memory_utilization=0\.\d+: the weights of .* leave no memory for samples", line)
    cured = rows_of(tmp_path, "cured", model, "hardware=debug", share_of_gpu(6), "model.max_model_len=1024")
    assert_complete(cured)


def test_a_context_too_long_for_the_cache(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", **LARGE_CACHE)
    small = (share_of_gpu(3.5), "hardware.max_num_batched_tokens=2048", "hardware.max_num_seqs=16")
    line = refusal(tmp_path, model, *small)
    assert line.startswith("model.max_model_len=32768: one such sample needs 4.0 GiB of KV cache and there are ")
    advised = re.search(r"set (model\.max_model_len=\d+) or less", line)
    assert advised is not None
    assert_complete(rows_of(tmp_path, "cured", model, "hardware=debug", *small, advised[1]))


def test_another_program_holds_the_memory(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holding\n"
        line = refusal(tmp_path, model, "hardware.gpu_memory_utilization=0.9")
        assert re.match(r"hardware\.gpu_memory_utilization=0\.9: only [\d.]+ of [\d.]+ GiB are free; end the", line)
        advised = re.search(r"set it to at most (0\.\d+)", line)
        assert advised is not None
        utilization = f"hardware.gpu_memory_utilization={advised[1]}"
        assert_complete(rows_of(tmp_path, "cured", model, "hardware=debug", utilization))
        holder.communicate()


def test_a_sweep_over_two_models_frees_the_memory_of_the_first(tmp_path: Path) -> None:
    """Each takes more than half of the GPU, so the second could not start beside the first."""
    for name in "ab":
        write_model(tmp_path / name)
    source = write_input(tmp_path / "input.parquet", ROWS)
    swept = [*arguments(Path("a,b"), source), "hardware=debug", "hardware.gpu_memory_utilization=0.6"]
    result = run_fresh("-m", *swept, "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len(list(tmp_path.glob("sweep/*/rollouts.parquet"))) == 2

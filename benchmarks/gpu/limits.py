"""How fast the machine could be at best, and what measuring that machine says.

    python -m benchmarks.gpu.limits --output FILE [--device cpu]

Sampling writes one token for each of B samples per step. Two kinds of work follow one another in every layer, and each
has its own limit, the larger of what memory and what arithmetic allow (the roofline of Williams et al., 2009):

    matrices   every step reads all matrix weights W once; every token multiplies with each of them (2 W operations)
               max(steps * W * bytes / bandwidth, 2 * W * tokens / matrix rate)
    attention  every token reads the KV cache of the c tokens before it (k numbers each) and works on it
               max(sum(c) * k * bytes / bandwidth, 4 * layers * heads * head_dim * sum(c) / matrix rate)

The limit is their sum. `tokens` counts the responses' and, once, each prompt's; `steps` is what is needed at least:
tokens / max_num_seqs, or the longest response. The bandwidth is that of a copy (bytes read and written), the rate that
of a large product of random bfloat16 matrices, both measured on the same machine. Not in the limit: sampling itself
(the softmax over the vocabulary, top-p's sort), norms, launches, and anything the CPU does.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.gpu.shapes import Shape

_BYTES = 2  # per bfloat16


def demand(
    shape: Shape, lengths: Sequence[int], n_samples: int, prompt_tokens: int, max_num_seqs: int
) -> dict[str, float]:
    """The least bytes and operations for the responses; `prompt_tokens` is the length of one prompt."""
    responses, prompts = n_samples * sum(lengths), prompt_tokens * len(lengths)
    steps = max(math.ceil(responses / max_num_seqs), max(lengths))
    context = n_samples * sum(length * prompt_tokens + length * (length - 1) // 2 for length in lengths)
    return {
        "matrix_bytes": float(steps * shape.matrix_weights * _BYTES),
        "matrix_operations": float(2 * shape.matrix_weights * (responses + prompts)),
        "attention_bytes": float(context * shape.kv_numbers * _BYTES),
        "attention_operations": float(4 * shape.layers * shape.heads * shape.head_dim * context),
    }


def limit_seconds(demand: dict[str, float], limits: dict[str, float]) -> float:
    """The least time for `demand` on a machine of these `limits` (bytes and operations per second)."""
    return sum(
        max(demand[f"{kind}_bytes"] / limits["bandwidth"], demand[f"{kind}_operations"] / limits["rate"])
        for kind in ("matrix", "attention")
    )


def measure(device: str) -> dict[str, float]:
    """Copy bandwidth in bytes/s and matrix rate in operations/s: the best of ten, after three warm-ups."""
    import torch

    size, side = (4 << 30, 8192) if device == "cuda" else (64 << 20, 512)
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    left, right = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    return {
        "bandwidth": 2 * size / _best_seconds(lambda: target.copy_(source), finish),
        "rate": 2 * side**3 / _best_seconds(lambda: left @ right, finish),
    }


def _best_seconds(do: Callable[[], object], finish: Callable[[], None]) -> float:
    seconds = []
    for _ in range(13):
        finish()
        start = time.perf_counter()
        do()
        finish()
        seconds.append(time.perf_counter() - start)
    return min(seconds[3:])


def main() -> None:
    """Measure this machine and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    found = measure(options.device)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=1))
    print(f"copy {found['bandwidth'] / 1e12:.2f} TB/s, matrices {found['rate'] / 1e12:.0f} TFLOP/s")


if __name__ == "__main__":
    main()

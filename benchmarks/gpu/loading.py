"""One engine for a measuring process: its config, its model's folder, its loading time and its memory."""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from benchmarks.contenders import Work, work_of, write_questions
from benchmarks.gpu.shapes import SHAPES, write_checkpoint, write_model
from benchmarks.gpu.workloads import named
from rollout.cli.compose import compose_run
from rollout.config import RunConfig
from rollout.engine.cache import EngineSpec, acquire
from rollout.engine.vllm_engine import VLLMEngine


@dataclass(frozen=True)
class Place:
    """Where a step finds the tokenizer and keeps its inputs and runs, and which shape and overrides it uses.

    With `weights`, the model has weights on the disk; else vLLM makes `dummy` ones.
    """

    shape: str
    tokenizer: Path
    folder: Path
    overrides: Sequence[str]
    weights: bool = False

    @property
    def warm_up(self) -> str:
        """A workload that uses all batch sizes in a few seconds."""
        return "tiny_warm_up" if self.shape == "tiny" else "warm_up"

    def run(self, *more: str) -> RunConfig:
        """The config of a run with this shape, with random weights and responses that only end at their length."""
        return compose_run(
            f"model.path={self.model}",
            f"model.load_format={'auto' if self.weights else 'dummy'}",
            "sampling.extra={ignore_eos: true}",
            "tracking=disabled",
            *self.overrides,
            *more,
        )

    @cached_property
    def model(self) -> Path:
        """The model's folder; written only once, because an engine would take newer files for other weights."""
        # always the same, because its name is in the key of vLLM's cache of compiled code
        folder = Path(gettempdir()) / f"model-{self.shape}{'-weights' if self.weights else ''}"
        write_model(folder, SHAPES[self.shape], self.tokenizer)
        if self.weights and not (folder / "model.safetensors.index.json").exists():
            write_checkpoint(folder, SHAPES[self.shape], seed=0)
        return folder

    def work(self, workload: str, max_num_seqs: int) -> Work:
        """The named workload as the input of a run."""
        chosen = named(workload, max_num_seqs)
        source, lengths = self.folder / f"{workload}.parquet", chosen.lengths()
        write_questions(source, len(lengths), chosen.prompt_words)
        run = self.run(
            f"data.path={source}", f"sampling.n_samples={chosen.n_samples}", f"sampling.max_tokens={max(lengths)}"
        )
        return work_of(run, lengths, chosen.of_samples())


def load(run: RunConfig) -> tuple[VLLMEngine, dict[str, Any]]:
    """The engine for `run`, and facts about it: loading time in seconds, MiB in use on each GPU, tokens in the KV
    cache.
    """
    start = time.monotonic()
    engine = acquire(EngineSpec.of(run)).engine
    seconds = time.monotonic() - start
    assert isinstance(engine, VLLMEngine)
    engine.configure(run.sampling)
    return engine, {
        "load_seconds": round(seconds, 1),
        "max_num_seqs": engine.max_num_seqs,
        "memory_mib": gpu_memory_mib(),
        "kv_tokens": engine.kv_cache_tokens,
    }


def gpu_memory_mib() -> list[int]:
    """MiB in use on each GPU that this process may see; empty without a GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run([*command, *(["-i", visible] if visible else [])], capture_output=True, text=True)
    except FileNotFoundError:
        return []
    return [int(line) for line in printed.stdout.split()] if printed.returncode == 0 else []

"""How a run scales over GPUs: replicas, tensor parallelism and both, each as the command that a user types.

    python -m benchmarks.gpu.scaling --output FOLDER --tokenizer FOLDER --gpus 0,1,2,3 [--layouts 8b-one,8b-tp2]

A layout is a sweep over seeds in one engine (or one set of engines); the first job warms up. Its prompts are in
proportion to its GPUs, so that every GPU has as much to do. Layouts that fit side by side run at the same time, each on
GPUs of its own. `--tiny` does it with a tiny model on the CPU, for trying the benchmark itself. With `--lengths
equal,card` each seed's job is done with equal responses and with some of about twice their length, each its own, as the
card has them: 2,048 tokens at most.

    8b-kill    four replicas, of which one is ended by SIGKILL half-way through the second job, and a third job with
               the same seed that nobody disturbs
    0.5b-kill  the same with weights on the disk that know what comes next, under batch_invariant: rounding counts

The table printed at the end is what `FOLDER/LAYOUT/*/run.json` say, with the driver's share of a core: CPU seconds of
the process that was started, over the seconds in which it generated.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.contenders import write_questions
from benchmarks.gpu.shapes import SHAPES, write_checkpoint, write_model
from benchmarks.gpu.workloads import long_tailed
from rollout.process.watchdog import Family
from rollout.store import run_record
from rollout.store.layout import OUTPUT
from rollout.store.run_record import STAGES, RunRecord

_CLOCK = os.sysconf("SC_CLK_TCK")
_REPLICA = "ray::Replica"


@dataclass(frozen=True)
class Layout:
    """How a model is placed on GPUs, and what it samples: 8 samples of each prompt, `tokens` long."""

    name: str
    gpus: int
    overrides: tuple[str, ...]
    prompts_per_gpu: int = 128
    tokens: int = 512
    seeds: tuple[int, ...] = (1, 2, 3)
    kill: bool = False
    weights: bool = True
    """Whether random weights are on the disk, see `write_checkpoint`; else vLLM makes `dummy` ones."""

    @property
    def shape(self) -> str:
        """The shape, from the beginning of the name; for an 8B model, the one with Llama 3's whole vocabulary."""
        named = self.name.partition("-")[0]
        return "8b_llama" if named == "8b" else named


_TP = ("hardware=dual_gpu",)
_FUSED = (
    "hardware.env.VLLM_FLASHINFER_ALLREDUCE_BACKEND=trtllm",
    "hardware.engine_kwargs.compilation_config.pass_config.fuse_allreduce_rms=true",
)
_UNFUSED = ("hardware.engine_kwargs.compilation_config.pass_config.fuse_allreduce_rms=false",)
_VLLMS_SUM = "hardware.fast_all_reduce=off"
_GRAPHS_1024 = "hardware.engine_kwargs.compilation_config.max_cudagraph_capture_size=1024"
_LARGE: dict[str, Any] = {"prompts_per_gpu": 16, "tokens": 256, "seeds": (1, 2), "weights": False}


def _tp(size: int) -> str:
    return f"hardware.tensor_parallel_size={size}"


LAYOUTS = (
    Layout("8b-one", 1, ("hardware=single_gpu",)),
    Layout("8b-one_512", 1, ("hardware=single_gpu", "hardware.max_num_seqs=512")),
    Layout("8b-replicas_2", 2, ("hardware=multi_gpu",)),
    Layout("8b-replicas_4", 4, ("hardware=multi_gpu",)),
    Layout("8b-tp2", 2, _TP),
    Layout("8b-tp2_vllms", 2, (*_TP, _VLLMS_SUM)),
    Layout("8b-tp2_graphs_1024", 2, (*_TP, _GRAPHS_1024)),
    Layout("8b-tp2_fused", 2, (*_TP, *_FUSED)),
    Layout("8b-tp2_unfused", 2, (*_TP, *_UNFUSED)),
    Layout("8b-tp4", 4, (*_TP, _tp(4))),
    Layout("8b-tp4_fused", 4, (*_TP, _tp(4), *_FUSED)),
    Layout("8b-2x2", 4, ("hardware=multi_gpu", _tp(2), "hardware.max_num_seqs=512")),
    Layout("70b-tp4", 4, (*_TP, _tp(4)), **_LARGE),
    Layout("70b-2x2", 4, ("hardware=multi_gpu", _tp(2), "model.max_model_len=2048"), **_LARGE),
    Layout("8b-kill", 4, ("hardware=multi_gpu",), seeds=(1, 2, 2), kill=True),
    Layout(
        "0.5b-kill",
        4,
        ("hardware=multi_gpu", "hardware.batch_invariant=true", "sampling.top_p=1"),
        prompts_per_gpu=512,
        seeds=(1, 2, 2),
        kill=True,
    ),
)
_BY_NAME = {layout.name: layout for layout in LAYOUTS}


@dataclass
class Started:
    """A layout that is running."""

    layout: Layout
    folder: Path
    process: subprocess.Popen[bytes]
    cpu: list[tuple[float, float]]
    """(time, CPU seconds of the process so far), about twice a second."""
    killed: bool = False

    def poll(self) -> bool:
        """Look at it once. Returns whether it is still running."""
        if self.process.poll() is not None:
            return False
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        self.cpu.append((time.time(), (int(fields[11]) + int(fields[12])) / _CLOCK))
        if self.layout.kill and not self.killed and self._is_half_way():
            members = Family(self.process.pid)
            members.look()
            victim = min(pid for pid, one in members.members.items() if one.name.startswith(_REPLICA))
            os.kill(victim, signal.SIGKILL)
            self.killed = True
        return True

    def _is_half_way(self) -> bool:
        metrics = self.folder / "1" / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        if not lines:
            return False
        now = json.loads(lines[-1])
        return bool(now["generated_tokens"] > 0.4 * now["samples_total"] * self.layout.tokens)


def main() -> None:
    """Run the layouts that were asked for, and print the table of all layouts in the folder."""
    options = _parse()
    output = options.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    layouts = [_BY_NAME[name] for name in options.layouts]
    models = write_models(layouts, output / "models", options.tokenizer, options.tiny)
    for wave in waves(layouts, len(options.gpus)):
        free, running = list(options.gpus), list[Started]()
        for layout in wave:
            mine, free = free[: layout.gpus], free[layout.gpus :]
            running.append(start(layout, models[layout.name], output / layout.name, mine, options))
        while [one for one in running if one.poll()]:
            time.sleep(0.5)
        for one in running:
            (one.folder / "cpu.json").write_text(json.dumps(one.cpu))
            print(f"{one.layout.name}: exit code {one.process.returncode}", flush=True)
    print(table(output))


def waves(layouts: Sequence[Layout], gpus: int) -> Iterator[list[Layout]]:
    """The layouts in their order, each time as many as there are GPUs for."""
    wave, used = list[Layout](), 0
    for layout in layouts:
        if wave and used + layout.gpus > gpus:
            yield wave
            wave, used = [], 0
        wave.append(layout)
        used += layout.gpus
    if wave:
        yield wave


def write_models(layouts: Sequence[Layout], folder: Path, tokenizer: Path, is_tiny: bool) -> dict[str, Path]:
    """Name of a layout -> its model; layouts of the same model share it."""
    models = dict[str, Path]()
    for layout in layouts:
        shape = SHAPES["tiny" if is_tiny else layout.shape]
        model = folder / (layout.shape if layout.weights else f"{layout.shape}-dummy")
        if model not in models.values():
            write_model(model, shape, tokenizer)
            if layout.weights:
                write_checkpoint(model, shape, seed=0)
        models[layout.name] = model
    return models


def start(layout: Layout, model: Path, folder: Path, gpus: Sequence[str], options: argparse.Namespace) -> Started:
    """Start the layout's command on these GPUs."""
    folder.mkdir(parents=True, exist_ok=True)
    is_tiny = options.tiny
    sources = [write_input(layout, lengths, folder, is_tiny) for lengths in options.lengths]
    seeds = ",".join(map(str, options.seeds or layout.seeds))
    overrides = _on_a_cpu(layout) if is_tiny else layout.overrides
    command = [sys.executable, "-m", "rollout", "-m", *overrides, f"model.path={model}"]
    command += [f"model.load_format={'auto' if layout.weights else 'dummy'}", "data.sampling_key=own"]
    command += [f"data.path={','.join(map(str, sources))}", "sampling.n_samples=8"]
    command += ["sampling.extra.ignore_eos=true", "postprocess=none", "tracking=disabled"]
    command += ["tracking.interval_seconds=0.5", f"sampling.seed={seeds}", f"hydra.sweep.dir={folder}"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    with (folder / "output.txt").open("wb") as printed:
        process = subprocess.Popen(command, env=environment, stdout=printed, stderr=subprocess.STDOUT)
    return Started(layout, folder, process, [])


def write_input(layout: Layout, lengths: str, folder: Path, is_tiny: bool) -> Path:
    """The layout's prompts, with the length of the responses to each."""
    path = folder / f"{lengths}.parquet"
    count = (2 if is_tiny else layout.prompts_per_gpu) * layout.gpus
    tokens = 8 if is_tiny else layout.tokens
    found = [tokens] * count if lengths == "equal" else long_tailed(count, 2 * tokens, tail=2)
    write_questions(path, count, 60)
    own = pa.array([{"max_tokens": length} for length in found])
    pq.write_table(pq.read_table(path).append_column("own", own), path)
    return path


def _on_a_cpu(layout: Layout) -> tuple[str, ...]:
    replicas = layout.gpus if "hardware=multi_gpu" in layout.overrides else 1
    small = ("hardware.max_num_seqs=8", "hardware.env.VLLM_CPU_KVCACHE_SPACE='1'", "model.max_model_len=512")
    return ("hardware=cpu", f"hardware.replicas={replicas}", *small)


def table(output: Path) -> str:
    """All results in the folder, as Markdown."""
    rows = ["| layout | GPUs | tok/s: first job | the others | load | driver's core |", "|---|---|---|---|---|---|"]
    for layout in LAYOUTS:
        folder = output / layout.name
        runs = [run_record.read(path.parent) for path in sorted(folder.glob("*/run.json"))]
        rates = [f"{run.throughput.output_tok_s:,.0f}" for run in runs if run.throughput is not None]
        if rates:
            load = max(run.seconds.get("load", 0.0) for run in runs)
            core = [share for run in runs[1:] if (share := _core(folder / "cpu.json", run)) is not None]
            shown = f"{statistics.median(core):.2f}" if core else ""
            others = ", ".join(rates[1:])
            rows.append(f"| {layout.name} | {layout.gpus} | {rates[0]} | {others} | {load:.0f} s | {shown} |")
    return "\n".join([*rows, *_kills(output)])


def _kills(output: Path) -> Iterator[str]:
    """How many samples of a run that lost a replica equal those of the same run without the loss."""
    for layout in LAYOUTS:
        disturbed, alone = (output / layout.name / job / OUTPUT for job in ("1", "2"))
        if layout.kill and disturbed.exists() and alone.exists():
            mine, theirs = (pq.read_table(path)["responses"].combine_chunks().flatten() for path in (disturbed, alone))
            equal = pc.sum(pc.fill_null(pc.equal(mine, theirs), False)).as_py()
            seconds = [run_record.read(path.parent).seconds["generate"] for path in (disturbed, alone)]
            yield (
                f"{layout.name}: {equal:,} of {len(theirs):,} samples equal, "
                f"generated in {seconds[0]:.1f} s instead of {seconds[1]:.1f} s"
            )


def _core(cpu: Path, run: RunRecord) -> float | None:
    """The driver's CPU seconds per second in which the run generated, just before it ended."""
    if not cpu.exists() or run.ended is None:
        return None
    end = datetime.fromisoformat(run.ended).timestamp()
    begin = end - sum(run.seconds.get(stage, 0.0) for stage in STAGES if stage != "load")
    found = [(at, used) for at, used in json.loads(cpu.read_text()) if begin <= at <= end]
    return (found[-1][1] - found[0][1]) / (found[-1][0] - found[0][0]) if len(found) > 2 else None


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/scaling"), help="folder of the results")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of tokenizer.json and its companions")
    parser.add_argument("--gpus", type=lambda text: text.split(","), default=["0"], help="for example 0,1,2,3")
    parser.add_argument(
        "--layouts", type=lambda text: text.split(","), default=list(_BY_NAME), help="names, see LAYOUTS"
    )
    parser.add_argument(
        "--lengths",
        type=lambda text: text.split(","),
        default=["equal"],
        help="of the responses: equal, or card for a median of twice as many tokens and at most four times as many",
    )
    parser.add_argument("--seeds", type=lambda text: text.split(","), help="a job for each; by default the layout's")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU")
    options = parser.parse_args()
    if unknown := set(options.layouts) - set(_BY_NAME):
        parser.error(f"--layouts: there is no {', '.join(sorted(unknown))}; choose from {', '.join(_BY_NAME)}")
    if unknown := set(options.lengths) - {"equal", "card"}:
        parser.error(f"--lengths: there is no {', '.join(sorted(unknown))}; choose from equal, card")
    return options


if __name__ == "__main__":
    main()

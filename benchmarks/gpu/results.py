"""Ways that are measured in turns, and one JSON file for each measurement."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.contenders import Measured, Work
from benchmarks.gpu.busy import busy, by_process, cpu_seconds, gpu_shares, share_of
from benchmarks.gpu.limits import demand
from benchmarks.gpu.loading import Place
from benchmarks.gpu.shapes import SHAPES


@dataclass(frozen=True)
class Task:
    """The ways to measure on a workload, and the repeats of each."""

    workload: str
    ways: Sequence[str]
    repeats: int

    @classmethod
    def parse(cls, text: str) -> "Task":
        """A task from WORKLOAD:WAY,WAY:REPEATS."""
        workload, ways, repeats = text.split(":")
        return cls(workload, ways.split(","), int(repeats))


def parse(description: str | None) -> argparse.Namespace:
    """Parse the arguments that every measuring process takes; makes the output folder."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of tokenizer.json and its companions")
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--do", type=Task.parse, action="append", metavar="WORKLOAD:WAYS:REPEATS", default=[])
    parser.add_argument("--profile", action="store_true", help="one more repeat under cProfile")
    parser.add_argument("--weights", action="store_true", help="weights on the disk instead of vLLM's dummy ones")
    parser.add_argument("overrides", nargs="*", help="config overrides, for example hardware=throughput")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    return options


def about_work(place: Place, work: Work, task: Task) -> dict[str, Any]:
    """The fields of a measurement's file that describe the work."""
    return {
        "shape": place.shape,
        "overrides": list(place.overrides),
        "workload": task.workload,
        "prompts": len(work.lengths),
        "n_samples": work.run.sampling.n_samples,
        "longest": max(work.lengths),
    }


def demand_of(place: Place, work: Work, prompt_tokens: int, max_num_seqs: int) -> dict[str, Any]:
    """The fields of a file for `limits`; none unless the work is all in bfloat16 and its samples are equal."""
    if work.of_samples or work.run.model.quantization or work.run.hardware.kv_cache_dtype != "auto":
        return {}
    n_samples = work.run.sampling.n_samples
    return {"demand": demand(SHAPES[place.shape], work.lengths, n_samples, prompt_tokens, max_num_seqs)}


def take_turns(
    task: Task,
    ways: dict[str, Callable[[Path], Measured]],
    about: dict[str, Any],
    expected_tokens: int,
    output: Path,
    console: Console,
) -> None:
    """Measure each way of `task` once per repeat, in reverse order every second time. Each measurement gives a file and
    a line.

    A way gets a folder that does not exist yet. Raises RuntimeError if its outputs are not `expected_tokens`.
    """
    for repeat in range(task.repeats):
        for name in task.ways[:: -1 if repeat % 2 else 1]:
            stem = f"{task.workload}-{name}-{repeat}"
            before = cpu_seconds()
            with gpu_shares() as shares:
                result = ways[name](output / "runs" / stem)
            threads = busy(before, cpu_seconds(), result.seconds)
            if result.tokens != expected_tokens:
                raise RuntimeError(f"{stem}: {result.tokens} tokens came out, {expected_tokens} were asked for")
            found = {"way": name, "repeat": repeat, "tokens": result.tokens, "seconds": round(result.seconds, 3)}
            found |= {"tok_s": round(result.tok_s, 1), "busy": by_process(threads), "busy_threads": threads}
            found |= {"gpu_busy": share_of(shares), "preemptions": result.preemptions}
            write(output / f"{stem}.json", about | found)
            preempted = "" if result.preemptions is None else f", {result.preemptions} preemptions"
            speed = f"{result.tok_s:,.0f} tok/s in {result.seconds:.1f} s"
            console.print(f"{stem}: {speed}, cores busy {found['busy']}{preempted}")


def write(path: Path, content: dict[str, Any]) -> None:
    """Write one result."""
    path.write_text(json.dumps(content, indent=1))

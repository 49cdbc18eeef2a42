"""Several engines on one run, through Ray: `hardware.replicas_per_gpu` on one GPU, `hardware.replicas` on more.

    python -m benchmarks.gpu.replicas --output FOLDER --tokenizer FOLDER --shape 0.5b \
        --do replicas:engines_1,engines_2,engines_4,engines_8:1 hardware=throughput hardware.replicas_per_gpu=8

Loads as many engines as the overrides ask for, each with its part of the GPU's memory, and samples the same prompts on
some of them (the others stay idle): generation stage, durable shards and rollouts.parquet, as on the command line.

What the GPU could do, busy all the time, is estimated from one engine, which leaves it idle while Python works:

    tokens per second of one engine / share of its time in which a kernel was running (nvidia-smi, every 0.2 s)
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.contenders import Measured, Work
from benchmarks.gpu.loading import Place, gpu_memory_mib
from benchmarks.gpu.results import about_work, demand_of, parse, take_turns, write
from rollout.generation.session import Session
from rollout.process.signals import StopRequest
from rollout.replicas.driver import Driver
from rollout.replicas.ray_replicas import RayReplicas
from rollout.store.finalize import finalize
from rollout.store.journal import finished
from rollout.store.lock import locked
from rollout.store.run_record import begun
from rollout.terminal.console import screen
from rollout.tracking.tracker import Tracker

_PROMPT_TOKENS = 40  # tokens of one question from `write_questions` in the embedded model's template; for the limit


class Some:
    """The first `count` of some replicas, with the same methods."""

    def __init__(self, replicas: RayReplicas, count: int) -> None:
        self.count = self.num_connected = count
        self.start, self.ask, self.answers = replicas.start, replicas.ask, replicas.answers
        self.replace, self.stop, self.shutdown = replicas.replace, replicas.stop, replicas.shutdown


def main() -> None:
    """Load the engines and do everything that was asked for on some of them."""
    options = parse(__doc__)
    place = Place(options.shape, options.tokenizer, options.output, options.overrides, options.weights)
    with screen(options.output / "driver.log") as console:
        replicas, about = _load(place, options.output, console)
        about |= {"memory_mib": gpu_memory_mib()}
        write(options.output / "engine.json", {"shape": options.shape, "overrides": options.overrides} | about)
        console.print(f"engines ready: {about}")
        for task in options.do:
            for way in task.ways:
                count = int(way.removeprefix("engines_"))
                max_num_seqs = about["max_num_seqs"] * count
                work = place.work(task.workload, max_num_seqs)
                ways: dict[str, Callable[[Path], Measured]] = {
                    way: partial(_sample, work, Some(replicas, count), console)
                }
                needed = demand_of(place, work, _PROMPT_TOKENS, max_num_seqs)
                described = about_work(place, work, task) | needed | about | {"engines": count}
                take_turns(replace(task, ways=[way]), ways, described, work.tokens, options.output, console)
            if (line := of_a_busy_gpu(options.output, task.workload, task.ways)) is not None:
                console.print(line)
        replicas.shutdown()


def of_a_busy_gpu(folder: Path, workload: str, ways: Sequence[str]) -> str | None:
    """How close each number of engines comes to a GPU that is always busy; None if the GPU's share is not known."""
    found = {way: json.loads((folder / f"{workload}-{way}-0.json").read_text()) for way in ways}
    one = found.get("engines_1")
    if one is None or not one["gpu_busy"]:
        return None
    most = one["tok_s"] / one["gpu_busy"]
    shares = ", ".join(f"{way} {result['tok_s'] / most:.2f}" for way, result in found.items())
    begin = f"one engine keeps the GPU busy {one['gpu_busy']:.0%}; all the time would be {most:,.0f} tok/s"
    return f"{begin}, of it {shares}"


def _load(place: Place, output: Path, console: Console) -> tuple[RayReplicas, dict[str, Any]]:
    """All replicas, each of which has sampled something; that takes several runs, as each run begins with the first
    replica.
    """
    run, start = place.run(), time.monotonic()
    replicas, number = RayReplicas(run.hardware), 0
    while True:
        work = place.work(place.warm_up, run.hardware.max_num_seqs * replicas.count)
        folder = output / "runs" / f"warm_up-{number}"
        _sample(work, Some(replicas, replicas.count), console, folder)
        each = json.loads((folder / "about.json").read_text())
        if all(one["samples"] for one in each):
            return replicas, {
                "load_seconds": round(time.monotonic() - start, 1),
                "max_num_seqs": run.hardware.max_num_seqs,
                "engine_load_seconds": [one["load_seconds"] for one in each],
            }
        number += 1
        missing = [index for index, one in enumerate(each) if not one["samples"]]
        console.print(f"after {time.monotonic() - start:.0f} s without a sample: replicas {missing}")


def _sample(work: Work, replicas: Some, console: Console, scratch: Path) -> Measured:
    run, table = work.run, work.table
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.parent.mkdir(parents=True, exist_ok=True)
    record = begun(run, {})
    with locked(scratch):
        session = Session(record, table, scratch, console, Tracker(scratch, record), StopRequest())
        done = finished(scratch, session.counts)
        driver = Driver(session, replicas, done)
        driver.run()
        start = time.monotonic()
        totals = finalize(scratch, table, session.counts, {}, run.extra_columns)
        seconds = record.seconds["generate"] + time.monotonic() - start
    (scratch / "about.json").write_text(json.dumps([asdict(replica) for replica in driver.about()]))
    return Measured(totals.generated_tokens, seconds)


if __name__ == "__main__":
    main()

"""Everything that is measured on a GPU, in steps of one engine each, and a table of it all.

    python -m benchmarks.gpu --output FOLDER --tokenizer FOLDER [--gpus 0,1] [--deadline 560] [--steps 8b,tests-kill]

Models are built here: real shapes, random weights, the tokenizer from a folder that holds tokenizer.json,
tokenizer_config.json, chat_template.jinja and generation_config.json. Every GPU takes the next step of the plan that
should end before the deadline (in seconds from now); what is running then is ended. A step that has finished is never
done again: the same command repeated goes on with what is missing. Steps for two GPUs run first, alone.

The last thing printed is the table, also on its own with `python -m benchmarks.gpu.table FOLDER`. `--list` shows the
plan; `--tiny` runs all of it on a CPU in minutes, for trying the benchmark itself.
"""

import argparse
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.plan import PLAN, Step, tried_here
from benchmarks.gpu.table import markdown

_START = time.monotonic()


@dataclass(frozen=True)
class Driver:
    """Where results go, where the tokenizer is, and when everything must have ended (on the monotonic clock)."""

    output: Path
    tokenizer: Path
    deadline: float

    def is_done(self, step: Step) -> bool:
        """Whether the step has finished, in this or an earlier command."""
        return (self.output / step.name / "done.json").exists()

    def fits(self, step: Step) -> bool:
        """Whether the step should end before the deadline."""
        return time.monotonic() + step.seconds <= self.deadline

    def do(self, step: Step, gpus: Sequence[str]) -> None:
        """Run a step on these GPUs; note its success, or show the end of its log."""
        folder = self.output / step.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        say(f"gpu {','.join(gpus)}: {step.name} begins, about {step.seconds} s")
        begun = time.monotonic()
        code = self._run(step, folder, gpus)
        seconds = round(time.monotonic() - begun)
        shutil.rmtree(folder / "runs", ignore_errors=True)
        if code == 0:
            (folder / "done.json").write_text(json.dumps({"seconds": seconds}))
        else:
            end = (folder / "log.txt").read_text(errors="replace").splitlines()[-15:]
            print("\n".join(f"    {line[:300]}" for line in end))
        say(f"gpu {','.join(gpus)}: {step.name} {'done' if code == 0 else f'FAILED ({code})'} after {seconds} s")

    def _run(self, step: Step, folder: Path, gpus: Sequence[str]) -> int:
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(gpus), "PYTHONUNBUFFERED": "1"}
        if "--tiny" in step.arguments:
            environment["TRITON_INTERPRET"] = "1"
        with (folder / "log.txt").open("w") as log:
            process = subprocess.Popen(
                self._command(step, folder),
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its own process group, to be ended as a whole
            )
            try:
                return process.wait(max(1.0, self.deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return process.wait()

    def _command(self, step: Step, folder: Path) -> list[str]:
        command = [sys.executable, "-m", step.module]
        if step.module == "benchmarks.gpu.limits":
            command += ["--output", str(folder / "limits.json")]
        elif "--shape" in step.arguments:
            command += ["--output", str(folder), "--tokenizer", str(self.tokenizer)]
        return [*command, *step.arguments]


def main() -> None:
    """Do the steps, one per GPU at a time, and print the table."""
    options = _parse()
    plan = [step for step in PLAN if not options.steps or step.name in options.steps]
    if options.list:
        print("\n".join(f"{step.seconds:>4} s  {step.name:<20} {' '.join(step.arguments)}" for step in plan))
        return
    gpus = options.gpus.split(",")
    driver = Driver(options.output, options.tokenizer, _START + options.deadline)
    plan = [tried_here(step) if options.tiny else step for step in plan if not driver.is_done(step)]
    for step in plan:
        if 1 < step.gpus <= len(gpus) and driver.fits(step):
            driver.do(step, gpus[: step.gpus])
    share(driver, [step for step in plan if step.gpus == 1], gpus)
    if left := [step.name for step in plan if not driver.is_done(step)]:
        say(f"without a result: {', '.join(left)}")
    print(markdown(options.output))


def share(driver: Driver, steps: Sequence[Step], gpus: Sequence[str]) -> None:
    """Each GPU takes the next step that fits, until none is left."""
    todo: queue.SimpleQueue[Step] = queue.SimpleQueue()
    for step in steps:
        todo.put(step)

    def work(gpu: str) -> None:
        while not todo.empty():
            try:
                step = todo.get_nowait()
            except queue.Empty:  # another GPU was quicker
                return
            if driver.fits(step):
                driver.do(step, [gpu])

    workers = [threading.Thread(target=work, args=(gpu,)) for gpu in gpus]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def say(line: str) -> None:
    """Print a line of progress with the seconds since the start."""
    print(f"{time.monotonic() - _START:5.0f} s  {line}", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu"), help="folder of the results")
    parser.add_argument("--tokenizer", type=Path, help="folder of tokenizer.json and its companions")
    parser.add_argument("--gpus", default="0", help="which to use, for example 0,1")
    parser.add_argument("--deadline", type=float, default=560, help="seconds until everything has ended")
    parser.add_argument("--steps", type=lambda text: text.split(","), help="only these, for example 8b,tests-kill")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape on the CPU")
    parser.add_argument("--list", action="store_true", help="show the plan")
    options = parser.parse_args()
    if unknown := set(options.steps or ()) - {step.name for step in PLAN}:
        parser.error(f"--steps: there is no {', '.join(sorted(unknown))}; see --list")
    if not options.list and options.tokenizer is None:
        parser.error("--tokenizer is missing")
    return options


if __name__ == "__main__":
    main()

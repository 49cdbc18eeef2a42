"""Several engines on one run, through Ray: `hardware.replicas_per_gpu` on one GPU, `hardware.replicas` on more.

    python -m benchmarks.gpu.replicas --output FOLDER --tokenizer FOLDER --shape 0.5b \
        --do replicas:ours:1 hardware=throughput hardware.replicas_per_gpu=4

Whole runs as the command line does them, one after another on the same engines, the first a small one to warm up. Timed
are the generation stage and writing rollouts.parquet.
"""

from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.contenders import Measured, Work
from benchmarks.gpu.loading import Place, gpu_memory_mib
from benchmarks.gpu.results import about_work, parse, take_turns, write
from rollout.engine import release
from rollout.lock import locked
from rollout.run import execute, preflight

_PROMPT_TOKENS = 40  # of one question from `write_questions` in the embedded model's template; for the limit


def main() -> None:
    """Load the engines and do everything that was asked for on them."""
    options = parse(__doc__)
    place, console = Place(options.shape, options.tokenizer, options.output, options.overrides), Console()
    run = place.run()
    engines = run.hardware.replicas_per_gpu * (run.hardware.replicas or 1)
    max_num_seqs = run.hardware.max_num_seqs * engines
    loading = _execute(place.work(place.warm_up, max_num_seqs), options.output / "warm_up")
    about = {"load_seconds": loading["seconds"]["load"], "max_num_seqs": max_num_seqs, "memory_mib": gpu_memory_mib()}
    write(options.output / "engine.json", {"shape": options.shape, "overrides": options.overrides} | about)
    console.print(f"engines ready: {about} {loading['engine']}")
    for task in options.do:
        work = place.work(task.workload, max_num_seqs)

        def once(scratch: Path, work: Work = work) -> Measured:
            record = _execute(work, scratch)
            console.print(str(record["engine"]))
            return Measured(
                record["totals"]["generated_tokens"], record["seconds"]["generate"] + record["seconds"]["finalize"]
            )

        described = about_work(place, work, task, _PROMPT_TOKENS, max_num_seqs) | about | {"engines": engines}
        take_turns(task, dict.fromkeys(task.ways, once), described, work.tokens, options.output, console)
    release()


def _execute(work: Work, folder: Path) -> dict[str, Any]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        return execute(work.run, preflight(work.run), folder)


if __name__ == "__main__":
    main()

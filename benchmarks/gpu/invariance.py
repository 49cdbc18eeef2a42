"""How many samples of a run come out the same when some of its rows are generated again, and what exactness costs.

    python -m benchmarks.gpu.invariance --output FOLDER --tokenizer FOLDER --shape 0.5b --do exact:run:1 [OVERRIDE ...]

Once without and once with `hardware.batch_invariant=true`: a whole run, then a few of its rows again on the same engine
and in smaller batches, as `rollout.verify` does it. The prefix cache is emptied before each, so that prompts are
computed again too. The weights are random, and saved: see `write_checkpoint`. The override `sampling.top_p=1` belongs
to it: below 1, vLLM cuts off the tail in another way when fewer than 8 samples run at a time.
"""

from statistics import median
from typing import Any

from benchmarks.contenders import one_call, ours
from benchmarks.gpu.loading import Place, load
from benchmarks.gpu.results import parse, write
from rollout.data.tables import open_table
from rollout.engine.cache import release
from rollout.process.signals import StopRequest
from rollout.store.layout import LOG, OUTPUT
from rollout.terminal.console import screen
from rollout.verify.regenerate import regenerate

_ROWS = (1, 4, 16)
"""Numbers of rows that are generated again at a time."""


def main() -> None:
    """Measure both, and write a file for each."""
    options = parse(__doc__)
    (task,) = options.do
    for invariant in (False, True):
        name = "invariant" if invariant else "default"
        folder = options.output / name
        folder.mkdir()
        overrides = [*options.overrides, f"hardware.batch_invariant={str(invariant).lower()}"]
        place = Place(options.shape, options.tokenizer, folder, overrides, weights=True)
        found = {"shape": options.shape, "batch_invariant": invariant} | _measure(place, task.workload)
        write(options.output / f"{name}.json", found)
        print(found)


def _measure(place: Place, workload: str) -> dict[str, Any]:
    """Load, run, and generate rows again; ends the engine."""
    with screen(place.folder / LOG) as console:
        engine, about = load(place.run())
        work = place.work(workload, engine.max_num_seqs)
        one_call(place.work(place.warm_up, engine.max_num_seqs), engine, place.folder)
        speed = ours(work, engine, place.folder / "run")
        recorded, again = open_table(place.folder / "run" / OUTPUT, OUTPUT), []
        for rows in _ROWS:
            engine.llm.reset_prefix_cache()
            found = regenerate(work.run, work.table, recorded, rows, place.folder, console, StopRequest())
            parted = [difference.offset for difference in found.differences]  # at most ten
            again.append(
                {
                    "samples": found.samples,
                    "matches": found.matches,
                    "median_offset": median(parted) if parted else None,
                }
            )
        release()
    return {"load_seconds": about["load_seconds"], "tok_s": speed.tok_s, "again": again}


if __name__ == "__main__":
    main()

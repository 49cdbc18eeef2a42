"""How many samples of a run come out the same when some of its rows are generated again, and what exactness costs.

    python -m benchmarks.gpu.invariance --output FOLDER --tokenizer FOLDER --shape 0.5b --do waves:run:1 [OVERRIDE ...]

Once without and once with `hardware.batch_invariant=true`: a whole run, then `rollout.verify` of a part of its rows on
the same engine, so that every sample meets another batch. The weights are random, and saved: see `write_weights`.
"""

from benchmarks.contenders import one_call
from benchmarks.gpu.loading import Place, load
from benchmarks.gpu.results import parse, write
from rollout import saved
from rollout.engine import release
from rollout.run import execute, preflight
from rollout.screen import screen
from rollout.verify.__main__ import verify


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


def _measure(place: Place, workload: str) -> dict[str, float]:
    """Load, run, verify an eighth of the rows; ends the engine."""
    with screen(place.folder / "engine.log"):
        engine, about = load(place.run())
        work = place.work(workload, engine.max_num_seqs)
        one_call(place.work(place.warm_up, engine.max_num_seqs), engine, place.folder)
    run_dir = place.folder / "run"
    run_dir.mkdir()
    saved.save(work.run, run_dir)
    record = execute(work.run, preflight(work.run), run_dir)
    found = verify(run_dir, [f"rows={max(1, len(work.lengths) // 8)}"])
    release()
    return {
        "load_seconds": about["load_seconds"],
        "tok_s": record["throughput"]["output_tok_s"],
        "verified": found.samples,
        "matches": found.matches,
    }


if __name__ == "__main__":
    main()

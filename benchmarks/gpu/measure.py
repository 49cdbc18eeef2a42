"""One engine, many measurements: ways that take turns on the same prompts, in one process.

    python -m benchmarks.gpu.measure --output FOLDER --tokenizer FOLDER --shape 8b \
        --do equal:ours,one_call:3 --do tail:ours,one_call,chunked:2 [--profile] [OVERRIDE ...]

Loads the engine, warms it up over all batch sizes, then does every `--do` in turn: each of its ways once per repeat, in
reverse order every second time. With `--profile` the first workload runs once more, on the generation stage and under
cProfile (which slows it down), and profile.txt says where the front end's main thread spends its time.
"""

import cProfile
import io
import logging
import pstats
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.contenders import WAYS, Measured, Work, one_call, ours
from benchmarks.gpu.loading import Place, load
from benchmarks.gpu.results import about_work, demand_of, parse, take_turns, write
from rollout.data.prompts import read_prompts
from rollout.engine.cache import release
from rollout.engine.vllm_engine import VLLMEngine
from rollout.terminal.console import screen


def main() -> None:
    """Load one engine and do everything that was asked for on it."""
    options = parse(__doc__)
    place = Place(options.shape, options.tokenizer, options.output, options.overrides)
    with screen(options.output / "engine.log") as console:
        logging.getLogger("rollout").setLevel(logging.WARNING)  # show only the measurements
        engine, about = load(place.run())
        write(options.output / "engine.json", {"shape": options.shape, "overrides": options.overrides} | about)
        console.print(f"engine ready: {about}")
        one_call(place.work(place.warm_up, engine.max_num_seqs), engine, options.output)
        for task in options.do:
            work = place.work(task.workload, engine.max_num_seqs)
            ways: dict[str, Callable[[Path], Measured]] = {
                name: partial(WAYS[name], work, engine) for name in task.ways
            }
            needed = demand_of(place, work, _prompt_tokens(work, engine), engine.max_num_seqs)
            described = about_work(place, work, task) | needed | about
            take_turns(task, ways, described, work.tokens, options.output, console)
        if options.profile:
            first = place.work(options.do[0].workload, engine.max_num_seqs)
            (options.output / "profile.txt").write_text(profile(first, engine, options.output / "runs/profile"))
        release()


def _prompt_tokens(work: Work, engine: VLLMEngine) -> int:
    """Number of tokens in the first prompt; the others have as many, except for a digit."""
    return len(engine.render(next(iter(read_prompts(work.table, work.run.data))).messages).token_ids)


def profile(work: Work, engine: VLLMEngine, scratch: Path) -> str:
    """The functions in which the main thread of the generation stage spends its time, sorted by their own time."""
    profiler = cProfile.Profile()
    profiler.runcall(ours, work, engine, scratch)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(30)
    return text.getvalue()


if __name__ == "__main__":
    main()

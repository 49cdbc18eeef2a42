"""What durability, seeds, progress and metrics cost: the generation stage against one `LLM.chat` call.

    python -m benchmarks.overhead [--repeats 5] [--prompts 16] [--n-samples 4] [--max-tokens 64] [OVERRIDE ...]

Both run on the same engine in the same process, in alternation, over the same prompts, with every response exactly
`max_tokens` long (`ignore_eos`) and the prefix cache emptied before each. Tokens are counted from the outputs, loading
is not counted. Prints tokens/s of both and their ratio, repeat by repeat, and the median ratio.
"""

import logging
import statistics
import tempfile
from pathlib import Path

from benchmarks.contenders import asked_work, one_call, options_of, ours
from rollout.engine.cache import EngineSpec, acquire, release
from rollout.engine.vllm_engine import VLLMEngine
from rollout.terminal.console import screen


def main() -> None:
    """Load one engine, measure in alternation, print the table."""
    options = options_of(__doc__)
    with tempfile.TemporaryDirectory() as folder, screen(Path(folder) / "engine.log") as console:
        logging.getLogger("rollout").setLevel(logging.WARNING)  # only the table
        work = asked_work(options, Path(folder))
        engine = acquire(EngineSpec.of(work.run)).engine
        assert isinstance(engine, VLLMEngine)
        one_call(work, engine, Path(folder))  # the first use of an engine pays for warming up
        ratios = []
        console.print(f"{'repeat':>6} {'LLM.chat tok/s':>15} {'rollout tok/s':>14} {'ratio':>6}")
        for repeat in range(options.repeats):
            theirs = one_call(work, engine, Path(folder)).tok_s
            mine = ours(work, engine, Path(folder) / f"run-{repeat}").tok_s
            ratios.append(mine / theirs)
            console.print(f"{repeat + 1:>6} {theirs:>15,.1f} {mine:>14,.1f} {ratios[-1]:>6.3f}")
        console.print(f"median ratio {statistics.median(ratios):.3f}")
        release()


if __name__ == "__main__":
    main()

"""What durability, seeds, progress and metrics cost: the generation stage against one `LLM.chat` call.

    python -m benchmarks.overhead [--repeats 5] [--prompts 16] [--n-samples 4] [--max-tokens 64] [OVERRIDE ...]

Both run on the same engine in the same process, in alternation, over the same prompts, with every response exactly
`max_tokens` long (`ignore_eos`) and the prefix cache emptied before each. Tokens are counted from the outputs, loading
is not counted. Prints tokens/s of both and their ratio, repeat by repeat, and the median ratio.
"""

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from vllm import SamplingParams

from rollout.compose import compose_run
from rollout.config import RunConfig
from rollout.engine import EngineSpec, acquire, release
from rollout.interrupt import StopRequest
from rollout.progress import Progress
from rollout.prompts import open_input, read_prompts
from rollout.screen import screen
from rollout.session import Session, sample_all
from rollout.tables import Table
from rollout.tracking import Tracker
from rollout.vllm_engine import VLLMEngine


def main() -> None:
    """Parse the command line, load one engine, measure in alternation, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--n-samples", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("overrides", nargs="*", help="config overrides, for example model.path=... hardware=single_gpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, screen(Path(folder) / "engine.log") as console:
        logging.getLogger("rollout").setLevel(logging.WARNING)  # only the table
        source = Path(folder) / "input.parquet"
        questions = [f"Tell a story about the number {number}." for number in range(options.prompts)]
        pq.write_table(pa.table({"prompt": questions}), source)
        run = compose_run(
            f"data.path={source}",
            f"sampling.n_samples={options.n_samples}",
            f"sampling.max_tokens={options.max_tokens}",
            "sampling.extra={ignore_eos: true}",
            "tracking=disabled",
            *options.overrides,
        )
        table = open_input(run.data)
        engine = acquire(EngineSpec.of(run)).engine
        assert isinstance(engine, VLLMEngine)
        engine.use(run.sampling)
        one_call(run, table, engine)  # the first use of an engine pays for warming up
        ratios = []
        console.print(f"{'repeat':>6} {'LLM.chat tok/s':>15} {'rollout tok/s':>14} {'ratio':>6}")
        for repeat in range(options.repeats):
            theirs = one_call(run, table, engine)
            ours = our_stage(run, table, engine, Path(folder) / f"run-{repeat}")
            ratios.append(ours / theirs)
            console.print(f"{repeat + 1:>6} {theirs:>15,.1f} {ours:>14,.1f} {ratios[-1]:>6.3f}")
        console.print(f"median ratio {statistics.median(ratios):.3f}")
        release()


def one_call(run: RunConfig, table: Table, engine: VLLMEngine) -> float:
    """Tokens per second of one `LLM.chat` call over all prompts."""
    chats = [prompt.messages for prompt in read_prompts(table, run.data)]
    sampling = run.sampling
    params = SamplingParams(
        n=sampling.n_samples,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        ignore_eos=True,
    )
    engine.llm.reset_prefix_cache()
    start = time.monotonic()
    outputs = engine.llm.chat(chats, params, use_tqdm=False)
    seconds = time.monotonic() - start
    return sum(len(sample.token_ids) for output in outputs for sample in output.outputs) / seconds


def our_stage(run: RunConfig, table: Table, engine: VLLMEngine, run_dir: Path) -> float:
    """Tokens per second of the generation stage, from the first row read to the last sample durable."""
    run_dir.mkdir()
    engine.llm.reset_prefix_cache()
    with (run_dir / "screen.txt").open("w") as sink:
        start = time.monotonic()
        tracker = Tracker(run_dir, run.tracking, {})
        progress = Progress(table.num_rows * run.sampling.n_samples, 0)
        sample_all(Session(run, table, run_dir, Console(file=sink), tracker, StopRequest()), engine, progress)
        seconds = time.monotonic() - start
    shards = pq.read_table(run_dir / "samples", columns=["num_generated_tokens"])
    return float(sum(shards.column(0).to_pylist())) / seconds


if __name__ == "__main__":
    main()

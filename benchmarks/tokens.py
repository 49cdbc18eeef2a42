"""What keeping token ids and log-probabilities costs: the same work with and without, in alternation.

    python -m benchmarks.tokens [--repeats 5] [--prompts 16] [--n-samples 4] [--max-tokens 64] [OVERRIDE ...]

Two engines in one process, because `processed` is an engine's own mode: one is measured with nothing kept, with ids,
and with `raw` log-probabilities, the other with `processed` ones. Every response is exactly `max_tokens` long, the
prefix cache is emptied before each, loading is not counted. Prints tokens/s of each way with its ratio to `none`,
measured right before and right after it, repeat by repeat, and the median ratios.
"""

import argparse
import logging
import statistics
import tempfile
from pathlib import Path

from benchmarks.contenders import Work, ours, work_of, write_questions
from rollout.cli.compose import compose_run
from rollout.engine.cache import EngineSpec, environment
from rollout.engine.vllm_engine import VLLMEngine
from rollout.terminal.console import screen

_WAYS = {
    "none": (),
    "ids": ("store.token_ids=true",),
    "raw": ("sampling.logprobs=raw",),
    "processed": ("sampling.logprobs=processed",),
}
"""What is kept -> overrides."""


def main() -> None:
    """Load the engines, measure in alternation, print the table."""
    options = _parse()
    with tempfile.TemporaryDirectory() as folder, screen(Path(folder) / "engine.log") as console:
        logging.getLogger("rollout").setLevel(logging.WARNING)  # only the table
        works = {name: _work(options, Path(folder), *overrides) for name, overrides in _WAYS.items()}
        with environment(works["none"].run.hardware):
            engines = {mode: _engine(works[mode]) for mode in ("raw", "processed")}
            ours(works["none"], engines["raw"], Path(folder) / "warm")  # the first use of an engine pays for warming up
            ours(works["processed"], engines["processed"], Path(folder) / "warm too")
            ratios: dict[str, list[float]] = {name: [] for name in _WAYS if name != "none"}
            console.print("".join(f"{column:>18}" for column in ("repeat", *_WAYS)))
            before = ours(works["none"], engines["raw"], Path(folder) / "first").tok_s
            for repeat in range(options.repeats):
                shown = [f"{repeat + 1:>18}", f"{before:>18,.1f}"]
                for name in ratios:
                    engine, scratch = engines["processed" if name == "processed" else "raw"], f"{name}-{repeat}"
                    tok_s = ours(works[name], engine, Path(folder) / scratch).tok_s
                    after = ours(works["none"], engines["raw"], Path(folder) / f"none after {scratch}").tok_s
                    ratios[name].append(tok_s / ((before + after) / 2))
                    shown.append(f"{tok_s:>10,.1f} ({ratios[name][-1]:.3f})")
                    before = after
                console.print("".join(shown))
            medians = {name: f"{statistics.median(found):.3f}" for name, found in ratios.items()}
            console.print(f"median ratios to none: {medians}")


def _engine(work: Work) -> VLLMEngine:
    spec = EngineSpec.of(work.run)
    return VLLMEngine(spec.model, spec.hardware, spec.logprobs)


def _work(options: argparse.Namespace, folder: Path, *overrides: str) -> Work:
    source = folder / "input.parquet"
    write_questions(source, options.prompts)
    run = compose_run(
        f"data.path={source}",
        f"sampling.n_samples={options.n_samples}",
        f"sampling.max_tokens={options.max_tokens}",
        "sampling.extra={ignore_eos: true}",
        "tracking=disabled",
        *options.overrides,
        *overrides,
    )
    return work_of(run, [options.max_tokens] * options.prompts)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--n-samples", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("overrides", nargs="*", help="config overrides, for example model.path=... hardware=single_gpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()

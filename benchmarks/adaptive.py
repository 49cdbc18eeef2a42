"""Rows that a rule stops (`adaptive`): as many samples as expected, the same whatever happens, and nothing waits.

    python -m benchmarks.adaptive expected [--rows 20000]   # samples per row against their exact expectation
    python -m benchmarks.adaptive killed [--times 30]       # killed at random moments and resumed: the same bytes?
    python -m benchmarks.adaptive replicas                  # four engines that take their time: the same bytes?
    python -m benchmarks.adaptive barrier [--rows 64] [--rounds 3] [--fast] [OVERRIDE ...]   # what scoring costs

All but the last on the engine of the tests, with a scorer whose pass rates are known: even over the rows, or U-shaped.
`barrier` is on real vLLM, on the CPU if the overrides do not say otherwise (their paths absolute), with a scorer that
takes 0.2 s, or with `--fast` nothing.
"""

import argparse
import filecmp
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from math import comb
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rollout.config import AdaptiveConfig
from rollout.data.stopping import is_met, round_ends

BUDGET = 16
RULES = {
    "passes-in-ones": ("adaptive=first_pass", "adaptive.rounds=[1]"),
    "passes": ("adaptive=first_pass",),
    "mixed-in-ones": ("adaptive=mixed", "adaptive.rounds=[1]"),
    "mixed": ("adaptive=mixed",),
}
SHAPES = {"even": (1.0, 1.0), "u-shaped": (0.4, 0.4)}
"""Of the rows' pass rates: Beta distributions."""

SAME = ("rollouts.parquet", "scores.parquet", "flat.parquet")


def by_rate(response: str, ground_truth: float, _row: dict[str, Any]) -> bool:
    """Passes as often as the row says: a response of the echo engine names its prompt and seed."""
    return zlib.crc32(response.encode()) / 2**32 < ground_truth


def slowly(response: str, ground_truth: float, row: dict[str, Any]) -> bool:
    """The same, after 0.2 s."""
    time.sleep(0.2)
    return by_rate(response, ground_truth, row)


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("expected", "killed", "replicas", "barrier"))
    parser.add_argument("overrides", nargs="*", help="of the runs of `barrier`")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fast", action="store_true")
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        match options.what:
            case "expected":
                expected(options.rows or 20_000)
            case "killed":
                killed(options.times)
            case "replicas":
                replicas()
            case "barrier":
                barrier(options.rows or 64, options.rounds, by_rate if options.fast else slowly, options.overrides)


def expected(rows: int) -> None:
    """Print samples per row beside what is expected of them."""
    for shape, (alpha, beta) in SHAPES.items():
        rates = np.random.default_rng(0).beta(alpha, beta, rows)
        write(rates)
        for name, rule in RULES.items():
            about = done(f"{shape}-{name}", *ECHO, *rule, "hardware.max_num_seqs=256")["adaptive"]
            config = AdaptiveConfig(until=name.split("-")[0], rounds=[1] if "ones" in name else [2, 2, 4, 8])
            mean = float(np.mean([samples_expected(config, rate) for rate in rates]))
            found = about["samples"] / rows
            print(f"{shape:<9} {name:<22} {found:6.3f} samples per row, expected {mean:6.3f}: {found / mean - 1:+.2%}")


def samples_expected(rule: AdaptiveConfig, rate: float) -> float:
    """Of a row with this pass rate: exactly, by all numbers of passes at all ends of rounds."""
    total, chances, before = 0.0, {0: 1.0}, 0
    for end in round_ends(tuple(rule.rounds), BUDGET):
        total += (end - before) * sum(chances.values())
        after = dict[int, float]()
        for passed, chance in chances.items():
            for more in range(end - before + 1):
                ways = comb(end - before, more) * rate**more * (1 - rate) ** (end - before - more)
                after[passed + more] = after.get(passed + more, 0.0) + chance * ways
        chances = {passed: chance for passed, chance in after.items() if not is_met(rule, end, passed)}
        before = end
    return total


def killed(times: int) -> None:
    """Print how often a run that was killed and resumed has written the same bytes."""
    slow = ("engine.echo.step_seconds=0.01", "store.flush_seconds=0.2", "hardware.max_num_seqs=16")
    write(np.random.default_rng(0).random(500))
    began = time.monotonic()
    done("undisturbed", *ECHO, *RULES["passes"], *slow)
    seconds, same, kills = time.monotonic() - began, 0, 0
    for seed in range(times):
        rng, name = random.Random(seed), f"killed-{seed}"
        for _ in range(1 + seed % 3):
            process = start(name, *ECHO, *RULES["passes"], *slow)
            try:
                process.wait(rng.uniform(0.2, 1.0) * seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
            process.communicate()
        done(name, *ECHO, *RULES["passes"], *slow)
        same += is_same("undisturbed", name)
    print(f"{same} of {times} runs, killed {kills} times, have the bytes of one that was not disturbed")


def replicas() -> None:
    """Print whether four engines write the bytes of one."""
    write(np.random.default_rng(0).random(2000))
    slow = ("engine.echo.step_seconds=0.02", "engine.echo.max_steps=25", "hardware.max_num_seqs=16")
    for name, rule in RULES.items():
        done(f"one-{name}", *ECHO, *rule, "hardware.max_num_seqs=64")
        about = done(f"four-{name}", *ECHO, *rule, *slow, "hardware.replicas=4")
        shares = [replica["samples"] for replica in about["engine"]["replicas"]]
        print(f"{name:<22} the same bytes: {is_same(f'one-{name}', f'four-{name}')} ({shares} samples)")


def barrier(rows: int, rounds: int, scorer: Callable[..., bool], overrides: Sequence[str]) -> None:
    """Print tokens per second with a scorer, and of as many samples without one."""
    write(np.zeros(rows))
    vllm = (*COMMON, "hardware=cpu", "sampling.n_samples=4", "sampling.max_tokens=64", "hardware.max_num_seqs=32")
    scored = (*TRUTH, "adaptive=first_pass", f"postprocess.score.scorer=benchmarks.adaptive:{scorer.__name__}")
    shares = list[float]()
    for number in range(rounds):
        plain = done(f"plain-{number}", *vllm, *overrides)["throughput"]
        ours = done(f"scored-{number}", *vllm, *scored, "postprocess.score.workers=4", *overrides)["throughput"]
        assert plain["samples"] == ours["samples"]
        shares.append(ours["output_tok_s"] / plain["output_tok_s"])
        figures = [f"{about['output_tok_s']:.0f} ({about['generated_tokens']} tokens)" for about in (plain, ours)]
        print(f"tok/s {figures[0]} without scores, {figures[1]} with: {shares[-1]:.3f}", flush=True)
    print(f"geometric mean of {rounds}: {geometric_mean(shares):.3f}")


COMMON = ("tracking=disabled", "data.path=input.parquet", "postprocess.steps=[flatten]", "sampling.n_samples=16")
TRUTH = ("postprocess.score.ground_truth=rate",)
ECHO = (
    *COMMON,
    *TRUTH,
    "engine.kind=echo",
    "hardware=cpu",
    "engine.echo.max_steps=10",
    "postprocess.score.scorer=benchmarks.adaptive:by_rate",
)


def write(rates: Any) -> None:
    """An input with a row for each rate."""
    questions = [f"Write a few words about the number {number}." for number in range(len(rates))]
    pq.write_table(pa.table({"prompt": questions, "rate": rates}), "input.parquet")


def done(name: str, *words: str) -> dict[str, Any]:
    """Do a run, or what is left of it, to its end; what run.json says."""
    process = start(name, *words)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    about: dict[str, Any] = json.loads(Path(name, "run.json").read_text())
    return about


def start(name: str, *words: str) -> "subprocess.Popen[str]":
    """Begin a run, or continue it if it has begun."""
    has_begun = Path(name, "run.json").exists()
    command = ["resume", name, "trust=true"] if has_begun else [*words, f"hydra.run.dir={name}"]
    here = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        [sys.executable, "-m", "rollout", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | here,
    )


def is_same(one: str, other: str) -> bool:
    """Whether two runs have written the same bytes."""
    return all(filecmp.cmp(Path(one, name), Path(other, name), shallow=False) for name in SAME)


if __name__ == "__main__":
    main()

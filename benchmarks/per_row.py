"""Rows that are sampled each in its own way, in one run and each in a run of its own: is it the same?

    python -m benchmarks.per_row --model FOLDER [--rows 200] [OVERRIDE ...]

Writes a .jsonl file of prompts with a column of sampling parameters drawn at random, n_samples among them, samples all
of it in one run, then row by row in runs that say the same by keys of `sampling`, on the same engine. Prints how many
rows are equal, sample by sample, and names those that are not. The model may be tests/tiny_model.py's.
"""

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rollout.cli.compose import compose_run
from rollout.config import (
    PostprocessConfig,
    RepetitionDetectionConfig,
    RunConfig,
    SamplingConfig,
    StructuredOutputsConfig,
)
from rollout.lifecycle import start

_SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "integer", "maximum": 99}}, "required": ["a"]},
    {"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 1, "maxItems": 3},
    {"type": "boolean"},
]
_DRAWN: dict[str, Callable[[random.Random], Any]] = {
    "n_samples": lambda draw: draw.randint(1, 5),
    "max_tokens": lambda draw: draw.randint(1, 24),
    "temperature": lambda draw: draw.choice([0.3, 0.7, 1.0, 1.5, 2.0]),
    "top_p": lambda draw: draw.choice([0.3, 0.8, 0.95, 1.0]),
    "top_k": lambda draw: draw.choice([-1, 1, 5, 40]),
    "min_p": lambda draw: draw.choice([0.05, 0.3]),
    "repetition_penalty": lambda draw: draw.choice([0.8, 1.2]),
    "presence_penalty": lambda draw: draw.choice([-1.0, 1.0]),
    "frequency_penalty": lambda draw: draw.choice([-0.5, 0.5]),
    "stop": lambda draw: draw.sample(["e", "th", " ", "o"], 2),
    "stop_token_ids": lambda draw: draw.sample(range(2, 500), 40),
    "min_tokens": lambda draw: draw.randint(1, 8),
    "ignore_eos": lambda draw: draw.choice([True, False]),
    "bad_words": lambda draw: draw.sample(["fox", "dog", "q"], 1),
    "logit_bias": lambda draw: {str(token): 5.0 for token in draw.sample(range(2, 500), 3)},
    "structured_outputs": lambda draw: draw.choice(
        [{"regex": "[a-c]{2,5}"}, {"choice": ["yes", "no"]}, *({"json": schema} for schema in _SCHEMAS)]
    ),
    "repetition_detection": lambda draw: {"max_pattern_size": draw.randint(1, 4), "min_count": 2},
}
"""What a row may say: parameter -> a value, drawn."""


def parameters(rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """What each row says: two to six parameters; some are greedy, and some are to end when they repeat themselves."""
    draw, found = random.Random(seed), list[dict[str, Any]]()
    for row in range(rows):
        own = {name: _DRAWN[name](draw) for name in draw.sample(sorted(_DRAWN), draw.randint(2, 6))}
        if row % 10 == 3:
            own |= {"temperature": 0, "n_samples": 1}
        if row % 10 == 7:  # short patterns come often where there are few tokens
            own |= {
                "temperature": 0.3,
                "max_tokens": 24,
                "repetition_detection": {"max_pattern_size": 8, "min_count": 2},
            }
        if own.get("min_tokens", 0) > own.get("max_tokens", 24):
            own["min_tokens"] = own["max_tokens"]
        found.append(own)
    return found


def unequal(run: RunConfig, own: list[dict[str, Any]], folder: Path) -> tuple[list[int], Counter[str]]:
    """The rows that differ between one run of all and a run of each, and how the samples of the former ended."""
    path = folder / "input.jsonl"
    lines = ({"prompt": f"question {row}", "own": values} for row, values in enumerate(own))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    # a response that must not end and yet has to fit a schema that ends is an error, in both
    data = replace(run.data, path=str(path), max_error_fraction=1.0)
    run = replace(run, postprocess=PostprocessConfig(steps=[]), data=data)
    together = _rows(replace(run, data=replace(run.data, sampling_key="own")), folder / "together")
    ended = Counter(reason for row in together for reason in row["finish_reasons"])
    pairs = zip(together, _alone(run, own, folder), strict=True)
    return [number for number, (row, alone) in enumerate(pairs) if row != alone], ended


def _alone(run: RunConfig, own: list[dict[str, Any]], folder: Path) -> Iterator[dict[str, Any]]:
    """Each row as a run writes it in which it is the only one: a shard, where it keeps the number its seeds are of."""
    for row, values in enumerate(own):
        data = replace(run.data, num_shards=len(own), shard_index=row)
        (alone,) = _rows(replace(run, data=data, sampling=_sampling(run.sampling, values)), folder / f"alone-{row}")
        yield alone


def _sampling(of_run: SamplingConfig, values: dict[str, Any]) -> SamplingConfig:
    """`values` by the keys that a run has for them."""
    typed = {name: value for name, value in values.items() if hasattr(of_run, name)}
    structures = {"structured_outputs": StructuredOutputsConfig, "repetition_detection": RepetitionDetectionConfig}
    built = {name: kind(**typed[name]) for name, kind in structures.items() if name in typed}
    return replace(of_run, **typed | built, extra={name: values[name] for name in values.keys() - typed.keys()})


def _rows(run: RunConfig, run_dir: Path) -> list[dict[str, Any]]:
    start(run, run_dir)
    rows: list[dict[str, Any]] = pq.read_table(run_dir / "rollouts.parquet").to_pylist()
    return rows


def main() -> None:
    """Do the runs, print what is equal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options, overrides = parser.parse_known_args()
    base = ("hardware=cpu", "tracking=disabled", "sampling.n_samples=3", "sampling.max_tokens=24")
    run = compose_run(f"model.path={options.model}", *base, *overrides)
    own = parameters(options.rows, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        rows, ended = unequal(run, own, Path(folder))
    print(f"{len(own) - len(rows)} of {len(own)} rows are as in a run of their own; samples ended {dict(ended)}")
    for row in rows:
        print(f"row {row}: {own[row]}")


if __name__ == "__main__":
    main()

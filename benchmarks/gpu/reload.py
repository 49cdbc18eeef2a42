"""What it takes to put other weights into an engine, against loading an engine for them, and whether it is the same.

    python -m benchmarks.gpu.reload --output FOLDER --tokenizer FOLDER --shape 8b --do reload:run:1 [OVERRIDE ...]

Two checkpoints of the shape, of random weights, are written to the folder of temporary files. An engine is loaded for
the first, gets the weights of the second and of the first again, as in a sweep over them; then an engine is loaded for
the second. Each time the same prompts are answered, greedily and with seeds: what the same weights say must be equal.
Nothing but the reload itself empties a prefix cache. The overrides `hardware.batch_invariant=true` and
`sampling.top_p=1` belong to it, see `invariance`. It fails where weights were not replaced or say something else.
"""

import shutil
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from benchmarks.contenders import Work, work_of, write_questions
from benchmarks.gpu.results import parse, write
from benchmarks.gpu.shapes import SHAPES, write_checkpoint, write_model
from benchmarks.gpu.table import markdown
from benchmarks.gpu.workloads import named
from rollout.cli.compose import compose_run
from rollout.data.prompts import read_prompts
from rollout.engine.cache import EngineSpec, Loaded, acquire, release
from rollout.engine.protocol import Engine
from rollout.records import Request
from rollout.store.layout import LOG
from rollout.terminal.console import screen


@dataclass(frozen=True)
class Turn:
    """An engine with the weights of one checkpoint: where they come from, and its responses."""

    checkpoint: str
    loaded: Loaded
    said: list[str | None]

    @property
    def way(self) -> str:
        """How the engine got the weights: reloaded or loaded."""
        return "reloaded" if self.loaded.reloaded else "reused" if self.loaded.reused else "loaded"


def main() -> None:
    """Measure, write reload.json and print the table."""
    options = parse(__doc__)
    (task,) = options.do
    works, written = {}, time.monotonic()
    for seed, name in enumerate("AB"):
        model = _checkpoint(name, options.shape, options.tokenizer, seed)
        works[name] = _work(model, options.output / "input.parquet", task.workload, options.overrides)
    written = time.monotonic() - written
    with screen(options.output / LOG):
        turns = [_turn(name, works[name]) for name in "ABA"]
        release()
        turns.append(_turn("B", works["B"]))
        release()
    found = {"shape": options.shape, "write_seconds": round(written, 1)} | _found(turns)
    write(options.output / "reload.json", found)
    for work in works.values():
        shutil.rmtree(work.run.model.path)
    print(markdown(options.output.parent))
    if found["ways"] != ["loaded", "reloaded", "reloaded", "loaded"] or found["different"]:
        sys.exit("the weights were not replaced, or say something else than in a fresh engine")


def _checkpoint(name: str, shape: str, tokenizer: Path, seed: int) -> Path:
    folder = Path(gettempdir()) / f"model-{shape}-checkpoint-{name}"
    write_checkpoint(write_model(folder, SHAPES[shape], tokenizer), SHAPES[shape], seed)
    return folder


def _work(model: Path, source: Path, workload: str, overrides: list[str]) -> Work:
    chosen = named(workload, 1)
    write_questions(source, chosen.prompts, chosen.prompt_words)
    words = (f"data.path={source}", f"sampling.max_tokens={chosen.tokens}", "sampling.extra={ignore_eos: true}")
    run = compose_run(f"model.path={model}", "tracking=disabled", *words, *overrides)
    return work_of(run, chosen.lengths())


def _turn(name: str, work: Work) -> Turn:
    loaded = acquire(EngineSpec.of(work.run))
    said = [*_said(work, loaded.engine, 0.0), *_said(work, loaded.engine, 1.0)]
    turn = Turn(name, loaded, said)
    print(f"{name}: {turn.way} in {loaded.seconds:.1f} s")
    return turn


def _said(work: Work, engine: Engine, temperature: float) -> list[str | None]:
    """A response to each prompt, in order."""
    engine.use(work.run.model)
    engine.configure(replace(work.run.sampling, temperature=temperature))
    for prompt in read_prompts(work.table, work.run.data):
        ids = engine.render(prompt.messages).token_ids
        engine.add(Request(prompt.row_id, 0, prompt.row_id, ids, work.lengths[prompt.row_id]))
    said: dict[int, str | None] = {}
    while len(said) < len(work.lengths):
        said |= {sample.row_id: sample.response for sample in engine.step()}
    return [said[row] for row in sorted(said)]


def _found(turns: list[Turn]) -> dict[str, Any]:
    first, second, again, fresh = turns
    reloads, loads = [second.loaded.seconds, again.loaded.seconds], [first.loaded.seconds, fresh.loaded.seconds]
    pairs = [*zip(second.said, fresh.said, strict=True), *zip(again.said, first.said, strict=True)]
    return {
        "ways": [turn.way for turn in turns],
        "load_seconds": [round(seconds, 2) for seconds in loads],
        "reload_seconds": [round(seconds, 2) for seconds in reloads],
        "ratio": round(max(reloads) / min(loads), 3),
        "responses": len(pairs),
        "different": sum(one != other for one, other in pairs),
        "other_than_before": sum(one != other for one, other in zip(second.said, first.said, strict=True)),
    }


if __name__ == "__main__":
    main()

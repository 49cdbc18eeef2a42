"""A sweep over six checkpoints in one command against six commands, and whether both say the same.

python -m benchmarks.checkpoints [repeats]

The checkpoints are the embedded model with noise. Whole commands are timed, imports and loading included; the two ways
take turns.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.sweep import JOB, command, compare
from rollout.config import EMBEDDED_MODEL
from rollout.engine.models import resolve
from rollout.store import run_record
from rollout.store.layout import OUTPUT

_STEPS = (100, 200, 300, 400, 500, 600)


def write_noisy(folder: Path, model_folder: Path, seed: int, scale: float = 0.5) -> Path:
    """A checkpoint of the model in `model_folder`, each of whose numbers is off by about `scale` of itself."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model_folder, folder)
    generator, weights = torch.Generator().manual_seed(seed), load_file(model_folder / "model.safetensors")
    for weight in weights.values():
        weight.mul_(1 + scale * torch.randn(weight.shape, generator=generator))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def main(repeats: int) -> None:
    """Print the seconds of each way, their ratio, and how many responses are the same."""
    with tempfile.TemporaryDirectory() as name:
        model = Path(resolve(EMBEDDED_MODEL))
        models = [write_noisy(Path(name, f"checkpoint-{step}"), model, step, scale=0.03) for step in _STEPS]
        kept = Path(name, "kept")

        def sweep(folder: Path) -> None:
            command("-m", *JOB, f"model.path={','.join(map(str, models))}", f"hydra.sweep.dir={folder}")
            shutil.copytree(folder, kept / "sweep", dirs_exist_ok=True)

        def commands(folder: Path) -> None:
            for number, path in enumerate(models):
                command(*JOB, f"model.path={path}", f"hydra.run.dir={folder / str(number)}")
            shutil.copytree(folder, kept / "commands", dirs_exist_ok=True)

        compare(repeats, sweep, commands)
        jobs = range(len(models))
        reloaded = [engine.reloaded for job in jobs if (engine := run_record.read(kept / "sweep" / str(job)).engine)]
        ours, theirs = ([_responses(kept / way / str(job)) for job in jobs] for way in ("sweep", "commands"))
    pairs = [pair for one, other in zip(ours, theirs, strict=True) for pair in zip(one, other, strict=True)]
    print(f"reloaded     {sum(reloaded)} of {len(models)} jobs")
    print(f"equal        {sum(one == other for one, other in pairs)} of {len(pairs)} responses")
    print(f"different    {len(set(map(tuple, ours)))} of {len(models)} checkpoints")


def _responses(run_dir: Path) -> list[str]:
    rows = pq.read_table(run_dir / OUTPUT, columns=["responses"]).column(0).to_pylist()
    return [text for row in rows for text in row]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)

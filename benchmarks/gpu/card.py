"""The quick reference card's headline through the real command line: 1000 prompts x 8 samples x 1000 tokens.

    python -m benchmarks.gpu.card --output FOLDER --tokenizer FOLDER --shape 8b --do card:run:1 [OVERRIDE ...]

The whole command is timed, from starting Python to the report: loading, sampling, rollouts.parquet, post-processing,
W&B offline. The card says about 45 minutes, on one A100.
"""

import json
import subprocess
import sys
import time

from benchmarks.gpu.loading import Place
from benchmarks.gpu.results import parse, write


def main() -> None:
    """Run the command and write down its times."""
    options = parse(__doc__)
    (task,) = options.do
    place = Place(options.shape, options.tokenizer, options.output, options.overrides, options.weights)
    run, run_dir = place.work(task.workload, max_num_seqs=1).run, options.output / "card"
    command = [
        *(sys.executable, "-m", "rollout"),
        f"model.path={run.model.path}",
        f"model.load_format={run.model.load_format}",
        f"data.path={run.data.path}",
        f"sampling.n_samples={run.sampling.n_samples}",
        f"sampling.max_tokens={run.sampling.max_tokens}",
        "sampling.extra={ignore_eos: true}",  # random weights end a response at any length
        f"hydra.run.dir={run_dir}",
        *options.overrides,
    ]
    start = time.monotonic()
    subprocess.run(command, check=True)
    seconds = time.monotonic() - start
    record = json.loads((run_dir / "run.json").read_text())
    found = {"shape": options.shape, "overrides": options.overrides, "command_seconds": round(seconds, 1)}
    write(options.output / "card.json", found | {key: record[key] for key in ("seconds", "totals", "throughput")})


if __name__ == "__main__":
    main()

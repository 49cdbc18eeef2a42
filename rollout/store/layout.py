"""The names of all files in the folders of a run, a sweep and a merge; see docs/run-directory.md."""

import os
from pathlib import Path

MANIFEST = "run.json"
RESERVE = ".reserve"
"""Space given back when the disk is full, so that run.json can still say `failed`."""
LOCK = ".lock"
LOG = "rollout.log"
LOGS = "logs"
"""The folder for what the replicas log, see `replica_log`."""
METRICS = "metrics.jsonl"
"""Progress and throughput over time."""
CONFIG = Path(".hydra") / "config.yaml"
CONFIG_FILES = (CONFIG, CONFIG.with_name("hydra.yaml"), CONFIG.with_name("overrides.yaml"))
"""What a run keeps of its command; the last two are the files that Hydra would write."""

INPUT = "input.parquet"
"""The input of a run whose prompts a program gave as values."""
JOURNAL = "samples"
"""The folder of the journal's files."""
OUTPUT = "rollouts.parquet"

FLAT = "flat.parquet"
SCORES = "scores.parquet"
KEPT = "filtered.parquet"
DROPPED = "filtered.dropped.parquet"
ANALYSIS = "analysis.json"
REPORT = "report.html"
RESULTS = (FLAT, SCORES, KEPT, DROPPED, ANALYSIS, REPORT)
"""What the steps of post-processing write, but for `export`, whose file the user names."""
WRITTEN = ".postprocess.json"
"""The names of the files that post-processing has written to a folder."""

SWEEP_CONFIG = "multirun.yaml"
"""In which Hydra keeps what a sweep was asked for, from its beginning on."""
JOBS = "jobs"
"""In a sweep's folder, the folder of the jobs' notes."""
CSV = "sweep.csv"
HTML = "sweep.html"

COMPARISON = "compare.json"
COMPARISON_PAGE = "compare.html"
"""What `compare` writes, to any folder."""

MERGED = "merge.json"
"""In the folder of a merge, beside OUTPUT: what was merged."""

_KEPT = {MANIFEST, MERGED, METRICS, INPUT, OUTPUT, SCORES, WRITTEN}


def replica_log(run_dir: Path, index: int) -> Path:
    """Where replica `index` of the run in `run_dir` logs."""
    return run_dir / LOGS / f"replica-{index:03d}.log"


def is_kept_by_a_run(path: Path) -> bool:
    """Whether the file belongs to a run or a merge and nothing else may write it: the input, a part of the journal, the
    record, the result. Only steps of the run itself replace some of them.
    """
    folder = Path(os.path.realpath(path)).parent
    is_inside = folder.name in (JOURNAL, CONFIG.parent.name) and (folder.parent / MANIFEST).exists()
    return is_inside or (path.name in _KEPT and any((folder / name).exists() for name in (MANIFEST, MERGED)))

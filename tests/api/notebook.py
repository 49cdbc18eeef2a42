"""Running docs/notebook.ipynb; as a command (`make notebook`) it keeps the outputs."""

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"

ONE_THREAD = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""Threads that wait for each other would be slow beside other tests."""


def read() -> nbformat.NotebookNode:
    """The notebook as it is stored, with its outputs."""
    notebook: nbformat.NotebookNode = nbformat.read(NOTEBOOK, as_version=4)
    return notebook


def executed(folder: Path) -> nbformat.NotebookNode:
    """The notebook after all of its cells ran in `folder`. Raises CellExecutionError for one that fails."""
    notebook = read()
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT), **ONE_THREAD})
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        nbformat.write(executed(Path(scratch)), NOTEBOOK)

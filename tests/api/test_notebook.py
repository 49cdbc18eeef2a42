"""docs/notebook.ipynb is what happens: it runs, on the embedded model, and its stored outputs are of the same kinds."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.api.notebook import NOTEBOOK, executed, read


def outputs(notebook: Any) -> list[list[tuple[str, ...]]]:
    """What each cell of code has put out: kinds, not values, which another CPU may have others of."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[(output.output_type, *sorted(output.get("data", ()))) for output in cell.outputs] for cell in cells]


def printed(notebook: Any) -> list[str]:
    """The lines of all streams."""
    found = [output.text for cell in notebook.cells for output in cell.get("outputs", ()) if "text" in output]
    return "".join(found).splitlines()


def test_the_notebooks_links_lead_somewhere() -> None:
    text = "".join(cell.source for cell in read().cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert links
    assert not [link for link in links if not (NOTEBOOK.parent / link).exists()]


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_is_stored(tmp_path: Path) -> None:
    now = executed(tmp_path)
    assert outputs(now) == outputs(read())
    assert len(printed(now)) == len(printed(read())) < 20
    assert not [line for line in printed(now) if "vllm" in line.lower() or "wandb" in line.lower() or "\x1b" in line]
    (run_dir,) = tmp_path.glob("outputs/*/*")
    assert (run_dir / "report.html").exists()

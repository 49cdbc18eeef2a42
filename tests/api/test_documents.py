"""What the documents show of Python happens: docs/python.md on the echo engine, docs/notebook.ipynb as it stands."""

import doctest
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import rollout
from tests.api.notebook import NOTEBOOK, ROOT, executed, read
from tests.commands import ECHO


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
    assert len([line for line in printed(now) if "tok/s now" not in line]) < 20
    assert not [line for line in printed(now) if "vllm" in line.lower() or "wandb" in line.lower() or "\x1b" in line]
    (run_dir,) = tmp_path.glob("outputs/*/*")
    assert (run_dir / "report.html").exists()


@pytest.mark.long
def test_every_statement_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rollout, "run", partial(rollout.run, *ECHO[::2]), raising=False)
    examples = doctest.DocTestParser().get_examples((ROOT / "docs/python.md").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for example in examples:
        exec(compile(example.source, "docs/python.md", "single"), names)
    rollout.release()
    assert len(examples) > 8
    for name, value in rollout.Run.__dict__.items():  # all that a run has is on the page
        if not name.startswith("_") and (callable(value) or isinstance(value, property)):
            assert name in (ROOT / "docs/python.md").read_text(encoding="utf-8")

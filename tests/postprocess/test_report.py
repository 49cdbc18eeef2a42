"""What the report says of its run."""

import json
from pathlib import Path

import pytest

from rollout.postprocess.report import typed_command
from tests.commands import ECHO, run_command


@pytest.mark.parametrize(
    ("command", "typed"),
    [
        (["/usr/bin/python3", "-m", "rollout", "sampling.n_samples=2"], "python -m rollout sampling.n_samples=2"),
        (["python", "-m", "rollout.replay", "a b", "-m", "x=1,2"], "python -m rollout.replay 'a b' -m x=1,2"),
        (["python", "/x/bin/rollout", "data.limit=3"], "python -m rollout data.limit=3"),
        (["python", "/x/rollout/__main__.py", "-m", "x=1,2"], "python -m rollout -m x=1,2"),
        (["python", "/x/rollout/replay.py", "run"], "python -m rollout.replay run"),
    ],
)
def test_a_command_is_shown_as_it_was_typed(command: list[str], typed: str) -> None:
    assert typed_command(command) == typed


def test_the_report_shows_the_command_of_its_run(tmp_path: Path) -> None:
    result = run_command(*ECHO, "data.limit=2", "hydra.run.dir=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    content = json.loads(page.split('id="content">', 1)[1].split("</script>", 1)[0])
    assert content["run"]["command"] == f"python -m rollout {' '.join(ECHO)} data.limit=2 hydra.run.dir=run"

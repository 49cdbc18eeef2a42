"""A run folder that commit 1e21ff6 wrote, before packages were named after the stages, works with today's commands."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.commands import merge, replay, resume, run_command, verify

pytestmark = pytest.mark.long

OLDER = "warning: this run was made by an older version"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of it, `run`, and its input."""
    return Path(shutil.copytree(Path(__file__).parent / "older_run", tmp_path / "older"))


def test_it_gets_more_samples_with_one_warning_and_keeps_those_it_has(folder: Path) -> None:
    before = pd.read_parquet(folder / "run/rollouts.parquet")
    result = resume("run", "sampling.n_samples=3", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count(OLDER) == 1
    after = pd.read_parquet(folder / "run/rollouts.parquet")
    assert [[*responses[:2]] for responses in after["responses"]] == [[*each] for each in before["responses"]]
    assert after["responses"].map(len).tolist() == [3, 3, 3]
    again = resume("run", cwd=folder)
    assert again.stdout == "run: nothing to do, the run is complete\n"
    assert OLDER not in again.stderr
    assert "model.content" in json.loads((folder / "run/run.json").read_text())["digest"]


def test_it_is_complete_and_its_result_is_written_again_when_it_is_gone(folder: Path) -> None:
    assert resume("run", cwd=folder).stdout == "run: nothing to do, the run is complete\n"
    before = pd.read_parquet(folder / "run/rollouts.parquet")
    (folder / "run/rollouts.parquet").unlink()
    assert resume("run", cwd=folder).returncode == 0
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "run/rollouts.parquet"), before)


def test_it_is_replayed_and_verified(folder: Path) -> None:
    replayed = replay("run", "hydra.run.dir=again", cwd=folder)
    assert replayed.returncode == 0, replayed.stderr
    assert "model" not in "".join(json.loads((folder / "again/run.json").read_text())["replay_of"]["differences"])
    columns = ["responses", "seeds"]
    before, now = (pd.read_parquet(folder / name / "rollouts.parquet", columns=columns) for name in ("run", "again"))
    pd.testing.assert_frame_equal(now, before)
    assert "6 of 6 samples match" in verify("run", cwd=folder).stdout


def test_it_is_post_processed_and_merged(folder: Path) -> None:
    done = run_command("run_dir=run", "steps=[flatten,filter]", cwd=folder, module="rollout.postprocess")
    assert done.returncode == 0, done.stderr
    assert len(pd.read_parquet(folder / "run/flat.parquet")) == 6
    merged = merge("run", "output=merged", cwd=folder)
    assert merged.returncode == 0, merged.stderr
    assert len(pd.read_parquet(folder / "merged/rollouts.parquet")) == 3

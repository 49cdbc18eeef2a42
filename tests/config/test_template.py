"""The file to begin with: it holds every key, changes nothing as it is, and what is uncommented in it counts."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollout.cli.help import text
from rollout.config import RunConfig
from rollout.config.template import template
from tests.commands import ECHO, run_command
from tests.in_process import run_here

pytestmark = pytest.mark.long

AS_IT_IS = template()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with the template in the place for presets of one's own."""
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    keep(tmp_path, AS_IT_IS)
    return tmp_path


def keep(folder: Path, content: str) -> None:
    (folder / "mine" / "experiment" / "name.yaml").write_text(content)


def uncommented(*lines: str) -> str:
    """The template with these lines live."""
    content = AS_IT_IS
    for line in lines:
        assert content.count(f"\n#{line}\n") == 1
        content = content.replace(f"\n#{line}\n", f"\n{line}\n")
    return content


def composed(folder: Path, *words: str) -> dict[str, Any]:
    """What a run would have, as `--cfg job` says."""
    result = run_here("--config-dir", "mine", "experiment=name", *words, "--cfg", "job", cwd=folder)
    assert result.returncode == 0, result.stderr
    values: dict[str, Any] = yaml.safe_load(result.stdout)
    return values


def test_help_prints_it() -> None:
    assert text(["config"]) + "\n" == AS_IT_IS


def test_a_run_with_it_is_the_run_without(here: Path) -> None:
    for words in (["--config-dir", "mine", "experiment=name", "hydra.run.dir=with"], ["hydra.run.dir=without"]):
        result = run_command(*words, *ECHO, "postprocess=none", cwd=here)
        assert result.returncode == 0, result.stderr
    for file in ("rollouts.parquet", ".hydra/config.yaml"):
        assert (here / "with" / file).read_bytes() == (here / "without" / file).read_bytes()


def test_all_of_it_is_the_schema(here: Path) -> None:
    head, _, body = AS_IT_IS.partition("\n\n")
    keep(here, head + "\n" + re.sub("^#", "", body, flags=re.MULTILINE))
    assert composed(here) == dataclasses.asdict(RunConfig())


def test_what_is_changed_in_it_counts_more_than_a_preset_and_less_than_what_is_typed(here: Path) -> None:
    keep(here, uncommented("sampling:", "  n_samples: 8").replace("n_samples: 8", "n_samples: 3"))
    assert composed(here)["sampling"]["n_samples"] == 3
    assert composed(here, "sampling=greedy")["sampling"]["n_samples"] == 3
    assert composed(here, "sampling.n_samples=2")["sampling"]["n_samples"] == 2


def test_it_can_choose_presets(here: Path) -> None:
    line = "  - override /sampling: default"
    keep(here, uncommented("defaults:", line).replace(line, "  - override /sampling: high_temp"))
    assert composed(here)["sampling"]["temperature"] == 1.5

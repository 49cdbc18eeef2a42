"""Post-processing never writes over what it reads, nor over a file of somebody else's without `overwrite=true`."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rollout.errors import UserError
from rollout.merge.__main__ import merge
from rollout.postprocess.__main__ import postprocess
from rollout.store.layout import WRITTEN
from tests.commands import ECHO, run_command
from tests.conftest import Rollout, write_input
from tests.postprocess.tables import answered, write_rollouts

pytestmark = pytest.mark.long

OUTPUTS = {
    "flatten": "flat.parquet",
    "score": "scores.parquet",
    "filter": "filtered.parquet",
    "analyze": "analysis.json",
    "report": "report.html",
    "export": "export.jsonl",
}
SCORER = ("score.scorer=regex", "score.pattern=4")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a rollouts.parquet of three responses."""
    monkeypatch.chdir(tmp_path)
    write_rollouts(tmp_path, [answered("4", "no", "4 again")])
    return tmp_path


def refused(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        postprocess([*arguments])
    return "\n".join(caught.value.problems)


def as_itself(path: Path) -> str:
    return path.name


def through_a_link(path: Path) -> str:
    Path("link.parquet").symlink_to(path.name)
    return "link.parquet"


def by_a_second_name(path: Path) -> str:
    Path("second.parquet").hardlink_to(path)
    return "second.parquet"


def by_a_longer_way(path: Path) -> str:
    Path("sub").mkdir()
    return f"sub/../{path.name}"


@pytest.mark.parametrize("name", [as_itself, through_a_link, by_a_second_name, by_a_longer_way])
@pytest.mark.parametrize(
    ("step", "output"), [("flatten", "flat.parquet"), ("filter", "filtered.parquet"), ("export", "in.parquet")]
)
@pytest.mark.parametrize("permission", [(), ("overwrite=true",)])
def test_an_input_stays_by_whatever_name_it_is_given(
    step: str, output: str, name: Callable[[Path], str], permission: tuple[str, ...], here: Path
) -> None:
    path = (here / "rollouts.parquet").rename(here / output)
    before = path.read_bytes()
    exporting = ("export.file=in.parquet",) if step == "export" else ()
    said = refused(
        f"input={name(path)}", f"steps=[{step}]", "output_dir=.", "filter.min_length=2", *exporting, *permission
    )
    assert "is the input" in said
    assert path.read_bytes() == before


def test_new_scores_delete_no_input(here: Path) -> None:
    postprocess(["input=rollouts.parquet", "steps=[filter]", "output_dir=o"])
    before = (here / "o/filtered.parquet").read_bytes()
    postprocess(["input=o/filtered.parquet", "steps=[score]", "output_dir=o", *SCORER])
    assert (here / "o/filtered.parquet").read_bytes() == before


@pytest.mark.parametrize(("step", "output"), OUTPUTS.items())
def test_a_file_of_somebody_else_stays_unless_it_is_given_up(step: str, output: str, here: Path) -> None:
    (here / "o").mkdir()
    (here / "o" / output).write_text("mine")
    before = {"report": ["analyze"]}.get(step, [])
    command = ("input=rollouts.parquet", f"steps=[{','.join([*before, step])}]", "output_dir=o")
    scoring = SCORER if step == "score" else ()
    said = refused(*command, *scoring)
    assert "already exists" in said
    assert "overwrite=true" in said
    assert (here / "o" / output).read_text() == "mine"
    postprocess([*command, *scoring, "overwrite=true"])
    assert (here / "o" / output).read_bytes() != b"mine"


def test_new_scores_delete_nothing_of_somebody_elses(here: Path) -> None:
    (here / "report.html").write_text("mine")
    postprocess(["input=rollouts.parquet", "steps=[score]", "output_dir=.", *SCORER])
    assert (here / "report.html").read_text() == "mine"


def test_what_an_earlier_command_wrote_is_replaced(here: Path) -> None:
    command = ["input=rollouts.parquet", "steps=[flatten,analyze,export]", "output_dir=o"]
    postprocess(command)
    postprocess(command)
    assert json.loads((here / "o" / WRITTEN).read_text()) == {
        "files": ["analysis.json", "export.jsonl", "flat.parquet"]
    }
    assert "already exists" in refused(*command, f"export.file={write_input(here / 'other.parquet', [{'a': 1}])}")


def test_a_runs_own_results_are_replaced_and_what_was_put_beside_them_is_not(rollout: Rollout) -> None:
    run_dir = rollout([{"prompt": "a"}], "postprocess.steps=[flatten]")
    postprocess([f"run_dir={run_dir}", "steps=[flatten,analyze]"])
    (run_dir / "filtered.parquet").write_text("mine")
    (run_dir / "export.jsonl").write_text("mine")
    said = refused(f"run_dir={run_dir}", "steps=[filter,export]")
    assert said.count("already exists") == 2
    assert (run_dir / "filtered.parquet").read_text() == (run_dir / "export.jsonl").read_text() == "mine"


def test_the_results_of_an_older_run_are_its_own(rollout: Rollout) -> None:
    run_dir = rollout([{"prompt": "a"}], "postprocess.steps=[flatten,export]")
    (run_dir / WRITTEN).unlink()  # which older versions did not write
    postprocess([f"run_dir={run_dir}", "steps=[flatten,export]"])
    assert pq.read_metadata(run_dir / "flat.parquet").num_rows == 8


def test_an_export_does_not_replace_the_input_of_its_run(rollout: Rollout) -> None:
    run_dir = rollout([{"prompt": "a"}])
    source = run_dir.with_name("run.parquet")
    said = refused(f"run_dir={run_dir}", "steps=[export]", f"export.file={source}", "overwrite=true")
    assert f"export.file={source}: is the input" in said


@pytest.mark.parametrize("name", ["metrics.jsonl", "rollout.log", ".hydra/config.yaml", "flat.parquet"])
def test_a_run_does_not_begin_in_a_folder_with_such_a_file_of_somebody_elses(name: str, tmp_path: Path) -> None:
    path = tmp_path / "o" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"prompt": "mine"}\n')
    source = path if path.suffix == ".jsonl" else write_input(tmp_path / "in.parquet", [{"prompt": "a"}])
    result = run_command(*ECHO, f"data.path={source}", "hydra.run.dir=o", cwd=tmp_path)
    assert result.returncode == 1
    assert f"{name} " in result.stderr
    assert "already exists" in result.stderr
    assert path.read_text() == '{"prompt": "mine"}\n'


@pytest.mark.parametrize("name", ["sweep.csv", "sweep.html", "multirun.yaml"])
def test_a_sweep_does_not_begin_in_a_folder_with_such_a_file_of_somebody_elses(name: str, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / name).write_text("prompt\nmine\n")
    result = run_command("-m", *ECHO, "data.limit=2", "sampling.seed=1,2", "hydra.sweep.dir=s", cwd=tmp_path)
    assert result.stderr == f"error: hydra.sweep.dir=s: {name} already exists there; choose another folder\n"
    assert (tmp_path / "s" / name).read_text() == "prompt\nmine\n"


def test_a_merge_takes_only_its_own_description_for_its_own(rollout: Rollout, tmp_path: Path) -> None:
    run_dir = rollout([{"prompt": "a"}])
    (tmp_path / "o").mkdir()
    (tmp_path / "o/merge.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match=r"has merge\.json in it already"):
        merge([run_dir], tmp_path / "o")

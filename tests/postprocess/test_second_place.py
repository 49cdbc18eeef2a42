"""`output=FILE`: the result at a second place, which is this run's file or nobody's."""

import errno
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rollout.cli.compose import compose_run
from rollout.config.overrides import hydra_word
from rollout.errors import UserError
from rollout.lifecycle import resume
from rollout.postprocess import second_place
from rollout.store import run_record
from tests.commands import ECHO, run_command
from tests.commands import resume as resume_command
from tests.conftest import chat, run_in, write_input
from tests.in_process import run_here

pytestmark = pytest.mark.long

QUICK = (*ECHO, "sampling.n_samples=1", "sampling.max_tokens=4", "postprocess=none")
OTHERS = "already exists and was not written by this run; choose another name"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an input in it."""
    write_input(tmp_path / "in.parquet", [{"prompt": chat(f"question {number}")} for number in range(3)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_with(folder: Path, output: str, *more: str, name: str = "run") -> Path:
    return run_in(folder / name, *QUICK, "data.path=in.parquet", f"output={output}", *more)


def test_the_file_has_the_bytes_of_the_result_and_the_last_lines_name_it(here: Path) -> None:
    result = run_command(*QUICK, "data.path=in.parquet", "output=out.parquet", "hydra.run.dir=run", cwd=here)
    assert result.returncode == 0, result.stderr
    assert "\nresults: run/rollouts.parquet\noutput:  out.parquet\n" in result.stdout
    assert (here / "out.parquet").read_bytes() == (here / "run/rollouts.parquet").read_bytes()
    assert not (here / "out.parquet").samefile(here / "run/rollouts.parquet")


@settings(max_examples=8, deadline=None)
@given(st.text(st.sampled_from("ab1 .,=~-+#$@{}[]()'\"\\:;&|*?!<>%^`é中😀\t"), min_size=1, max_size=10))
@example("${x}")
def test_any_name_will_do(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("named")
    word = hydra_word("output", f"{name}.parquet")
    assert run_command(*QUICK, "data.limit=1", word, "hydra.run.dir=run", cwd=folder).returncode == 0
    assert {path.name for path in folder.iterdir()} == {"run", f"{name}.parquet"}


@pytest.mark.parametrize("name", ["-o", "~made", "a=b", "输出 1"])
def test_a_name_needs_no_quotes(name: str, tmp_path: Path) -> None:
    words = ("data.limit=1", f"output={name}.parquet", "hydra.run.dir=run")
    assert run_command(*QUICK, *words, cwd=tmp_path).returncode == 0
    assert (tmp_path / f"{name}.parquet").exists()


def test_the_home_folder_is_known(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "home").mkdir()
    monkeypatch.setenv("HOME", str(here / "home"))
    run_with(here, "~/out.parquet")
    assert (here / "home/out.parquet").exists()


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("folder", "is a folder; give a file in it that ends in .parquet"),
        ("out.csv", "must end in .parquet; for the run's own folder write hydra.run.dir=out.csv"),
        ("out", "must end in .parquet"),
        ("none/out.parquet", "there is no folder none; make it"),
        ("in.parquet", "is the input in.parquet, which is never written over"),
        ("run/out.parquet", "is in the run's own folder"),
        ("mine.parquet", f"{OTHERS}, or set postprocess.overwrite=true to replace it"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_run(output: str, problem: str, here: Path) -> None:
    (here / "folder").mkdir()
    shutil.copy("in.parquet", "mine.parquet")
    result = run_here(*QUICK, "data.path=in.parquet", f"output={output}", "hydra.run.dir=run", cwd=here)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: output={output}: {problem}")
    assert not (here / "run").exists()


def test_an_input_is_not_written_over_with_overwrite_either_and_another_file_is(here: Path) -> None:
    shutil.copy("in.parquet", "mine.parquet")
    run_with(here, "mine.parquet", "postprocess.overwrite=true")
    assert pq.read_metadata("mine.parquet").num_columns > 1
    with pytest.raises(UserError, match="is the input"):
        run_with(here, "in.parquet", "postprocess.overwrite=true", name="other")


@pytest.mark.parametrize("name", ["rollouts.parquet", "samples/x.parquet", ".hydra/x.parquet"])
def test_what_another_run_keeps_is_not_written_over_with_overwrite_either(name: str, here: Path) -> None:
    run_with(here, "out.parquet", name="first")
    before = (here / "first/rollouts.parquet").read_bytes()
    with pytest.raises(UserError, match=f"output=first/{name}: is a file that another run keeps; choose another name"):
        run_with(here, f"first/{name}", "postprocess.overwrite=true", "sampling.seed=1", name="second")
    exporting = ("postprocess.steps=[export]", "postprocess.overwrite=true")
    with pytest.raises(UserError, match=f"export.file={here}/first/{name}: is a file that another run keeps"):
        run_with(here, "null", *exporting, f"postprocess.export.file={here}/first/{name}", name="third")
    assert (here / "first/rollouts.parquet").read_bytes() == before


def test_a_top_up_writes_it_again_and_a_file_that_somebody_put_there_stays(here: Path) -> None:
    run_dir = run_with(here, "out.parquet")
    assert resume_command("run", "sampling.n_samples=2", cwd=here).returncode == 0
    assert (here / "out.parquet").read_bytes() == (run_dir / "rollouts.parquet").read_bytes()
    (here / "out.parquet").unlink()
    assert resume_command("run", cwd=here).returncode == 0
    assert (here / "out.parquet").read_bytes() == (run_dir / "rollouts.parquet").read_bytes()
    shutil.copy("in.parquet", "out.parquet")
    assert OTHERS in resume_command("run", "sampling.n_samples=3", cwd=here).stderr


def test_a_resume_may_name_another_file(here: Path) -> None:
    run_with(here, "out.parquet")
    assert resume_command("run", "output=more.parquet", cwd=here).returncode == 0
    assert (here / "more.parquet").read_bytes() == (here / "out.parquet").read_bytes()


def test_a_replay_leaves_the_file_to_the_run_it_repeats(here: Path) -> None:
    run_with(here, "out.parquet")
    before = (here / "out.parquet").stat().st_mtime_ns
    words = ("run", "hydra.run.dir=again", "sampling.seed=7")
    result = run_command(*words, cwd=here, module="rollout.replay")
    assert result.returncode == 0, result.stderr
    assert "out.parquet stays the replayed run's; give output=FILE" in result.stderr
    assert (here / "out.parquet").stat().st_mtime_ns == before
    assert run_record.read(here / "again").config.output is None
    refused = run_here(*words, "output=out.parquet", cwd=here, module="rollout.replay")
    assert OTHERS in refused.stderr
    again = run_command("run", "hydra.run.dir=third", "output=new.parquet", cwd=here, module="rollout.replay")
    assert (again.returncode, again.stderr) == (0, "")


def test_a_verification_has_nothing_to_do_with_it(here: Path) -> None:
    run_with(here, "out.parquet")
    shutil.copy("in.parquet", "out.parquet")
    result = run_command("run", cwd=here, module="rollout.verify")
    assert result.returncode == 0, result.stderr
    assert (here / "out.parquet").read_bytes() == (here / "in.parquet").read_bytes()


def test_the_jobs_of_a_sweep_need_a_file_each(here: Path) -> None:
    words = ("-m", *QUICK, "data.path=in.parquet", "sampling.seed=1,2", "hydra.sweep.dir=s")
    refused = run_here(*words, "output=a b.parquet", cwd=here)
    cure = "'output=a b-${hydra:job.num}.parquet'"
    assert refused.stderr == f"error: output=a b.parquet: is one file for all jobs; write {cure}, or leave it out\n"
    assert not (here / "s").exists()
    assert run_command(*words, "output=a b-${hydra:job.num}.parquet", cwd=here).returncode == 0
    for job in "01":
        assert (here / f"a b-{job}.parquet").read_bytes() == (here / "s" / job / "rollouts.parquet").read_bytes()


def test_a_full_disk_is_one_line_and_the_folder_is_complete(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(UserError) as raised:
        run_with(here, "out.parquet")
    (line,) = raised.value.problems
    assert line.startswith("output=out.parquet: the disk is full (No space left on device); the result is in run/roll")
    assert pq.read_metadata("run/rollouts.parquet").num_rows == 3
    assert not list(here.glob("*out.parquet*"))
    monkeypatch.undo()
    monkeypatch.chdir(here)
    run = compose_run(*QUICK, "data.path=in.parquet", "output=out.parquet")
    assert resume(run, here / "run") is not None
    assert (here / "out.parquet").exists()


def test_a_file_that_came_while_the_run_was_going_is_left_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = second_place.write

    def late(*arguments: object) -> None:
        shutil.copy("in.parquet", "out.parquet")
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(second_place, "write", late)
    with pytest.raises(UserError, match="somebody else has written it since the run began; the result is in run/"):
        run_with(here, "out.parquet")
    assert (here / "out.parquet").read_bytes() == (here / "in.parquet").read_bytes()

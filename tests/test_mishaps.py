"""What the machine, or somebody, does to a run's folder while it works: one line, and nothing is lost."""

import errno
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.cli.one_line_errors import line_of
from rollout.files import replacing, same_file
from rollout.generation.session import first_prompt_in_words
from rollout.store import run_record
from rollout.store.lock import locked
from tests.commands import ECHO, Running, resume, run_command, start_command
from tests.conftest import write_input

FULL = Path("/dev/full")
"""Whoever writes to it finds no space left."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_input(tmp_path / "input.parquet", [{"prompt": f"question {number}"} for number in range(40)])
    return tmp_path


COMMAND = ("data.path=input.parquet", *ECHO, "hydra.run.dir=run")


@pytest.mark.long
@pytest.mark.parametrize("name", [".hydra/hydra.yaml", ".reserve"])
def test_a_disk_that_is_full_before_the_run_has_begun_wants_the_command_again(name: str, folder: Path) -> None:
    run_dir = folder / "run"
    with locked(run_dir):
        pass  # as of a run that came no further
    (run_dir / name).parent.mkdir(exist_ok=True)
    (run_dir / name).symlink_to(FULL)
    full = run_command(*COMMAND, cwd=folder)
    assert full.returncode == 1
    assert full.stderr.splitlines() == [
        "error: run: the disk is full (No space left on device); nothing was begun. Free some space, then give the "
        "command again"
    ]
    assert not (run_dir / ".reserve").exists()

    (run_dir / name).unlink(missing_ok=True)
    assert run_command(*COMMAND, cwd=folder).returncode == 0


def test_a_lock_that_was_never_written_does_not_make_the_folder_somebodys(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run/.lock").touch()
    assert run_command(*COMMAND, cwd=folder).returncode == 0


def test_a_log_that_takes_no_more_ends_no_run(folder: Path) -> None:
    run_dir = folder / "run"
    with locked(run_dir):
        (run_dir / "rollout.log").symlink_to(FULL)
    done = run_command(*COMMAND, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert run_record.read(run_dir).status == "done"


def test_a_full_disk_is_a_line_where_nobody_says_which_file_it_was() -> None:
    assert line_of(OSError(errno.ENOSPC, "No space left on device")) == (
        "the disk is full (No space left on device); free some space"
    )
    assert line_of(OSError(errno.EIO, "Input/output error")) is None


def test_an_error_of_a_file_that_is_written_names_it_whoever_writes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error, replacing(tmp_path / "gone/table.parquet") as partial:
        pq.write_table(pa.table({"column": [1]}), partial)
    assert error.value.filename == str(tmp_path / "gone/.table.parquet.partial")


SLOW = ("engine.echo.step_seconds=0.01", "engine.echo.max_steps=60", "store.flush_samples=10", "sampling.n_samples=3")


def started(folder: Path) -> Running:
    """A run that has written its first samples and has more to come."""
    process = start_command(*COMMAND, *SLOW, cwd=folder)
    while len(list(folder.glob("run/samples/part-*"))) < 2 and process.poll() is None:
        time.sleep(0.01)
    return process


@pytest.mark.long
@pytest.mark.parametrize("change", ["deleted", "other rows", "touched"])
def test_rows_of_an_input_that_changes_while_the_run_goes_on_never_stand_beside_its_responses(
    change: str, folder: Path
) -> None:
    process, original = started(folder), (folder / "input.parquet").read_bytes()
    (folder / "input.parquet").unlink()
    if change == "other rows":
        write_input(folder / "input.parquet", [{"prompt": f"another {number}"} for number in range(40)])
    elif change == "touched":
        (folder / "input.parquet").write_bytes(original)
    _, errors = process.communicate(timeout=30)
    if change != "touched":
        assert process.returncode == 1
        (line,) = errors.splitlines()
        assert line.startswith("error: data.path=input.parquet: has changed since the run began; put it back as it was")
        assert not (folder / "run/rollouts.parquet").exists()
        (folder / "input.parquet").write_bytes(original)
        assert "120 of 120 samples exist already" in resume("run", cwd=folder).stdout
    result = pq.read_table(folder / "run/rollouts.parquet")
    assert result.column("prompt").to_pylist() == pq.read_table(folder / "input.parquet").column("prompt").to_pylist()


@pytest.mark.long
@pytest.mark.parametrize("what", ["run", "run/samples"])
def test_a_folder_that_is_taken_away_from_a_run_is_a_line_and_goes_on_where_it_is(what: str, folder: Path) -> None:
    process = started(folder)
    (folder / what).rename(folder / "taken")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert line.startswith(f"error: {what}: was moved or deleted while the run went on; ")

    if what == "run/samples":
        (folder / "taken").rename(folder / what)
    there = "taken" if what == "run" else "run"
    assert resume(there, "engine.echo.step_seconds=0", cwd=folder).returncode == 0
    assert pq.read_table(folder / there / "rollouts.parquet").num_rows == 40


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("data.path=pipe.jsonl", *ECHO), "data.path"),
        (("dry_run=true", "data.path=input.parquet", "model.chat_template=pipe.jsonl"), "model.chat_template"),
        (("prepare", "pipe.jsonl", "out.parquet"), "input"),
        (("analyze", "pipe.jsonl"), "input"),
    ],
)
def test_a_pipe_is_no_file_and_nobody_waits_for_it(words: tuple[str, ...], key: str, folder: Path) -> None:
    os.mkfifo(folder / "pipe.jsonl")
    refused = run_command(*words, cwd=folder)
    assert refused.returncode == 1
    assert f"error: {key}=pipe.jsonl: is a pipe or a device, and " in refused.stderr


def test_a_pipe_is_no_schema_either(folder: Path) -> None:
    os.mkfifo(folder / "pipe.json")
    refused = run_command(*COMMAND, "sampling.structured_outputs.json=pipe.json", cwd=folder)
    assert "json=pipe.json: is a pipe or a device, and " in refused.stderr


def test_links_in_a_circle_lead_to_a_line(folder: Path) -> None:
    (folder / "circle.csv").symlink_to("circle.csv")
    assert not same_file(folder / "circle.csv", folder / "input.parquet")
    for words in (("flatten", "circle.csv", "out.csv"), ("flatten", "input.parquet", "circle.csv")):
        refused = run_command(*words, cwd=folder)
        assert refused.returncode == 1
        assert all(line.startswith("error: ") for line in refused.stderr.splitlines())


def test_a_folder_that_is_a_link_to_nowhere_says_so(folder: Path) -> None:
    (folder / "outputs").symlink_to("unmounted")
    refused = run_command(*COMMAND[:-1], cwd=folder)
    assert refused.stderr.startswith("error: outputs: a link to nowhere; ")


def test_a_run_whose_config_is_gone_can_be_looked_at(folder: Path) -> None:
    dies = ("engine.echo.die_after=3", "engine.max_restarts=0")
    assert run_command(*COMMAND, *dies, cwd=folder).returncode == 1
    (folder / "run/.hydra/config.yaml").write_text("")
    looked = run_command("watch", "run", "once=true", cwd=folder)
    assert (looked.returncode, looked.stderr) == (1, "")
    assert "continue  python -m rollout resume run" in looked.stdout


def test_a_very_long_prompt_is_shown_without_its_middle() -> None:
    shown = first_prompt_in_words(7, "begin" + "x" * 1_000_000 + "end")
    assert shown.startswith("first prompt, rendered (row 7): 'beginx")
    assert "x' ... 996,008 characters ... 'x" in shown
    assert shown.endswith("xend'")
    assert len(shown) < 4100


def test_a_page_of_what_is_durable_shows_no_prompt_of_an_input_that_has_changed(folder: Path) -> None:
    dies = ("engine.echo.die_after=100", "engine.max_restarts=0")
    assert run_command(*COMMAND, *dies, cwd=folder).returncode == 1
    write_input(folder / "input.parquet", [{"prompt": f"another {number}"} for number in range(40)])
    looked = run_command("watch", "run", "once=true", "report=true", cwd=folder)
    assert (
        f"data.path={folder / 'input.parquet'}: has changed since the run began; the page is without the prompts"
        in (looked.stdout + looked.stderr)
    )
    (page,) = folder.glob("*.html")
    assert "another 1" not in page.read_text(encoding="utf-8")

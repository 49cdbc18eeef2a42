"""A run seen from outside: who has it, and how it is, without taking its lock or writing to its folder."""

import fcntl
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rollout.errors import UserError
from rollout.store import lock, outside
from rollout.store.lock import Holder, holder_of, is_held, locked
from tests.conftest import run_in


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in(tmp_path_factory.mktemp("finished") / "run", "data.limit=1", "sampling.n_samples=1")


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    """A folder with nothing but what a session writes at its beginning."""
    (tmp_path / "run.json").write_bytes((finished / "run.json").read_bytes())
    (tmp_path / ".lock").write_bytes((finished / ".lock").read_bytes())
    return tmp_path


def say(run_dir: Path, **changes: Any) -> None:
    """Change what run.json says."""
    record = json.loads((run_dir / "run.json").read_text()) | changes
    (run_dir / "run.json").write_text(json.dumps(record))


def running(run_dir: Path) -> None:
    say(run_dir, status="running", ended=None, started=datetime.now(UTC).isoformat())


@contextmanager
def held(run_dir: Path) -> Iterator[int]:
    """Another process holds the folder in the body; its id."""
    told, tell = os.pipe()
    if (pid := os.fork()) == 0:
        with locked(run_dir):
            os.write(tell, b"!")
            signal.pause()
    os.read(told, 1)
    os.close(told)
    os.close(tell)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def status(run_dir: Path) -> str:
    return outside.look(run_dir).status


def test_a_lock_is_seen_while_another_process_has_it_and_stays_free_for_all_the_looking(tmp_path: Path) -> None:
    assert is_held(tmp_path) is False
    with held(tmp_path) as pid:
        assert is_held(tmp_path) is True
        assert str(holder_of(tmp_path)).startswith(f"process {pid} on {socket.gethostname()} since ")
    assert is_held(tmp_path) is False
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_looking_takes_no_lock_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    with held(tmp_path):
        monkeypatch.setattr(fcntl, "flock", refuse)
        monkeypatch.setattr(fcntl, "lockf", refuse)
        assert is_held(tmp_path)


def test_a_process_that_ended_or_gave_its_number_to_another_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_is_listed", lambda _: False)
    monkeypatch.setattr(os, "major", lambda _: 0)  # a file system whose locks the kernel lists otherwise, or not
    with locked(tmp_path):
        assert is_held(tmp_path)
        mine = json.loads((tmp_path / ".lock").read_text())
        (tmp_path / ".lock").write_text(json.dumps(mine | {"process": "1"}))
        assert is_held(tmp_path) is False
        (tmp_path / ".lock").write_text(json.dumps(mine | {"pid": 2**22 + 1}))
        assert is_held(tmp_path) is False


@pytest.mark.parametrize("other", [{"host": "node7"}, {"pids": "pid:[1]"}])
def test_of_a_holder_elsewhere_only_time_tells(other: dict[str, str], run_dir: Path) -> None:
    holder = json.loads((run_dir / ".lock").read_text()) | other
    (run_dir / ".lock").write_text(json.dumps(holder))
    running(run_dir)
    assert is_held(run_dir) is None
    assert status(run_dir) == "running"
    long_ago = datetime.now().timestamp() - 3600
    for path in (*run_dir.iterdir(), run_dir):
        os.utime(path, (long_ago, long_ago))
    assert status(run_dir) == "silent"
    assert 3599 < outside.seconds_since_written(run_dir) < 3700


def test_a_lock_of_an_older_version_says_who_too(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(json.dumps({"pid": 2**22 + 1, "host": socket.gethostname(), "since": "then"}))
    assert holder_of(tmp_path) == Holder(pid=2**22 + 1, host=socket.gethostname(), since="then")
    assert is_held(tmp_path) is False


def test_a_run_that_says_running_and_has_no_process_was_killed(run_dir: Path) -> None:
    running(run_dir)
    assert status(run_dir) == "killed"
    assert not outside.look(run_dir).goes_on


def test_a_run_with_a_process_goes_on(run_dir: Path) -> None:
    with held(run_dir):
        running(run_dir)
        assert status(run_dir) == "running"
        assert outside.look(run_dir).goes_on


@pytest.mark.parametrize("before", ["done", "failed", "interrupted", "running"])
def test_a_process_that_has_the_folder_and_not_begun_a_session_is_preparing_one(before: str, run_dir: Path) -> None:
    then = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    say(run_dir, status=before, started=then, ended=None if before == "running" else then)
    with held(run_dir):
        assert status(run_dir) == "preparing"
    assert status(run_dir) == ("killed" if before == "running" else before)


def test_before_the_first_session_there_is_a_lock_only(tmp_path: Path) -> None:
    with held(tmp_path):
        assert outside.look(tmp_path).record is None
        assert status(tmp_path) == "preparing"
    assert status(tmp_path) == "killed"
    (tmp_path / ".lock").write_bytes(b"")  # it was made, and not taken yet
    assert status(tmp_path) == "preparing"


@pytest.mark.parametrize("end", ["done", "failed"])
def test_a_session_that_ends_while_it_is_looked_at_was_not_killed(
    end: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(run_dir)

    def free_because_it_ended(folder: Path) -> bool:
        say(folder, status=end, ended=datetime.now(UTC).isoformat())
        return False

    monkeypatch.setattr(outside, "is_held", free_because_it_ended)
    assert status(run_dir) == end


def test_a_session_that_begins_while_it_is_looked_at_goes_on(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(run_dir, status="running", ended=None)
    answers = [False, True]

    def free_because_it_has_not_begun(folder: Path) -> bool:
        running(folder)
        return answers.pop(0)

    monkeypatch.setattr(outside, "is_held", free_because_it_has_not_begun)
    assert status(run_dir) == "running"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        outside.look(tmp_path)

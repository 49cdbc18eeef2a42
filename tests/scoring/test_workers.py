"""Processes that score beside something else: when they start, and what becomes of those that cannot."""

import _thread
import multiprocessing
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
from pebble import ProcessExpired, ProcessFuture
from pebble.common.shared import launch_thread
from pebble.pool.process import PoolManager

from rollout.config import ScoreConfig
from rollout.errors import UserError
from rollout.scoring.scorers import Scored
from rollout.scoring.workers import Background, _Sent, scoring, scoring_beside

DO_NOT_START = "score.workers: the processes that score do not start"


@pytest.fixture
def cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScoreConfig:
    (tmp_path / "ends_its_process.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    return ScoreConfig("ends_its_process:scorer", workers=1)


def pids() -> set[int]:
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


def hears_of_the_terminal(pid: int) -> bool:
    """Whether SIGINT or SIGHUP would do something to a process: one of them is neither blocked nor ignored."""
    lines = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    deaf = int(lines["SigBlk"], 16) | int(lines["SigIgn"], 16)
    return not all(deaf & 1 << (signum - 1) for signum in (signal.SIGINT, signal.SIGHUP))


def scored(background: Background) -> list[tuple[int, Scored]]:
    deadline = time.monotonic() + 30
    while not (found := background.scored(1.0)) and time.monotonic() < deadline:
        pass
    return found


def test_they_start_at_once_whether_or_not_there_is_something_to_score_and_end_with_the_body() -> None:
    before = pids()
    with scoring_beside(ScoreConfig("regex", pattern="a", workers=2)) as background:
        started = pids() - before
        assert len(started) == 2
        background.give(1, ("a", None, {}))
        assert scored(background) == [(1, Scored(1.0, "a"))]
        assert pids() - before == started
    assert pids() == before


def test_one_that_is_starting_does_not_hear_of_the_terminal_and_is_ended_silently(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = pids()
    with pytest.raises(ZeroDivisionError), scoring_beside(ScoreConfig("regex", pattern="a", workers=2)):  # noqa: PT012
        assert not any(map(hears_of_the_terminal, pids() - before))
        raise ZeroDivisionError  # a model that cannot be loaded
    assert pids() == before
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """It interrupts this process, as of a command in a terminal: one in the background of a shell ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_they_start_ends_them_whichever_thread_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before, threads = pids(), threading.active_count()

    def interrupted(*arguments: Any) -> threading.Thread:
        thread = launch_thread(*arguments)
        monkeypatch.setattr("pebble.pool.process.launch_thread", launch_thread)
        _thread.interrupt_main()
        return thread

    monkeypatch.setattr("pebble.pool.process.launch_thread", interrupted)
    with pytest.raises(KeyboardInterrupt), scoring_beside(ScoreConfig("regex", pattern="a", workers=1)):
        pass
    assert pids() == before
    assert threading.active_count() == threads
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_those_that_cannot_start_are_one_line_once_somebody_looks(cannot_start: ScoreConfig) -> None:
    with pytest.raises(UserError, match=DO_NOT_START), scoring_beside(cannot_start) as background:
        scored(background)


def test_those_that_could_not_start_a_while_ago_are_one_line_when_there_is_something_to_score(
    cannot_start: ScoreConfig,
) -> None:
    with pytest.raises(UserError, match=DO_NOT_START), scoring_beside(cannot_start) as background:  # noqa: PT012
        wait(background._sent)
        background.give(1, ("a", None, {}))
        background.scored()


@pytest.fixture
def pebble_gives_up(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pebble sees a process dead before it has read which task that had begun, the first two times; what it does then.

    The ids of the processes.
    """
    found, known = list[int](), PoolManager.find_expired_task

    def not_read_yet(self: Any, worker_id: int) -> Any:
        found.append(worker_id)
        if len(found) <= 2:
            raise BrokenProcessPool("All workers expired")
        return known(self, worker_id)

    monkeypatch.setattr(PoolManager, "find_expired_task", not_read_yet)
    return found


@pytest.fixture
def ends_at_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScoreConfig:
    source = (
        "import os\ndef score(response, ground_truth, row):\n    return len(response) if response else os._exit(3)\n"
    )
    (tmp_path / "ends_at_some.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    return ScoreConfig("ends_at_some:score", workers=2)


ENDED = "the scorer ended its process"


def test_a_scorer_that_ends_its_process_costs_its_score_where_pebble_gives_the_processes_up(
    ends_at_some: ScoreConfig, pebble_gives_up: list[int]
) -> None:
    before, found = pids(), dict[int, Scored]()
    responses = ["a", "", "abc", "ab"]
    with scoring_beside(ends_at_some) as background:
        for name, response in enumerate(responses):
            background.give(name, (response, None, {}))
        while background.num_waiting:
            found |= scored(background)
    assert pids() == before
    assert [found[name].score for name in range(4)] == [1, None, 3, 2]
    assert str(found[1].error).startswith(ENDED)
    assert len(pebble_gives_up) >= 2


def test_a_process_that_ends_with_the_first_task_which_scores_nothing_costs_no_score() -> None:
    ended: ProcessFuture[Any] = ProcessFuture()
    ended.set_exception(ProcessExpired("Abnormal termination", code=3))
    with scoring_beside(ScoreConfig("regex", pattern="a", workers=1)) as background:
        assert background._results(ended, _Sent([])) == []


@pytest.mark.usefixtures("pebble_gives_up")
def test_it_costs_only_its_score_where_all_responses_are_given_at_once_too(ends_at_some: ScoreConfig) -> None:
    with scoring(ends_at_some) as score_all:
        found = score_all([(response, None, {}) for response in ("a", "", "abc", "ab")])
    assert [one.score for one in found] == [1, None, 3, 2]
    assert str(found[1].error).startswith(ENDED)


def test_a_scorer_that_only_they_cannot_import_is_one_line_with_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    nowhere = ScoreConfig("tests.no_such_module:scorer", workers=1)
    why = r"^postprocess.score.scorer=tests.no_such_module:scorer: No module named"
    with pytest.raises(UserError, match=why), scoring_beside(nowhere) as background:
        scored(background)
    assert capfd.readouterr() == ("", "")


def test_a_scorer_that_takes_its_time_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rollout.scoring.workers._SAY_SECONDS", 0.0)
    caplog.set_level("INFO")
    with scoring(ScoreConfig(scorer="regex", pattern="a", workers=1)) as score_all:
        score_all([("a", None, {})] * 100)
        score_all([("b", None, {})] * 50)
    assert re.fullmatch(r"score: 150 responses so far, [0-9.e+]+ per second", caplog.messages[-1])

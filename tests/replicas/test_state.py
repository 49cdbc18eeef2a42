"""What the driver knows of a replica: whether it may hang."""

from pathlib import Path

import pytest

from rollout.engine.protocol import EngineStats
from rollout.replicas.messages import Job, Ready, Report
from rollout.replicas.state import ReplicaState
from tests.commands import ECHO
from tests.conftest import composed

READY = Ready(4, 8, 0.0, False, "", None, "here", "", None, pid=4321)


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("rollout.replicas.state.time", found)
    return found


def replica() -> ReplicaState:
    return ReplicaState(Job(composed(*ECHO), Path("run"), 0, "r0", "", None), moved=Clock.now)


def tokens(number: int) -> Report:
    return Report(READY, [], 0, EngineStats(4, 4, number), None)


def test_a_replica_without_a_new_token_for_two_minutes_may_hang_and_that_is_said_once(clock: Clock) -> None:
    known = replica()
    known.hear(tokens(0))
    clock.now += 119
    assert not known.falls_quiet(num_owed=8)
    clock.now += 2
    known.hear(tokens(0))
    assert known.falls_quiet(num_owed=8)
    assert not known.falls_quiet(num_owed=8)


def test_it_is_said_again_of_one_that_has_got_on_in_between(clock: Clock) -> None:
    known = replica()
    for number in (1, 2):
        known.hear(tokens(number))
        assert not known.falls_quiet(num_owed=8)
        clock.now += 121
        assert known.falls_quiet(num_owed=8)


def test_a_replica_that_loads_or_has_nothing_to_do_does_not_hang(clock: Clock) -> None:
    known = replica()
    clock.now += 600
    assert not known.falls_quiet(num_owed=8)
    known.hear(tokens(0))
    clock.now += 600
    assert not known.falls_quiet(num_owed=0)
    clock.now += 119  # it has had something to do only since then
    assert not known.falls_quiet(num_owed=8)

"""What goes wrong in Ray's actors, without Ray: its calls are answered here as a test says."""

import os
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from rollout.config import HardwareConfig
from rollout.engine.cache import EngineCache, EngineSpec, _set_environment
from rollout.replicas.messages import Job
from rollout.replicas.ray_replicas import RayReplicas
from tests.commands import ECHO
from tests.conftest import composed

pytestmark = [pytest.mark.ray, pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")]

STUCK = "never returns"


class Ray:
    """`ray` with actors whose calls have ended by now: a call is named by what it returns, raises, or STUCK."""

    def __init__(self) -> None:
        self.log = list[str]()

    def wait(self, calls: list[Any], num_returns: int = 1, timeout: float = 0) -> tuple[list[Any], list[Any]]:
        return [call for call in calls if call.result != STUCK], [call for call in calls if call.result == STUCK]

    def get(self, call: Any) -> Any:
        if isinstance(call.result, Exception):
            raise call.result
        return call.result

    def kill(self, actor: Any) -> None:
        self.log.append("kill")

    def shutdown(self) -> None:
        self.log.append("shutdown")


class Call:
    def __init__(self, result: Any) -> None:
        self.result = result


def actor(**results: Any) -> Any:
    calls = {name: SimpleNamespace(remote=lambda *_, result=result: Call(result)) for name, result in results.items()}
    return SimpleNamespace(**calls)


def replicas(monkeypatch: pytest.MonkeyPatch, *actors: Any) -> tuple[RayReplicas, Ray]:
    ray = Ray()
    for name in ("wait", "get", "kill", "shutdown"):
        monkeypatch.setattr(f"ray.{name}", getattr(ray, name))
    made = RayReplicas.__new__(RayReplicas)
    made._actors, made._asked, made._started, made._answered = list(actors), {}, {}, set(range(len(actors)))
    return made, ray


def bug(cause: Exception) -> Exception:
    from ray.exceptions import RayTaskError

    return RayTaskError("exchange", str(cause), cause)


def test_what_replicas_return_at_their_end_is_told_and_so_is_which_of_them_does_not_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = OSError("no space left")
    made, _ = replicas(monkeypatch, actor(stop=[]), actor(stop=STUCK), actor(stop=[full]))
    assert made.stop() == [(2, full)]
    assert caplog.messages == ["replica 1 has not stopped within 60 s"]


def test_ray_is_ended_also_where_the_end_of_an_engine_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next job of the sweep could not begin it."""
    made, ray = replicas(monkeypatch, actor(shutdown=bug(ZeroDivisionError("a bug"))), actor(shutdown=[]))
    with pytest.raises(Exception, match="a bug"):
        made.shutdown()
    assert ray.log == ["kill", "kill", "shutdown"]


def test_a_job_that_a_replica_cannot_begin_with_is_the_error_and_not_what_follows_from_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    cause, consequence = bug(ModuleNotFoundError("rollout.other_version")), bug(AssertionError())
    made, _ = replicas(monkeypatch, actor(start=cause, exchange=consequence))
    made.start(0, Job(composed(*ECHO), tmp_path, 0, "writer", holder="driver"))
    made.ask(0, [], flush=False, seconds=0.0)
    with pytest.raises(Exception, match=r"rollout\.other_version"):
        list(made.answers(0.0))


def test_the_environment_of_an_engine_is_undone_also_where_its_end_raises() -> None:
    cache = EngineCache()

    def build() -> Any:
        _set_environment(HardwareConfig(env={"OF_THIS_ENGINE": "1"}), cache.environment)
        return SimpleNamespace(shutdown=lambda: 1 / 0)

    cache.get(EngineSpec.of(composed(*ECHO)), build)
    assert os.environ["OF_THIS_ENGINE"] == "1"
    with pytest.raises(ZeroDivisionError):
        cache.release()
    assert "OF_THIS_ENGINE" not in os.environ

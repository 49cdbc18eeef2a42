"""One replica without Ray: whatever ends its thread, the driver hears of it; what it is given of a shared GPU."""

import errno
import threading
import time
from multiprocessing import active_children
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rollout.config import RunConfig
from rollout.engine.memory import GIB
from rollout.engine.protocol import GpuShare
from rollout.engine.vllm_worker import NAME, WorkerExtension, share_of_next
from rollout.errors import EngineDied, UserError
from rollout.generation.engine_start import load_engine
from rollout.replicas import job_thread
from rollout.replicas.messages import Job, Report
from rollout.replicas.one_engine import one_engine
from rollout.replicas.worker import Replica
from rollout.store.layout import LOCK
from tests.commands import ECHO
from tests.conftest import composed


def report_of_one_that_raises(error: BaseException, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    """What a replica tells when loading its engine raises `error`."""

    def load(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(job_thread, "load_engine", load)
    return report_of_one(composed(*ECHO), folder)


def report_of_one(run: RunConfig, folder: Path) -> Report:
    (folder / LOCK).write_text("driver")
    one = Replica()
    one.start(Job(run, folder, 3, "writer", holder="driver"))
    return one.exchange([], flush=False, seconds=10.0)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), ZeroDivisionError("a bug"), OSError("no model")])
def test_whatever_ends_a_replica_reaches_the_driver_with_its_traceback(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_of_one_that_raises(error, tmp_path, monkeypatch)
    assert type(report.error) is RuntimeError
    assert str(report.error).startswith("replica 3 on ")
    assert "Traceback" in str(report.error)
    assert type(error).__name__ in str(report.error)


@pytest.mark.parametrize("error", [UserError("a=1: wrong; fix it"), OSError(errno.ENOSPC, "No space left on device")])
def test_what_the_user_can_cure_is_told_as_it_is(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report_of_one_that_raises(error, tmp_path, monkeypatch).error is error


@pytest.mark.parametrize(("model", "expected"), [("m", "m=1: wrong; fix it"), ("other", "other=2: wrong; fix it")])
def test_an_engine_that_fails_after_its_job_fails_the_next_one_of_that_model(
    model: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over, tries = threading.Event(), list[str]()

    def load(run: RunConfig, *_: Any, **__: Any) -> None:
        assert is_over.wait(10)
        tries.append(run.model.path)
        raise UserError(f"{run.model.path}={len(tries)}: wrong; fix it")

    monkeypatch.setattr(job_thread, "load_engine", load)
    (tmp_path / LOCK).write_text("driver")
    one = Replica()
    for path in ("m", model):
        one.start(Job(composed(*ECHO, f"model.path={path}"), tmp_path, 3, "writer", holder="driver"))
    is_over.set()
    assert str(one.exchange([], flush=False, seconds=10.0).error) == expected
    assert len(tries) == len({"m", model})


def test_what_was_wrong_with_one_job_only_does_not_fail_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica has told of it; this one found it out after the job was over."""
    is_over = threading.Event()

    def load_slowly(*asked: Any, **how: Any) -> Any:
        assert is_over.wait(10)
        return load_engine(*asked, **how)

    monkeypatch.setattr(job_thread, "load_engine", load_slowly)
    (tmp_path / LOCK).write_text("driver")
    one = Replica()
    for max_tokens in (100_000, 100):
        run = composed(*ECHO, f"sampling.max_tokens={max_tokens}")
        one.start(Job(run, tmp_path, 3, "writer", holder="driver"))
    is_over.set()
    report = report_once_ready(one)
    one.shutdown()
    assert report.error is None
    assert report.ready is not None


def test_an_engine_that_dies_while_its_job_is_stopped_is_told_as_dead_to_the_next_one_of_whatever_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over, deaths = threading.Event(), list[EngineDied]()

    def die(*_: Any) -> None:
        assert is_over.wait(10)
        deaths.append(EngineDied("at the end"))
        raise deaths[-1]

    monkeypatch.setattr(job_thread, "drain", die)
    (tmp_path / LOCK).write_text("driver")
    one = Replica()
    one.start(Job(composed(*ECHO), tmp_path, 3, "writer", holder="driver"))
    report_once_ready(one)
    threading.Timer(0.1, is_over.set).start()
    one.start(Job(composed(*ECHO, "model.path=other"), tmp_path, 3, "writer", holder="driver"))
    report = one.exchange([], flush=False, seconds=10.0)
    one.shutdown()
    assert [report.error] == deaths


@pytest.mark.parametrize("is_told", [True, False])
def test_what_fails_at_the_end_of_a_job_is_returned_once_unless_a_report_has_told_it(
    is_told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_full, is_over = OSError(errno.ENOSPC, "No space left on device"), threading.Event()

    def fail(*_: Any) -> None:
        assert is_over.wait(10)
        raise disk_full

    monkeypatch.setattr(job_thread, "drain", fail)
    (tmp_path / LOCK).write_text("driver")
    one = Replica()
    one.start(Job(composed(*ECHO), tmp_path, 3, "writer", holder="driver"))
    report_once_ready(one)
    if is_told:
        is_over.set()
        assert one.exchange([], flush=False, seconds=10.0).error is disk_full
    threading.Timer(0.1, is_over.set).start()
    assert one.stop() == ([] if is_told else [disk_full])
    assert one.shutdown() == []


@pytest.mark.parametrize("has_begun", [True, False])
def test_an_engine_that_fails_after_its_job_is_told_at_the_end_of_one_of_another_model_begun_before_or_since(
    has_begun: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over, refusal = threading.Event(), UserError("m=1: wrong; fix it")

    def load(run: RunConfig, log_file: Path, **_: Any) -> Any:
        assert is_over.wait(10)
        if run.model.path == "m":
            raise refusal
        return load_engine(run, log_file)

    monkeypatch.setattr(job_thread, "load_engine", load)
    (tmp_path / LOCK).write_text("driver")
    one = Replica()
    jobs = [Job(composed(*ECHO, f"model.path={path}"), tmp_path, 3, "writer", "driver") for path in ("m", "other")]
    one.start(jobs[0])
    if not has_begun:
        assert one.stop() == []
        is_over.set()
        assert one._job is not None
        one._job.thread.join()
    one.start(jobs[1])
    is_over.set()
    assert report_once_ready(one).error is None
    assert one.shutdown() == [refusal]


def report_once_ready(one: Replica) -> Report:
    """What a replica tells once it is ready or has failed."""
    deadline = time.monotonic() + 10
    while (report := one.exchange([], False, 0.01)).ready is None and report.error is None:
        assert time.monotonic() < deadline
    return report


def test_what_scores_starts_while_the_engine_is_loaded_and_ends_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, meanwhile = active_children(), list[int]()

    def load(*_: Any, **__: Any) -> None:
        meanwhile.append(len(active_children()) - len(before))
        raise UserError("a=1: wrong; fix it")

    monkeypatch.setattr(job_thread, "load_engine", load)
    rule = ("adaptive.until=agree", "postprocess.score.scorer=math", "postprocess.score.workers=2")
    assert report_of_one(composed(*ECHO, *rule), tmp_path).error is not None
    assert meanwhile == [2]
    assert active_children() == before


def test_engines_that_share_a_gpu_share_its_memory_and_only_the_first_measures_what_is_left() -> None:
    run = composed("hardware=single_gpu", "hardware.replicas_per_gpu=4")
    first, other = one_engine(run).hardware, one_engine(run, GpuShare(0.2, kv_cache_bytes=123)).hardware
    assert (first.gpu_memory_utilization, other.gpu_memory_utilization) == (0.95 / 4, 0.2)
    assert first.engine_kwargs == {"worker_extension_cls": NAME}
    assert other.engine_kwargs == {"kv_cache_memory_bytes": 123}
    assert first.replicas_per_gpu == first.replicas == 1


@pytest.mark.parametrize("taken_by_others", [0, 9 * GIB])
def test_what_an_engine_takes_beyond_its_part_is_left_out_of_what_the_next_one_gets(
    taken_by_others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of 12 GiB of 80, of which 8 for the KV cache; CUDA takes half a GiB, and CUDA graphs another one. What a
    worker says comes by msgpack, which makes a dictionary of a dataclass: on a GPU no second engine could be begun.
    """
    import torch
    from msgspec import msgpack

    begin = 80 * GIB - taken_by_others - GIB // 2
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (begin - 13 * GIB, 80 * GIB))
    one = WorkerExtension()
    one.available_kv_cache_memory_bytes, one.requested_memory = 8 * GIB, 12 * GIB
    one.init_snapshot = SimpleNamespace(free_memory=begin, total_memory=80 * GIB)
    of_cuda = 1 if taken_by_others else 0.5  # at most: the rest is of other programs
    workers = lambda method: msgpack.decode(msgpack.encode([getattr(one, method)()]))  # noqa: E731
    assert share_of_next(workers) == GpuShare((12 - 1 - of_cuda) / 80, int((8 - 1 - of_cuda) * GIB))


def test_a_size_of_the_cache_that_the_user_has_set_is_not_measured() -> None:
    asked = "hardware.engine_kwargs.kv_cache_memory_bytes=77"
    run = composed("hardware=single_gpu", "hardware.replicas_per_gpu=4", asked)
    assert one_engine(run).hardware.engine_kwargs == {"kv_cache_memory_bytes": 77}
    assert one_engine(run, None).hardware.engine_kwargs == {"kv_cache_memory_bytes": 77}


def test_an_engine_that_shares_nothing_is_as_the_user_asked() -> None:
    run = composed("hardware=single_gpu", "hardware.replicas=2")
    assert one_engine(run).hardware == composed("hardware=single_gpu").hardware

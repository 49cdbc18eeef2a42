"""Engines as Ray actors: on the GPUs of this machine, of a cluster, or several on one GPU. The only user of ray.

`worker.py` has what runs in an actor, `dispatcher.py` decides which samples what, and `driver.py` drives them.
"""

import logging
import math
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from rollout.config import HardwareConfig
from rollout.errors import UserError
from rollout.process import watchdog
from rollout.process.signals import STOPPING
from rollout.replicas.dispatcher import Task
from rollout.replicas.messages import Job, ReplicaLost, Report
from rollout.replicas.worker import Replica

log = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 128 << 20  # ours are small messages; Ray would take a third of the memory
_PROBE_SECONDS = 5.0
_STOP_SECONDS = 60.0  # for the replicas to make durable what has finished


class RayReplicas:
    """One actor per engine, and the part of Ray that was started for them. Kept across the jobs of a sweep."""

    def __init__(self, hardware: HardwareConfig) -> None:
        """Raises UserError when Ray cannot be reached, or does not have the GPUs that `hardware` asks for."""
        with _signal_handlers_kept():
            _connect(hardware)
        try:
            self._options = _actor_options(hardware)
            self._actors = [self._new_actor() for _ in range(_num_engines(hardware))]
        except BaseException:
            ray.shutdown()
            raise
        self._started: dict[int, Any] = {}  # replica -> reference to what its newest `start` returns
        self._asked: dict[Any, int] = {}  # reference to an answer that is awaited -> replica
        self._answered: set[int] = set()  # replicas that have a process; others may still wait for a place

    @property
    def count(self) -> int:
        """Engines there are, or will be."""
        return len(self._actors)

    @property
    def num_connected(self) -> int:
        """Replicas whose process has answered; Ray may still be looking for a place for the others."""
        return len(self._answered)

    def start(self, index: int, job: Job) -> None:
        """Let a replica begin with a job."""
        self._started[index] = self._actors[index].start.remote(job)

    def ask(self, index: int, tasks: list[Task], flush: bool, seconds: float) -> None:
        """Give a replica tasks and ask what is new, see `Replica.exchange`; it answers within about `seconds`."""
        self._asked[self._actors[index].exchange.remote(tasks, flush, seconds)] = index

    def answers(self, seconds: float) -> Iterator[tuple[int, Report | ReplicaLost]]:
        """Each answer that has come, with its replica; waits at most `seconds` for the first."""
        if not ray.wait(list(self._asked), timeout=seconds)[0]:
            return
        come, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
        for answer in come:
            index = self._asked.pop(answer)
            self._answered.add(index)
            try:
                yield index, ray.get(answer)
            except RayTaskError:  # a bug of ours
                ray.get(self._started[index])  # raises that of a job that it could not begin with, which is the cause
                raise
            except RayError as error:  # its process, its node, or Ray's memory monitor has ended it
                log.info("what Ray says of replica %d: %s", index, error)
                yield index, ReplicaLost(str(error).strip().splitlines()[-1].strip())

    def replace(self, index: int) -> None:
        """End a replica for good and let Ray find a place for another."""
        ray.kill(self._actors[index])
        self._actors[index] = self._new_actor()
        self._answered.discard(index)

    def stop(self) -> list[tuple[int, Exception]]:
        """End the job everywhere; what has finished is durable then, on every replica that is alive.

        Returns errors that were in no report, each with its replica.
        """
        self._asked.clear()
        return self._errors([actor.stop.remote() for actor in self._actors])

    def shutdown(self) -> None:
        """End the engines and what was started of Ray."""
        try:
            for index, error in self._errors([actor.shutdown.remote() for actor in self._actors]):
                log.warning("replica %d has failed: %s", index, error)
        finally:  # else the next job of a sweep would find this Ray
            for actor in self._actors:
                ray.kill(actor)
            ray.shutdown()

    def _errors(self, calls: list[Any]) -> list[tuple[int, Exception]]:
        """What `calls`, one to each replica, return; waits for those to replicas that have a place and are alive."""
        waited_for = {call: index for index, call in enumerate(calls) if index in self._answered}
        if not waited_for:
            return []
        returned, late = ray.wait(list(waited_for), num_returns=len(waited_for), timeout=_STOP_SECONDS)
        for call in late:
            log.warning("replica %d has not stopped within %.0f s", waited_for[call], _STOP_SECONDS)
        found = list[tuple[int, Exception]]()
        for call in returned:
            try:
                found += [(waited_for[call], error) for error in ray.get(call)]
            except RayTaskError:
                raise
            except RayError:  # its process has ended
                continue
        return found

    def _new_actor(self) -> Any:
        return ray.remote(Replica).options(**self._options).remote()


def _connect(hardware: HardwareConfig) -> None:
    """Start Ray here, or join the cluster that `hardware` names. Raises UserError when it does not answer."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # sends nothing about a run to anyone
    same: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING, "namespace": None}
    if hardware.ray_address is None:
        watchdog.start()  # some of Ray's processes would outlive a SIGKILL of this one
        num_cpus = max(os.cpu_count() or 1, hardware.replicas or 1)
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            **same,
        )
        return
    try:
        _probe(hardware.ray_address)
        ray.init(address=hardware.ray_address, **same)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"hardware.ray_address={hardware.ray_address}: no Ray cluster answers there ({reason}); start one with "
            "`ray start --head`, set RAY_AUTH_MODE=token if it wants a token, or leave the key out to use this machine"
        ) from error


def _probe(address: str) -> None:
    """Raises OSError where nobody listens: Ray would wait for minutes, and not even a signal would end that."""
    known = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = known.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS).close()


@contextmanager
def _signal_handlers_kept() -> Iterator[None]:
    """Ray sets handlers of its own, but a run stops cleanly on a signal."""
    before = {signum: signal.getsignal(signum) for signum in STOPPING}
    yield
    with suppress(ValueError):  # not the main thread: then nobody can have changed them
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _num_engines(hardware: HardwareConfig) -> int:
    """Replicas that `hardware` asks for, those that share a GPU counted one by one.

    Raises UserError when there is no room for as many.
    """
    if hardware.device == "cpu":
        return hardware.replicas or 1
    each = hardware.tensor_parallel_size * hardware.pipeline_parallel_size
    gpus = [int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
    room = sum(there // each for there in gpus)  # all GPUs of a replica are on one node
    replicas = room if hardware.replicas is None else hardware.replicas
    if replicas < 1 or replicas > room:
        place = "this machine" if hardware.ray_address is None else f"the Ray cluster {hardware.ray_address}"
        shown = "null" if hardware.replicas is None else hardware.replicas
        raise UserError(
            f"hardware.replicas={shown}: {place} has room for {room}, with {each} of {sum(gpus)} GPUs for each; "
            "ask for fewer, use smaller parallel sizes or add machines"
        )
    return replicas * hardware.replicas_per_gpu


def _actor_options(hardware: HardwareConfig) -> dict[str, Any]:
    """What Ray reserves for one engine. All GPUs of a replica are on one node."""
    if hardware.device == "cpu":
        return {"num_cpus": 1, "scheduling_strategy": "SPREAD", "max_restarts": 0}
    gpus: float = hardware.tensor_parallel_size * hardware.pipeline_parallel_size
    if hardware.replicas_per_gpu > 1:
        gpus = math.floor(10_000 / hardware.replicas_per_gpu) / 10_000  # Ray counts in ten-thousandths
    return {"num_cpus": 0, "num_gpus": gpus, "max_restarts": 0}

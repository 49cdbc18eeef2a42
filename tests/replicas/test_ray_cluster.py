"""A Ray cluster that somebody else has started, on this machine: joined as a node of it, and as a client."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.commands import ECHO, command, resume, run_fresh
from tests.conftest import chat, write_input
from tests.processes import REPLICA, alive, family, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")]

ROWS = 600
RUN = (*ECHO, "data.path=input.parquet", "sampling.n_samples=4", "hardware.replicas=2", "store.flush_seconds=0.2")
SLOW = ("engine.echo.step_seconds=0.05", "engine.echo.max_steps=20")


def free_ports(number: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    write_input(folder / "input.parquet", [{"prompt": chat(f"question {number}")} for number in range(ROWS)])
    one = run_fresh(*RUN, "hardware.replicas=1", "hydra.run.dir=one", cwd=folder)
    assert one.returncode == 0, one.stderr
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """What to give as hardware.ray_address, by how it is joined; found in RAY_ADDRESS by `auto`."""
    port, client_port = free_ports(2)
    sessions = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # its sockets' paths must be short
    options = (
        *("--head", "--block", "--num-cpus=4", f"--port={port}", f"--ray-client-server-port={client_port}"),
        *("--include-dashboard=false", "--object-store-memory=100000000", "--disable-usage-stats"),
        f"--temp-dir={sessions}",
    )
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # nobody else may run code in it
    # one client in ten would meet "Starting Ray client server failed": gRPC's own handlers of fork() break the child
    forks = {"GRPC_ENABLE_FORK_SUPPORT": "0"}
    head = subprocess.Popen(
        command("start", *options, module="ray.scripts.scripts"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | token | forks,
    )
    assert head.stdout is not None
    print_so_far = ""
    while "--block" not in print_so_far:
        line = head.stdout.readline()
        assert line, print_so_far
        print_so_far += line
    members = family(head.pid)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in (token | {"RAY_ADDRESS": f"127.0.0.1:{port}"}).items():
            environment.setenv(name, value)
        yield {
            "auto": "auto",
            "address": f"127.0.0.1:{port}",
            "client": f"ray://127.0.0.1:{client_port}",
            "head": str(head.pid),
        }
    members |= family(head.pid)
    head.terminate()
    head.wait(30)
    for pid in members:
        if alive({pid: members[pid]}):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(sessions, ignore_errors=True)


@pytest.mark.parametrize("way", ["auto", "address", "client"])
def test_a_run_on_a_cluster_writes_the_bytes_of_one_engine(way: str, folder: Path, cluster: dict[str, str]) -> None:
    result = run_fresh(*RUN, f"hardware.ray_address={cluster[way]}", f"hydra.run.dir={way}", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert (folder / way / "rollouts.parquet").read_bytes() == (folder / "one/rollouts.parquet").read_bytes()
    engine = json.loads((folder / way / "run.json").read_text())["engine"]
    assert len(engine["replicas"]) == 2
    assert sum(replica["samples"] for replica in engine["replicas"]) == 4 * ROWS


def test_no_replica_outlives_a_driver_that_is_killed(folder: Path, cluster: dict[str, str]) -> None:
    """They are the cluster's processes, not the run's: Ray itself must notice."""
    arguments = (*RUN, *SLOW, f"hardware.ray_address={cluster['auto']}", "hydra.run.dir=orphaned")
    process = subprocess.Popen(
        command(*arguments), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_until(lambda: list(folder.glob("orphaned/samples/part-*")), 60)
    replicas = family(int(cluster["head"]), REPLICA)
    assert len(replicas) == 2
    process.kill()
    process.wait()
    wait_until(lambda: not alive(replicas), 20)
    resumed = resume("orphaned", "engine.echo.step_seconds=0", cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    assert (folder / "orphaned/rollouts.parquet").read_bytes() == (folder / "one/rollouts.parquet").read_bytes()

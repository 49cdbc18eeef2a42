"""Several engines on one run, through real Ray: the same bytes as from one, whoever is killed."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.watch import check, watch_until_killed
from rollout.config import HardwareConfig
from rollout.engine import devices
from rollout.errors import UserError
from rollout.preflight import preflight
from rollout.replicas import ray_replicas
from rollout.replicas.job_thread import _check_folder
from rollout.replicas.messages import Job
from rollout.store.layout import LOCK, LOGS
from tests.commands import ECHO, command, resume, run_fresh
from tests.conftest import composed, write_input, write_mixed_input
from tests.processes import REPLICA, alive, family, wait_until
from tests.test_row_sampling import BAD_ROWS, COUNTS, UNEQUAL
from tests.test_row_sampling import ROWS as ROWS_OF_THEIR_OWN

pytestmark = [pytest.mark.ray, pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")]

ROWS, N_SAMPLES = 1500, 4
OUTPUTS = ("rollouts.parquet", "flat.parquet", "analysis.json")
RUN = (
    *ECHO,
    "data.path=input.parquet",
    f"sampling.n_samples={N_SAMPLES}",
    "sampling.logprobs=raw",
    "model.reasoning_parser=qwen3",
    "engine.echo.think_tokens=5",
    "data.max_error_fraction=1",
    "engine.echo.refuse_word=refuseme",
    "store.flush_seconds=0.2",
)
FAST = "engine.echo.step_seconds=0"
TWO = (*RUN, "hardware.replicas=2", "engine.echo.step_seconds=0.015", "engine.echo.max_steps=10")
"""These take two replicas about five seconds, and three more to begin."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An input with bad rows and refused rows, and what one engine makes of it."""
    folder = tmp_path_factory.mktemp("replicas")
    write_mixed_input(folder / "input.parquet", ROWS)
    one = run_fresh(*RUN, "hydra.run.dir=one", cwd=folder)
    assert one.returncode == 0, one.stderr
    return folder


def started(folder: Path, name: str, *overrides: str, arguments: tuple[str, ...] = TWO) -> subprocess.Popen[str]:
    """A run on two replicas, both of which have stored samples and have more to come."""
    process = subprocess.Popen(
        command(*arguments, f"hydra.run.dir={name}", *overrides),
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_until(lambda: process.poll() is not None or len(writers(folder / name)) >= 2, 60)
    assert process.poll() is None, process.communicate()
    return process


def writers(run_dir: Path) -> set[str]:
    return {path.name.rpartition("-")[0] for path in run_dir.glob("samples/part-*.parquet")}


def manifest(run_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_dir / "run.json").read_text())
    return content


def journal(run_dir: Path) -> pd.DataFrame:
    return pd.concat(pd.read_parquet(path) for path in run_dir.glob("samples/part-*.parquet"))


def assert_as_one_engine(run_dir: Path) -> None:
    """The same files to the byte. A failed sample is owed again by a resume, and then in the journal twice."""
    for output in OUTPUTS:
        assert (run_dir / output).read_bytes() == (run_dir.parent / "one" / output).read_bytes()
    samples = journal(run_dir)
    good = samples[samples["error"].isna()]
    assert not good.duplicated(["row_id", "sample_idx"]).any()
    assert len(samples.drop_duplicates(["row_id", "sample_idx"])) == ROWS * N_SAMPLES
    assert not list(run_dir.rglob(".*.partial"))


@pytest.fixture(scope="module")
def two(folder: Path) -> Path:
    """A run on two replicas that nothing disturbs."""
    result = run_fresh(*TWO, "hydra.run.dir=two", "tracking.interval_seconds=1", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "replica 0 on " in result.stdout
    assert "replica 1 on " in result.stdout
    return folder / "two"


def test_two_replicas_write_the_bytes_of_one_engine(two: Path) -> None:
    assert_as_one_engine(two)
    assert len(journal(two)) == ROWS * N_SAMPLES


def test_run_json_says_what_each_replica_did_and_it_adds_up(two: Path) -> None:
    run = manifest(two)
    engine, replicas = run["engine"], run["engine"]["replicas"]
    assert (engine["reused"], engine["restarts"], len(replicas)) == (False, 0, 2)
    assert sum(replica["samples"] for replica in replicas) == run["totals"]["samples"] == ROWS * N_SAMPLES
    assert sum(replica["generated_tokens"] for replica in replicas) == run["totals"]["generated_tokens"]
    rates = sum(replica["output_tok_s"] for replica in replicas)
    assert rates == pytest.approx(run["throughput"]["output_tok_s"], rel=0.01)
    assert all(replica["samples"] > ROWS * N_SAMPLES / 4 for replica in replicas)
    assert all(replica["host"] and replica["restarts"] == 0 and replica["sampler"] == "echo" for replica in replicas)


def test_the_metrics_have_the_rate_of_each_replica(two: Path) -> None:
    points = [json.loads(line) for line in (two / "metrics.jsonl").read_text().splitlines()]
    assert len(points) >= 3
    for point in points[1:]:
        assert len(point["replica_tok_s_now"]) == 2
        assert sum(point["replica_tok_s_now"]) == pytest.approx(point["output_tok_s_now"], rel=0.02)


def test_each_replica_has_a_log_of_its_own(two: Path) -> None:
    assert [path.name for path in sorted((two / LOGS).iterdir())] == ["replica-000.log", "replica-001.log"]
    assert all("engine ready" in path.read_text() for path in (two / LOGS).iterdir())


def test_too_many_bad_rows_end_the_run_in_one_line(folder: Path) -> None:
    result = run_fresh(*TWO, "hydra.run.dir=strict", "data.max_error_fraction=0.001", cwd=folder)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: data.max_error_fraction=0.001: 2 of 1500 rows cannot be sampled")
    assert manifest(folder / "strict")["status"] == "failed"


def test_a_replica_that_is_killed_is_started_again_and_nothing_is_lost_or_doubled_in_whatever_order(
    folder: Path,
) -> None:
    process = started(folder, "killed", "sampling.order=longest_first")
    os.kill(min(family(process.pid, REPLICA)), signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "starting it again; see killed/logs/replica-00" in output
    run = manifest(folder / "killed")
    assert run["engine"]["restarts"] == sum(replica["restarts"] for replica in run["engine"]["replicas"]) == 1
    assert sum(replica["samples"] for replica in run["engine"]["replicas"]) == ROWS * N_SAMPLES
    assert len(journal(folder / "killed")) == ROWS * N_SAMPLES
    assert len(writers(folder / "killed")) == 3
    assert_as_one_engine(folder / "killed")


def test_rows_that_a_rule_stops_have_the_samples_of_one_engine_also_where_a_replica_is_killed(folder: Path) -> None:
    """A third of the responses pass: by the last digit of their seed, which each of them names."""
    scored = ("postprocess.score.scorer=regex", r"postprocess.score.pattern=-[0-9a-f]*[0-4]( |\$)")
    rule = ("adaptive=first_pass", "sampling.n_samples=16", *scored)
    one = run_fresh(*RUN, *rule, "hydra.run.dir=stopped_on_one", cwd=folder)
    assert one.returncode == 0, one.stderr
    process = started(folder, "stopped", *rule)
    os.kill(min(family(process.pid, REPLICA)), signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "starting it again; see stopped/logs/replica-00" in output
    for name in (*OUTPUTS, "scores.parquet"):
        assert (folder / "stopped" / name).read_bytes() == (folder / "stopped_on_one" / name).read_bytes()
    assert manifest(folder / "stopped")["adaptive"]["saved_samples"] > 0.6


def test_a_replica_whose_engine_dies_is_started_again(folder: Path) -> None:
    result = run_fresh(*TWO, "engine.echo.die_after=2000", "hydra.run.dir=died", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "died (the echo engine died, as engine.echo.die_after asks), starting it again" in result.stdout
    assert 1 <= manifest(folder / "died")["engine"]["restarts"] <= 4
    assert_as_one_engine(folder / "died")
    assert len(journal(folder / "died")) == ROWS * N_SAMPLES


def test_an_engine_that_keeps_dying_ends_the_run_and_a_resume_on_one_engine_goes_on(folder: Path) -> None:
    result = run_fresh(*TWO, "engine.echo.die_after=150", "engine.max_restarts=1", "hydra.run.dir=dead", cwd=folder)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: engine.max_restarts=1: replica ")
    assert line.endswith("then continue with `python -m rollout resume dead`")
    assert manifest(folder / "dead")["status"] == "failed"
    assert 150 < len(journal(folder / "dead")) < 1000
    resumed = resume("dead", FAST, "engine.echo.die_after=null", "hardware.replicas=1", cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    assert_as_one_engine(folder / "dead")


def test_nothing_outlives_a_driver_that_is_killed_and_any_number_of_replicas_can_go_on(folder: Path) -> None:
    process = started(folder, "orphaned")
    members = family(process.pid)
    assert {"raylet", "gcs_server"} <= set(alive(members))
    assert len(family(process.pid, REPLICA)) == 2
    watch_until_killed(process, folder / "orphaned", seconds=0.5)
    process.communicate()
    wait_until(lambda: not alive(members), 15)

    assert check(folder / "orphaned", folder / "orphaned.html") == "killed"
    shutil.copytree(folder / "orphaned", folder / "orphaned_too")
    there = journal(folder / "orphaned")
    assert 0 < len(there) < ROWS * N_SAMPLES
    for name, replicas in (("orphaned", 1), ("orphaned_too", 3)):
        resumed = resume(name, FAST, f"hardware.replicas={replicas}", cwd=folder)
        assert resumed.returncode == 0, resumed.stderr
        assert f" {there['error'].isna().sum():,} of {ROWS * N_SAMPLES:,} samples exist already" in resumed.stdout
        assert_as_one_engine(folder / name)
    assert len(manifest(folder / "orphaned_too")["engine"]["replicas"]) == 3


@pytest.mark.parametrize(
    ("send", "signum", "replicas"),
    [(os.killpg, signal.SIGINT, 1), (os.kill, signal.SIGTERM, 2)],
    ids=["ctrl_c_in_a_terminal_reaches_all", "sigterm_reaches_the_driver"],
)
def test_a_signal_stops_all_in_order_with_what_has_finished_kept(
    send: Callable[[int, int], None], signum: signal.Signals, replicas: int, folder: Path
) -> None:
    name = f"interrupted_{signum.name}"
    process = started(folder, name)
    members = family(process.pid)
    send(process.pid, signum)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, errors
    assert f"{signum.name}: stopped cleanly. Continue with\n  python -m rollout resume {name}" in output
    run, durable = manifest(folder / name), len(journal(folder / name))
    assert run["status"] == "interrupted"
    assert 0 < sum(replica["samples"] for replica in run["engine"]["replicas"]) <= durable < ROWS * N_SAMPLES
    assert run["engine"]["restarts"] == 0
    wait_until(lambda: not alive(members), 15)
    resumed = resume(name, FAST, f"hardware.replicas={replicas}", cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    assert_as_one_engine(folder / name)


OWN_ROWS = [*ROWS_OF_THEIR_OWN * 20, *BAD_ROWS]
OWN = (*ECHO, *UNEQUAL, "data.path=own.parquet", "data.tools_key=tools", "data.max_error_fraction=1")


@pytest.fixture(scope="module")
def sweep(folder: Path) -> Path:
    """Four jobs on two replicas, of one to three rows and of all, with sampling and tools of their own."""
    tools = ({"tools": json.dumps([{"name": f"tool{number}"}])} for number in range(len(OWN_ROWS)))
    texts = (row if isinstance(row["own"], str | None) else row | {"own": json.dumps(row["own"])} for row in OWN_ROWS)
    write_input(folder / "own.parquet", [row | more for row, more in zip(texts, tools, strict=True)])
    jobs = ("-m", *OWN, "hardware.replicas=2", f"data.limit=1,2,3,{len(OWN_ROWS)}", "hydra.sweep.dir=sweep")
    result = run_fresh(*jobs, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "sweep"


def test_a_sweep_starts_the_replicas_once_even_when_a_job_is_over_before_all_are_ready(sweep: Path) -> None:
    assert [manifest(sweep / f"{job}")["engine"]["reused"] for job in range(4)] == [False, True, True, True]
    assert [manifest(sweep / f"{job}")["totals"]["samples"] for job in range(3)] == [3, 4, 9]


def test_rows_with_sampling_of_their_own_have_the_bytes_of_one_engine(sweep: Path, folder: Path) -> None:
    one = run_fresh(*OWN, f"data.limit={len(OWN_ROWS)}", "hydra.run.dir=own_on_one", cwd=folder)
    assert one.returncode == 0, one.stderr
    assert (sweep / "3/rollouts.parquet").read_bytes() == (folder / "own_on_one/rollouts.parquet").read_bytes()
    assert pd.read_parquet(sweep / "3/rollouts.parquet")["responses"].map(len).sum() > 20 * sum(COUNTS)


def test_without_ray_a_run_that_needs_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_spec", lambda _: None)
    with pytest.raises(UserError) as refusal:
        preflight(composed(*ECHO, "hardware.replicas=2"))
    (line,) = refusal.value.problems
    assert line == "hardware.replicas=2: needs Ray, which is not installed; run `pip install ray`"
    preflight(composed(*ECHO))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("hardware.replicas=null", "hardware.replicas=null: there are no GPUs to count with device=cpu"),
        ("hardware.replicas_per_gpu=2", "hardware.replicas_per_gpu=2: only models on one GPU can share it"),
        ("hardware.replicas=0", "hardware.replicas=0: must be at least 1"),
    ],
)
def test_replicas_that_cannot_be_are_refused_before_anything_is_loaded(override: str, line: str) -> None:
    with pytest.raises(UserError) as refusal:
        preflight(composed(*ECHO, override))
    (problem,) = refusal.value.problems
    assert problem.startswith(line)


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_cluster_that_is_not_there_ends_the_run_in_one_line_and_soon(
    address: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if address == "auto":  # without a name it would find the Ray of a test that runs beside this one
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    name = f"alone_{address.partition(':')[0]}"
    begun = time.monotonic()
    result = run_fresh(*RUN, f"hardware.ray_address='{address}'", f"hydra.run.dir={name}", cwd=folder)
    assert time.monotonic() - begun < 25  # Ray itself would wait for half a minute, or for minutes
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: hardware.ray_address={address}: no Ray cluster answers there (")
    shutil.rmtree(folder / name)


def nodes(*gpus: int) -> list[dict[str, Any]]:
    there = [{"Alive": True, "Resources": {"CPU": 8.0, "GPU": float(number)}} for number in gpus]
    return [*there, {"Alive": True, "Resources": {"CPU": 8.0}}, {"Alive": False, "Resources": {"GPU": 99.0}}]


@pytest.mark.parametrize(
    ("asked", "engines"),
    [
        ({"replicas": None}, 12),
        ({"replicas": None, "replicas_per_gpu": 4}, 48),
        ({"replicas": None, "tensor_parallel_size": 3}, 3),  # two on the eight GPUs, one on the four
        ({"replicas": 2, "tensor_parallel_size": 2, "pipeline_parallel_size": 2}, 2),
    ],
)
def test_a_replica_has_all_its_gpus_on_one_machine(
    asked: dict[str, Any], engines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.nodes", lambda: nodes(8, 4))
    assert ray_replicas._num_engines(HardwareConfig(**asked)) == engines


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"replicas": 13}, "hardware.replicas=13: this machine has room for 12, with 1 of 12 GPUs for each;"),
        (
            {"replicas": None, "tensor_parallel_size": 16, "ray_address": "auto"},
            "hardware.replicas=null: the Ray cluster auto has room for 0, with 16 of 12 GPUs for each;",
        ),
    ],
)
def test_replicas_there_is_no_room_for_are_refused(
    asked: dict[str, Any], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.nodes", lambda: nodes(8, 4))
    with pytest.raises(UserError) as refusal:
        ray_replicas._num_engines(HardwareConfig(**asked))
    assert refusal.value.problems[0].startswith(line)


def test_a_machine_that_does_not_see_the_run_folder_says_so(tmp_path: Path) -> None:
    job = Job(composed(*ECHO), tmp_path / "run", 0, "writer", holder="the driver")
    with pytest.raises(UserError, match="does not see this folder; with ray_address the run folder must be on"):
        _check_folder(job)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).write_text("somebody else")
    with pytest.raises(UserError, match="does not see this folder"):
        _check_folder(job)
    (tmp_path / "run" / LOCK).write_text("the driver")
    _check_folder(job)

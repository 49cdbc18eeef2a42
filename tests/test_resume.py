"""Continuing a run: the same samples as without the interruption, and refusal of whatever would mix two experiments."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from rollout.compare.sides import cost_of
from rollout.errors import UserError
from rollout.store import run_record
from rollout.store.journal import read_part
from rollout.store.metrics import all_lines
from rollout.sweep.metrics import metrics_of
from tests.commands import ECHO, Running, resume, run_command, start_command
from tests.conftest import chat, write_input
from tests.sides import side_of_run

pytestmark = pytest.mark.long

ROWS = [{"prompt": chat(f"question {number}"), "number": number} for number in range(400)]
SLOW = ("engine.echo.step_seconds=0.02", "engine.echo.max_steps=10", "store.flush_seconds=0.2", "sampling.n_samples=5")
"""Overrides that make a run of ROWS take about a second and a half."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_input(tmp_path / "input.parquet", ROWS)
    return tmp_path


def start(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return run_command(*ECHO, "data.path=input.parquet", "hydra.run.dir=run", *overrides, cwd=folder)


def started(folder: Path, *overrides: str) -> Running:
    """A run that has written its first samples and has more to come."""
    arguments = [*ECHO, "data.path=input.parquet", "hydra.run.dir=run", *SLOW, *overrides]
    process = start_command(*arguments, cwd=folder)
    deadline = time.monotonic() + 60
    while not list(folder.glob("run/samples/part-*.parquet")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run/run.json").read_text())
    return content


def journal(folder: Path) -> pd.DataFrame:
    return pd.concat(pd.read_parquet(path) for path in sorted(folder.glob("run/samples/part-*.parquet")))


@pytest.mark.long
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_in_order_and_the_rest_comes_with_resume(
    signum: signal.Signals, code: int, folder: Path
) -> None:
    process = started(folder, "tracking=offline")
    sent = time.monotonic()
    process.send_signal(signum)
    output, errors = process.communicate(timeout=30)
    assert time.monotonic() - sent < 30
    assert process.returncode == code, errors
    assert f"{signum.name}: stopped cleanly. Continue with\n  python -m rollout resume run" in output
    assert manifest(folder)["status"] == "interrupted"
    before = journal(folder)
    assert 0 < len(before) < 2000

    assert f" {len(before):,} of 2,000 samples exist already" in resume("run", cwd=folder).stdout
    after = journal(folder)
    assert len(after) == 2000  # nothing twice: what was there was not generated again
    assert not after.duplicated(["row_id", "sample_idx"]).any()
    assert [session["status"] for session in manifest(folder)["sessions"]] == ["interrupted"]

    assert start(folder, *SLOW, "hydra.run.dir=uninterrupted").returncode == 0
    for name in ("rollouts.parquet", "flat.parquet", "analysis.json"):
        assert (folder / "run" / name).read_bytes() == (folder / "uninterrupted" / name).read_bytes()


@pytest.mark.long
def test_a_second_signal_ends_at_once() -> None:
    stubborn = (
        "import time\nfrom rollout.process.signals import stop_on_signal\n"
        "with stop_on_signal() as stop, stop.deferred():\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "    while True: time.sleep(1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == 143


def test_a_finished_run_owes_nothing_and_says_so_without_loading_anything(folder: Path) -> None:
    assert start(folder).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*") if path.name != ".lock"}
    trace = [sys.executable, "-X", "importtime", "-m", "rollout.resume", "run"]
    result = subprocess.run(trace, cwd=folder, capture_output=True, text=True, check=True)
    assert result.stdout == "run: nothing to do, the run is complete\n"
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert not imported & {"vllm", "torch", "transformers", "wandb"}
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*") if path.name != ".lock"}


def test_more_samples_are_added_and_those_there_stay_as_they_are(folder: Path) -> None:
    assert start(folder, "sampling.n_samples=4").returncode == 0
    four = pq.read_table(folder / "run/rollouts.parquet").to_pylist()
    assert " 1,600 of 6,400 samples exist already" in resume("run", "sampling.n_samples=16", cwd=folder).stdout
    sixteen = pq.read_table(folder / "run/rollouts.parquet").to_pylist()
    assert [row["responses"][:4] for row in sixteen] == [row["responses"] for row in four]
    assert {len(row["responses"]) for row in sixteen} == {16}
    samples = journal(folder)
    assert len(samples) == 400 * 16
    assert sorted(samples["sample_idx"].tolist()[1600:]) == sorted(list(range(4, 16)) * 400)
    assert start(folder, "sampling.n_samples=16", "hydra.run.dir=at_once").returncode == 0
    assert (folder / "run/rollouts.parquet").read_bytes() == (folder / "at_once/rollouts.parquet").read_bytes()
    assert resume("run", cwd=folder).stdout == "run: nothing to do, the run is complete\n"


def test_more_rows_of_the_same_input_are_added(folder: Path) -> None:
    assert start(folder, "data.limit=10").returncode == 0
    assert resume("run", "data.limit=25", cwd=folder).returncode == 0
    assert len(pd.read_parquet(folder / "run/rollouts.parquet")) == 25
    assert len(journal(folder)) == 25 * 8


def test_failed_samples_are_owed_again(folder: Path) -> None:
    bad = [{"prompt": chat("please refuseme")}, {"prompt": chat("good")}]
    write_input(folder / "input.parquet", bad)
    arguments = ["data.max_error_fraction=1", "engine.echo.refuse_word=refuseme", "sampling.n_samples=2"]
    assert start(folder, *arguments).returncode == 0
    assert pd.read_parquet(folder / "run/rollouts.parquet")["error"].tolist()[0] == "refused: refuseme"
    again = resume("run", "engine.echo.refuse_word=null", cwd=folder)
    assert again.returncode == 0
    assert " 2 of 4 samples exist already" in again.stdout
    rows = pd.read_parquet(folder / "run/rollouts.parquet")
    assert rows["error"].isna().all()
    assert len(journal(folder)) == 4 + 2


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("sampling.temperature=0.5", "sampling.temperature=0.5: this run was made with 1.0"),
        ("sampling.max_tokens=9", "sampling.max_tokens=9: this run was made with 2048"),
        ("sampling.seed=1", "sampling.seed=1: this run was made with 42"),
        ("sampling=high_temp", "sampling.temperature=1.5: this run was made with 1.0"),
        ("sampling.stop=[x]", "sampling.stop=['x']: this run was made with []"),
        ("sampling.extra.ignore_eos=true", "sampling.extra={'ignore_eos': True}: this run was made with {}"),
        ("model.path=Qwen/Qwen3-8B", "model.path=Qwen/Qwen3-8B: this run was made with embedded:SmolLM2-135M-Instruct"),
        ("model.quantization=fp8", "model.quantization=fp8: this run was made with None"),
        ("data.system_prompt=hi", "data.system_prompt=hi: this run was made with None"),
        ("data.prompt_key=other", "data.prompt_key=other: this run was made with prompt"),
        ("data.path=other.parquet", "data.path: the content is not what this run was made with (blake2b:"),
        ("hardware.dtype=bfloat16", "hardware.dtype=bfloat16: this run was made with float32"),
        ("data.too_long=truncate_left", "data.too_long=truncate_left: this run was made with error"),
        ("sampling.n_samples=2", "sampling.n_samples=2: this run has 8; give that many or more"),
        ("sampling.temprature=2", "sampling.temprature: no such key, did you mean sampling.temperature?"),
        ("hardware=fast", "hardware=fast: no such preset"),
        ("sampling.top_p=7", "sampling.top_p=7.0: must be more than 0.0"),
    ],
)
def test_another_experiment_is_refused_and_nothing_changes(override: str, line: str, once: Path) -> None:
    before = {path: path.read_bytes() for path in (once / "run").rglob("*") if path.is_file() and path.name != ".lock"}
    result = resume("run", override, cwd=once)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {line}")
    assert len(result.stderr.splitlines()) == 1
    assert before == {path: path.read_bytes() for path in before}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run for tests that must not change it."""
    folder = tmp_path_factory.mktemp("once")
    both = [{"prompt": chat("a"), "other": chat("b")}]
    write_input(folder / "input.parquet", both)
    write_input(folder / "other.parquet", [{"prompt": chat("c")}])
    assert start(folder).returncode == 0
    return folder


@pytest.mark.long
@pytest.mark.parametrize(
    ("key", "slip"),
    [("sampling.n_samples", 400), ("data.limit", 399)],
)
def test_more_than_was_meant_can_be_taken_back_as_long_as_it_is_not_there(key: str, slip: int, folder: Path) -> None:
    base = ("data.limit=4", "sampling.n_samples=4")
    assert start(folder, *base).returncode == 0
    dies = ("engine.echo.die_after=1", "engine.max_restarts=0", "hardware.max_num_seqs=1")
    assert resume("run", f"{key}={slip}", *dies, cwd=folder).returncode == 1
    assert manifest(folder)["status"] == "failed"
    refused = resume("run", f"{key}=4", cwd=folder)
    assert refused.stderr == f"error: {key}=4: this run has 5; give that many or more\n"
    alive = ("engine.echo.die_after=null", "hardware.max_num_seqs=16")
    result = resume("run", f"{key}=6", *alive, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert start(folder, *base, f"{key}=6", "hydra.run.dir=at_once").returncode == 0
    assert (folder / "run/rollouts.parquet").read_bytes() == (folder / "at_once/rollouts.parquet").read_bytes()


def test_every_difference_is_named(once: Path) -> None:
    result = resume("run", "sampling.temperature=0.5", "sampling.seed=1", cwd=once)
    assert [line.split("=")[0] for line in result.stderr.splitlines()] == [
        "error: sampling.seed",
        "error: sampling.temperature",
    ]


@pytest.mark.long
def test_hardware_may_change_and_the_input_may_move(folder: Path) -> None:
    process = started(folder)
    process.kill()
    process.communicate()
    (folder / "input.parquet").rename(folder / "moved.parquet")
    result = resume("run", "hardware.max_num_seqs=100", "data.path=moved.parquet", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert len(pd.read_parquet(folder / "run/rollouts.parquet")) == 400


@pytest.mark.long
def test_a_run_resumes_from_another_folder(folder: Path) -> None:
    process = started(folder)
    process.kill()
    process.communicate()
    (folder / "elsewhere").mkdir()
    assert resume("../run", cwd=folder / "elsewhere").returncode == 0
    assert [session["status"] for session in manifest(folder)["sessions"]] == ["killed"]


@pytest.mark.long
def test_the_speed_of_a_run_that_was_killed_is_that_of_all_its_sessions(folder: Path) -> None:
    """Of the killed one its last line in metrics.jsonl tells; without it, the speed is not known."""
    process = started(folder, "tracking.interval_seconds=0.1")
    process.kill()
    process.communicate()
    (of_killed,) = [*all_lines(folder / "run")][-1:]
    assert resume("run", cwd=folder).returncode == 0
    found, side = manifest(folder), side_of_run("A", "run", folder / "run")
    assert [session["seconds"] for session in found["sessions"]] == [{}]
    tokens = of_killed["generated_tokens"] + found["throughput"]["generated_tokens"]
    seconds = of_killed["elapsed_seconds"] + found["seconds"]["generate"]
    cost = cost_of(side, None, 1)
    assert cost.seconds == pytest.approx(seconds, abs=0.001)
    assert cost.output_tok_s == pytest.approx(tokens / seconds, abs=0.05)
    of_sweep = metrics_of(folder / "run", run_record.read(folder / "run"), None)
    assert (of_sweep["generate_seconds"], of_sweep["output_tok_s"]) == (cost.seconds, cost.output_tok_s)

    (folder / "run/metrics.jsonl").unlink()
    without = cost_of(side, None, 1)
    assert (without.seconds, without.output_tok_s) == (None, None)
    assert without.generated_tokens == found["totals"]["generated_tokens"]


@pytest.mark.long
def test_a_live_run_folder_is_refused_saying_who_holds_it(folder: Path) -> None:
    process = started(folder)
    refused = resume("run", cwd=folder)
    process.kill()
    process.communicate()
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: run: in use by process {process.pid} on ")
    assert resume("run", cwd=folder).returncode == 0  # the lock went with the process


@pytest.mark.parametrize("target", ["nowhere", "."])
def test_what_is_not_a_run_folder_is_refused(target: str, folder: Path) -> None:
    result = resume(target, cwd=folder)
    assert result.returncode == 1
    assert "not a run folder" in result.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["input.parquet"]


@pytest.mark.long
def test_a_damaged_shard_is_named_and_without_it_its_samples_come_again(folder: Path) -> None:
    process = started(folder)
    process.kill()
    process.communicate()
    shard = min(folder.glob("run/samples/part-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-20])
    result = resume("run", cwd=folder)
    assert result.returncode == 1
    assert f"{shard.name}: damaged" in result.stderr
    shard.unlink()
    assert resume("run", cwd=folder).returncode == 0
    assert not journal(folder).duplicated(["row_id", "sample_idx"]).any()


def test_a_part_of_another_run_is_named_before_anything_is_generated(folder: Path) -> None:
    assert start(folder, "data.limit=20").returncode == 0
    assert start(folder, "data.limit=20", "sampling.temperature=0.5", "hydra.run.dir=other").returncode == 0
    (theirs,) = folder.glob("other/samples/part-*.parquet")
    copied = folder / "run/samples/part-000777.parquet"
    shutil.copy(theirs, copied)
    began = [json.loads((folder / name / "run.json").read_text())["started"] for name in ("other", "run")]
    says = "{}: a part of a run that began at {}, and this run began at {}; move it elsewhere".format(
        "run/samples/part-000777.parquet", *began
    )
    for command in (["run", "sampling.n_samples=9"], ["run", "dry_run=true"]):
        result = resume(*command, cwd=folder)
        assert (result.returncode, says in result.stderr) == (1, True), result.stderr
    copied.unlink()
    assert resume("run", "sampling.n_samples=9", cwd=folder).returncode == 0
    assert manifest(folder)["totals"]["samples"] == 20 * 9


def test_a_part_of_another_run_that_comes_while_it_runs_is_not_merged(folder: Path) -> None:
    assert start(folder, "hydra.run.dir=other", "data.limit=20").returncode == 0
    (theirs,) = folder.glob("other/samples/part-*.parquet")
    process = started(folder)
    copied = Path(shutil.copy(theirs, folder / "run/samples/part-000777.parquet"))
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "run/samples/part-000777.parquet: a part of a run that began at" in printed
    assert not (folder / "run/rollouts.parquet").exists()
    copied.unlink()
    assert resume("run", cwd=folder).returncode == 0


def test_a_copy_of_a_run_goes_on_and_takes_parts_of_the_first(folder: Path) -> None:
    assert start(folder, "data.limit=20").returncode == 0
    shutil.copytree(folder / "run", folder / "copy")
    assert resume("run", "sampling.n_samples=9", cwd=folder).returncode == 0
    (more,) = {path.name for path in folder.glob("run/samples/part-*.parquet")} - {
        path.name for path in folder.glob("copy/samples/part-*.parquet")
    }
    shutil.copy(folder / "run/samples" / more, folder / "copy/samples")
    result = resume("copy", "sampling.n_samples=9", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert (folder / "copy/rollouts.parquet").read_bytes() == (folder / "run/rollouts.parquet").read_bytes()


def test_an_engine_that_dies_is_started_again_and_nothing_is_lost(folder: Path) -> None:
    result = start(folder, "sampling.n_samples=2", "engine.echo.die_after=300")
    assert result.returncode == 0, result.stderr
    assert manifest(folder)["engine"]["restarts"] == 2
    assert len(journal(folder)) == 800
    assert not journal(folder).duplicated(["row_id", "sample_idx"]).any()
    assert "warning: the engine died" in result.stdout


def test_an_engine_that_keeps_dying_ends_the_run_and_resume_goes_on(folder: Path) -> None:
    result = start(folder, "sampling.n_samples=2", "engine.echo.die_after=100")
    assert result.returncode == 1
    assert result.stderr.startswith("error: engine.max_restarts=2: the engine died once more")
    assert manifest(folder)["status"] == "failed"
    assert 200 < len(journal(folder)) <= 300  # what it finished in its last step went with it
    assert resume("run", "engine.echo.die_after=null", cwd=folder).returncode == 0
    assert len(journal(folder)) == 800


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_stops_with_a_line_and_the_run_goes_on_once_there_is_space(folder: Path) -> None:
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
    try:
        full = start(folder, "sampling.n_samples=150", "store.flush_samples=5000", "hydra.run.dir=small/run")
        assert full.returncode == 1
        (line,) = full.stderr.splitlines()
        assert line.startswith("error: small/run: the disk is full")
        assert "python -m rollout resume small/run" in line
        assert json.loads((small / "run/run.json").read_text())["status"] == "failed"
        durable = sum(pq.read_metadata(path).num_rows for path in small.glob("run/samples/part-*.parquet"))
        assert durable >= 5000
        subprocess.run(["mount", "-o", "remount,size=100m", str(small)], check=True)
        assert resume("small/run", cwd=folder).returncode == 0
        assert start(folder, "sampling.n_samples=150", "hydra.run.dir=roomy").returncode == 0
        assert (small / "run/rollouts.parquet").read_bytes() == (folder / "roomy/rollouts.parquet").read_bytes()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_one_bad_row_fails_the_run_when_asked_to(folder: Path) -> None:
    write_input(folder / "input.parquet", [{"prompt": chat("a")}] * 100 + [{"prompt": None}])
    result = start(folder, "data.on_error=fail")
    assert result.returncode == 1
    assert result.stderr.startswith("error: data.on_error=fail: row 100 cannot be sampled (the prompt is null)")


LONG = [{"prompt": chat(" ".join(f"w{number}" for number in range(40)))}, {"prompt": chat("short")}]


def test_a_prompt_too_long_is_cut_on_the_left_and_what_was_cut_is_kept(folder: Path) -> None:
    write_input(folder / "input.parquet", LONG)
    limits = ["engine.echo.max_model_len=30", "sampling.max_tokens=10", "sampling.n_samples=2"]
    assert start(folder, *limits, "data.too_long=truncate_left").returncode == 0
    long, short = pq.read_table(folder / "run/rollouts.parquet").to_pylist()
    assert (long["num_prompt_tokens"], long["error"]) == (20, None)
    assert len(long["truncated_prompt"].split()) == 21  # of 41 words with the role
    assert short["truncated_prompt"] is None


def test_a_prompt_too_long_gets_a_shorter_response_when_asked_to(folder: Path) -> None:
    write_input(folder / "input.parquet", LONG)
    limits = ["engine.echo.max_model_len=43", "sampling.max_tokens=500", "sampling.n_samples=8"]
    assert start(folder, *limits, "data.too_long=reduce_max_tokens").returncode == 0
    long, short = pq.read_table(folder / "run/rollouts.parquet").to_pylist()
    assert max(long["num_generated_tokens"]) == 2
    assert max(short["num_generated_tokens"]) > 2


def test_a_max_tokens_as_long_as_the_context_is_a_mistake_of_the_command(folder: Path) -> None:
    result = start(folder, "engine.echo.max_model_len=30", "sampling.max_tokens=30")
    assert result.returncode == 1
    assert result.stderr.startswith("error: sampling.max_tokens=30: the context holds 30 tokens")


def test_a_result_that_was_deleted_is_written_again_from_the_journal(folder: Path) -> None:
    assert start(folder).returncode == 0
    written = {name: (folder / "run" / name).read_bytes() for name in ("rollouts.parquet", "flat.parquet")}
    for name, content in written.items():
        (folder / "run" / name).unlink()
        assert resume("run", cwd=folder).returncode == 0
        assert (folder / "run" / name).read_bytes() == content
    assert len(journal(folder)) == 400 * 8


def test_what_has_failed_is_not_tried_again_when_the_engine_is_started_again(folder: Path) -> None:
    refusing = ("engine.echo.refuse_word=7", "data.max_error_fraction=1", "engine.echo.die_after=900")
    result = start(folder, "sampling.n_samples=4", *refusing)
    assert result.returncode == 0, result.stderr
    said = manifest(folder)
    assert said["engine"]["restarts"] == 1
    assert said["totals"]["failed"] == 4
    assert said["throughput"]["samples"] == said["totals"]["samples"] == 1600


def test_one_flipped_bit_in_a_shard_is_seen(folder: Path) -> None:
    assert start(folder, "data.limit=20").returncode == 0
    (shard,) = folder.glob("run/samples/part-*.parquet")
    whole = shard.read_bytes()
    end_of_pages = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    expected = read_part(shard)
    for place in random.Random(0).sample(range(4, end_of_pages), 200):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with suppress(UserError):  # other bits say nothing about the samples
            assert read_part(shard).equals(expected)
    shard.write_bytes(whole[:100] + bytes([whole[100] ^ 4]) + whole[101:])
    with pytest.raises(UserError, match="damaged"):
        read_part(shard)


@pytest.mark.parametrize("name", ["rollouts.parquet", "flat.parquet"])
def test_a_result_whose_end_is_missing_is_written_again(name: str, folder: Path) -> None:
    assert start(folder).returncode == 0
    damaged = folder / "run" / name
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-20])
    assert resume("run", cwd=folder).returncode == 0
    assert damaged.read_bytes() == content


def test_a_top_up_leaves_no_table_of_the_smaller_run(folder: Path) -> None:
    assert start(folder, "sampling.n_samples=2").returncode == 0
    assert resume("run", "sampling.n_samples=3", "postprocess=none", cwd=folder).returncode == 0
    assert not (folder / "run/flat.parquet").exists()


def test_fewer_rows_than_before_are_refused(folder: Path) -> None:
    assert start(folder, "data.limit=10").returncode == 0
    assert resume("run", "data.limit=3", cwd=folder).stderr.startswith("error: data.limit=3: this run has 10")


def test_a_dry_run_of_a_resume_generates_nothing(folder: Path) -> None:
    assert start(folder, "sampling.n_samples=2").returncode == 0
    result = resume("run", "sampling.n_samples=9", "dry_run=true", cwd=folder)
    assert "3,600 (9 per row)" in result.stdout
    assert len(journal(folder)) == 800


def test_keys_that_json_turns_into_text_are_no_difference(folder: Path) -> None:
    assert start(folder, "sampling.extra.logit_bias={1:5.0}").returncode == 0
    assert resume("run", cwd=folder).stdout == "run: nothing to do, the run is complete\n"


@pytest.mark.long
def test_a_signal_is_heard_while_only_bad_rows_come(folder: Path) -> None:
    pd.DataFrame({"prompt": pd.Series([None] * 600_000, dtype="str")}).to_parquet(folder / "null.parquet")
    arguments = [*ECHO, "data.path=null.parquet", "data.max_error_fraction=1", "hydra.run.dir=run"]
    process = start_command(*arguments, cwd=folder)
    while not list(folder.glob("run/samples/part-*.parquet")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130


def test_the_summary_tells_the_whole_run_from_this_session(folder: Path) -> None:
    first = start(folder, "sampling.n_samples=2").stdout
    assert "800 samples of 400 prompts, " in first
    assert "in this session" not in first
    more = resume("run", "sampling.n_samples=3", cwd=folder).stdout
    assert "1,200 samples of 400 prompts, " in more
    assert "in this session: 400 samples, " in more
    (folder / "run/rollouts.parquet").unlink()
    assert "in this session: none" in resume("run", cwd=folder).stdout

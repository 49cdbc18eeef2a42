"""`dry_run=true`: what a run would do and what it takes, said before anything is loaded but a tokenizer."""

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from rollout.cli import dry_run, estimates
from rollout.cli.dry_run import show_plan
from rollout.cli.estimates import Work, disk_lines, memory_lines, time_lines
from rollout.config import RunConfig
from rollout.engine.memory import GIB
from rollout.errors import UserError
from rollout.generation.prompt_tokens import NoTokenizer
from rollout.preflight import preflight
from tests.commands import ECHO, resume, run_command
from tests.conftest import chat, composed, run_in, write_input
from tests.engine.test_memory import H200, with_config
from tests.in_process import run_here

pytestmark = pytest.mark.long


def words(count: int) -> list[dict[str, str]]:
    """A chat of so many tokens for the echo engine."""
    return chat("word " * (count - 1))


def plan(
    folder: Path, prompts: list[Any], capsys: pytest.CaptureFixture[str], *overrides: str
) -> tuple[list[str], list[str], UserError | None]:
    """The lines of the plan, those on stderr, and the error that it ends in."""
    source, raised = write_input(folder / "input.parquet", [{"prompt": prompt} for prompt in prompts]), None
    run = composed(*ECHO, f"data.path={source}", *overrides)
    try:
        show_plan(run, preflight(run))
    except UserError as error:
        raised = error
    printed = capsys.readouterr()
    return printed.out.splitlines(), printed.err.splitlines(), raised


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_prompts_that_cannot_be_used_are_counted_by_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [None] * 7 + [[{"role": "user", "content": None}], [*chat("a"), {"role": "user", "content": None}]]
    lines, _, raised = plan(tmp_path, [*bad, chat("good")], capsys, "data.max_error_fraction=1")
    start = lines.index("prompts   1 usable, 9 not")
    assert lines[start + 1 : start + 3] == [
        "          7 rows: 0, 1, 2, 3, 4, ...: the prompt is null",
        "          2 rows: 7, 8: message 0 has no content",
    ]
    assert raised is None


def test_lengths_are_a_histogram_and_the_first_prompt_is_shown_as_the_model_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [chat("one\ntwo \x1b[31m"), *[words(length) for length in (4, 4, 4, 100)]]
    lines, _, _ = plan(tmp_path, prompts, capsys)
    start = lines.index("tokens    of 5 prompts: 4 to 100, mean 23, median 4, 99% have at most 96")
    shown = [line.split() for line in lines[start + 1 : start + 3]]
    assert shown[0][:3] == ["4", "to", "18"]
    assert shown[0][3:] == ["#" * 40, "4"]
    assert lines[start + 7].split() == ["94", "to", "100", "#" * 10, "1"]
    first = lines.index("first     row 0, as the model reads it:")
    assert lines[first + 1 : first + 3] == ["          | user: one", "          | two \\x1b[31m"]
    assert "context   4,096 tokens: each of these prompts fits beside max_tokens=2,048" in lines


def test_of_a_long_first_prompt_both_ends_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, _, _ = plan(tmp_path, [chat(f"begin {'x' * 5000} end")], capsys)
    shown = [line for line in lines if line.startswith("          | ")]
    assert shown[0].startswith("          | user: begin xxx")
    assert shown[1] == "          | [... 3,016 characters ...]"
    assert shown[2].endswith("xxx end")


@pytest.mark.parametrize(
    ("too_long", "effect"),
    [
        ("error", "each is recorded with an error"),
        ("truncate_left", "their oldest tokens are cut off"),
        ("reduce_max_tokens", "their responses get the room that is left"),
    ],
)
def test_what_does_not_fit_the_context_is_counted_with_what_becomes_of_it(
    too_long: str, effect: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [words(length) for length in (3, 14, 15, 4)]
    limits = ("engine.echo.max_model_len=20", "sampling.max_tokens=10", "data.max_error_fraction=1")
    lines, _, _ = plan(tmp_path, prompts, capsys, *limits, f"data.too_long={too_long}")
    start = lines.index("context   20 tokens: 2 of 4 prompts do not fit beside max_tokens=10, the longest is row 2")
    assert lines[start + 1] == f"          data.too_long={too_long}: {effect}"
    assert lines[start + 2].startswith("          2 rows: 1, 2: the prompt has 14 tokens") is (too_long == "error")


def test_too_many_rows_that_do_not_fit_end_it_as_they_would_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = [words(length) for length in (3, 14, 15, 4)]
    lines, _, raised = plan(tmp_path, prompts, capsys, "engine.echo.max_model_len=20", "sampling.max_tokens=10")
    assert raised is not None
    assert raised.problems[0].startswith("data.max_error_fraction=0.1: 1 of 4 rows cannot be sampled so far")
    assert any(line.startswith("disk") for line in lines)  # after the whole plan
    warning = "2 of 4 prompts that were looked at cannot be sampled, more than data.max_error_fraction=0.1 allows"
    assert f"warning   {warning}" in lines


def test_without_a_tokenizer_one_line_says_so_and_the_plan_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_: RunConfig) -> None:
        raise NoTokenizer("vLLM is not installed here")

    monkeypatch.setattr(dry_run, "load_renderer", none)
    lines, _, _ = plan(tmp_path, [chat("a")], capsys)
    assert "tokens    not counted: vLLM is not installed here" in lines
    assert "context   4,096 tokens: room for prompts of 2,048 beside max_tokens=2,048" in lines
    assert any(line.startswith("samples   8 (8 per row)") for line in lines)


def test_tokens_are_not_counted_where_nobody_wants_to_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines, _, _ = plan(tmp_path, [chat("a")], capsys, "dry_run_tokens=false")
    assert "tokens    not counted: dry_run_tokens=false" in lines
    assert not any(line.startswith("first") for line in lines)


def test_a_run_that_is_continued_says_what_is_there_and_what_is_owed(tmp_path: Path) -> None:
    source = write_input(tmp_path / "input.parquet", [{"prompt": prompt} for prompt in (chat("a"), None, chat("b"))])
    run_in(tmp_path / "run", f"data.path={source}", "sampling.n_samples=2", "data.max_error_fraction=1")
    more = resume("run", "sampling.n_samples=5", "dry_run=true", cwd=tmp_path).stdout
    assert "\nsamples   10 (5 per row), 4 are there, 6 are owed, at most 12,288 tokens\n" in more
    again = resume("run", "dry_run=true", cwd=tmp_path).stdout
    assert "\nsamples   4 (2 per row), 4 are there, 0 are owed, at most 0 tokens\n" in again
    assert "\ntime " in more
    assert "\ntime " not in again


def test_what_the_run_would_be_refused_for_is_said(tmp_path: Path) -> None:
    run_in(tmp_path / "run", "data.limit=2", "sampling.n_samples=1")
    other = resume("run", "sampling.temperature=0.5", "dry_run=true", cwd=tmp_path)
    assert other.stderr.startswith("error: sampling.temperature=0.5: this run was made with 1.0; leave it as it was")
    used = run_here(*ECHO, "hydra.run.dir=run", "dry_run=true", cwd=tmp_path)
    assert "holds a run already; continue it with" in used.stderr
    assert (other.returncode, used.returncode) == (1, 1)


def test_the_last_run_tells_how_long_it_takes_and_how_much_it_writes(tmp_path: Path) -> None:
    write_input(tmp_path / "input.parquet", [{"prompt": chat("a")}] * 10)
    assert run_command(*ECHO, "data.path=input.parquet", cwd=tmp_path).returncode == 0
    result = run_command(*ECHO, "data.path=input.parquet", "dry_run=true", cwd=tmp_path)
    assert ": an estimate from outputs/" in result.stdout
    assert "where 80 samples came at " in result.stdout
    assert ": an estimate from the same run\n" in result.stdout


def test_the_jobs_of_a_sweep_have_a_plan_each(tmp_path: Path) -> None:
    words_ = ("-m", *ECHO, "data.limit=2", "sampling.n_samples=2,3", "dry_run=true", "hydra.sweep.dir=s")
    result = run_here(*words_, cwd=tmp_path)
    assert [f"{count} ({count // 2} per row)" in result.stdout for count in (4, 6)] == [True, True]
    assert not (tmp_path / "s").exists()


def on_gpu(folder: Path, *overrides: str) -> RunConfig:
    return composed(f"model.path={with_config(folder)}", "hardware=throughput", *overrides)


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine as one with an H200."""
    monkeypatch.setattr(estimates, "gpu_memory", lambda: H200)
    monkeypatch.setattr(estimates, "gpu_names", lambda: ("NVIDIA H200",))


WORK = Work(samples=8000, prompt_tokens=40, past=None)


@pytest.mark.usefixtures("h200")
def test_memory_and_time_of_a_known_size_on_a_known_gpu(tmp_path: Path) -> None:
    run = on_gpu(tmp_path, "sampling.max_tokens=1000")
    assert [*memory_lines(run, WORK)] == [
        "weights 13.8 GiB",
        "KV cache about 110.1 GiB on NVIDIA H200 (90% of 140 GiB): 902,031 tokens",
        "room for 867 samples of 40 + 1,000 tokens, of the 1,024 at once that are asked for: "
        "others wait, or are put back and computed again",
    ]
    assert [*time_lines(run, WORK)] == [
        "at most 5m02s, loading not counted: an estimate from docs/performance.md,",
        "where the 8B shape gave 26,476 tok/s on one H200 with hardware=throughput, 1,024 samples at once",
    ]


@pytest.mark.usefixtures("h200")
def test_a_context_that_does_not_fit_is_told_with_the_cure(tmp_path: Path) -> None:
    lines = [*memory_lines(on_gpu(tmp_path, "model.max_model_len=1000000"), WORK)]
    assert "vLLM may not start: one sample of 1,000,000 tokens does not fit; set model.max_model_len=902031" in lines


def test_a_context_beyond_the_models_is_refused_before_the_run_unless_vllm_is_told_to_take_it(tmp_path: Path) -> None:
    asked = (f"model.path={tmp_path}", "model.max_model_len=9000", "hardware=cpu", "dry_run=true")
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 8192}))
    with pytest.raises(UserError, match=r"model\.max_model_len=9000: the model's context is 8192; lower it to that"):
        preflight(composed(*asked))
    preflight(composed(*asked, "hardware.env.VLLM_ALLOW_LONG_MAX_MODEL_LEN='1'"))
    preflight(composed(*asked, "model.max_model_len=8192"))
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 8192, "model_max_length": 9000}))
    preflight(composed(*asked))


@pytest.mark.usefixtures("h200")
def test_a_model_that_does_not_fit_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    os.truncate(tmp_path / "model.safetensors", 200 * GIB)
    lines = [*memory_lines(on_gpu(tmp_path), WORK)]
    assert lines[1].startswith("no room for a KV cache on NVIDIA H200 (90% of 140 GiB); use more GPUs")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ((), "KV cache: not known here: this machine shows no GPU"),
        (("hardware.ray_address=auto",), "KV cache: not known here: the GPUs are the cluster's"),
        (("hardware.device=cpu",), "KV cache: not known: vLLM takes what it finds"),
    ],
)
def test_what_is_not_known_is_not_made_up(
    overrides: tuple[str, ...], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "gpu_memory", lambda: None)
    monkeypatch.setattr(estimates, "gpu_names", lambda: ())
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    run = on_gpu(tmp_path, *overrides)
    lines = [*memory_lines(run, WORK)]
    assert lines[1].startswith(line)
    assert lines[2] == "a sample of 40 + 2,048 tokens takes 261 MiB of it"
    assert [*time_lines(run, WORK)] == [
        "not known: no run with this model and hardware under outputs/, and nothing like it in docs/performance.md"
    ]
    gone = composed("model.path=Nobody/Nothing", "hardware=throughput")
    assert [*memory_lines(gone, WORK)] == ["not known: the model's files are not on this machine"]


def test_less_room_on_the_disk_than_the_run_may_need_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    run = composed(*ECHO, "sampling.max_tokens=1000", "output=x.parquet")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 200_000_000))
    lines, warning = disk_lines(run, WORK, tmp_path / "not/there")
    assert lines == ["at most 128 MB: 4 bytes a token, written 4 times, not compressed", "200 MB free there"]
    assert warning is None
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 2_000_000))
    assert disk_lines(run, WORK, tmp_path)[1] == ". has 2.0 MB free, and the run may need 128 MB"

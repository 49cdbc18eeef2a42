"""A folder from somebody else executes nothing, connects to nothing and writes nowhere else, unless it is trusted."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rollout.cli.compose import compose_run
from rollout.config import RunConfig, trust
from rollout.config.trust import needs_trust
from rollout.errors import UserError
from tests.commands import ECHO, run_command
from tests.conftest import chat, run_in, write_input

pytestmark = pytest.mark.long

MARK = "from pathlib import Path\nPath({path!r}).write_text('ran')\ndef one(response, truth, row):\n    return 1\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, `run`, that no test may change."""
    folder = tmp_path_factory.mktemp("finished")
    source = write_input(folder / "input.parquet", [{"prompt": chat(f"question {number}")} for number in range(4)])
    run_in(folder / "run", f"data.path={source}", "sampling.n_samples=2")
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy with a module beside it that leaves a mark when it is imported."""
    shutil.copytree(finished / "run", tmp_path / "run")
    (tmp_path / "graders.py").write_text(MARK.format(path=str(tmp_path / "mark")))
    return tmp_path


def edit(folder: Path, key: str, value: Any) -> None:
    """Change one value of the saved config."""
    path = folder / "run/.hydra/config.yaml"
    config = node = yaml.safe_load(path.read_text())
    *parents, last = key.split(".")
    for parent in parents:
        node = node[parent]
    node[last] = value
    path.write_text(yaml.safe_dump(config))


def score_with_a_function(folder: Path) -> None:
    edit(folder, "postprocess.steps", ["score"])
    edit(folder, "postprocess.score.scorer", "graders:one")


COMMANDS: dict[str, Callable[..., "subprocess.CompletedProcess[str]"]] = {
    "replay": lambda *more, cwd: run_command("run", *more, cwd=cwd, module="rollout.replay"),
    "resume": lambda *more, cwd: run_command("run", "sampling.n_samples=3", *more, cwd=cwd, module="rollout.resume"),
    "config-path": lambda *more, cwd: run_command(
        "--config-path", "run/.hydra", "--config-name", "config", *more, cwd=cwd
    ),
    "postprocess": lambda *more, cwd: run_command("run_dir=run", *more, cwd=cwd, module="rollout.postprocess"),
    "verify": lambda *more, cwd: run_command("run", *more, cwd=cwd, module="rollout.verify"),
}


@pytest.mark.parametrize("command", ["replay", "resume", "config-path", "postprocess"])
def test_a_saved_scorer_is_imported_only_with_trust(command: str, folder: Path) -> None:
    score_with_a_function(folder)
    refused = COMMANDS[command](cwd=folder)
    assert refused.returncode == 1
    assert "score.scorer=graders:one: comes from run and runs a Python function; if you trust it" in refused.stderr
    assert not (folder / "mark").exists()
    allowed = COMMANDS[command]("trust=true", cwd=folder)
    assert allowed.returncode == 0, allowed.stderr
    assert (folder / "mark").exists()


def test_what_the_user_types_needs_no_trust(folder: Path) -> None:
    result = COMMANDS["postprocess"]("steps=[score]", "score.scorer=graders:one", cwd=folder)
    assert result.returncode == 0, result.stderr


def test_what_a_command_does_not_use_needs_no_trust(folder: Path) -> None:
    edit(folder, "hardware.env", {"LD_PRELOAD": "evil.so"})
    assert COMMANDS["postprocess"](cwd=folder).returncode == 0


@pytest.mark.parametrize("command", ["replay", "resume", "config-path", "verify"])
def test_saved_variables_are_set_only_with_trust(command: str, folder: Path) -> None:
    edit(folder, "hardware.env", {"PYTHONSTARTUP": "evil.py"})
    refused = COMMANDS[command](cwd=folder)
    assert refused.stderr.startswith(
        "error: hardware.env.PYTHONSTARTUP=evil.py: comes from run and sets an environment variable"
    )
    assert COMMANDS[command]("trust=true", cwd=folder).returncode == 0
    assert COMMANDS[command]("trust=yes", cwd=folder).stderr == "error: trust=yes: must be true or false\n"


def test_the_jobs_of_a_replayed_sweep_are_refused_once(folder: Path) -> None:
    edit(folder, "hardware.env", {"LD_PRELOAD": "evil.so"})
    refused = COMMANDS["replay"]("-m", "sampling.seed=1,2,3", cwd=folder)
    assert refused.returncode == 1
    assert refused.stderr.count("error: ") == 1
    replaced = COMMANDS["replay"]("-m", "hardware=cpu", "sampling.seed=1,2", "~hardware.env.LD_PRELOAD", cwd=folder)
    assert "comes from" not in replaced.stderr


@pytest.mark.parametrize("name", ["rollout.log", "metrics.jsonl", ".lock"])
@pytest.mark.parametrize("command", ["resume", "postprocess"])
def test_links_in_a_run_folder_lead_nowhere_without_trust(command: str, name: str, folder: Path) -> None:
    precious = folder / "precious"
    precious.write_text("mine")
    (folder / "run" / name).unlink(missing_ok=True)
    (folder / "run" / name).symlink_to(precious)
    refused = COMMANDS[command](cwd=folder)
    assert f"{name}={precious}: comes from run and is a link" in refused.stderr
    assert precious.read_text() == "mine"


def test_the_commands_that_a_run_prints_include_the_trust_it_needs(folder: Path) -> None:
    assert not needs_trust(folder / "run")
    scored = ("postprocess.steps=[score]", "postprocess.score.scorer=graders:one")
    failing = ("engine.echo.die_after=1", "engine.max_restarts=0", "hydra.run.dir=mine")
    result = run_command(*ECHO, *scored, *failing, cwd=folder)
    assert "continue with `python -m rollout resume mine trust=true`" in result.stderr
    done = run_command("mine", "trust=true", "engine.echo.die_after=null", cwd=folder, module="rollout.resume")
    assert done.returncode == 0, done.stderr
    assert "python -m rollout replay mine trust=true" in done.stdout


def found(*overrides: str) -> list[str]:
    return [concern.key for concern in trust.concerns(compose_run("hardware=single_gpu", *overrides))]


@pytest.mark.parametrize("preset", sorted(path.stem for path in Path("conf/hardware").glob("*.yaml")))
def test_shipped_hardware_presets_need_no_trust(preset: str) -> None:
    assert not [*trust.concerns(compose_run(f"hardware={preset}"))]


@pytest.mark.parametrize(
    "override",
    [
        "hardware.env.VLLM_ATTENTION_BACKEND=FLASH_ATTN",
        "hardware.env.CUDA_VISIBLE_DEVICES='1'",
        "hardware.engine_kwargs.max_num_partial_prefills=4",
        "hardware.engine_kwargs.seed=1",
        "hardware.engine_kwargs.distributed_executor_backend=mp",
        "hardware.engine_kwargs.compilation_config.cudagraph_capture_sizes=[1,2,4]",
        "hardware.engine_kwargs.hf_overrides.max_position_embeddings=8192",
        "postprocess.export.file=mine.jsonl",
        "postprocess.score.scorer=math",
        "tracking=offline",
        "sampling.extra.bad_words=[x]",
        "model.lora=/elsewhere/adapter",
        "model.reasoning_parser=qwen3",
    ],
)
def test_harmless_values_need_no_trust(override: str) -> None:
    assert not found("postprocess.steps=[score,export]", override)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.trust_remote_code=true", "model.trust_remote_code"),
        ("model.load_format=tensorizer", "model.load_format"),
        ("hardware.env.LD_PRELOAD=x.so", "hardware.env.LD_PRELOAD"),
        ("hardware.env.VLLM_PLUGINS=x", "hardware.env.VLLM_PLUGINS"),
        ("hardware.env.HF_ENDPOINT=http://x", "hardware.env.HF_ENDPOINT"),
        ("hardware.engine_kwargs.worker_cls=x.Y", "hardware.engine_kwargs.worker_cls"),
        (
            "hardware.engine_kwargs.distributed_executor_backend=x.Y",
            "hardware.engine_kwargs.distributed_executor_backend",
        ),
        *(
            (f"hardware.engine_kwargs.{argument}=x.Y", f"hardware.engine_kwargs.{argument}")
            for argument in ("distributed_executor_backend", "kv_transfer_config.kv_connector", "seed")
        ),
        ("hardware.engine_kwargs.compilation_config.backend=x", "hardware.engine_kwargs.compilation_config.backend"),
        (
            "hardware.engine_kwargs.kv_transfer_config.kv_connector=x",
            "hardware.engine_kwargs.kv_transfer_config.kv_connector",
        ),
        ("hardware.engine_kwargs.download_dir=/x", "hardware.engine_kwargs.download_dir"),
        ("hardware.ray_address=ray://host:1", "hardware.ray_address"),
        ("tracking=wandb", "tracking.mode"),
        ("postprocess.export.file=/x.jsonl", "postprocess.export.file"),
        ("postprocess.export.file='~/x.jsonl'", "postprocess.export.file"),
        ("postprocess.score.scorer='os:system'", "postprocess.score.scorer"),
    ],
)
def test_what_runs_code_connects_or_writes_elsewhere_needs_trust(override: str, key: str) -> None:
    assert found("postprocess.steps=[score,export]", override) == [key]


def test_a_value_counts_as_typed_only_where_it_was_typed() -> None:
    saved = compose_run("hardware.env.A=1", "hardware.env.B=1")

    def refused(run: RunConfig, *overrides: str) -> Iterator[str]:
        try:
            trust.refuse(run, saved, overrides, Path("run"))
        except UserError as error:
            yield from (line.partition(":")[0] for line in error.problems)

    assert [*refused(saved)] == ["hardware.env.A=1", "hardware.env.B=1"]
    assert [*refused(saved, "hardware.env.A=1")] == ["hardware.env.B=1"]
    assert [*refused(compose_run("hardware.env.A=2", "hardware.env.B=1"), "hardware.env={A: 2}")] == [
        "hardware.env.B=1"
    ]


@pytest.mark.parametrize(
    ("words", "variable", "trusted"),
    [([], "", False), ([], "1", True), (["trust=true"], "", True), (["trust=false"], "1", False)],
)
def test_trust_is_a_word_or_a_variable(
    words: list[str], variable: str, trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLOUT_TRUST", variable)
    assert trust.asked(["a=1", *words]) == (trusted, ["a=1"])


def test_a_result_elsewhere_needs_trust_and_a_new_file_below_the_current_folder_does_not(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    (folder / "here").mkdir()
    elsewhere.mkdir()
    shutil.move(folder / "run", folder / "here/run")
    for output, more, is_refused in (
        (folder / "here/out.parquet", [], False),
        (folder / "here/../elsewhere/out.parquet", [], True),
        (elsewhere / "out.parquet", [], True),
        (elsewhere / "out.parquet", ["trust=true"], False),
        (elsewhere / "out.parquet", ["output=mine.parquet"], False),
    ):
        edit(folder / "here", "output", str(output))
        result = COMMANDS["resume"](*more, cwd=folder / "here")
        assert ("writes outside the run's folder; if you trust it give trust=true" in result.stderr) is is_refused
        assert result.returncode == int(is_refused), result.stderr
    assert COMMANDS["verify"](cwd=folder / "here").returncode == 0


def test_a_saved_overwrite_does_not_replace_a_file_of_mine(folder: Path) -> None:
    shutil.copy(folder / "run/rollouts.parquet", folder / "mine.parquet")
    edit(folder, "output", str(folder / "mine.parquet"))
    (folder / "run/.postprocess.json").write_text(f'{{"files": ["{folder / "mine.parquet"}"]}}')
    write_input(folder / "mine.parquet", [{"prompt": "mine"}])
    assert "already exists and was not written by this run" in COMMANDS["resume"](cwd=folder).stderr
    edit(folder, "postprocess.overwrite", True)
    assert f"output={folder / 'mine.parquet'}: comes from run and writes" in COMMANDS["resume"](cwd=folder).stderr

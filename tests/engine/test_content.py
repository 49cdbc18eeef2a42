"""Models are known by what their files hold: of two checkpoints of one shape, nothing else differs."""

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from rollout.config import ModelConfig
from rollout.engine import content
from rollout.engine.cache import EngineSpec
from rollout.engine.content import MODEL, TOKENIZER, Stopped, content_of, folder_content
from rollout.store import digest
from tests.conftest import composed

FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model-1.safetensors": b"a" * 3_000_000,
    "model-2.safetensors": b"b",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint written an hour ago, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "_RACY_NS", 0)
    (tmp_path / "model").mkdir()
    for name, data in FILES.items():
        (tmp_path / "model" / name).write_bytes(data)
    return tmp_path / "model"


def flip_a_bit(path: Path) -> None:
    """Change the last byte and leave size and time as they were."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", FILES)
def test_one_bit_is_another_model(name: str, folder: Path) -> None:
    before = folder_content(folder)
    flip_a_bit(folder / name)
    assert folder_content(folder) != before


def test_the_place_and_the_way_of_storing_do_not_matter(folder: Path, tmp_path: Path) -> None:
    before = folder_content(folder)
    assert folder_content(Path(shutil.copytree(folder, tmp_path / "copy"))) == before
    (tmp_path / "links").mkdir()
    for path in folder.iterdir():
        (tmp_path / "links" / path.name).symlink_to(path)
    assert folder_content(tmp_path / "links") == before
    flip_a_bit(folder / "model-1.safetensors")
    assert folder_content(tmp_path / "links") != before


def test_shards_that_have_changed_places_are_another_model(folder: Path) -> None:
    before = folder_content(folder)
    (folder / "model-1.safetensors").rename(folder / "x")
    (folder / "model-2.safetensors").rename(folder / "model-1.safetensors")
    (folder / "x").rename(folder / "model-2.safetensors")
    assert folder_content(folder) != before


@pytest.mark.parametrize("name", ["README.md", "optimizer.pt", "trainer_state.json", "rng_state_0.pth", ".cache"])
def test_what_trainers_leave_beside_a_model_does_not_count(name: str, folder: Path) -> None:
    before = folder_content(folder)
    (folder / name).write_text("anything")
    assert folder_content(folder) == before


def test_a_file_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, hash_all = list[str](), content._hash_all

    def noted(files: list[Path], total: int, report: content.Report, stop: threading.Event) -> list[str]:
        read.extend(file.name for file in files)
        return hash_all(files, total, report, stop)

    monkeypatch.setattr(content, "_hash_all", noted)
    before = folder_content(folder)
    assert folder_content(folder) == before
    assert sorted(read) == sorted(FILES)
    read.clear()
    flip_a_bit(folder / "model-2.safetensors")
    folder_content(folder)
    assert read == ["model-2.safetensors"]


def test_a_file_that_may_still_be_being_written_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_RACY_NS", 10_000_000_000)
    folder_content(folder)
    assert content._read_cache(content._cache_file(folder)) == {}


def test_a_cache_that_cannot_be_used_costs_only_time(folder: Path, tmp_path: Path) -> None:
    before = folder_content(folder)
    content._cache_file(folder).write_text('{"config.json": 3}')
    assert folder_content(folder) == before
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file")
    assert folder_content(folder) == before


def test_bytes_are_reported_and_nobody_waits_for_a_hash_that_is_not_wanted(folder: Path) -> None:
    reported = list[tuple[int, int]]()
    folder_content(folder, lambda done, total: reported.append((done, total)))
    total = sum(map(len, FILES.values()))
    assert reported[-1] == (total, total)
    shutil.rmtree(content._cache_file(folder).parent)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        folder_content(folder, stop=stop)


def test_a_hub_model_is_known_by_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert content_of(ModelConfig("owner/name")) == {}  # before it has been downloaded
    repository = tmp_path / "models--owner--name"
    for commit in ("a" * 40, "b" * 40):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("a" * 40)
    before = content_of(ModelConfig("owner/name"))
    assert before == {MODEL: f"commit:{'a' * 40}"}
    (repository / "refs/main").write_text("b" * 40)
    now = content_of(ModelConfig("owner/name"))
    (line,) = digest.differences({"model.revision": None} | before, {"model.revision": None} | now)
    assert line.endswith(f"set model.revision={'a' * 40}, or start a new run for it")
    as_told = {"model.revision": "a" * 40} | content_of(ModelConfig("owner/name", revision="a" * 40))
    assert not [*digest.differences({"model.revision": None} | before, as_told)]


def test_a_tokenizer_of_its_own_counts(folder: Path, tmp_path: Path) -> None:
    model = ModelConfig(str(folder), tokenizer=str(shutil.copytree(folder, tmp_path / "tokenizer")))
    before = content_of(model)
    assert before.keys() == {MODEL, TOKENIZER}
    flip_a_bit(tmp_path / "tokenizer/tokenizer.json")
    (line,) = digest.differences(before, content_of(model))
    assert line.startswith("model.tokenizer: the files there are blake3:")


def test_engine_arguments_count_but_for_those_about_memory() -> None:
    def kept(**arguments: object) -> object:
        return digest._without_memory(arguments)

    assert kept(seed=1, kv_cache_memory_bytes=5) == {"seed": 1}
    assert kept(compilation_config={"max_cudagraph_capture_size": 1024}) == {}
    assert kept(compilation_config={"max_cudagraph_capture_size": 1024, "level": 3}) == {
        "compilation_config": {"level": 3}
    }


def test_an_engine_is_not_reused_for_other_files_in_the_same_folder(folder: Path) -> None:
    spec = EngineSpec.of(composed(f"model.path={folder}", "hardware=cpu"))
    before = spec.key()
    assert spec.key() == before
    time.sleep(0.01)
    flip_a_bit(folder / "model-1.safetensors")
    assert spec.key() != before


def test_an_engine_is_not_reused_for_another_text_of_its_chat_template(folder: Path) -> None:
    template = folder.parent / "template.jinja"
    template.write_text("FIRST {{ messages[0].content }}")
    spec = EngineSpec.of(composed(f"model.path={folder}", "hardware=cpu", f"model.chat_template={template}"))
    before = spec.key()
    template.write_text("OTHER {{ messages[0].content }}")
    assert spec.key() != before
    template.write_text("FIRST {{ messages[0].content }}")
    assert spec.key() == before


def test_an_engine_is_not_reused_for_other_files_in_the_folder_of_its_tokenizer(folder: Path) -> None:
    tokenizer = folder.parent / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer_config.json").write_text('{"chat_template": "FIRST"}')
    spec = EngineSpec.of(composed(f"model.path={folder}", "hardware=cpu", f"model.tokenizer={tokenizer}"))
    before = spec.key()
    assert spec.key() == before
    time.sleep(0.01)
    (tokenizer / "tokenizer_config.json").write_text('{"chat_template": "OTHER"}')
    assert spec.key() != before

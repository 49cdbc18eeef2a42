"""Which models one engine can serve one after another, and which folders it refuses before it is touched."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rollout.config import HardwareConfig, ModelConfig, RunConfig
from rollout.engine import cache, checkpoints
from rollout.engine.cache import EngineCache, EngineSpec, Origin
from rollout.engine.protocol import WeightsNotPut
from rollout.engine.vllm_worker import NAME
from rollout.errors import UserError
from rollout.replicas.messages import Job
from rollout.replicas.worker import Replica
from rollout.store.layout import LOCK
from tests.commands import ECHO
from tests.conftest import composed

pytestmark = pytest.mark.long

CONFIG = {"model_type": "llama", "tie_word_embeddings": True, "transformers_version": "5.1", "_name_or_path": "base"}
TENSORS = {
    "model.embed_tokens.weight": (8, 4),
    "model.layers.0.mlp.up_proj.weight": (6, 4),
    "model.layers.1.mlp.up_proj.weight": (6, 4),
    "model.norm.weight": (4,),
}
INDEX = "model.safetensors.index.json"


def write_checkpoint(folder: Path, value: float = 0.0) -> Path:
    """A checkpoint in two files, all of whose weights are `value`."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    places = {name: f"model-{1 + (name == 'model.norm.weight')}.safetensors" for name in TENSORS}
    for file in set(places.values()):
        mine = {name: np.full(size, value, np.float32) for name, size in TENSORS.items() if places[name] == file}
        save_file(mine, folder / file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def changed(folder: Path, name: str = "model-1.safetensors", **tensors: Any) -> None:
    """Tensors of a file (`a__b` for a.b) get other values, or leave it (None), and the index knows."""
    given = {key.replace("__", "."): value for key, value in tensors.items()}
    kept = {key: value for key, value in (load_file(folder / name) | given).items() if value is not None}
    save_file(kept, folder / name)
    index = json.loads((folder / INDEX).read_text())
    places = {key: file for key, file in index["weight_map"].items() if file != name} | dict.fromkeys(kept, name)
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "ckpt-100", 1.0)


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "ckpt-200", 2.0)


def key(folder: Path, *overrides: str) -> str:
    return EngineSpec.of(composed(f"model.path={folder}", "hardware=cpu", *overrides)).key()


def anew(first: Path, second: Path) -> str | None:
    """Why the second's weights cannot replace the first's."""
    new, there = (checkpoints.checkpoint(ModelConfig(str(folder))) for folder in (second, first))
    assert new is not None
    assert there is not None
    return checkpoints.why_anew(new, there)


def test_models_that_differ_in_their_weights_alone_share_an_engine(first: Path, second: Path) -> None:
    assert key(first) == key(second)
    assert anew(first, second) is None
    other = CONFIG | {"transformers_version": "5.2", "_name_or_path": "elsewhere"}
    (second / "config.json").write_text(json.dumps(other))
    (second / "trainer_state.json").write_text('{"step": 200}')
    assert key(first) == key(second)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", json.dumps(CONFIG | {"rope_theta": 9})),
        ("generation_config.json", '{"top_k": 3}'),
        ("tokenizer.json", '{"more": 1}'),
        ("chat_template.jinja", "{{ messages }}"),
    ],
)
def test_models_that_differ_in_anything_else_do_not(name: str, text: str, first: Path, second: Path) -> None:
    (second / name).write_text(text)
    assert key(first) != key(second)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.quantization=fp8"],
        ["hardware.kv_cache_dtype=fp8"],
        ["model.load_format=sharded_state"],
        ["hardware.engine_kwargs.speculative_config={method: ngram}"],
        ["hardware.engine_kwargs.worker_extension_cls=mine.Extension"],
        ["hardware.engine_kwargs.cpu_offload_gb=2"],
    ],
)
def test_an_engine_that_cannot_take_other_weights_is_loaded_anew(
    overrides: list[str], first: Path, second: Path
) -> None:
    assert key(first, *overrides) == key(first, *overrides)
    assert key(first, *overrides) != key(second, *overrides)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": {}})),
        lambda folder: [path.rename(path.with_suffix(".bin")) for path in folder.glob("*.safetensors")],
        lambda folder: shutil.copy(folder / "model-1.safetensors", folder / "consolidated.safetensors"),
    ],
)
def test_so_is_one_for_files_that_are_not_plain_safetensors(
    change: Callable[[Path], Any], first: Path, second: Path
) -> None:
    change(first)
    change(second)
    assert key(first) != key(second)


def test_weights_that_are_made_up_are_the_same_for_all(first: Path, second: Path) -> None:
    assert key(first, "model.load_format=dummy") == key(second, "model.load_format=dummy") != key(first)
    assert checkpoints.checkpoint(ModelConfig(str(second), load_format="dummy")) is None


def test_an_engine_that_tells_the_size_of_its_cache_takes_other_weights(first: Path) -> None:
    hardware = HardwareConfig(engine_kwargs={"worker_extension_cls": NAME})
    assert checkpoints.form(ModelConfig(str(first)), hardware) is not None


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda folder: changed(folder, model__layers__1__mlp__up_proj__weight=None),
            "has no tensor model.layers.1.mlp.up_proj.weight, which {first} has; write the checkpoint again",
        ),
        (
            lambda folder: changed(folder, model__layers__1__mlp__up_proj__weight=np.zeros((6, 5), np.float32)),
            "model.layers.1.mlp.up_proj.weight has the shape [6, 5], and [6, 4] in {first}; write the checkpoint again",
        ),
        (
            lambda folder: (folder / "model-2.safetensors").write_bytes(
                (folder / "model-2.safetensors").read_bytes()[:-1]
            ),
            "model-2.safetensors cannot be read (",
        ),
        (lambda folder: (folder / "model-2.safetensors").write_bytes(b""), "model-2.safetensors cannot be read ("),
        (lambda folder: (folder / "model-2.safetensors").unlink(), "model-2.safetensors cannot be read (No such file"),
        (
            lambda folder: shutil.copy(folder / "model-1.safetensors", folder / "model-2.safetensors"),
            "model-2.safetensors has no tensor model.norm.weight, which model.safetensors.index.json names; copy both",
        ),
        (lambda folder: (folder / INDEX).write_text('{"weight'), "model.safetensors.index.json cannot be read ("),
    ],
)
def test_a_folder_without_all_of_the_weights_is_refused_in_one_line(
    change: Callable[[Path], Any], line: str, first: Path, second: Path
) -> None:
    change(second)
    with pytest.raises(UserError) as refused:
        anew(first, second)
    (said,) = refused.value.problems
    assert said.startswith(f"model.path={second}: {line.format(first=first)}")


def test_weights_of_another_kind_are_loaded_anew(first: Path, second: Path) -> None:
    changed(second, "model-2.safetensors", model__norm__weight=np.zeros(4, np.float16))
    assert anew(first, second) == f"model.norm.weight is of F16, and of F32 in {first}"
    changed(second, "model-2.safetensors", model__norm__weight=np.zeros(4, np.float32), more=np.zeros(4, np.float32))
    assert anew(first, second) == f"more is not in {first}"


def test_what_vllm_does_not_read_may_be_missing(first: Path, second: Path) -> None:
    """An output head that is the embedding, which some trainers write and others do not."""
    changed(first, lm_head__weight=np.zeros((8, 4), np.float32))
    assert anew(first, second) is None
    assert anew(second, first) is None


class Kept:
    """What a cache keeps: its weights, and whether it was shut down."""

    def __init__(self, weights: str) -> None:
        self.weights, self.ended = weights, False

    def shutdown(self) -> None:
        self.ended = True


def got(cache: EngineCache, folder: Path, error: BaseException | None = None) -> tuple[Kept, Origin]:
    def reload(kept: Kept) -> None:
        kept.weights = "half"
        if error is not None:
            raise error
        kept.weights = folder.name

    spec = EngineSpec.of(composed(f"model.path={folder}", "hardware=cpu"))
    return cache.get(spec, lambda: Kept(folder.name), reload)


def test_an_engine_takes_the_weights_of_one_checkpoint_after_the_other(first: Path, second: Path) -> None:
    cache = EngineCache()
    engine, origin = got(cache, first)
    assert origin == "loaded"
    for folder, expected in ((first, "reused"), (second, "reloaded"), (second, "reused"), (first, "reloaded")):
        assert got(cache, folder) == (engine, expected)
        assert engine.weights == folder.name
    changed(first, model__layers__1__mlp__up_proj__weight=np.ones((6, 4), np.float32))
    assert got(cache, first) == (engine, "reloaded")  # the folder has other files now


def test_a_folder_that_is_refused_leaves_the_engine_as_it_was(first: Path, second: Path) -> None:
    cache = EngineCache()
    engine, _ = got(cache, first)
    changed(second, model__layers__1__mlp__up_proj__weight=None)
    with pytest.raises(UserError):
        got(cache, second)
    assert (engine.weights, engine.ended) == ("ckpt-100", False)
    assert got(cache, first) == (engine, "reused")


def test_half_new_weights_serve_nobody(first: Path, second: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = EngineCache()
    engine, _ = got(cache, first)
    another, origin = got(cache, second, WeightsNotPut("model.norm.weight is not what the file has"))
    assert (another.weights, origin, engine.ended) == ("ckpt-200", "loaded", True)
    said = "cannot be put in place (model.norm.weight is not what the file has): the engine is loaded anew"
    assert f"the weights of {second} {said}" in caplog.text
    with pytest.raises(KeyboardInterrupt):
        got(cache, first, KeyboardInterrupt())
    assert got(cache, second)[1] == "loaded"


def test_a_replica_takes_other_weights_by_itself(first: Path, second: Path, tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("driver")
    replica, found = Replica(), []
    try:
        for folder in (first, second, second):
            run: RunConfig = composed(*ECHO, f"model.path={folder}")
            replica.start(Job(run, tmp_path, 0, "writer", holder="driver"))
            while (ready := replica.exchange([], flush=False, seconds=0.1).ready) is None:
                pass
            found.append((ready.reused, ready.reloaded))
    finally:
        replica.shutdown()
    assert found == [(False, False), (True, True), (True, False)]
    assert cache._cache._kept is None

"""Repeating a run from its folder: the same bytes, in a new folder, with what differs named, and nothing executed."""

import dataclasses
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.cli import saved_config
from rollout.config import DataConfig, ModelConfig, RunConfig, SamplingConfig
from rollout.store.saved_config import save
from tests.commands import ECHO, replay, resume, run_command
from tests.conftest import chat, write_input

pytestmark = pytest.mark.long

SET = ("sampling.n_samples=2", "sampling.temperature=0.4", "sampling.stop=['\\${x}']", "hardware.max_num_seqs=7")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, `original/run`, that no test may change."""
    folder = tmp_path_factory.mktemp("original")
    write_input(folder / "input.parquet", [{"prompt": chat(f"question {number}")} for number in range(30)])
    result = run_command(*ECHO, *SET, "data.path=input.parquet", "hydra.run.dir=run", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    """A run of one's own to change, `copy/run`."""
    folder = Path(shutil.copytree(original, tmp_path / "copy"))
    config = folder / "run/.hydra/config.yaml"
    config.write_text(config.read_text().replace(str(original), str(folder)))
    return folder


def manifest(run_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_dir / "run.json").read_text())
    return content


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edited(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file; `a__b` is the key b of the object a."""
    whole = json.loads(path.read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        node = whole
        for parent in parents:
            node = node[parent]
        node[last] = value
    path.write_text(json.dumps(whole))


@pytest.mark.parametrize("native", [False, True], ids=["rollout.replay", "--config-path"])
def test_a_replay_writes_the_same_bytes_to_a_new_folder_and_says_where_it_comes_from(
    native: bool, original: Path, tmp_path: Path
) -> None:
    run, before = original / "run", contents(original)
    if native:  # without a name for the new folder: our setting of it must count, not Hydra's
        result = run_command("--config-path", str(run / ".hydra"), "--config-name", "config", cwd=tmp_path)
    else:
        result = replay(str(run), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (repeated,) = tmp_path.glob("outputs/*/*-*")
    for name in ("rollouts.parquet", "flat.parquet", "analysis.json", ".hydra/config.yaml"):
        assert (repeated / name).read_bytes() == (run / name).read_bytes()
    assert manifest(run)["replay_of"] is None
    assert manifest(repeated)["replay_of"] == {
        "run_dir": str(run),
        "started": manifest(run)["started"],
        "differences": [],
    }
    assert "not as in the replayed run" not in result.stdout
    assert f"repeat:  python -m rollout replay {repeated.relative_to(tmp_path)}\n" in result.stdout
    assert {path.name for path in repeated.iterdir() if path.suffix == ".log"} == {"rollout.log"}
    assert contents(original) == before


def test_a_replay_takes_values_and_presets_and_sweeps(original: Path, tmp_path: Path) -> None:
    arguments = ("sampling=saved,greedy", "data.limit=3", "hydra.sweep.dir=sweep", "-m")
    result = replay(str(original / "run"), *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    first, second = (manifest(tmp_path / "sweep" / job) for job in "01")
    assert first["config"]["sampling"]["temperature"] == 0.4
    # the preset stands for the whole group: nothing of the saved one shines through
    assert second["config"]["sampling"] == dataclasses.asdict(SamplingConfig(n_samples=1, temperature=0.0))
    assert [job["totals"]["rows"] for job in (first, second)] == [3, 3]
    assert second["engine"]["reused"] is True
    assert second["replay_of"]["run_dir"] == str(original / "run")


def test_a_preset_replaces_its_group_and_an_experiment_changes_what_it_names(original: Path) -> None:
    run = saved_config.load(original / "run", ["hardware=low_mem", "experiment=quick_test", "sampling.top_p=0.5"])
    assert (run.hardware.max_num_seqs, run.hardware.dtype, run.hardware.env) == (64, "auto", {})
    assert (run.data.limit, run.sampling.n_samples, run.sampling.temperature) == (2, 2, 0.4)
    assert run.sampling.top_p == 0.5
    assert run.data.path == str(original / "input.parquet")


def test_the_config_can_be_seen_without_a_run(original: Path, tmp_path: Path) -> None:
    shown = replay(str(original / "run"), "--cfg", "job", "sampling.seed=7", cwd=tmp_path)
    config = yaml.safe_load(shown.stdout)
    assert (config["sampling"]["seed"], config["hardware"]["max_num_seqs"]) == (7, 7)
    assert not list(tmp_path.iterdir())


def test_what_differs_is_named_on_screen_in_the_log_and_in_the_manifest(copy: Path) -> None:
    write_input(copy / "input.parquet", [{"prompt": chat("another question")}])
    then = {
        "provenance__packages__rollout": "0.0.1",
        "provenance__packages__torch": "1.0",
        "provenance__gpus": ["H200"],
    }
    edited(copy / "run/run.json", **then, provenance__model__files="blake2b:00")
    now = manifest(copy / "run")
    result = replay("run", "hydra.run.dir=again", cwd=copy)
    assert result.returncode == 0, result.stderr
    differences = manifest(copy / "again")["replay_of"]["differences"]
    assert [line.rpartition(" -> ")[0] for line in differences[:3]] == ["rollout 0.0.1", "torch 1.0", "GPUs 1 x H200"]
    assert differences[-1].startswith(f"input content {now['digest']['data.path']} -> blake2b:")
    log = (copy / "again/rollout.log").read_text()
    for line in differences:
        assert result.stdout.count(f"warning: not as in the replayed run: {line}\n") == 1
        assert log.count(line) == 1


def test_changed_model_files_are_named(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "tokenizer_config.json"):
        (model / name).write_text('{"chat_template": "a"}')
    first = run_command(*ECHO, f"model.path={model}", "hydra.run.dir=run", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    (model / "tokenizer_config.json").write_text('{"chat_template": "b"}')
    assert replay("run", "hydra.run.dir=again", cwd=tmp_path).returncode == 0
    names = [line.partition(" blake")[0] for line in manifest(tmp_path / "again")["replay_of"]["differences"]]
    assert names == ["tokenizer files", "chat template", "model content"]


def test_a_replay_that_is_resumed_still_says_where_it_comes_from(copy: Path) -> None:
    edited(copy / "run/run.json", provenance__packages__torch="1.0")
    assert replay("run", "hydra.run.dir=again", cwd=copy).returncode == 0
    before = manifest(copy / "again")["replay_of"]
    shutil.rmtree(copy / "run")
    assert resume("again", "sampling.n_samples=3", cwd=copy).returncode == 0
    assert manifest(copy / "again")["replay_of"] == before
    assert before["differences"]


def planted(marker: Path) -> list[dict[str, Any]]:
    """Things in a saved config that Hydra would call, given the chance: each would make the folder `marker`."""
    call = {"_target_": "os.mkdir", "_args_": [str(marker)]}
    return [
        {"hydra": {"callbacks": {"planted": call}}},
        {"hydra": {"launcher": call}},
        {"sampling": call},
        {"_target_": "os.mkdir", "path": str(marker)},
    ]


@pytest.mark.parametrize("number", range(4))
def test_a_target_in_a_saved_run_is_refused_and_not_called(number: int, copy: Path) -> None:
    marker = copy / "called"
    file = copy / "run/.hydra/config.yaml"
    config = yaml.safe_load(file.read_text())
    for group, value in planted(marker)[number].items():
        config[group] = config.get(group, {}) | value if isinstance(value, dict) else value
    file.write_text(yaml.safe_dump(config))
    for command in (
        replay("run", "hydra.run.dir=again", cwd=copy),
        run_command("--config-path", str(file.parent), "--config-name", "config", cwd=copy),
    ):
        assert command.returncode == 1
        (line,) = command.stderr.splitlines()
        assert line.startswith("error: ")
        assert "config.yaml" in line
        assert "no such key" in line
    assert not marker.exists()
    assert not (copy / "again").exists()


class Planted:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.marker,)


def test_pickles_targets_and_yaml_tags_in_a_run_folder_are_not_touched(copy: Path) -> None:
    marker, hydra_folder = copy / "called", copy / "run/.hydra"
    for path in (hydra_folder / "config.pickle", copy / "run/config.pkl", copy / "run/samples/part.pickle"):
        path.write_bytes(pickle.dumps(Planted(marker)))
    (hydra_folder / "hydra.yaml").write_text(yaml.safe_dump(planted(marker)[0]))
    config = yaml.safe_load((hydra_folder / "config.yaml").read_text())
    config["sampling"]["extra"] = planted(marker)[2]["sampling"]  # a free-form key: allowed, and no more than data
    (hydra_folder / "config.yaml").write_text(yaml.safe_dump(config))
    result = replay("run", "hydra.run.dir=again", cwd=copy)
    assert result.returncode == 0, result.stderr
    rerun = run_command("--experimental-rerun", str(hydra_folder / "config.pickle"), cwd=copy)
    assert rerun.returncode == 1
    assert rerun.stderr.startswith("error: --experimental-rerun: would load a pickle")
    (hydra_folder / "config.yaml").write_text(f"data: !!python/object/apply:os.mkdir ['{marker}']")
    tagged = replay("run", "hydra.run.dir=tagged", cwd=copy)
    assert tagged.returncode == 1
    assert tagged.stderr.endswith("config.yaml: not YAML any more; restore it, its values are in run.json\n")
    assert not marker.exists()
    pickle.loads((copy / "run/config.pkl").read_bytes())
    assert marker.exists()  # so this would have shown it


TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["${x}", "\\${", "1e5", "null", "a\r\nb"])


@settings(deadline=None)
@given(prompt=TEXT | st.none(), stop=st.lists(TEXT), extra=st.dictionaries(TEXT.filter(bool), TEXT | st.floats(0, 1)))
def test_every_text_is_read_back_as_it_was_saved(
    prompt: str | None, stop: list[str], extra: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = RunConfig(
        data=DataConfig(path="/input.parquet", system_prompt=prompt),
        model=ModelConfig(chat_template_kwargs=extra),
        sampling=SamplingConfig(stop=stop, min_p=1e-05),
    )
    folder = tmp_path_factory.mktemp("saved")
    save(run, folder)
    assert saved_config.read(folder) == run


def test_a_text_that_looks_like_an_interpolation_is_composed_as_it_is(tmp_path: Path) -> None:
    texts = ["${x}", "\\${oc.env:HOME}", "${", "\\\\${y}\\", "1e5"]
    run = RunConfig(data=DataConfig(path="/input.parquet"), sampling=SamplingConfig(stop=texts))
    save(run, tmp_path)
    assert saved_config.load(tmp_path, ["sampling.seed=1"]).sampling == SamplingConfig(stop=texts, seed=1)


def broken(copy: Path) -> Iterator[tuple[str, str]]:
    """(what is wrong with the run in turn, the error)."""
    yield "nowhere", "nowhere: not a run folder"
    yield ".", ".: not a run folder"
    manifest_file, config_file = copy / "run/run.json", copy / "run/.hydra/config.yaml"
    edited(manifest_file, schema_version=99)
    yield "run", "run/run.json: schema_version=99 is newer than this program's 1; use rollout 0.1.0 or later"
    edited(manifest_file, schema_version=1)
    config = config_file.read_text()
    config_file.write_text("")
    yield "run", "run/.hydra/config.yaml: holds no config any more"
    config_file.write_text(config.replace("temperature: 0.4", "temperature: warm"))
    yield "run", "run/.hydra/config.yaml: sampling.temperature=warm: must be a number"
    config_file.write_text(config.replace("temperature: 0.4", "temperature: 4"))
    yield "run", "sampling.temperature=4.0: must be at least 0.0 and at most 2.0"
    config_file.write_text(config)
    (copy / "input.parquet").unlink()
    yield "run", f"data.path={copy}/input.parquet: no such file"
    config_file.unlink()
    yield "run", "run: not a run folder (no .hydra/config.yaml in it)"
    manifest_file.write_text("{")
    yield "run", "run: not a run folder (no readable run.json in it)"


def test_what_cannot_be_replayed_is_one_line(copy: Path) -> None:
    for target, message in broken(copy):
        result = replay(target, cwd=copy)
        assert result.returncode == 1
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"error: {message}")
    assert sorted(path.name for path in copy.iterdir()) in (["run"], ["outputs", "run"])
    assert not list(copy.glob("outputs/*/*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["sampling=hot"],
            "sampling=hot: no such preset; choose from default, greedy, high_temp, saved, structured, thinking",
        ),
        (["sampling.temprature=1"], "sampling.temprature: no such key, did you mean sampling.temperature?"),
        (["hydra.run.dir={run}"], "hydra.run.dir={run}: holds a run already"),
        (["hardware=null"], "hardware=null: no such preset; choose from cpu, debug"),
        (["--resolve"], "--resolve: belongs to --cfg"),
        (["--cfg", "job", "-m"], "--cfg, --multirun: Hydra does one of these at a time"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_in_an_override_is_one_line(
    arguments: list[str], message: str, original: Path, tmp_path: Path
) -> None:
    run = str(original / "run")
    result = replay(run, *(word.format(run=run) for word in arguments), cwd=tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {message.format(run=run)}")
    assert not list(tmp_path.glob("outputs/*/*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config-dir", "{run}/.hydra", "--config-name", "config"],
            "--config-dir={run}/.hydra: Hydra would not read",
        ),
        (["-cp", "{run}/.hydra", "-cn", "hydra"], "--config-name=hydra: holds no run's config"),
        (["--config-path", "/nowhere/.hydra"], "/nowhere: not a run folder"),
        (["-m", "hardware=cpu,null"], "hardware=null: no such preset"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_hydras_own_ways_to_a_saved_run_work_or_are_refused_in_one_line(
    arguments: list[str], message: str, original: Path, tmp_path: Path
) -> None:
    run = str(original / "run")
    result = run_command(*(word.format(run=run) for word in arguments), cwd=tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {message.format(run=run)}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), ([], 1)])
def test_without_a_run_folder_the_usage_is_shown(arguments: list[str], code: int, tmp_path: Path) -> None:
    result = replay(*arguments, cwd=tmp_path)
    assert result.returncode == code
    assert "usage: python -m rollout replay RUN" in result.stdout

"""A text keeps its letters on the command line and in files of values, whatever Hydra or YAML would make of them."""

from pathlib import Path
from typing import Any, get_origin

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from rollout.cli.compose import compose_run
from rollout.config import RunConfig, yaml_texts
from rollout.config.keys import config_fields, required, type_of
from rollout.config.overrides import as_typed, hydra_word
from rollout.errors import UserError
from tests.in_process import run_here

NO_NUMBERS = ["2.", "1_000", "1234e56", "2024_01_05", "2024-01-05", "true", "False", "1e3", "-.5", "007", "0x1F", "nan"]
NO_NUMBERS += ["inf", "12:30", "yes", "on", "1.0", "1.50", "+3", "0o17", "~", "a b", "3 4"]
TYPES = {key: required(field.type) for key, field in config_fields()}
TEXTS = [key for key, kind in TYPES.items() if kind is str]
LISTS = [key for key, kind in TYPES.items() if get_origin(kind) is list and type_of(key) != list[int]]


def value_of(run: Any, key: str) -> Any:
    for name in key.split("."):
        run = run[name] if isinstance(run, dict) else getattr(run, name)
    return run


@pytest.mark.long
@pytest.mark.parametrize("text", NO_NUMBERS)
def test_every_text_key_keeps_a_text_that_looks_like_something_else(text: str) -> None:
    words = [f"{key}={text}" for key in TEXTS]
    run = compose_run(*words, f"hardware.env={{A: {text}}}", f"hardware.env.B={text}")
    lists = compose_run(*(f"{key}=[{text},x]" for key in LISTS))  # apart: `adaptive.until` puts a step into one
    assert {value_of(run, key) for key in TEXTS} == {text}
    assert all(value_of(lists, key) == [text, "x"] for key in LISTS)
    assert {run.hardware.env["A"], run.hardware.env["B"]} == {text}


def test_null_is_none_where_there_may_be_none_and_a_text_in_a_list() -> None:
    run = compose_run("model.revision=null", "sampling.stop=[null,NULL]")
    assert run.model.revision is None
    assert run.sampling.stop == ["null", "NULL"]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data.path=输入.parquet", "输入.parquet"),
        ("data.path=a=1.parquet", "a=1.parquet"),
        ("data.path=it's.parquet", "it's.parquet"),
        ("data.path=[a]", "[a]"),
        ("data.path={a:1}", "{a:1}"),
        ("data.path=f(x)", "f(x)"),
        ("data.path=a${b", "a${b"),
        ("data.path=~/x", "~/x"),
        ('data.path="2."', "2."),
        ("data.system_prompt=two\nlines", "two\nlines"),
        ("data.system_prompt= leading", " leading"),
        ("data.system_prompt=${data.prompt_key}", "prompt"),
        ("sampling.stop=[。,！]", ["。", "！"]),
        ("sampling.stop=['a, b',1.0]", ["a, b", "1.0"]),
        ("postprocess.filter.where=[level=easy,meta.kind=a/b]", ["level=easy", "meta.kind=a/b"]),
        ("model.chat_template_kwargs.name=你好", "你好"),
        ("hardware.env={A: ~/x, B: 中}", {"A": "~/x", "B": "中"}),
        ("sampling.extra.x=[1, 2.5, true]", [1, 2.5, True]),
    ],
)
def test_a_value_is_what_was_typed(word: str, value: Any) -> None:
    assert value_of(compose_run(word, "hardware=single_gpu"), word.partition("=")[0]) == value


def test_what_is_no_text_is_as_hydra_has_it() -> None:
    words = ["sampling.temperature=1e-1", "sampling.n_samples=1_000", "hardware.enforce_eager=True", "sampling.seed=1"]
    assert as_typed(words) == words


@pytest.mark.parametrize("word", ["sampling.extra.x=1_000", "hardware.engine_kwargs={a: [2024_01_05]}"])
def test_a_number_with_underscores_is_refused_where_a_text_may_be_meant(word: str) -> None:
    with pytest.raises(UserError, match=r"may be a number or a text here; write .*2024|1000"):
        as_typed([word])


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("model.path=2024_01_05,2024_01_06", ["2024_01_05", "2024_01_06"]),
        ("model.path=choice(1e3,true)", ["1e3", "true"]),
        ("model.path=~/a,~/中", ["~/a", "~/中"]),
        ("sampling.stop=[2.],[x,1_0]", [["2."], ["x", "1_0"]]),
        ("postprocess.filter.where=[a=1,b=2],[a=2]", [["a=1", "b=2"], ["a=2"]]),
    ],
)
def test_the_jobs_of_a_sweep_get_the_texts_too(word: str, values: list[Any]) -> None:
    (sweep,) = OverridesParser.create().parse_overrides(as_typed([word], is_sweep=True))
    key = word.partition("=")[0]
    assert [value_of(compose_run(f"{key}={text}"), key) for text in sweep.sweep_string_iterator()] == values


any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
odd_text = st.text(st.sampled_from("a1 .,=~-#$@{}[]()'\"\\/:%é中\n"), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.one_of(any_text, odd_text))
@example("NULL")
@example("null")
def test_the_override_that_is_printed_for_a_text_means_that_text(text: str) -> None:
    (override,) = OverridesParser.create().parse_overrides(as_typed([hydra_word("data.path", text)]))
    config = OmegaConf.create({"data": {"path": "x"}})
    value = override.value()
    OmegaConf.update(config, "data.path", str(getattr(value, "text", value)))
    assert config.data.path == text


@pytest.mark.long
@pytest.mark.parametrize("text", [text for text in NO_NUMBERS if text != "~"])
def test_a_file_of_values_keeps_texts_too(text: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "data").mkdir()
    experiment = {"model": {"revision": "@"}, "sampling": {"stop": ["@", "x"]}, "hardware": {"env": {"A": "@"}}}
    written = yaml.safe_dump(experiment).replace("'@'", text)
    (tmp_path / "experiment/mine.yaml").write_text(f"# @package _global_\n{written}")
    (tmp_path / "data/mine.yaml").write_text(f"prompt_key: {text}\n")
    words = ("--config-dir", str(tmp_path), "+experiment=mine", "data=mine", "--cfg", "job")
    result = run_here(*words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    config = yaml.load(result.stdout, yaml.BaseLoader)  # which takes everything for a text
    assert config["model"]["revision"] == config["data"]["prompt_key"] == config["hardware"]["env"]["A"] == text
    assert config["sampling"]["stop"] == [text, "x"]


@settings(max_examples=100, deadline=None)
@given(st.one_of(any_text, odd_text, st.sampled_from(NO_NUMBERS)))
def test_a_saved_text_is_read_back_by_every_reader(text: str) -> None:
    values = {"model": {"revision": text}, "sampling": {"stop": [text], "seed": 7, "top_p": 1e-07}}
    written = yaml_texts.dump(values)
    assert yaml_texts.load(written) == yaml.safe_load(written) == values
    if "${" not in text:
        assert OmegaConf.to_container(OmegaConf.create(written)) == values


def test_a_saved_config_that_was_edited_by_hand_keeps_its_texts() -> None:
    edited = "model: {revision: 1234e56, path: 2024-01-05}\nsampling: {stop: [2., 12:30, null], seed: 1_0}\n"
    assert yaml_texts.load(edited) == {
        "model": {"revision": "1234e56", "path": "2024-01-05"},
        "sampling": {"stop": ["2.", "12:30", "null"], "seed": 10},
    }


def test_the_types_of_keys_are_found_at_every_depth() -> None:
    assert type_of("sampling.stop") == list[str]
    assert type_of("model.revision") is str
    assert type_of("hardware.env.X") is str
    assert type_of("sampling.extra.x.y") is Any
    assert type_of("sampling.nope") is None
    assert type_of("") is RunConfig

"""Every field has one home: its default, its limits and its documentation; presets hold only what differs."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rollout.config import RunConfig, StructuredOutputsConfig
from rollout.config.check import check, column_warnings, config_warnings
from rollout.config.constraints import constraint
from rollout.config.fields import build
from rollout.config.keys import config_fields
from rollout.config.presets import conf_dir
from rollout.errors import UserError
from rollout.preflight import preflight
from tests.commands import ECHO
from tests.conftest import composed

CONF = Path(conf_dir())
FILES = sorted(CONF.rglob("*.yaml"))
PRESETS = [f"{path.parent.name}={path.stem}" for path in FILES if path.parent != CONF]
DEFAULTS = {key: field.value for key, field in config_fields()}


def built(*dotlist: str) -> RunConfig:
    return build(OmegaConf.from_dotlist(list(dotlist)))


BREAK = "in a shell those are $'sampling.stop=[\"\\n\"]'"


def problems(*dotlist: str) -> list[str]:
    return list(check(built(*dotlist)))


def keys(problem_lines: list[str]) -> list[str]:
    return [line.partition("=")[0] for line in problem_lines]


def differences(run: RunConfig, group: str = "") -> dict[str, Any]:
    """What `run` does not leave at its default."""
    return {
        key: field.value for key, field in config_fields(run) if key.startswith(group) and field.value != DEFAULTS[key]
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sampling.n_samples", 8),
        ("sampling.max_tokens", 2048),
        ("sampling.temperature", 1.0),
        ("sampling.top_p", 0.95),
        ("sampling.seed", 42),
        ("hardware.tensor_parallel_size", 1),
        ("hardware.gpu_memory_utilization", 0.9),
        ("hardware.max_num_seqs", 256),
        ("hardware.enable_prefix_caching", True),
        ("hardware.enforce_eager", False),
        ("postprocess.filter.min_length", None),
        ("postprocess.filter.max_length", None),
        ("data.prompt_key", "prompt"),
    ],
)
def test_defaults_are_those_of_the_reference_card(key: str, value: Any) -> None:
    assert DEFAULTS[key] == value


@pytest.mark.parametrize(
    ("preset", "values"),
    [
        ("hardware=single_gpu", {"gpu_memory_utilization": 0.95}),
        ("hardware=dual_gpu", {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.95, "max_num_seqs": 512}),
        ("hardware=low_mem", {"gpu_memory_utilization": 0.7, "max_num_seqs": 64}),
        ("hardware=debug", {"enforce_eager": True, "gpu_memory_utilization": 0.5}),
        (
            "hardware=throughput",
            {
                "max_num_seqs": 1024,
                "engine_kwargs": {"compilation_config": {"max_cudagraph_capture_size": 1024}},
            },
        ),
        ("hardware=multi_gpu", {"replicas": None, "gpu_memory_utilization": 0.95}),
        ("hardware=ray_cluster", {"replicas": None, "ray_address": "auto", "gpu_memory_utilization": 0.95}),
        ("sampling=high_temp", {"temperature": 1.5}),
        ("sampling=greedy", {"temperature": 0, "n_samples": 1}),
    ],
)
def test_a_preset_changes_what_the_reference_card_says_and_nothing_else(preset: str, values: dict[str, Any]) -> None:
    group = preset.partition("=")[0] + "."
    assert differences(composed(preset), group) == {group + name: value for name, value in values.items()}


def test_the_cpu_preset_keeps_the_engine_in_this_process() -> None:
    changed = differences(composed("hardware=cpu"), "hardware.")
    assert changed.pop("hardware.env")["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert changed == {
        "hardware.device": "cpu",
        "hardware.engine_kwargs": {"enable_chunked_prefill": False},
        "hardware.dtype": "float32",
        "hardware.enforce_eager": True,
        "hardware.max_num_seqs": 32,
    }


def test_the_bare_command_changes_no_default_but_the_hardware() -> None:
    assert differences(composed("hardware=single_gpu")) == {"hardware.gpu_memory_utilization": 0.95}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes_and_passes_the_check(preset: str) -> None:
    hardware = [] if preset.startswith("hardware=") else ["hardware=cpu"]
    assert list(check(composed(preset, *hardware))) == []


def test_the_command_line_has_the_last_word() -> None:
    run = composed("experiment=quick_test", "sampling=high_temp", "sampling.n_samples=9", "hardware=cpu")
    assert (run.data.limit, run.sampling.n_samples, run.sampling.temperature) == (2, 9, 1.5)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF)))
def test_no_file_restates_a_default(path: Path) -> None:
    cfg = OmegaConf.load(path)
    assert isinstance(cfg, DictConfig)
    is_global = path.parent == CONF or "@package _global_" in path.read_text()
    said = cfg if is_global else OmegaConf.create({path.parent.name: cfg})
    assert [key for key, value in DEFAULTS.items() if OmegaConf.select(said, key, default=...) == value] == []


@pytest.mark.parametrize(
    "value",
    [
        "data.limit=0",
        "data.max_error_fraction=-0.01",
        "data.max_error_fraction=1.01",
        "model.max_model_len=0",
        "sampling.n_samples=0",
        "sampling.n_samples=-1",
        "sampling.max_tokens=0",
        "sampling.temperature=-0.1",
        "sampling.temperature=2.1",
        "sampling.top_p=0",
        "sampling.top_p=1.1",
        "sampling.seed=-1",
        "sampling.top_k=-2",
        "sampling.min_p=-0.1",
        "sampling.min_p=1.1",
        "sampling.repetition_penalty=0",
        "sampling.presence_penalty=-2.1",
        "sampling.presence_penalty=2.1",
        "sampling.frequency_penalty=-2.1",
        "sampling.frequency_penalty=2.1",
        "sampling.min_tokens=-1",
        "sampling.logprobs=all",
        "sampling.extra.logprobs=3",
        "sampling.extra.prompt_logprobs=3",
        "hardware.device=tpu",
        "hardware.tensor_parallel_size=0",
        "hardware.pipeline_parallel_size=0",
        "hardware.gpu_memory_utilization=0",
        "hardware.gpu_memory_utilization=1.1",
        "hardware.max_num_seqs=0",
        "hardware.max_num_batched_tokens=0",
        "hardware.dtype=int8",
        "postprocess.steps=[flatten,shrink]",
        "postprocess.filter.min_length=-1",
        "postprocess.filter.max_length=-1",
        "tracking.mode=on",
        "tracking.interval_seconds=0",
        "tracking.sample_rows=-1",
        "tracking.sample_rows=101",
        "tracking.init_timeout=0",
        "tracking.finish_timeout=601",
        "store.flush_seconds=0",
        "store.flush_samples=0",
        "engine.kind=hf",
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(value: str) -> None:
    assert keys(problems(value)) == [value.partition("=")[0]]


@pytest.mark.parametrize(
    "value",
    [
        "data.limit=1",
        "data.max_error_fraction=0",
        "data.max_error_fraction=1",
        "sampling.n_samples=1",
        "sampling.temperature=2",
        "sampling.top_p=1",
        "sampling.top_p=0.001",
        "sampling.seed=0",
        "sampling.top_k=-1",
        "sampling.min_p=1",
        "sampling.presence_penalty=-2",
        "sampling.frequency_penalty=2",
        "sampling.repetition_penalty=0.1",
        "sampling.logprobs=processed",
        "hardware.gpu_memory_utilization=1",
        "postprocess.steps=[]",
        "postprocess.filter.min_length=0",
        "tracking.sample_rows=0",
        "tracking.sample_rows=100",
        "store.flush_samples=1",
    ],
)
def test_a_value_on_the_edge_of_its_range_is_accepted(value: str) -> None:
    assert problems(value) == []


@pytest.mark.parametrize("key", [key for key, field in config_fields() if field.type is float])
def test_nan_is_no_number(key: str) -> None:
    assert keys(problems(f"{key}=.nan")) == [key]


@pytest.mark.parametrize(
    ("contradiction", "key", "cure"),
    [
        (["sampling.temperature=0"], "sampling.n_samples", "sampling.n_samples=1"),
        (["sampling.max_tokens=10", "sampling.min_tokens=11"], "sampling.min_tokens", "sampling.min_tokens=10"),
        (["sampling.stop=[end,'']"], "sampling.stop", "sampling.stop=[end]"),
        *(
            (["sampling.extra.thinking_token_budget=9"], "sampling.extra.thinking_token_budget", cure)
            for cure in (
                "model.reasoning_parser=qwen3",
                "hardware.engine_kwargs.reasoning_parser=qwen3",
                "hardware.engine_kwargs.reasoning_config.reasoning_end_str=so",
                "sampling.extra.thinking_token_budget=-1",
            )
        ),
        (
            [
                "sampling.extra.thinking_token_budget=9",
                "model.reasoning_parser=qwen3",
                "hardware.engine_kwargs.reasoning_parser=null",
            ],
            "sampling.extra.thinking_token_budget",
            "sampling.extra.thinking_token_budget=null",
        ),
        (
            ["hardware.device=cpu", "hardware.tensor_parallel_size=2"],
            "hardware.tensor_parallel_size",
            "hardware.tensor_parallel_size=1",
        ),
        (
            ["hardware.device=cpu", "hardware.pipeline_parallel_size=2"],
            "hardware.tensor_parallel_size",
            "hardware.device=cuda",
        ),
        (["adaptive.until=passes", "adaptive.rounds=[]"], "adaptive.rounds", "adaptive.rounds=[2]"),
        (["adaptive.until=passes", "adaptive.rounds=[2,0]"], "adaptive.rounds", "adaptive.rounds=[2,1]"),
        (["adaptive.until=passes", "adaptive.rounds=[9]"], "adaptive.rounds", "sampling.n_samples=9"),
        (["adaptive.until=passes", "adaptive.rounds=[2,9]"], "adaptive.rounds", "adaptive.until=null"),
        (["adaptive.until=passes", "adaptive.passes=9"], "adaptive.passes", "sampling.n_samples=9"),
        (
            ["adaptive.until=mixed", "adaptive.rounds=[1]", "sampling.n_samples=1"],
            "adaptive.until",
            "sampling.n_samples=2",
        ),
        (["adaptive.until=interval", "adaptive.low=0.5", "adaptive.high=0.5"], "adaptive.low", "adaptive.high=0.6"),
        (
            ["adaptive.until=passes", "adaptive.rounds=[1]", "sampling.temperature=0", "sampling.n_samples=1"],
            "adaptive.until",
            "sampling.temperature=0.1",
        ),
        (["adaptive.until=interval", "adaptive.width=0"], "adaptive.width", "adaptive.width=0.1"),
    ],
)
def test_values_that_contradict_each_other_are_refused_until_cured(
    contradiction: list[str], key: str, cure: str
) -> None:
    assert keys(problems(*contradiction)) == [key]
    assert problems(*contradiction, cure) == []


def test_all_problems_are_found_at_once() -> None:
    found = problems(
        "sampling.n_samples=0", "sampling.top_p=2", "hardware.dtype=int8", "sampling.min_tokens=5000", "data.limit=-1"
    )
    assert sorted(keys(found)) == [
        "data.limit",
        "hardware.dtype",
        "sampling.min_tokens",
        "sampling.n_samples",
        "sampling.top_p",
    ]


def test_a_problem_says_the_value_and_the_range() -> None:
    assert problems("sampling.top_p=2") == ["sampling.top_p=2.0: must be more than 0.0 and at most 1.0"]
    assert problems("hardware.device=tpu") == ["hardware.device=tpu: choose from cuda, cpu"]


@pytest.mark.parametrize(
    "value",
    [
        "sampling.temperature=hot",
        "sampling.n_samples=2.5",
        "sampling.n_samples=true",
        "sampling.n_samples=null",
        "sampling.stop=word",
        "sampling.stop_token_ids=[x]",
        "sampling=greedy",
        "hardware.enforce_eager=maybe",
        "sampling.temprature=1",
        "postprocess.filter.min_lenght=1",
        "sample.n_samples=1",
        "extra=1",
    ],
)
def test_build_refuses_unknown_keys_and_wrong_types_of_a_config_without_schema(value: str) -> None:
    with pytest.raises(OmegaConfBaseException):
        built(value)


def test_build_gives_every_value_its_declared_type() -> None:
    run = build(
        OmegaConf.create(
            {
                "sampling": {"n_samples": "4", "temperature": 1, "stop": [1], "seed": "${sampling.n_samples}"},
                "hardware": {"env": {"X": 1}, "engine_kwargs": {"a": {"b": 1}}},
            }
        )
    )
    assert repr((run.sampling.n_samples, run.sampling.temperature, run.sampling.seed)) == "(4, 1.0, 4)"
    assert run.sampling.stop == ["1"]
    assert run.hardware.env == {"X": "1"}
    assert type(run.hardware.engine_kwargs["a"]) is dict


def test_build_of_nothing_is_the_defaults() -> None:
    assert build(OmegaConf.create({})) == RunConfig()


def test_no_two_configs_share_a_value() -> None:
    RunConfig().postprocess.steps.append("filter")
    RunConfig().hardware.env["X"] = "1"
    assert RunConfig().postprocess.steps == ["flatten", "analyze", "report"]
    assert RunConfig().hardware.env == {}


@pytest.mark.parametrize(
    "override", ["+foo=1", "++foo=1", "+sampling.foo=1", "++sampling.foo=1", "sampling.foo=1", "+sampling.n_samples=1"]
)
def test_the_command_line_cannot_add_a_key(override: str) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException)):
        composed("hardware=cpu", override)


@pytest.mark.parametrize("plus", ["", "+"])
def test_the_free_form_dictionaries_take_any_key(plus: str) -> None:
    assert composed("hardware=cpu", f"{plus}sampling.extra.ignore_eos=true").sampling.extra == {"ignore_eos": True}


@pytest.mark.parametrize(("stop", "doubtful"), [(r"\n\n", True), (r"END\t", True), ("\n\n", False), (r"\end", False)])
def test_a_backslash_that_a_shell_has_left_in_a_stop_text_is_doubted(stop: str, doubtful: bool) -> None:
    run = RunConfig()
    run.sampling.stop = [stop]
    lines = [f"sampling.stop={stop}: a backslash and a letter, not a line break or tab; " + BREAK] * doubtful
    assert list(config_warnings(run)) == lines


@pytest.mark.parametrize(
    "word",
    [
        "project=a/b",
        "project=a#b",
        f"project={'x' * 129}",
        "project=''",
        "entity=a:b",
        f"tags=[{'x' * 65}]",
        "tags=['']",
    ],
)
def test_a_name_that_wandb_would_refuse_is_a_mistake_unless_nothing_is_tracked(word: str) -> None:
    key = f"tracking.{word.partition('=')[0]}"
    assert keys(problems(f"tracking.{word}")) == [key]
    assert problems(f"tracking.{word}", "tracking.mode=disabled") == []


def test_wandb_takes_the_longest_names_that_are_allowed() -> None:
    assert problems(f"tracking.project={'x' * 128}", f"tracking.tags=[{'x' * 64},y]", "tracking.entity=a-b_c") == []


def test_rounds_that_a_small_budget_never_comes_to_are_no_mistake() -> None:
    assert problems("adaptive.until=passes", "sampling.n_samples=4") == []
    assert keys(problems("adaptive.until=passes", "sampling.n_samples=1")) == ["adaptive.rounds"]


def test_with_a_rule_that_stops_rows_responses_are_scored() -> None:
    assert built("adaptive.until=passes").postprocess.steps == ["score", "flatten", "analyze", "report"]
    assert built("adaptive.until=passes", "postprocess.steps=[flatten,score]").postprocess.steps == ["flatten", "score"]
    assert built("adaptive.passes=2").postprocess.steps == ["flatten", "analyze", "report"]


@pytest.mark.parametrize(
    ("words", "doubtful"),
    [
        (["adaptive.until=interval", "adaptive.rounds=[4]"], True),
        (["adaptive.until=interval", "sampling.n_samples=32"], False),
        (["adaptive.until=passes", "adaptive.rounds=[8]"], True),
        (["adaptive.until=passes"], False),
    ],
)
def test_a_rule_that_can_save_little_is_doubted(words: list[str], doubtful: bool) -> None:
    assert bool([*config_warnings(built(*words))]) == doubtful


def test_a_column_that_is_called_like_a_sampling_key_is_doubted() -> None:
    run = composed("sampling.temperature=0.5", "data.prompt_key=seed")
    assert list(column_warnings(run, ["prompt", "temperature", "seed", "answer"])) == [
        "column temperature of the input is kept but not used: every row is sampled with sampling.temperature=0.5; "
        "a column of objects is, with data.sampling_key"
    ]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("{min_count: 3}", "max_pattern_size=0: no pattern is looked for"),
        (
            "{max_pattern_size: 2, min_pattern_size: 3, min_count: 2}",
            "min_pattern_size=3: more than max_pattern_size=2",
        ),
        ("{max_pattern_size: 2}", "min_count=0: must be at least 2"),
    ],
)
def test_a_repetition_that_can_never_be_found_is_refused(given: str, line: str) -> None:
    (found,) = check(composed(f"sampling.repetition_detection={given}", "hardware=cpu"))
    assert found.startswith(f"sampling.repetition_detection.{line}")


JSON_SCHEMA = {"type": "object", "properties": {"a b": {"$ref": "#/x", "pattern": "${y}, [z]"}}}


def test_a_json_schema_is_typed_as_json_as_hydras_dictionary_or_as_the_name_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a schema.json"
    path.write_text(json.dumps(JSON_SCHEMA))
    key = "sampling.structured_outputs.json"
    for value in (json.dumps(JSON_SCHEMA), str(path)):
        assert constraint(composed(f"{key}={value}").sampling.structured_outputs) == {"json": JSON_SCHEMA}
    typed = composed("sampling=structured", f"{key}={{type: object, required: [a]}}").sampling.structured_outputs
    assert constraint(typed) == {"json": {"type": "object", "required": ["a"]}}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"json": "missing.json"}, ".json=missing.json: cannot be read (No such file or directory); check the path"),
        ({"json": "schema.yaml"}, ".json=schema.yaml: give a JSON schema, or the name of a file that ends in .json"),
        ({"json": "{type"}, ".json={type: not JSON (Expecting property name"),
        ({"json": [1]}, ".json=[1]: a JSON schema is an object, and this is list"),
        ({"regex": "a", "choice": ["b"]}, ": regex and choice are given; a response can be one of them"),
    ],
)
def test_a_constraint_that_cannot_be_read_is_one_line(
    given: dict[str, Any], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = composed(*ECHO)
    run.sampling.structured_outputs = StructuredOutputsConfig(**given)
    with pytest.raises(UserError) as refused:
        preflight(run)
    (found,) = refused.value.problems
    assert found.startswith(f"sampling.structured_outputs{line}")

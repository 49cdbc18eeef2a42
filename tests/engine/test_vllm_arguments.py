"""What goes to vLLM as it is, against vLLM's own classes: built where it is right, one line where it is not."""

from typing import Any

import pytest

from rollout.config import (
    HardwareConfig,
    ModelConfig,
    RepetitionDetectionConfig,
    SamplingConfig,
    StructuredOutputsConfig,
)
from rollout.errors import PromptError

pytestmark = pytest.mark.slow


def problems_of(extra: dict[str, Any] | None = None, engine: dict[str, Any] | None = None) -> list[str]:
    from rollout.engine.vllm_arguments import problems  # here and below: to collect the tests needs no vllm

    return [*problems(SamplingConfig(extra=extra or {}), ModelConfig(), HardwareConfig(engine_kwargs=engine or {}))]


@pytest.mark.parametrize(
    ("name", "given", "built"),
    [
        ("bad_words", ["hello", 42], ["hello", "42"]),
        ("logit_bias", {"5": "1.5"}, {5: 1.5}),
        ("ignore_eos", "no", False),
        ("thinking_token_budget", None, None),
        ("extra_args", {"a": 1}, {"a": 1}),
    ],
)
def test_sampling_parameters_are_what_vllm_takes(name: str, given: Any, built: Any) -> None:
    from rollout.engine.vllm_arguments import sampling_kwargs

    assert sampling_kwargs(SamplingConfig(extra={name: given}))[name] == built


@pytest.mark.parametrize(
    ("hardware", "extended"),
    [
        (HardwareConfig(), True),
        (HardwareConfig(device="cpu", fast_sampler="off"), True),
        (HardwareConfig(engine_kwargs={"worker_extension_cls": "mine.Extension"}), False),
    ],
)
def test_workers_are_extended_unless_the_user_extends_them(hardware: HardwareConfig, extended: bool) -> None:
    from rollout.engine import vllm_worker
    from rollout.engine.vllm_engine import _engine_kwargs

    kwargs = _engine_kwargs(ModelConfig(), hardware)
    assert (kwargs.get("worker_extension_cls") == vllm_worker.NAME) is extended


def test_structures_are_made_from_dictionaries() -> None:
    from vllm.sampling_params import RepetitionDetectionParams, StructuredOutputsParams

    from rollout.engine.vllm_arguments import sampling_kwargs

    detection = {"max_pattern_size": 8, "min_pattern_size": "2", "min_count": 4}
    kwargs = sampling_kwargs(
        SamplingConfig(extra={"repetition_detection": detection, "structured_outputs": {"choice": ["a"]}})
    )
    assert kwargs["repetition_detection"] == RepetitionDetectionParams(8, 2, 4)
    assert kwargs["structured_outputs"] == StructuredOutputsParams(choice=["a"])


def test_what_has_keys_of_its_own_is_made_from_them_and_what_is_off_is_left_out() -> None:
    from vllm.sampling_params import RepetitionDetectionParams, StructuredOutputsParams

    from rollout.engine.vllm_arguments import sampling_kwargs

    sampling = SamplingConfig(
        structured_outputs=StructuredOutputsConfig(json='{"type": "boolean"}'),
        repetition_detection=RepetitionDetectionConfig(8, 2, 4),
    )
    kwargs = sampling_kwargs(sampling)
    assert kwargs["repetition_detection"] == RepetitionDetectionParams(8, 2, 4)
    assert kwargs["structured_outputs"] == StructuredOutputsParams(json={"type": "boolean"})
    assert not {"structured_outputs", "repetition_detection"} & sampling_kwargs(SamplingConfig()).keys()


REFUSED = [
    ({"json": {"type": "objct"}}, "json={'type': 'objct'}: vLLM refuses it: Grammar error: Invalid type: objct"),
    ({"json": {"$ref": "#/nowhere"}}, "json={'$ref': '#/nowhere'}: vLLM refuses it: Grammar error: "),
    ({"regex": "(a"}, "regex=(a: vLLM refuses it: Failed to transform regex into a grammar: Regex parsing error at "),
    ({"grammar": "root ::= word"}, "grammar=root ::= word: vLLM refuses it: Invalid grammar specification"),
]


@pytest.mark.parametrize(("given", "line"), REFUSED)
def test_a_constraint_that_vllm_cannot_use_is_one_line_of_the_run_and_a_bad_row(
    given: dict[str, Any], line: str
) -> None:
    from rollout.engine.vllm_arguments import prepared, problems

    of_run = SamplingConfig(structured_outputs=StructuredOutputsConfig(**given))
    (found,) = problems(of_run, ModelConfig(), HardwareConfig())
    assert len(found.splitlines()) == 1
    assert found.startswith(f"sampling.structured_outputs.{line}")
    (found,) = problems_of({"structured_outputs": given})
    assert found.startswith(f"sampling.extra.structured_outputs.{line}")
    with pytest.raises(PromptError) as refused:
        prepared(SamplingConfig(extra={"structured_outputs": given}), "own", "auto")
    assert str(refused.value).startswith(f"own.structured_outputs.{line}")


def test_a_constraint_is_looked_at_by_the_engines_own_library() -> None:
    from rollout.engine.vllm_arguments import problems

    # xgrammar has no such thing, and guidance has
    sampling = SamplingConfig(structured_outputs=StructuredOutputsConfig(json={"type": "integer", "multipleOf": 3}))

    def found(backend: str) -> list[str]:
        hardware = HardwareConfig(engine_kwargs={"structured_outputs_config": {"backend": backend}})
        return list(problems(sampling, ModelConfig(), hardware))

    assert found("auto") == found("guidance") == []
    assert len(found("xgrammar")) == 1


def test_a_refusal_has_no_time_in_it_of_which_equal_runs_would_differ() -> None:
    from rollout.engine.vllm_refusal import refusal

    error = ValueError('cannot: [06:47:28] /project/cpp/schema.cc:4944: Unsupported type "objct"\n')
    assert refusal(error) == 'cannot: Unsupported type "objct"'


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ({"bad_words": "hello"}, "bad_words=hello: must be a list of texts"),
        ({"logit_bias": {"a": 1}}, "logit_bias={'a': 1}: must be a dictionary from whole numbers to numbers"),
        ({"allowed_token_ids": "5"}, "allowed_token_ids=5: must be a list of whole numbers"),
        ({"ignore_eos": "maybe"}, "ignore_eos=maybe: must be true or false"),
        ({"thinking_token_budget": 1.5}, "thinking_token_budget=1.5: must be a whole number"),
        ({"repetition_detection": 5}, "repetition_detection=5: must be a dictionary"),
        (
            {"repetition_detection": {"max_pattern_size": "x"}},
            "repetition_detection.max_pattern_size=x: must be a whole number",
        ),
        (
            {"repetition_detection": {"patterns": 8}},
            "repetition_detection.patterns: vLLM has no such argument, did you mean min_pattern_size or "
            "max_pattern_size?",
        ),
        ({"structured_outputs": {"choice": "a"}}, "structured_outputs.choice=a: must be a list of texts"),
        (
            {"_eos_token_id": 5},
            "_eos_token_id: vLLM has no such argument, did you mean stop_token_ids or "
            "logprob_token_ids or allowed_token_ids?",
        ),
    ],
)
def test_a_sampling_parameter_of_another_type_is_refused(extra: dict[str, Any], line: str) -> None:
    assert problems_of(extra) == [f"sampling.extra.{line}"]


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ({"seed": "5"}, {"seed": 5}),
        ({"enable_lora": "no"}, {"enable_lora": False}),
        *(
            (kwargs, kwargs)
            for kwargs in (
                {"compilation_config": 3},
                {"compilation_config": {"cudagraph_mode": "FULL", "pass_config": {"fuse_allreduce_rms": False}}},
                {"attention_backend": "FLASH_ATTN"},
                {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}},
                {"hf_overrides": {"a": 1}},
                {"async_scheduling": None},
                {"logits_processors": ["a:b"]},
                {"kv_cache_memory_bytes": 10**9},
                {"lora_dtype": "float16"},
            )
        ),
    ],
)
def test_engine_arguments_are_what_vllm_takes(given: dict[str, Any], passed: dict[str, Any]) -> None:
    from rollout.engine.vllm_arguments import engine_kwargs

    kwargs = engine_kwargs(ModelConfig(), HardwareConfig(engine_kwargs=given))
    assert {name: kwargs[name] for name in given} == passed


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ({}, {"reasoning_parser": "qwen3"}),
        ({"reasoning_parser": "glm45"}, {"reasoning_parser": "glm45"}),
        ({"reasoning_parser": None}, {"reasoning_parser": None}),
        ({"structured_outputs_config": {"reasoning_parser": "glm45"}}, {}),
        ({"structured_outputs_config": {"backend": "guidance"}}, {"reasoning_parser": "qwen3"}),
    ],
)
def test_the_engine_has_the_runs_parser_of_thinking_unless_it_is_given_its_own(
    given: dict[str, Any], passed: dict[str, Any]
) -> None:
    from rollout.engine.vllm_arguments import engine_kwargs

    kwargs = engine_kwargs(ModelConfig(reasoning_parser="qwen3"), HardwareConfig(engine_kwargs=given))
    assert {name: kwargs[name] for name in kwargs if name == "reasoning_parser"} == passed
    assert "reasoning_parser" not in engine_kwargs(ModelConfig(), HardwareConfig())


def test_the_log_has_only_the_parameters_that_are_set() -> None:
    from rollout.engine.vllm_arguments import in_words, sampling_kwargs

    of_defaults = in_words(sampling_kwargs(SamplingConfig()))
    assert of_defaults == ["max_tokens=2048", "temperature=1.0", "top_p=0.95"]
    sampling = SamplingConfig(
        top_p=1.0,
        structured_outputs=StructuredOutputsConfig(choice=["yes", "no, never"]),
        repetition_detection=RepetitionDetectionConfig(max_pattern_size=8, min_count=4),
        extra={"logit_bias": {"4": 12}},
    )
    assert in_words(sampling_kwargs(sampling))[2:] == [
        "structured_outputs.choice=['yes', 'no, never']",
        "repetition_detection.max_pattern_size=8",
        "repetition_detection.min_count=4",
        "logit_bias={4: 12.0}",
    ]


def test_every_prompt_is_computed_whole_under_batch_invariant() -> None:
    from rollout.engine.vllm_arguments import engine_kwargs

    hardware = HardwareConfig(batch_invariant=True)
    whole = {"enable_prefix_caching": False, "enable_chunked_prefill": False}
    assert engine_kwargs(ModelConfig(), hardware).items() >= whole.items()


@pytest.mark.parametrize(
    ("given", "version"),
    [
        ({}, 2),
        ({"attention_config": {"backend": "FLASH_ATTN"}}, 2),
        ({"attention_config": {"flash_attn_version": 3}}, 3),
    ],
)
def test_attention_has_the_same_blocks_in_every_step_under_batch_invariant(given: dict[str, Any], version: int) -> None:
    assert invariant_engine(given).attention_config.flash_attn_version == version


_NATIVE, _OWN = ["native"], ["vllm_c"]


@pytest.mark.parametrize(
    ("given", "custom_ops", "is_fused", "priority"),
    [
        ({}, ["-rms_norm"], False, _NATIVE),
        ({"compilation_config": None, "kernel_config": None}, ["-rms_norm"], False, _NATIVE),
        ({"compilation_config": {"custom_ops": ["all"]}}, ["all", "-rms_norm"], False, _NATIVE),
        # what is given goes first
        ({"compilation_config": {"custom_ops": ["+rms_norm"]}}, ["+rms_norm"], False, _NATIVE),
        ({"compilation_config": {"pass_config": {"fuse_norm_quant": True}}}, ["-rms_norm"], True, _NATIVE),
        ({"kernel_config": {"ir_op_priority": {"fused_add_rms_norm": _OWN}}}, ["-rms_norm"], False, _OWN),
    ],
)
def test_norms_are_pytorchs_under_batch_invariant(
    given: dict[str, Any], custom_ops: list[str], is_fused: bool, priority: list[str]
) -> None:
    made = invariant_engine(given)
    assert made.compilation_config.custom_ops == custom_ops
    assert made.compilation_config.pass_config.fuse_norm_quant is is_fused
    assert made.kernel_config.ir_op_priority.fused_add_rms_norm == priority


def test_norms_are_named_once_where_the_user_names_their_kernels() -> None:
    """vLLM refuses priorities in both of the places that it has for them."""
    made = invariant_engine({"ir_op_priority": {"fused_add_rms_norm": _OWN}})
    assert made.ir_op_priority.fused_add_rms_norm == _OWN
    assert made.kernel_config.ir_op_priority.fused_add_rms_norm == []


def test_other_settings_stay_as_given_under_batch_invariant() -> None:
    from rollout.engine.vllm_arguments import engine_kwargs

    compilation = {"max_cudagraph_capture_size": 64, "pass_config": {"fuse_act_quant": False}}
    made = invariant_engine({"compilation_config": compilation, "attention_config": {"backend": "FLASH_ATTN"}})
    assert made.compilation_config.max_cudagraph_capture_size == 64
    assert made.compilation_config.pass_config.fuse_act_quant is False
    assert made.attention_config.backend.name == "FLASH_ATTN"
    assert invariant_engine({"compilation_config": 0}).compilation_config.mode == 0  # vLLM's short form of its mode
    assert {"attention_config", "compilation_config", "kernel_config"}.isdisjoint(
        engine_kwargs(ModelConfig(), HardwareConfig())
    )


def invariant_engine(given: dict[str, Any]) -> Any:
    """`EngineArgs` of an engine with batch_invariant and `given` as hardware.engine_kwargs; any path is a model."""
    from vllm.engine.arg_utils import EngineArgs

    from rollout.engine.vllm_arguments import engine_kwargs

    hardware = HardwareConfig(batch_invariant=True, engine_kwargs=given)
    return EngineArgs(model=__file__, **engine_kwargs(ModelConfig(), hardware))


@pytest.mark.parametrize(
    ("engine", "line"),
    [
        ({"seed": "x"}, "seed=x: must be a whole number"),
        ({"speculative_config": "ngram"}, "speculative_config=ngram: must be a dictionary"),
        ({"compilation_config": "x"}, "compilation_config=x: must be a dictionary"),
        ({"compilation_config": {"moed": 3}}, "compilation_config.moed: vLLM has no such argument, did you mean mode?"),
        ({"scheduling_policy": "prio"}, "scheduling_policy=prio: must be fcfs or priority"),
        ({"block_size": [1]}, "block_size=[1]: must be a whole number"),
        ({"hf_overrides": "x"}, "hf_overrides=x: must be a dictionary or Callable"),
    ],
)
def test_an_engine_argument_of_another_type_is_refused(engine: dict[str, Any], line: str) -> None:
    assert problems_of(engine=engine) == [f"hardware.engine_kwargs.{line}"]


def test_every_mistake_is_named_at_once() -> None:
    found = problems_of({"bad_words": "a", "ignore_eos": 7}, {"seed": "x", "block_size": "y"})
    assert [line.partition("=")[0] for line in found] == [
        "sampling.extra.bad_words",
        "sampling.extra.ignore_eos",
        "hardware.engine_kwargs.seed",
        "hardware.engine_kwargs.block_size",
    ]

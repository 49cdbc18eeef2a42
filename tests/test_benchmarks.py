"""The benchmark's own arithmetic, and that what it asks for can be asked for."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu.limits import demand, limit_seconds
from benchmarks.gpu.plan import PLAN, Step
from benchmarks.gpu.ratios import mean_ratio
from benchmarks.gpu.shapes import SHAPES, write_model
from benchmarks.gpu.table import markdown
from benchmarks.gpu.workloads import WORKLOADS, long_tailed
from rollout.cli.compose import compose_run
from rollout.config.check import check

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]


def test_the_long_tailed_workload_has_the_median_and_the_tail_it_is_called_after() -> None:
    lengths = WORKLOADS["tail"].lengths()
    assert len(lengths) == 384
    assert median(lengths) == 128
    assert max(lengths) == 2560
    assert lengths == WORKLOADS["tail"].lengths()
    assert lengths != sorted(lengths)


def test_the_samples_of_a_row_differ_where_that_is_what_is_measured() -> None:
    workload = WORKLOADS["spread"]
    lengths = np.array(workload.of_samples())
    assert lengths.shape == (1000, 8)
    logs = np.log(lengths)
    assert np.median(lengths) == pytest.approx(64, rel=0.05)
    assert logs.std() == pytest.approx(1, rel=0.02)
    assert logs.mean(axis=1).var() == pytest.approx(0.8 + 0.2 / 8, rel=0.05)
    assert workload.lengths() == lengths.max(axis=1).tolist()
    assert workload.of_samples() == lengths.tolist()
    assert not WORKLOADS["tail"].of_samples()


@given(count=st.integers(2, 500), middle=st.integers(1, 300), tail=st.integers(2, 30))
def test_drawn_lengths_are_positive_and_reach_the_tail(count: int, middle: int, tail: int) -> None:
    lengths = long_tailed(count, middle, tail)
    assert min(lengths) >= 1
    assert max(lengths) == tail * middle


def test_the_shapes_have_as_many_weights_as_their_names_say() -> None:
    assert SHAPES["8b"].matrix_weights == pytest.approx(7.2e9, rel=0.02)  # 8.0e9 less most of Llama 3's vocabulary
    assert SHAPES["0.5b"].matrix_weights == pytest.approx(0.40e9, rel=0.02)
    assert SHAPES["8b"].kv_numbers * 2 == 128 * 1024  # bytes per token, as vLLM reports for Llama 3 8B


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    n_samples=st.integers(1, 4),
    prompt=st.integers(1, 20),
    at_a_time=st.integers(1, 8),
)
def test_demand_is_what_adding_up_token_by_token_gives(
    lengths: list[int], n_samples: int, prompt: int, at_a_time: int
) -> None:
    shape = SHAPES["tiny"]
    tokens = [prompt + place for length in lengths for place in range(length)] * n_samples  # each with its context
    steps = max(-(-len(tokens) // at_a_time), *lengths)
    weights, head = shape.matrix_weights, shape.layers * shape.heads * shape.head_dim
    assert demand(shape, lengths, n_samples, prompt, at_a_time) == {
        "matrix_bytes": 2 * weights * steps,
        "matrix_operations": 2 * weights * (len(tokens) + prompt * len(lengths)),
        "attention_bytes": 2 * shape.kv_numbers * sum(tokens),
        "attention_operations": 4 * head * sum(tokens),
    }


def test_each_kind_of_work_is_limited_by_the_slower_of_memory_and_arithmetic() -> None:
    needs = {"matrix_bytes": 10.0, "matrix_operations": 90.0, "attention_bytes": 40.0, "attention_operations": 8.0}
    assert limit_seconds(needs, {"bandwidth": 10.0, "rate": 10.0}) == 9.0 + 4.0


@pytest.mark.parametrize("step", [step for step in PLAN if "--shape" in step.arguments], ids=lambda step: step.name)
def test_every_step_asks_for_a_config_that_there_is(step: Step) -> None:
    overrides = [word for word in step.arguments if "=" in word]
    problems = list(check(compose_run("sampling.extra={ignore_eos: true}", *overrides)))
    assert problems == []
    tasks = [word.split(":") for word in step.arguments if word.count(":") == 2]
    assert tasks
    assert {workload for workload, _, _ in tasks} <= set(WORKLOADS)


@pytest.mark.long
def test_the_steps_of_tests_select_every_test_on_a_gpu_but_those_of_presets_that_have_steps_of_their_own() -> None:
    steps = [[word for word in step.arguments if word != "-vv"] for step in PLAN if step.module == "pytest"]
    everything = ["-m", "gpu", "-k", "not a_preset", "tests/gpu"]
    *chosen, all_of_them = _collected(*steps, everything)
    assert sorted(name for names in chosen for name in names) == sorted(all_of_them)
    assert len(all_of_them) > 20


_COLLECT = """
import pytest, sys
for arguments in sys.argv[1:]:
    assert pytest.main(arguments.split(chr(9))) == 0
    print(chr(12))
"""


def _collected(*selections: list[str]) -> list[list[str]]:
    """The names of the tests that pytest selects with each of these arguments, from one process for all."""
    words = ["\t".join(["--collect-only", "-q", *selection]) for selection in selections]
    command = [sys.executable, "-c", _COLLECT, *words]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    *of_selections, _end = printed.stdout.split("\f")
    return [[line for line in of.splitlines() if "::" in line] for of in of_selections]


def test_ratios_are_taken_repeat_by_repeat(tmp_path: Path) -> None:
    (tmp_path / "8b").mkdir()
    speeds = {("ours", 0): 90.0, ("one_call", 0): 100.0, ("ours", 1): 60.0, ("one_call", 1): 50.0}
    about = {"shape": "8b", "workload": "equal", "prompts": 4, "n_samples": 2, "longest": 8, "seconds": 1.0, "busy": {}}
    for (way, repeat), speed in speeds.items():
        result = about | {"way": way, "repeat": repeat, "tok_s": speed}
        (tmp_path / f"8b/equal-{way}-{repeat}.json").write_text(json.dumps(result))
    assert "| 8b | equal | one_call | 1.050 | 0.900-1.200 | 0.99 |" in markdown(tmp_path)


def test_a_ratio_of_pairs_has_the_interval_that_student_gives_it() -> None:
    middle, low, high = mean_ratio([(2.0, 1.0), (4.0, 1.0), (8.0, 1.0)])
    assert middle == pytest.approx(4.0)
    assert high / middle == pytest.approx(middle / low) == pytest.approx(2 ** (4.303 / 3**0.5), rel=1e-3)


def test_a_larger_vocabulary_has_a_text_for_every_id(tmp_path: Path) -> None:
    content = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2, "content": "<end>"}]}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        (tmp_path / name).write_text(json.dumps(content))
    model = write_model(tmp_path / "model", SHAPES["0.5b_qwen"], tmp_path)
    entries = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
    assert {*entries.values(), 2} == {*range(151_936)}
    assert len(entries) == 151_935
    assert json.loads((model / "config.json").read_text())["vocab_size"] == 151_936

"""Real vLLM on the CPU. Slow to start, so the tests share engines: the tiny model for logic, SmolLM2 for text.

Tests of one engine stand together, because other hardware ends it: first the default, then NARROW, then others.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rollout
from benchmarks.checkpoints import write_noisy
from benchmarks.per_row import parameters, unequal
from rollout.cli import saved_config
from rollout.cli.compose import compose_run
from rollout.config import ModelConfig, RunConfig
from rollout.data.chat import parse_chat
from rollout.data.tools import read_tools
from rollout.engine.cache import EngineSpec, acquire, release
from rollout.errors import PromptError, UserError
from rollout.generation.prompt_tokens import NoTokenizer, load_renderer
from rollout.lifecycle import Asked, start
from rollout.preflight import preflight, to_continue
from rollout.records import Request
from rollout.store import lineage, run_record
from rollout.verify.__main__ import verify
from tests.api.state import state
from tests.conftest import chat, write_input
from tests.engine.chats import CHATS, TEMPLATES
from tests.engine.forward import agreement
from tests.engine.lora import greedy, write_adapter, write_merged
from tests.engine.server import answer_of
from tests.engine.test_content import flip_a_bit
from tests.tiny_model import THINK, write_tiny_model

pytestmark = pytest.mark.slow

UNEVEN = [{"prompt": chat(f"{number} " + "fox " * (30 * (number % 3)))} for number in range(24)]
ROWS: list[dict[str, Any]] = [
    {"prompt": [*chat(f"question {number % 7}"), *chat("and " * (1 + number % 5))]} for number in range(24)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import torch  # here and below, because to collect the tests needs none of what is large

    folder = tmp_path_factory.mktemp("vllm")
    write_tiny_model(folder / "model")
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in KILLABLE_RUN
    yield folder
    release()
    torch.set_num_threads(num_threads)


TINY = (
    "hardware=cpu",
    "hardware.env.VLLM_CPU_KVCACHE_SPACE='1'",
    "tracking=disabled",
    "sampling.max_tokens=24",
    "sampling.n_samples=3",
)
NARROW = ("hardware.max_num_seqs=3", "hardware.max_num_batched_tokens=256")
CROWDED = (
    "hardware.max_num_seqs=5",
    "hardware.engine_kwargs.block_size=32",
    "hardware.engine_kwargs.num_gpu_blocks_override=9",
)
"""A KV cache of so few tokens that samples are put back."""


def tiny(folder: Path, *overrides: str) -> RunConfig:
    """A config of the tiny model. Configs with equal model and hardware share an engine."""
    return compose_run(f"model.path={folder / 'model'}", *TINY, *overrides)


def rows_of_run(folder: Path, name: str, *overrides: str, rows: list[dict[str, Any]] = ROWS) -> list[dict[str, Any]]:
    """What a run over `rows` writes."""
    run = tiny(folder, f"data.path={write_input(folder / f'{name}.parquet', rows)}", *overrides)
    start(run, folder / name)
    written: list[dict[str, Any]] = pq.read_table(folder / name / "rollouts.parquet").to_pylist()
    return written


def test_prompts_have_the_tokens_and_greedy_responses_the_text_of_vllms_own_chat(folder: Path) -> None:
    from vllm import SamplingParams

    from rollout.engine.vllm_engine import VLLMEngine

    rows = rows_of_run(folder, "greedy", "sampling.temperature=0", "sampling.n_samples=1")
    engine = acquire(EngineSpec.of(tiny(folder))).engine
    assert isinstance(engine, VLLMEngine)
    outputs = engine.llm.chat([row["prompt"] for row in ROWS], SamplingParams(temperature=0, max_tokens=24))
    for row, output in zip(rows, outputs, strict=True):
        assert engine.render(parse_chat(row["prompt"])).token_ids == output.prompt_token_ids
        assert row["num_prompt_tokens"] == len(output.prompt_token_ids)
        assert row["responses"] == [output.outputs[0].text]
        assert row["finish_reasons"] == [output.outputs[0].finish_reason]
        assert row["num_generated_tokens"] == [len(output.outputs[0].token_ids)]
    assert len({tuple(row["responses"]) for row in rows}) > 12  # of 24 prompts, which decide what comes


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_is_rendered_token_by_token_as_vllms_own_chat_does(
    template: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import SamplingParams

    from rollout.engine.vllm_engine import VLLMEngine
    from rollout.engine.vllm_renderer import chat_params

    engine = acquire(EngineSpec.of(tiny(folder))).engine
    assert isinstance(engine, VLLMEngine)
    (folder / "chats.jinja").write_text(TEMPLATES[template])
    model = ModelConfig(str(folder / "model"), chat_template=str(folder / "chats.jinja"))
    monkeypatch.setattr(engine._renderer, "_chat_params", chat_params(model, engine._renderer._tokenizer))

    def of_vllm(messages: list[Any]) -> list[int] | None:
        try:
            (output,) = engine.llm.chat(
                messages, SamplingParams(max_tokens=1), chat_template=TEMPLATES[template], use_tqdm=False
            )
        except Exception:  # as ours: whatever a template makes of it
            return None
        return list(output.prompt_token_ids)

    def of_ours(messages: list[Any]) -> list[int] | None:
        try:
            return engine.render(messages).token_ids
        except PromptError:
            return None

    ours = {name: of_ours(parse_chat(json.dumps(messages))) for name, messages in CHATS.items()}
    assert ours == {name: of_vllm(json.loads(json.dumps(messages))) for name, messages in CHATS.items()}
    assert sum(token_ids is not None for token_ids in ours.values()) >= 25
    assert parse_chat(CHATS["arguments as JSON text"]) == CHATS["arguments as JSON text"]  # nothing is written into it


def test_a_dry_run_renders_from_the_files_what_the_engine_renders(folder: Path) -> None:
    run = tiny(folder, "model.chat_template_kwargs.enable_thinking=false")
    engine, renderer = acquire(EngineSpec.of(run)).engine, load_renderer(run)
    for messages in (row["prompt"] for row in ROWS[:5]):
        assert renderer.render(messages) == engine.render(messages)
    assert (renderer.max_model_len, renderer.bos_token_id) == (engine.max_model_len, engine.bos_token_id)
    (folder / "broken.jinja").write_text("{{ messages")
    with pytest.raises(UserError, match=r"broken\.jinja: .*; fix the template"):
        load_renderer(tiny(folder, f"model.chat_template={folder / 'broken.jinja'}"))
    (folder / "broken").mkdir()
    (folder / "broken/config.json").write_text("{}")
    with pytest.raises(NoTokenizer, match=r"the tokenizer cannot be loaded: Unrecognized model in .*broken"):
        load_renderer(tiny(folder, f"model.path={folder / 'broken'}"))


def test_tool_calls_are_what_templates_expect(folder: Path) -> None:
    (folder / "items.jinja").write_text(TEMPLATES["items"])
    rows = [{"prompt": json.dumps(CHATS[name])} for name in ("arguments as JSON text", "no calls")]
    run = rows_of_run(folder, "items", f"model.chat_template={folder / 'items.jinja'}", rows=rows)
    assert [row["error"] for row in run] == [None, None]
    assert "(row 0): '<user>hi<assistant>city=Paris<user>hi'" in (folder / "items/rollout.log").read_text()


def test_a_context_that_the_config_tells_is_compared_before_loading(folder: Path) -> None:
    run = tiny(folder, "sampling.max_tokens=256")
    with pytest.raises(UserError, match=r"sampling\.max_tokens=256: the context holds 256 tokens"):
        preflight(run)
    assert preflight(tiny(folder, "sampling.max_tokens=256", "data.too_long=reduce_max_tokens")).num_rows


def test_tokens_that_the_model_lacks_are_named_before_loading(folder: Path) -> None:
    extra = "sampling.extra={allowed_token_ids: [511, 512, 900], logit_bias: {-1: 5}}"
    with pytest.raises(UserError) as refused:
        preflight(tiny(folder, "sampling.stop_token_ids=[0, 99999]", extra, "data.limit=1"))
    assert refused.value.problems == (
        "sampling.stop_token_ids: the model has no token 99999; its ids are 0 to 511",
        "sampling.extra.allowed_token_ids: the model has no token 512 and 1 more; its ids are 0 to 511",
        "sampling.extra.logit_bias: the model has no token -1; its ids are 0 to 511",
    )
    larger = "hardware.engine_kwargs.hf_overrides.vocab_size=600"
    assert preflight(tiny(folder, "sampling.stop_token_ids=[512]", larger, "data.limit=1")).num_rows


def test_a_row_that_vllm_cannot_sample_costs_only_itself(folder: Path) -> None:
    prompts = [chat("good"), chat("too long " * 200), [{"role": "robot", "content": "hi"}], chat("good")]
    rows = rows_of_run(folder, "bad", "data.max_error_fraction=1", rows=[{"prompt": prompt} for prompt in prompts])
    assert [row["error"] is None for row in rows] == [True, False, False, True]
    assert rows[1]["error"].endswith("tokens and sampling.max_tokens is 24; the context holds 256")
    assert "unknown role robot" in rows[2]["error"]
    assert all(text is not None for row in (rows[0], rows[3]) for text in row["responses"])


def test_what_vllm_refuses_when_a_request_is_built_costs_only_that_request(folder: Path) -> None:
    engine = acquire(EngineSpec.of(tiny(folder))).engine
    engine.configure(tiny(folder, "sampling.min_tokens=20").sampling)
    token_ids = engine.render(chat("good")).token_ids
    with pytest.raises(PromptError, match="min_tokens"):
        engine.add(Request(0, 0, 1, token_ids, max_tokens=10))
    engine.add(Request(1, 0, 1, token_ids, max_tokens=24))
    samples = [sample for _ in range(40) for sample in engine.step()]
    assert [(sample.row_id, sample.error) for sample in samples] == [(1, None)]


def test_a_checkpoint_of_the_same_shape_is_another_model(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows_of_run(folder, "checkpoint", "sampling.n_samples=1")
    copy = Path(shutil.copytree(folder / "model", tmp_path / "copy"))

    def goes_on(*overrides: str) -> bool:
        run = saved_config.load(folder / "checkpoint", [f"model.path={copy}", "sampling.n_samples=2", *overrides])
        return to_continue(run, preflight(run), folder / "checkpoint") is not None

    assert goes_on()
    assert goes_on("hardware.engine_kwargs.kv_cache_memory_bytes=99")
    with pytest.raises(UserError, match=r"hardware\.engine_kwargs\.seed=7: this run was made with None"):
        goes_on("hardware.engine_kwargs.seed=7")

    flip_a_bit(copy / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.path: the files there are blake3:.*was made with blake3:"):
        goes_on()

    about = json.loads((folder / "checkpoint/run.json").read_text())
    del about["digest"]["model.content"], about["digest"]["hardware.engine_kwargs"]  # as before there were these keys
    (folder / "checkpoint/run.json").write_text(json.dumps(about))
    capsys.readouterr()
    assert goes_on()
    assert capsys.readouterr().err.count("warning: this run was made by an older version") == 1


def test_the_samples_of_a_prompt_differ_and_equal_prompts_have_samples_of_their_own(folder: Path) -> None:
    rows = rows_of_run(folder, "same", "sampling.n_samples=4", rows=[{"prompt": chat("same")}] * 3)
    assert len({text for row in rows for text in row["responses"]}) == 12


def test_a_program_that_samples_with_vllm_stays_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acquire(EngineSpec.of(tiny(folder)))
    monkeypatch.chdir(folder)
    before = state()
    run = rollout.run(*TINY, input=[row["prompt"] for row in ROWS], model={"path": folder / "model"}, run_dir="called")
    assert state() == before
    assert run.record.engine is not None
    assert run.record.engine.reused
    assert [list(row) for row in run.dataframe()["responses"]] == [
        row["responses"] for row in rows_of_run(folder, "not called")
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampling.extra.max_new_tokens=3", "sampling.extra.max_new_tokens: vLLM has no such argument, did you mean"),
        ("sampling.extra.temperature=1", "sampling.extra.temperature: this project sets it"),
        ("sampling.extra.structured_outputs={regx: a}", "structured_outputs.regx: vLLM has no such argument, did you"),
        ("sampling.extra.n=2", "sampling.extra.n: this project sets it"),
        ("sampling.extra.thinking_token_budget=-5", "sampling: vLLM refuses these parameters"),
        (
            "sampling.stop_token_ids=[512]",
            r"sampling\.stop_token_ids: the model has no token 512; its ids are 0 to 511",
        ),
    ],
)
def test_sampling_parameters_that_vllm_does_not_have_are_refused(folder: Path, override: str, message: str) -> None:
    run = tiny(folder, override)
    with pytest.raises(UserError, match=message):
        acquire(EngineSpec.of(run)).engine.configure(run.sampling)


def test_a_row_of_its_own_with_a_token_that_the_model_lacks_is_a_bad_row(folder: Path) -> None:
    own = [None, '{"stop_token_ids": [3, 512]}', '{"logit_bias": {"-1": 2}}']
    rows = [{"prompt": chat("hi"), "own": value} for value in own]
    given = ("data.sampling_key=own", "data.max_error_fraction=1")
    assert [row["error"] for row in rows_of_run(folder, "lacks", *given, rows=rows)] == [
        None,
        "own.stop_token_ids: the model has no token 512; its ids are 0 to 511",
        "own.logit_bias: the model has no token -1; its ids are 0 to 511",
    ]


def test_what_goes_to_vllm_as_it_is_is_checked_before_loading(folder: Path) -> None:
    with pytest.raises(UserError) as refused:
        preflight(tiny(folder, "sampling.extra.bad_words=hello", "hardware.engine_kwargs.seed=x", "data.limit=1"))
    assert refused.value.problems == (
        "sampling.extra.bad_words=hello: must be a list of texts",
        "hardware.engine_kwargs.seed=x: must be a whole number",
    )


def test_structures_of_vllms_are_made_from_dictionaries(folder: Path) -> None:
    detection = "sampling.extra.repetition_detection={max_pattern_size: 8, min_pattern_size: 1, min_count: 2}"
    rows = rows_of_run(folder, "repetition", detection)
    assert all(text is not None for row in rows for text in row["responses"])


def test_extra_sampling_parameters_reach_vllm(folder: Path) -> None:
    rows = rows_of_run(folder, "ignore_eos", "sampling.extra.ignore_eos=true", "sampling.max_tokens=20")
    assert {count for row in rows for count in row["num_generated_tokens"]} == {20}
    assert {reason for row in rows for reason in row["finish_reasons"]} == {"length"}


def test_rows_with_parameters_of_their_own_are_sampled_as_in_runs_of_their_own(folder: Path) -> None:
    (folder / "per_row").mkdir()
    different, ended = unequal(tiny(folder), parameters(20), folder / "per_row")
    assert not different
    assert ended.keys() == {"length", "stop", "repetition"}


def test_a_value_that_only_vllm_knows_to_be_bad_is_a_bad_row(folder: Path) -> None:
    bad = [
        {"temprature": 1},
        {"ignore_eos": "maybe"},
        {"allowed_token_ids": [99999]},
        {"structured_outputs": {"regex": "(a"}},
        {"structured_outputs": {"json": {"type": "objct"}}},
        {"structured_outputs": {"regex": "a", "choice": ["b"]}},
        {"structured_outputs": {"regx": "a"}},
        {"repetition_detection": {"max_pattern_size": 3}},
        {"output_kind": 1},
        {"structured_outputs": {"regex": "ab?"}},
    ]
    rows = [{"prompt": "hi", "own": json.dumps(own)} for own in bad]
    written = rows_of_run(folder, "bad values", "data.sampling_key=own", "data.max_error_fraction=1", rows=rows)
    said = [
        "own.temprature: vLLM has no such argument, did you mean temperature",
        "own.ignore_eos=maybe: must be true or false",
        "allowed_token_ids",
        "own.structured_outputs.regex=(a: vLLM refuses it: ",
        "own.structured_outputs.json={'type': 'objct'}: vLLM refuses it: Grammar error: Invalid type: objct",
        "own.structured_outputs: vLLM refuses it: You can only use one kind",
        "own.structured_outputs.regx: vLLM has no such argument, did you mean regex?",
        "own.repetition_detection: vLLM refuses it: min_count must be >= 2",
        "own.output_kind: this project sets it",
    ]
    assert [part for part, row in zip(said, written, strict=False) if part not in row["error"]] == []
    assert written[-1]["error"] is None
    assert set(written[-1]["responses"]) <= {"a", "ab"}


def test_every_response_is_what_was_asked_for_and_ends_early_when_it_repeats_itself(folder: Path) -> None:
    (folder / "schema.json").write_text(json.dumps({"type": "array", "items": {"enum": [1, 2]}, "maxItems": 2}))
    constraint = "sampling.structured_outputs"
    for name, asked, fits in (
        ("regex", f"{constraint}.regex=[xy]{{2}}z", re.compile("[xy]{2}z").fullmatch),
        ("choice", f"{constraint}.choice=[left,right]", {"left", "right"}.__contains__),
        ("grammar", f'{constraint}.grammar=\'root ::= "up" | "down"\'', {"up", "down"}.__contains__),
        ("json", f"{constraint}.json={folder / 'schema.json'}", lambda text: set(json.loads(text)) <= {1, 2}),
    ):
        rows = rows_of_run(folder, f"structured-{name}", asked)
        ended = [
            text
            for row in rows
            for text, reason in zip(row["responses"], row["finish_reasons"], strict=True)
            if reason == "stop"
        ]
        assert len(ended) > 30
        assert all(map(fits, ended))
        assert len({*ended}) > 1
    rules = "sampling.repetition_detection={max_pattern_size: 2, min_count: 2}"
    rows_of_run(folder, "repeating", rules, "postprocess.steps=[analyze,report]")
    counted = json.loads((folder / "repeating/analysis.json").read_text())["finish_reasons"]
    assert counted["repetition"] > 0
    assert "repetition" in (folder / "repeating/report.html").read_text()


TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("fox", "dog")]
OF_TOOLS = (
    "{% if tools is defined and tools is not none %}{{ tools | length }}"
    "{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
)


def test_tools_are_rendered_token_by_token_as_vllms_own_chat_does(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm import SamplingParams

    from rollout.engine.vllm_engine import VLLMEngine
    from rollout.engine.vllm_renderer import chat_params

    engine = acquire(EngineSpec.of(tiny(folder))).engine
    assert isinstance(engine, VLLMEngine)
    (folder / "tools.jinja").write_text(OF_TOOLS)
    model = ModelConfig(str(folder / "model"), chat_template=str(folder / "tools.jinja"))
    monkeypatch.setattr(engine._renderer, "_chat_params", chat_params(model, engine._renderer._tokenizer))
    found = []
    for tools in (None, [], TOOLS[:1], TOOLS):
        (output,) = engine.llm.chat(
            chat("hi"), SamplingParams(max_tokens=1), chat_template=OF_TOOLS, tools=tools, use_tqdm=False
        )
        found.append(engine.render(chat("hi"), read_tools(json.dumps(tools), "tools")).token_ids)
        assert found[-1] == list(output.prompt_token_ids)
    assert len({len(token_ids) for token_ids in found}) == 4


def test_vllms_chatter_goes_to_the_log_and_the_parameters_are_in_it(folder: Path) -> None:
    log = (folder / "greedy" / "rollout.log").read_text()
    assert "INFO" in log
    assert "vllm" in log.lower()
    assert "sampling: n_samples=1, max_tokens=24, temperature=0.0, seed=42" in log


@pytest.fixture(scope="module")
def original(folder: Path) -> Path:
    """The folder of a run of ROWS."""
    rows_of_run(folder, "original", "data.system_prompt=be brief")
    return folder / "original"


@pytest.fixture
def _kept_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command ends with is left out, so that the next test has the engine too."""
    monkeypatch.setattr("rollout.engine.cache.release", lambda: None)


@pytest.mark.usefixtures("_kept_engine")
def test_verify_finds_nothing_in_an_untouched_run(original: Path) -> None:
    found = verify(original, ["rows=10"])
    assert (found.samples, found.matches) == (30, 30)


def test_same_seed_same_bytes_whatever_the_limit_and_the_number_at_a_time(folder: Path) -> None:
    """Also where the prompts of a step do not fit into it: they must wait, because their samples are seeded."""
    together = rows_of_run(folder, "wide", rows=UNEVEN)
    assert rows_of_run(folder, "limited", "data.limit=10", rows=UNEVEN) == together[:10]
    assert rows_of_run(folder, "narrow", *NARROW, rows=UNEVEN) == together


@pytest.mark.usefixtures("_kept_engine")
def test_a_replay_repeats_every_byte_and_verify_finds_the_one_character_that_was_changed(
    original: Path, folder: Path
) -> None:
    """On another number of samples at a time, from the saved config alone."""
    run = saved_config.load(original, list(NARROW))
    start(run, folder / "replay", Asked(replay_of=lineage.replay_source(original)))
    result = original / "rollouts.parquet"
    assert (folder / "replay/rollouts.parquet").read_bytes() == result.read_bytes()
    assert json.loads((folder / "replay/run.json").read_text())["replay_of"]["differences"] == []

    table = pq.read_table(result)
    rows = table.to_pylist()
    text = rows[7]["responses"][1]
    rows[7]["responses"][1] = text[:9] + "#" + text[10:]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), result)
    found = verify(original, ["rows=all", *NARROW])
    assert (found.samples, found.matches) == (72, 71)
    (difference,) = found.differences
    assert (difference.row_id, difference.sample_idx, difference.offset) == (7, 1, 9)
    assert text[9:].startswith(difference.regenerated.removesuffix("..."))


def test_samples_that_are_put_back_come_out_the_same_and_the_run_says_how_many_were(folder: Path) -> None:
    crowded = rows_of_run(folder, "crowded", *CROWDED, rows=UNEVEN)
    assert crowded == rows_of_run(folder, "roomy", rows=UNEVEN)
    crowd, room = (run_record.read(folder / name).throughput for name in ("crowded", "roomy"))
    assert crowd is not None
    assert room is not None
    assert crowd.preemptions > 10
    assert room.preemptions == 0
    (line,) = [line for line in (folder / "crowded/rollout.log").read_text().splitlines() if "ran full" in line]
    assert f"hardware.max_num_seqs=5: the KV cache ran full: {crowd.preemptions} times a sample was put back" in line
    assert "it holds 3 of their mean length, and fewer at a time may be faster" in line
    engine = run_record.read(folder / "crowded").engine
    assert engine is not None
    assert engine.kv_cache_tokens == 9 * 32
    assert "ran full" not in (folder / "roomy/rollout.log").read_text()


WIDE, CUT = ("sampling.temperature=1", "sampling.top_p=1"), ("sampling.temperature=0.7", "sampling.top_p=0.9")


def log_probabilities_agree(folder: Path, mode: str) -> None:
    for name, overrides in {f"{mode}-wide": WIDE, f"{mode}-cut": CUT}.items():
        rows_of_run(folder, name, f"sampling.logprobs={mode}", *overrides)
        sampling = tiny(folder, f"sampling.logprobs={mode}", *overrides).sampling
        found = agreement(folder / name / "rollouts.parquet", folder / "model", sampling)
        assert found.tokens > 1000
        assert found.at_the_edge < 0.05 * found.tokens
        assert found.worst < 1e-3


def test_raw_log_probabilities_are_those_of_a_forward_pass_over_prompt_and_response(folder: Path) -> None:
    log_probabilities_agree(folder, "raw")


def test_ids_alone_are_those_that_come_with_log_probabilities(folder: Path) -> None:
    ids = rows_of_run(folder, "ids", "store.token_ids=true", *CUT)
    both = pq.read_table(folder / "raw-cut/rollouts.parquet").drop_columns("response_logprobs").to_pylist()
    assert ids == both


def test_a_last_message_is_continued_when_asked_for(folder: Path) -> None:
    begun = [*chat("count"), {"role": "assistant", "content": "one two"}]
    continued = "model.chat_template_kwargs={continue_final_message: true}"
    rows_of_run(folder, "continued", continued, rows=[{"prompt": begun}])
    log = (folder / "continued/rollout.log").read_text()
    assert "(row 0): '<s><user>count\\n<assistant>one two'" in log


def test_a_template_of_one_line_gives_a_base_model_the_text_as_it_is(folder: Path) -> None:
    (folder / "raw.jinja").write_text("{{ bos_token }}{{ messages[0]['content'] }}")
    rows_of_run(folder, "raw", f"model.chat_template={folder / 'raw.jinja'}", rows=[{"prompt": "def quick("}])
    assert "(row 0): '<s>def quick('" in (folder / "raw/rollout.log").read_text()


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "model.chat_template={folder}/broken.jinja",
            "model.chat_template={folder}/broken.jinja: Expected an expression",
        ),
        ("model.path={folder}/bare", "model.path={folder}/bare: has a config but no weights"),
        ("model.path=Qwen/Qwen3-8B", "model.path=Qwen/Qwen3-8B: cannot be fetched from the hub"),
        ("hardware.max_num_batched_tokens=9", "hardware.max_num_batched_tokens=9: smaller than the context of 256"),
    ],
)
def test_an_engine_that_cannot_start_says_the_cure_in_one_line(
    override: str, line: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (folder / "broken.jinja").write_text("{% for %}")
    shutil.copytree(
        folder / "model", folder / "bare", ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True
    )
    override, name = override.format(folder=folder), tmp_path.name
    with pytest.raises(UserError) as refusal:
        rows_of_run(folder, name, override)
    (problem,) = refusal.value.problems
    assert problem.startswith(line.format(folder=folder))
    if "template" not in override:  # which is our own finding
        assert problem.endswith(f"(all of vLLM's output: {folder / name / 'rollout.log'})")


def test_engine_arguments_that_vllm_does_not_have_are_refused_before_loading(folder: Path) -> None:
    wrong = {"max_num_seq": "3", "dtype": "float16", "logprobs_mode": "raw_logits"}
    run = tiny(folder, *(f"hardware.engine_kwargs.{name}={value}" for name, value in wrong.items()))
    with pytest.raises(UserError) as refusal:
        acquire(EngineSpec.of(run))
    assert refusal.value.problems == (
        "hardware.engine_kwargs.max_num_seq: vLLM has no such argument, did you mean max_num_seqs?",
        "hardware.engine_kwargs.dtype: this project sets it; use the config key of that name",
        "hardware.engine_kwargs.logprobs_mode: this project sets it; use sampling.logprobs",
    )


ADAPTERS = ("store.token_ids=true", "sampling.temperature=0", "sampling.n_samples=1", "hardware.max_num_seqs=4")


def test_an_adapter_gives_what_its_weights_in_the_models_give_and_a_sweep_over_adapters_loads_once(
    folder: Path,
) -> None:
    """On an engine of its own, which has room for adapters."""
    base, found = rows_of_run(folder, "base", *ADAPTERS), dict[str, list[dict[str, Any]]]()
    for seed, name in enumerate(("one", "two")):
        adapter = write_adapter(folder / name, folder / "model", seed)
        merged = write_merged(folder / f"{name}-merged", folder / "model", adapter)
        found[name] = rows_of_run(folder, f"run-{name}", f"model.lora={adapter}", *ADAPTERS)
        expected = greedy(merged, [row["prompt_token_ids"] for row in found[name]], 24)
        assert [row["response_token_ids"][0] for row in found[name]] == expected
    texts = [[row["responses"][0] for row in rows] for rows in (base, *found.values())]
    assert sum(one != other for one, other in zip(texts[0], texts[1], strict=True)) > 12
    assert sum(one != other for one, other in zip(texts[1], texts[2], strict=True)) > 12
    about = json.loads((folder / "run-two/run.json").read_text())
    assert about["engine"]["reused"] is True
    expected_adapter = {"path": str(folder / "two"), "rank": 5, "alpha": 20.0, "base_model": None}
    assert about["provenance"]["model"]["adapter"] == expected_adapter


@pytest.mark.usefixtures("_kept_engine")
def test_a_run_with_an_adapter_is_verified_with_it_and_not_resumed_with_another(folder: Path) -> None:
    found = verify(folder / "run-two", ["rows=10"])
    assert (found.samples, found.matches) == (10, 10)
    for other, said in ((folder / "one", "blake3:"), ("null", "None")):
        run = saved_config.load(folder / "run-two", [f"model.lora={other}", "data.limit=30"])
        with pytest.raises(UserError, match=rf"model\.lora={said}.*: this run was made with blake3:"):
            to_continue(run, preflight(run), folder / "run-two")


def test_an_adapter_that_vllm_cannot_put_on_the_model_is_one_line_and_the_engine_goes_on(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = Path(shutil.copytree(folder / "two", folder / "odd"))
    tensors = load_file(adapter / "adapter_model.safetensors")
    odd = {name.replace("mlp.up_proj", "mlp.odd_proj"): tensor for name, tensor in tensors.items()}
    save_file(odd, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError) as refusal:
        rows_of_run(folder, "odd-run", f"model.lora={adapter}", *ADAPTERS)
    (line,) = refusal.value.problems
    assert line.startswith(f"model.lora={adapter}: vLLM refuses it: ")
    assert "odd_proj" in line
    again = rows_of_run(folder, "again", f"model.lora={folder / 'two'}", *ADAPTERS)
    assert again == pq.read_table(folder / "run-two/rollouts.parquet").to_pylist()
    assert json.loads((folder / "again/run.json").read_text())["engine"]["reused"] is True


def test_an_adapter_that_was_replaced_is_read_again(folder: Path) -> None:
    before = rows_of_run(folder, "before", f"model.lora={folder / 'one'}", *ADAPTERS)
    shutil.copy(folder / "two/adapter_model.safetensors", folder / "one/adapter_model.safetensors")
    after = rows_of_run(folder, "after", f"model.lora={folder / 'one'}", *ADAPTERS)
    two = pq.read_table(folder / "run-two/rollouts.parquet").to_pylist()
    assert [row["responses"] for row in after] == [row["responses"] for row in two]
    assert after != before


@pytest.mark.parametrize(("parser", "shows_special_tokens"), [("qwen3", True), ("deepseek_r1", False)])
def test_thinking_is_told_from_answers_as_vllms_server_does(
    parser: str, shows_special_tokens: bool, folder: Path
) -> None:
    """The engine that has the parser generates the tokens of the one without it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    often = ", ".join(f"{tokenizer.convert_tokens_to_ids(token)}: 7" for token in THINK)
    biased, narrow = f"sampling.extra.logit_bias={{{often}}}", "hardware.max_num_seqs=4"
    shown = f"sampling.extra.skip_special_tokens={not shows_special_tokens}"
    given = ("store.token_ids=true", biased, shown, narrow, f"model.lora={folder / 'two'}")
    plain = rows_of_run(folder, f"plain-{parser}", *given)
    rows = rows_of_run(folder, f"split-{parser}", f"model.reasoning_parser={parser}", *given)
    for before, row in zip(plain, rows, strict=True):
        assert row["response_token_ids"] == before["response_token_ids"]
        for index, (text, token_ids) in enumerate(zip(before["responses"], row["response_token_ids"], strict=True)):
            reasoning, answer, _ = answer_of(parser, tokenizer, token_ids, text)
            assert (row["reasonings"][index], row["responses"][index]) == (reasoning, answer)
    assert {closed for row in rows for closed in row["reasoning_closed"]} == {True, False}


def said(folder: Path, model: Path, name: str) -> tuple[list[list[str]], dict[str, Any]]:
    """The responses of a run of `model`, and what its run.json says of the engine."""
    run = compose_run(f"model.path={model}", *TINY, f"data.path={write_input(folder / 'input.parquet', ROWS)}")
    start(run, folder / name)
    rows = pq.read_table(folder / name / "rollouts.parquet").to_pylist()
    about: dict[str, Any] = json.loads((folder / name / "run.json").read_text())["engine"]
    return [row["responses"] for row in rows], about


def test_a_sweep_over_checkpoints_loads_once_and_each_says_what_it_says_in_an_engine_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With an output head that is the embedding: vLLM keeps it in a second form on a CPU, and leaves that as it was."""
    from safetensors.torch import load_file, save_file

    first = write_tiny_model(folder / "ckpt-1", tie_word_embeddings=True)
    second, broken = write_noisy(folder / "ckpt-2", first, seed=1), write_noisy(folder / "ckpt-3", first, seed=2)
    weights = load_file(broken / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, broken / "model.safetensors")

    (a, loaded), (b, replaced), (a_again, back) = (
        said(folder, model, f"turn-{number}") for number, model in enumerate((first, second, first))
    )
    assert [(about["reused"], about["reloaded"]) for about in (loaded, replaced, back)] == [
        (False, False),
        (True, True),
        (True, True),
    ]
    assert a_again == a
    assert sum(one != other for one, other in zip(a, b, strict=True)) > 12

    with pytest.raises(UserError, match=r"ckpt-3: has no tensor model\.norm\.weight, which .*ckpt-1 has; write"):
        said(folder, broken, "refused")
    same, about = said(folder, first, "after refusal")
    assert (same, about["reused"], about["reloaded"]) == (a, True, False)

    monkeypatch.setattr("rollout.engine.vllm_weights._renew_tied", lambda model: None)
    capsys.readouterr()
    fresh, about = said(folder, second, "fresh")
    assert "cannot be put in place (lm_head did not follow): the engine is loaded anew" in capsys.readouterr().out
    assert (fresh, about["reused"]) == (b, False)


def test_processed_log_probabilities_are_those_of_a_forward_pass_after_temperature_and_top_p(folder: Path) -> None:
    """On an engine of their own: it has one of the two kinds."""
    log_probabilities_agree(folder, "processed")


def test_the_quick_test_writes_real_text_on_a_fresh_machine(tmp_path: Path) -> None:
    """The README's set-up check, in a process of its own and with nothing unpacked yet; W&B offline, as by default."""
    from vllm import envs

    command = [sys.executable, "-m", "rollout", "experiment=quick_test", "hardware=cpu", "hydra.run.dir=run"]
    command += ["sampling.logprobs=processed"]
    fresh = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    fresh["VLLM_CACHE_ROOT"] = envs.VLLM_CACHE_ROOT  # what vLLM remembers of models' classes takes it 8 s to find again
    result = subprocess.run(command, cwd=tmp_path, env=os.environ | fresh, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    rows = pq.read_table(tmp_path / "run" / "rollouts.parquet").to_pylist()
    assert len(rows) == 2
    assert all(len(text.split()) >= 5 for row in rows for text in row["responses"])
    assert json.loads((tmp_path / "run/run.json").read_text())["throughput"]["output_tok_s"] > 1
    assert "INFO" not in result.stdout  # vLLM's own lines
    assert list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))
    assert "warning: sampling.logprobs=processed: with top_p=" in result.stdout
    sampling = saved_config.load(tmp_path / "run", []).sampling
    model = tmp_path / "cache/rollout/SmolLM2-135M-Instruct"
    found = agreement(tmp_path / "run/rollouts.parquet", model, sampling)
    assert found.worst < 1e-3
    assert found.ended == sum(reason == "stop" for row in rows for reason in row["finish_reasons"])

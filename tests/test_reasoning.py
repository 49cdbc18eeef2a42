"""Thinking told from answers, through every stage, on the echo engine: it thinks before it answers, not always to the
end.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.cli import saved_config
from rollout.config import DataConfig, ExportConfig
from rollout.errors import UserError
from rollout.lifecycle import resume, start
from rollout.postprocess.analyze import read_analysis
from rollout.postprocess.export import export
from rollout.postprocess.sample_rows import sample_rows
from rollout.postprocess.source import open_source
from rollout.records import EXTRAS, THINKING
from rollout.store.journal import parts, read_part
from tests.commands import ECHO, run_command
from tests.conftest import Rollout, chat, composed, run_in, whole_and_merged, write_input, write_mixed_input

pytestmark = pytest.mark.long

WRITTEN = ["reasonings", "num_reasoning_tokens", "reasoning_closed"]
THINKS = ("engine.echo.think_tokens=5", "sampling.n_samples=3")
ON = (*THINKS, "model.reasoning_parser=qwen3")
ROWS = [{"prompt": chat(f"question {number}"), "number": number} for number in range(20)]


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(run_dir / "rollouts.parquet").to_pylist()
    return rows


def samples_of(run_dir: Path) -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = pq.read_table(run_dir / "flat.parquet").to_pylist()
    return samples


def whole_text(sample: dict[str, Any]) -> str:
    end = "</think>" if sample["reasoning_closed"] else ""
    return f"<think>{sample['reasoning']}{end}{sample['response']}"


def test_the_response_is_the_answer_and_the_thinking_has_columns_of_its_own(rollout: Rollout) -> None:
    run_dir, plain = rollout(ROWS, *ON), rollout(ROWS, *THINKS, name="plain")
    schema, flat = (pq.read_schema(run_dir / name) for name in ("rollouts.parquet", "flat.parquet"))
    assert schema.names[-3:] == WRITTEN
    assert flat.names[-3:] == [*THINKING]
    assert [schema.field(name).type.value_type for name in WRITTEN] == [pa.string(), pa.int32(), pa.bool_()]
    assert [flat.field(name).type for name in THINKING] == [EXTRAS[name].of_sample.type for name in THINKING]
    assert not {*EXTRAS, "reasonings"} & {*pq.read_schema(plain / "rollouts.parquet").names}
    assert [whole_text(sample) for sample in samples_of(run_dir)] == [s["response"] for s in samples_of(plain)]


def test_thinking_that_never_closes_leaves_an_empty_answer_and_counts_all_tokens(rollout: Rollout) -> None:
    samples = samples_of(rollout(ROWS, *ON))
    closed = [sample for sample in samples if sample["reasoning_closed"]]
    unclosed = [sample for sample in samples if not sample["reasoning_closed"]]
    assert len(closed) > len(unclosed) > 5
    assert all(sample["response"].startswith("echo") and sample["num_reasoning_tokens"] == 5 for sample in closed)
    assert all(sample["num_generated_tokens"] > 5 for sample in closed)
    assert all(sample["response"] == "" for sample in unclosed)
    assert all(sample["num_reasoning_tokens"] == sample["num_generated_tokens"] for sample in unclosed)


def test_what_max_tokens_cuts_off_in_the_middle_of_thinking_never_closed(rollout: Rollout) -> None:
    samples = samples_of(rollout(ROWS, *ON, "sampling.max_tokens=4"))
    assert {(s["reasoning"], s["reasoning_closed"], s["finish_reason"]) for s in samples} == {
        ("hm hm hm hm", False, "length")
    }


def test_a_sample_that_failed_has_null_and_one_that_did_not_think_an_empty_text(tmp_path: Path) -> None:
    path = write_mixed_input(tmp_path / "input.parquet", 300)
    given = ("engine.echo.refuse_word=refuseme", "model.reasoning_parser=qwen3", f"data.path={path}")
    rows = rows_of(run_in(tmp_path / "run", *given))
    assert 0 < sum(row["error"] is not None for row in rows) < 10
    for row in rows:
        for name, of_answer in zip(WRITTEN, ("", 0, True), strict=True):
            assert row[name] == [None if text is None else of_answer for text in row["responses"]]


def test_a_run_that_was_interrupted_and_given_more_samples_has_the_bytes_of_one_that_was_not(rollout: Rollout) -> None:
    whole = rollout(ROWS, *ON, "sampling.n_samples=5", "engine.echo.max_steps=4", name="whole")
    run_dir = rollout(ROWS, *ON, "engine.echo.max_steps=4", "store.flush_samples=7", name="part")
    for path in parts(run_dir)[::2]:
        path.unlink()
    (run_dir / "rollouts.parquet").unlink()
    path = whole.with_name("whole.parquet")
    resume(saved_config.load(run_dir, ["sampling.n_samples=5", f"data.path={path}"]), run_dir)
    assert (run_dir / "rollouts.parquet").read_bytes() == (whole / "rollouts.parquet").read_bytes()


@pytest.mark.parametrize(("before", "now"), [("qwen3", "null"), ("null", "qwen3"), ("qwen3", "deepseek_r1")])
def test_a_resume_that_tells_thinking_otherwise_is_refused_with_both_values(
    before: str, now: str, rollout: Rollout
) -> None:
    run_dir = rollout(ROWS, f"model.reasoning_parser={before}")
    with pytest.raises(UserError) as refused:
        resume(saved_config.load(run_dir, [f"model.reasoning_parser={now}", "sampling.n_samples=9"]), run_dir)
    (line,) = refused.value.problems
    said = [word.replace("null", "None") for word in (now, before)]
    assert line.startswith(f"model.reasoning_parser={said[0]}: this run was made with {said[1]}")


def test_token_ids_are_not_kept_because_thinking_is(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, *ON)
    assert "response_token_ids" not in pq.read_schema(run_dir / "rollouts.parquet").names
    with pytest.raises(UserError, match=r"store\.token_ids=True: this run was made with False"):
        resume(saved_config.load(run_dir, ["store.token_ids=true", "sampling.n_samples=9"]), run_dir)


def test_the_names_are_the_inputs_own_while_thinking_is_not_told_from_answers(rollout: Rollout, tmp_path: Path) -> None:
    rows = [{"prompt": chat("hi"), "reasoning": "mine", "reasoning_closed": {"a": 1}} for _ in range(3)]
    run_dir = rollout(rows, "postprocess.steps=[flatten,analyze,export,report]")
    assert samples_of(run_dir)[0]["reasoning"] == "mine"
    assert read_analysis(run_dir).thinking is None
    with pytest.raises(UserError, match="column reasoning,reasoning_closed is a reserved output column; rename it"):
        start(composed(*ECHO, *ON, f"data.path={tmp_path / 'run.parquet'}"), tmp_path / "refused")


def test_a_file_of_others_with_such_a_column_is_read_as_theirs(tmp_path: Path) -> None:
    theirs = [{"row_id": 0, "response": "a", "reasoning": {"text": "hm"}}]
    pq.write_table(pa.Table.from_pylist(theirs), tmp_path / "theirs.parquet")
    source = open_source(tmp_path / "theirs.parquet")
    assert next(iter(source.batches())).to_pylist()[0]["reasoning"] == {"text": "hm"}
    assert "thinking" not in sample_rows(source, [0], DataConfig(), None)[0]["responses"][0]
    export(source, tmp_path, ExportConfig("out.jsonl"), DataConfig())


@pytest.mark.long
def test_shards_are_merged_to_the_bytes_of_one_run(tmp_path: Path) -> None:
    whole, merged = whole_and_merged(tmp_path, *ON)
    assert merged.read_bytes() == whole.read_bytes()


def test_parts_of_a_journal_without_it_read_as_null(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, *ON, "store.flush_samples=20")
    old = parts(run_dir)[0]
    pq.write_table(read_part(old, group=0).drop_columns([*THINKING]), old)
    (run_dir / "rollouts.parquet").unlink()
    resume(saved_config.load(run_dir, []), run_dir)
    rows = rows_of(run_dir)
    assert [rows[0][name] for name in WRITTEN] == [[None] * 3] * 3
    assert None not in rows[-1]["reasonings"]
    assert read_analysis(run_dir).thinking is not None


def test_scorers_see_the_answer_only(rollout: Rollout) -> None:
    score = ("postprocess.steps=[flatten,score]", "postprocess.score.scorer=regex", "postprocess.score.pattern=hm")
    run_dir = rollout(ROWS, *ON, *score)
    assert set(pq.read_table(run_dir / "scores.parquet").column("score").to_pylist()) == {0.0}


def test_unclosed_thinking_is_counted_and_said(tmp_path: Path) -> None:
    write_input(tmp_path / "input.parquet", ROWS)
    done = run_command("data.path=input.parquet", *ECHO, *ON, "hydra.run.dir=run", cwd=tmp_path)
    run_dir, printed = tmp_path / "run", " ".join(done.stdout.split())
    unclosed = sum(not sample["reasoning_closed"] for sample in samples_of(run_dir))
    thinking = read_analysis(run_dir).thinking
    assert thinking is not None
    assert thinking.unclosed == unclosed
    assert thinking.tokens is not None
    assert thinking.tokens.min == 5
    assert f"never closed {unclosed} " in printed
    assert f"warning: {unclosed / 60:.0%} of the responses never closed their thinking" in printed
    shown = run_command("analyze", "run", cwd=tmp_path).stdout
    assert f"never closed {unclosed} " in " ".join(shown.split())


def test_the_report_has_the_thinking_beside_the_answer(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, *ON)
    first, sample = (
        sample_rows(open_source(run_dir / "rollouts.parquet"), [0], DataConfig(), None)[0],
        samples_of(run_dir),
    )
    assert [response["thinking"] for response in first["responses"]] == [
        {"text": s["reasoning"], "tokens": s["num_reasoning_tokens"], "closed": s["reasoning_closed"]}
        for s in sample[:3]
    ]


def exported(run_dir: Path, *arguments: str, name: str = "out.jsonl") -> list[dict[str, Any]]:
    given = ("export", run_dir.name, name, "format=messages", "overwrite=true", *arguments)
    done = run_command(*given, cwd=run_dir.parent)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (run_dir.parent / name).read_text().splitlines()]


def test_chats_have_the_answer_or_the_whole_text_or_a_field_for_the_thinking(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, *ON)
    samples = samples_of(run_dir)
    turns = {
        how: [r["messages"][-1] for r in exported(run_dir, f"reasoning={how}")] for how in ("drop", "keep", "field")
    }
    assert turns["drop"] == [{"role": "assistant", "content": sample["response"]} for sample in samples]
    assert [turn["content"] for turn in turns["keep"]] == [whole_text(sample) for sample in samples]
    fields = [{"content": sample["response"], "reasoning_content": sample["reasoning"]} for sample in samples]
    assert turns["field"] == [{"role": "assistant", **given} for given in fields]
    assert [r["messages"][-1] for r in exported(run_dir)] == turns["drop"]


def test_marks_are_those_that_the_model_writes(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, *ON)
    first = exported(run_dir, "reasoning=keep", "reasoning_marks=<seed:think>,</seed:think>")[0]["messages"][-1][
        "content"
    ]
    assert first.startswith("<seed:think>hm hm")
    wrong = run_command("export", "run", "x.jsonl", "reasoning=keep", "reasoning_marks=a", cwd=run_dir.parent)
    assert "reasoning_marks=['a']: what stands before the thinking and what after it; give two texts" in wrong.stderr


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_typed_file_has_the_field_too(suffix: str, rollout: Rollout, tmp_path: Path) -> None:
    source = open_source(rollout(ROWS, *ON) / "rollouts.parquet")
    name = f"out{suffix}"
    for how in ("field", "drop"):
        export(source, tmp_path, ExportConfig(name, "messages", reasoning=how), DataConfig())
        if suffix == ".parquet":
            field = pq.read_schema(tmp_path / name).field("messages").type.value_type
            assert [item.name for item in field] == [
                "role",
                "content",
                *(["reasoning_content"] if how == "field" else []),
            ]


def test_pairs_have_the_thinking_of_both_sides(rollout: Rollout) -> None:
    score = ("postprocess.steps=[score,export]", "postprocess.score.scorer=regex", "postprocess.score.pattern=echo")
    keep = ("postprocess.export.format=preference", "postprocess.export.reasoning=keep")
    pairs = (rollout(ROWS, *ON, *score, *keep) / "export.jsonl").read_text().splitlines()
    assert pairs
    for pair in map(json.loads, pairs):
        assert pair["chosen"][0]["content"].startswith("<think>hm hm hm hm hm</think>echo")
        assert pair["rejected"][0]["content"].startswith("<think>hm hm hm hm hm")
        assert "</think>" not in pair["rejected"][0]["content"]


@pytest.mark.parametrize(
    ("begun", "thought", "how", "turn"),
    [
        ("<think>so", " 2+2", "keep", {"content": "<think>so 2+2</think>4"}),
        ("<think>so", "", "keep", {"content": "<think>so</think>4"}),
        ("<think>so</think>Is", "hm", "keep", {"content": "<think>so</think>Is<think>hm</think>4"}),
        ("<think>so", " 2+2", "drop", {"content": "4"}),
        ("Well.<think>\n", "hm", "field", {"content": "Well.4", "reasoning_content": "\nhm"}),
        ("<think>so</think>It is ", "", "drop", {"content": "<think>so</think>It is 4"}),
    ],
)
def test_thinking_that_a_turn_was_begun_with_is_opened_once_and_goes_where_the_thinking_goes(
    begun: str, thought: str, how: str, turn: dict[str, str], tmp_path: Path
) -> None:
    prompt = [*chat("q"), {"role": "assistant", "content": begun}]
    flat = {"row_id": 0, "sample_idx": 0, "response": "4", "reasoning": thought}
    table = pa.Table.from_pylist([{"prompt": prompt, **flat, "num_reasoning_tokens": 3, "reasoning_closed": True}])
    fields = [EXTRAS[f.name].of_sample if f.name in EXTRAS else f for f in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), tmp_path / "flat.parquet")
    config = ExportConfig("out.jsonl", "messages", reasoning=how)
    export(open_source(tmp_path / "flat.parquet"), tmp_path, config, DataConfig(), continued=True)
    (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(line)["messages"] == [*chat("q"), {"role": "assistant", **turn}]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_a_flat_file_has_it_and_can_be_read_again(suffix: str, rollout: Rollout, tmp_path: Path) -> None:
    run_dir = rollout([*ROWS, {"prompt": None, "number": 0}], *ON)
    export(open_source(run_dir / "rollouts.parquet"), tmp_path, ExportConfig(f"flat{suffix}"), DataConfig())
    again = pa.Table.from_batches(open_source(tmp_path / f"flat{suffix}").batches())
    for name in THINKING:
        assert again.column(name).to_pylist() == [sample[name] for sample in samples_of(run_dir)]


def test_verify_finds_thinking_that_was_changed(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, *ON)
    assert run_command("verify", "run", "rows=all", cwd=run_dir.parent).returncode == 0
    table = pq.read_table(run_dir / "rollouts.parquet")
    rows = table.to_pylist()
    rows[3]["reasonings"][1] = "hm hn" + rows[3]["reasonings"][1][5:]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), run_dir / "rollouts.parquet")
    done = run_command("verify", "run", "rows=all", cwd=run_dir.parent)
    assert done.returncode == 1
    assert "row 3, sample 1: differs at thinking, character 4" in done.stdout


def test_an_engine_is_used_again_only_with_its_parser(rollout: Rollout) -> None:
    runs = [rollout(ROWS, *given, name=str(number)) for number, given in enumerate((THINKS, ON, ON))]
    engines = [json.loads((run_dir / "run.json").read_text())["engine"] for run_dir in runs]
    assert [engine["reused"] for engine in engines[1:]] == [False, True]

"""Exports for those who train: tokens, slime's dump, prompts."""

import json
import logging
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.config import DataConfig, ExportConfig, FilterConfig, ScoreConfig
from rollout.errors import UserError
from rollout.files import DISK_FULL
from rollout.lifecycle import start
from rollout.postprocess import export as exporting
from rollout.postprocess import slime
from rollout.postprocess.export import export
from rollout.postprocess.filter import only_kept
from rollout.postprocess.sample_rows import sample_rows
from rollout.postprocess.score import score_responses, with_scores
from rollout.postprocess.source import Source, open_source
from tests.commands import ECHO
from tests.conftest import Rollout, chat, composed, run_in, write_input
from tests.in_process import run_here

pytestmark = pytest.mark.long

DATA = DataConfig()
ON = ("sampling.logprobs=raw", "sampling.n_samples=3", "postprocess.steps=[flatten]")
ROWS = [{"prompt": chat(f"question {number}"), "number": number, "kind": "ab"[number % 2]} for number in range(6)]
REFUSED = {"prompt": chat("refuseme"), "number": 99, "kind": "c"}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with tokens, of which one row of three samples failed."""
    folder = tmp_path_factory.mktemp("tokens")
    source = write_input(folder / "input.parquet", [*ROWS, REFUSED])
    more = ("engine.echo.refuse_word=refuseme", "data.max_error_fraction=1", "sampling.max_tokens=12")
    return run_in(folder / "run", f"data.path={source}", *ON, *more)


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def responses(run_dir: Path) -> Source:
    return open_source(run_dir / "rollouts.parquet")


def scored(run_dir: Path, tmp_path: Path) -> Source:
    config = ScoreConfig("regex", pattern="echo .*[02468] word")
    score_responses(responses(run_dir), tmp_path, config)
    return with_scores(responses(run_dir), tmp_path / "scores.parquet")


def samples_of(path: Path) -> list[dict[str, Any]]:
    import torch  # here, because it takes seconds, and to collect the tests needs none

    samples: list[dict[str, Any]] = torch.load(path, weights_only=True)["samples"]
    return samples


def test_a_record_of_tokens_has_those_of_its_sample_and_failed_samples_have_none(run_dir: Path, tmp_path: Path) -> None:
    for name in ("tokens.jsonl", "tokens.parquet"):
        assert export(responses(run_dir), tmp_path, ExportConfig(name, "tokens"), DATA) == 18
    flat = [row for row in rows_of(run_dir / "flat.parquet") if row["response"] is not None]
    assert 0 < sum(row["finish_reason"] == "length" for row in flat) < 18
    same = ("row_id", "sample_idx", "prompt_token_ids", "response_token_ids", "response_logprobs", "finish_reason")
    expected = [{name: row[name] for name in same} | {"reward": None} for row in flat]
    assert rows_of(tmp_path / "tokens.parquet") == expected
    for line, row in zip(rows_of(tmp_path / "tokens.jsonl"), expected, strict=True):
        assert max(len(str(value)) for value in line["response_logprobs"]) < 14  # not those of a double
        assert np.array_equal(np.float32(line["response_logprobs"]), np.float32(row["response_logprobs"]))
        assert line | {"response_logprobs": row["response_logprobs"]} == row


def test_the_types_are_the_smallest_that_hold_them_and_named_columns_follow(run_dir: Path, tmp_path: Path) -> None:
    export(responses(run_dir), tmp_path, ExportConfig("t.parquet", "tokens", ["number", "response"]), DATA)
    schema = pq.read_schema(tmp_path / "t.parquet")
    ids, logprobs = pa.list_(pa.int32()), pa.list_(pa.float32())
    assert dict(zip(schema.names, schema.types, strict=True)) == {
        "row_id": pa.int64(),
        "sample_idx": pa.int32(),
        "prompt_token_ids": ids,
        "response_token_ids": ids,
        "response_logprobs": logprobs,
        "reward": pa.float64(),
        "finish_reason": pa.string(),
        "number": pa.int64(),
        "response": pa.string(),
    }
    assert [row["number"] for row in rows_of(tmp_path / "t.parquet")] == [n for n in range(6) for _ in range(3)]


def test_the_reward_is_the_score(run_dir: Path, tmp_path: Path) -> None:
    source = scored(run_dir, tmp_path)
    export(source, tmp_path, ExportConfig("t.jsonl", "tokens"), DATA)
    expected = [row["score"] for batch in source.batches() for row in batch.to_pylist() if row["response"] is not None]
    assert set(expected) == {0.0, 1.0}
    assert [row["reward"] for row in rows_of(tmp_path / "t.jsonl")] == expected


def test_a_run_without_log_probabilities_has_null_there_also_beside_a_column_of_that_name(
    rollout: Rollout, tmp_path: Path
) -> None:
    rows = [row | {"response_logprobs": "mine"} for row in ROWS]
    run_dir = rollout(rows, "store.token_ids=true", "postprocess=none")
    export(responses(run_dir), tmp_path, ExportConfig("t.parquet", "tokens"), DATA)
    assert {row["response_logprobs"] for row in rows_of(tmp_path / "t.parquet")} == {None}
    export(responses(run_dir), tmp_path, ExportConfig("t.pt", "slime"), DATA)
    assert {sample["rollout_log_probs"] for sample in samples_of(tmp_path / "t.pt")} == {None}


@pytest.mark.parametrize(
    ("left_out", "said"), [(2, "2 responses have no token ids and are"), (1, "1 response has no token ids and is")]
)
def test_responses_whose_ids_nobody_kept_are_left_out_with_a_warning(
    left_out: int, said: str, run_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flat = pq.read_table(run_dir / "flat.parquet")
    ids = flat.column("response_token_ids").to_pylist()
    position = flat.schema.get_field_index("response_token_ids")
    flat = flat.set_column(
        position, flat.field(position), pa.array([None] * left_out + ids[left_out:], flat.field(position).type)
    )
    pq.write_table(flat, tmp_path / "flat.parquet")
    with caplog.at_level(logging.WARNING):
        assert (
            export(open_source(tmp_path / "flat.parquet"), tmp_path, ExportConfig("t.jsonl", "tokens"), DATA)
            == 18 - left_out
        )
    assert caplog.messages == [
        f"export: {said} left out",
        f"export: {18 - left_out} samples have no score, so the reward is null; score the responses",
    ]


def test_a_response_without_one_log_probability_for_each_token_is_left_out_and_the_report_shows_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"row_id": 0, "prompt": "a", "response": "b", "prompt_token_ids": [1], "response_token_ids": [2, 3]}
    logprobs = [[-0.5], None, [None, -0.5], [-0.5, float("nan")], [-0.5, -0.25, -1.0]]
    rows = [row | {"sample_idx": place, "response_logprobs": found} for place, found in enumerate(logprobs)]
    write_input(tmp_path / "flat.parquet", rows)
    source = open_source(tmp_path / "flat.parquet")
    with caplog.at_level(logging.WARNING):
        assert export(source, tmp_path, ExportConfig("t.parquet", "tokens"), DATA) == 3
    assert [row["sample_idx"] for row in rows_of(tmp_path / "t.parquet")] == [1, 2, 3]
    assert caplog.messages[0] == "export: 2 responses have not one log-probability for each token and are left out"
    (shown,) = sample_rows(source, [0], DATA, None)
    unlikely = [[token["id"] for token in response["unlikely"]] for response in shown["responses"]]
    assert unlikely == [[], [], [3], [2], []]


def test_a_dump_has_slimes_fields_and_the_rest_as_metadata(run_dir: Path, tmp_path: Path) -> None:
    source = scored(run_dir, tmp_path)
    config = ExportConfig("dump.pt", "slime", ["kind"])
    assert export(source, tmp_path, config, DATA, label="number") == 18
    records = [row for batch in source.batches() for row in batch.to_pylist() if row["response"] is not None]
    for index, (sample, row) in enumerate(zip(samples_of(tmp_path / "dump.pt"), records, strict=True)):
        ids = row["response_token_ids"]
        assert sample == {
            "group_index": row["row_id"],
            "index": index,
            "tokens": row["prompt_token_ids"] + ids,
            "response": row["response"],
            "response_length": len(ids),
            "loss_mask": [1] * len(ids),
            "rollout_log_probs": row["response_logprobs"],
            "reward": row["score"],
            "label": str(row["number"]),
            "status": "truncated" if row["finish_reason"] == "length" else "completed",
            "metadata": {"row_id": row["row_id"], "sample_idx": row["sample_idx"], "kind": row["kind"]},
        }


def test_a_dump_is_the_same_bytes_every_time(run_dir: Path, tmp_path: Path) -> None:
    for name in ("one.pt", "two.pt"):
        export(responses(run_dir), tmp_path, ExportConfig(name, "slime"), DATA)
    assert (tmp_path / "one.pt").read_bytes() == (tmp_path / "two.pt").read_bytes()


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("stop", "completed"),
        ("length", "truncated"),
        ("repetition", "truncated"),
        ("abort", "aborted"),
        (None, "completed"),
    ],
)
def test_how_a_response_ended_is_slimes_status(reason: str | None, status: str, tmp_path: Path) -> None:
    row = {"row_id": 0, "sample_idx": 0, "response": "a", "prompt_token_ids": [1], "response_token_ids": [2]}
    write_input(tmp_path / "flat.parquet", [row | {"finish_reason": reason}])
    export(open_source(tmp_path / "flat.parquet"), tmp_path, ExportConfig("dump.pt", "slime"), DATA)
    assert [sample["status"] for sample in samples_of(tmp_path / "dump.pt")] == [status]


def test_what_slime_stumbles_over_is_said(run_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = scored(run_dir, tmp_path)
    with caplog.at_level(logging.WARNING):
        export(source, tmp_path, ExportConfig("dump.pt", "slime"), DATA)
        assert caplog.messages == []
        export(only_kept(source, FilterConfig(min_score=1)), tmp_path, ExportConfig("dump.pt", "slime"), DATA)
        export(responses(run_dir), tmp_path, ExportConfig("dump.pt", "slime"), DATA)
    uneven, unscored = caplog.messages
    assert uneven.startswith("export: rows have from 1 to ")
    assert unscored == "export: 18 samples have no score, so the reward is null; score the responses"


def test_a_dump_that_takes_much_memory_says_so_once(
    run_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slime, "_MUCH", 5000)
    source = scored(run_dir, tmp_path)
    with caplog.at_level(logging.WARNING):
        export(source, tmp_path, ExportConfig("dump.pt", "slime"), DATA)
    (line,) = caplog.messages
    assert line.startswith("export: format=slime cannot be streamed: more than ")


def refused(*words: str, cwd: Path) -> list[str]:
    result = run_here("export", *words, cwd=cwd)
    assert (result.returncode, result.stdout) == (1, "")
    return [line.removeprefix("error: ") for line in result.stderr.splitlines()]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["dump.jsonl", "format=slime"], "output=dump.jsonl: must end in .pt"),
        (["dump.pt", "format=tokens"], "output=dump.pt: must end in .jsonl, .jsonl.gz, "),
        (["dump.pt"], "output=dump.pt: must end in .jsonl, .jsonl.gz, "),
        (
            ["t.jsonl", "format=tokens", "columns=[finish_reason]"],
            "columns=finish_reason: format=tokens writes a field of",
        ),
        (["t.pt", "format=slime", "columns=[nmber]"], "columns=nmber: no such column, did you mean number?"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], line: str, run_dir: Path) -> None:
    (found,) = refused("run", *words, cwd=run_dir.parent)
    assert found.startswith(line)


@pytest.mark.parametrize(("export_format", "file"), [("tokens", "t.jsonl"), ("slime", "t.pt")])
def test_without_token_ids_the_cure_is_said_before_a_run_and_by_the_command(
    export_format: str, file: str, rollout: Rollout, tmp_path: Path
) -> None:
    line = (
        f"format={export_format}: the responses have no token ids; sample with store.token_ids=true, or with "
        "sampling.logprobs=processed, which keeps log-probabilities too"
    )
    step = (
        "postprocess.steps=[export]",
        f"postprocess.export.format={export_format}",
        f"postprocess.export.file={file}",
    )
    rollout(ROWS, name="plain")
    assert refused("plain", file, f"format={export_format}", cwd=tmp_path) == [line]
    with pytest.raises(UserError) as error:
        start(composed(*ECHO, f"data.path={tmp_path / 'plain.parquet'}", *step), tmp_path / "never")
    assert list(error.value.problems) == [f"postprocess.export.{line}"]
    run_dir = rollout(ROWS, "store.token_ids=true", *step)
    assert (run_dir / file).exists()


@pytest.mark.parametrize("name", ["dump.pt", "tokens.parquet", "tokens.jsonl"])
def test_a_disk_that_is_full_is_known_whoever_writes(name: str, run_dir: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # as a full disk, for every file
    try:
        with pytest.raises(OSError) as error:  # noqa: PT011 - its number tells
            export(responses(run_dir), tmp_path, ExportConfig(name, "slime" if name == "dump.pt" else "tokens"), DATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.errno in DISK_FULL
    assert not list(tmp_path.iterdir())


def test_slime_without_torch_is_one_line(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    assert refused("run", "dump.pt", "format=slime", cwd=run_dir.parent) == [
        "format=slime: needs torch, which is not installed; pip install torch"
    ]


def test_the_label_is_what_the_run_took_for_the_right_answer(rollout: Rollout) -> None:
    truth = ("postprocess.score.scorer=exact_match", "postprocess.score.ground_truth=number")
    step = ("postprocess.steps=[score,export]", "postprocess.export.format=slime", "postprocess.export.file=dump.pt")
    run_dir = rollout(ROWS, "store.token_ids=true", *truth, *step)
    labels = [sample["label"] for sample in samples_of(run_dir / "dump.pt")]
    assert sorted(set(labels)) == [str(number) for number in range(6)]
    result = run_here("export", "run", "again.pt", "format=slime", cwd=run_dir.parent)
    assert result.stdout.endswith(f"wrote {len(labels)} samples: again.pt\n")
    assert samples_of(run_dir.parent / "again.pt") == samples_of(run_dir / "dump.pt")


def test_after_other_scores_the_label_is_what_these_took_for_the_right_answer(rollout: Rollout) -> None:
    rows = [{"prompt": chat(f"q {n}"), "number": float("nan" if n == 5 else n), "other": f"o{n}"} for n in range(6)]
    truth = ("postprocess.score.scorer=exact_match", "postprocess.score.ground_truth=number")
    run_dir = rollout(rows, "store.token_ids=true", "postprocess.steps=[score]", *truth, "postprocess.report.rows=9")
    folder, step = run_dir.parent, ("export.format=slime", "export.file=dump.pt")
    run_here("export", "run", "first.pt", "format=slime", cwd=folder)
    labels = [sample["label"] for sample in samples_of(folder / "first.pt")]
    assert set(labels) == {*"01234", None}  # NaN is what pandas has for none
    score_responses(responses(run_dir), run_dir, ScoreConfig("exact_match", "other"))
    assert run_here("export", "run", "again.pt", "format=slime", cwd=folder).returncode == 0
    again = run_here("run_dir=run", "steps=[analyze,report,export]", *step, cwd=folder, module="rollout.postprocess")
    assert again.returncode == 0, again.stderr
    for dump in (folder / "again.pt", run_dir / "dump.pt"):
        assert {sample["label"] for sample in samples_of(dump)} == {f"o{number}" for number in range(6)}
    assert '"ground_truth":"o5"' in (run_dir / "report.html").read_text(encoding="utf-8").replace('": "', '":"')


def test_prompts_are_the_rows_of_which_a_response_is_left_as_chats(run_dir: Path, tmp_path: Path) -> None:
    source = scored(run_dir, tmp_path)
    data = DataConfig(system_prompt="Be brief.")
    rows = {row["row_id"] for batch in source.batches() for row in batch.to_pylist() if row["score"] == 1}
    assert 0 < len(rows) < 6
    kept = only_kept(source, FilterConfig(min_score=1))
    expected = [
        {"prompt": [{"role": "system", "content": "Be brief."}, *ROWS[row]["prompt"]], "row_id": row}
        | {"number": row, "kind": "ab"[row % 2]}
        for row in sorted(rows)
    ]
    for name in ("p.jsonl", "p.parquet"):
        assert export(kept, tmp_path, ExportConfig(name, "prompts"), data) == len(rows)
        assert rows_of(tmp_path / name) == expected


def test_prompts_of_any_form_become_chats_in_the_column_prompt(tmp_path: Path) -> None:
    table = {
        "question": ["2+2?", json.dumps(chat("3+3?")), None],
        "prompt": ["another", "column", "here"],
        "responses": [["4", "5"], ["6"], ["?"]],
    }
    pq.write_table(pa.table(table), tmp_path / "theirs.parquet")
    source, data = open_source(tmp_path / "theirs.parquet"), DataConfig(prompt_key="question")
    export(source, tmp_path, ExportConfig("p.jsonl", "prompts"), data)
    assert rows_of(tmp_path / "p.jsonl") == [
        {"prompt": chat("2+2?"), "row_id": 0},
        {"prompt": chat("3+3?"), "row_id": 1},
    ]
    export(source, tmp_path, ExportConfig("p.jsonl", "prompts", ["question"]), data)
    assert rows_of(tmp_path / "p.jsonl")[0] == {"prompt": chat("2+2?"), "row_id": 0, "question": "2+2?"}

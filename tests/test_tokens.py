"""Token ids and log-probabilities of every sample, through every stage, on the echo engine."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from rollout.cli import saved_config
from rollout.config import DataConfig, ModelConfig
from rollout.config.check import config_warnings
from rollout.engine.cache import EngineSpec
from rollout.engine.model_files import vocabulary_hash
from rollout.engine.vocabulary import token_text
from rollout.errors import UserError
from rollout.lifecycle import resume, start
from rollout.postprocess.sample_rows import sample_rows
from rollout.postprocess.source import open_source
from rollout.records import EXTRAS
from rollout.store import journal
from rollout.store.journal import parts, read_part
from tests.commands import ECHO
from tests.conftest import Rollout, chat, composed, run_in, whole_and_merged, write_mixed_input

pytestmark = pytest.mark.long

IDS = ["prompt_token_ids", "response_token_ids"]
ALL = [*IDS, "response_logprobs"]
ON = ("sampling.logprobs=raw", "sampling.n_samples=3")
ROWS = [{"prompt": chat(f"question {number}"), "number": number} for number in range(20)]


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(run_dir / "rollouts.parquet").to_pylist()
    return rows


@pytest.mark.parametrize(
    ("overrides", "columns"),
    [
        ((), []),
        (("store.token_ids=true",), IDS),
        (("sampling.logprobs=raw",), ALL),
        (("sampling.logprobs=processed", "store.token_ids=false"), ALL),
    ],
)
def test_the_columns_are_there_as_far_as_they_are_asked_for(
    overrides: tuple[str, ...], columns: list[str], rollout: Rollout
) -> None:
    run_dir = rollout(ROWS, *overrides)
    schema, flat = (pq.read_schema(run_dir / name) for name in ("rollouts.parquet", "flat.parquet"))
    assert [name for name in schema.names if name in EXTRAS] == columns
    assert [name for name in flat.names if name in EXTRAS] == columns
    ids, logprobs = pa.list_(pa.int32()), pa.list_(pa.float32())
    types = {"prompt_token_ids": ids, "response_token_ids": pa.list_(ids), "response_logprobs": pa.list_(logprobs)}
    assert all(schema.field(name).type == types[name] for name in columns)
    assert all(flat.field(name).type == (logprobs if name == ALL[2] else ids) for name in columns)


def test_there_is_an_id_and_a_log_probability_for_every_token_and_null_for_a_sample_that_failed(tmp_path: Path) -> None:
    path = write_mixed_input(tmp_path / "input.parquet", 300)
    rows = rows_of(run_in(tmp_path / "run", f"data.path={path}", "engine.echo.refuse_word=refuseme", *ON))
    assert 0 < sum(row["error"] is not None for row in rows) < 10
    for row in rows:
        assert (row["prompt_token_ids"] is None) == (row["error"] is not None)
        assert len(row["prompt_token_ids"] or []) == (row["num_prompt_tokens"] or 0)
        for name in ALL[1:]:
            assert [values is None for values in row[name]] == [text is None for text in row["responses"]]
            assert [len(values or []) for values in row[name]] == row["num_generated_tokens"]
    assert len({tuple(ids) for row in rows for ids in row["response_token_ids"] if ids}) > 800


def test_the_prompts_tokens_are_those_that_were_read_after_it_was_cut(rollout: Rollout) -> None:
    rows = [{"prompt": chat(" ".join(f"w{number}" for number in range(30)))}]
    cut = ("data.too_long=truncate_left", "engine.echo.max_model_len=20", "sampling.max_tokens=8")
    (row,), (whole,) = rows_of(rollout(rows, *ON, *cut, name="cut")), rows_of(rollout(rows, *ON, name="whole"))
    assert row["prompt_token_ids"] == whole["prompt_token_ids"][-12:]
    assert row["num_prompt_tokens"] == 12


def test_a_prompts_tokens_are_in_each_part_of_the_journal_once(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, *ON, "store.flush_samples=17")
    assert len(parts(run_dir)) == 4
    for path in parts(run_dir):
        part = read_part(path, group=0)
        told = part.filter(part.column("prompt_token_ids").is_valid()).column("row_id").to_pylist()
        assert told == sorted(set(part.column("row_id").to_pylist()))
    assert len({tuple(row["prompt_token_ids"]) for row in rows_of(run_dir)}) == len(ROWS)


def test_a_run_that_was_interrupted_and_given_more_samples_has_the_bytes_of_one_that_was_not(rollout: Rollout) -> None:
    whole = rollout(ROWS, *ON, "sampling.n_samples=5", "engine.echo.max_steps=4", name="whole")
    run_dir = rollout(ROWS, *ON, "engine.echo.max_steps=4", "store.flush_samples=7", name="part")
    for path in parts(run_dir)[::2]:
        path.unlink()
    (run_dir / "rollouts.parquet").unlink()
    path = whole.with_name("whole.parquet")
    resume(saved_config.load(run_dir, ["sampling.n_samples=5", f"data.path={path}"]), run_dir)
    assert (run_dir / "rollouts.parquet").read_bytes() == (whole / "rollouts.parquet").read_bytes()


@pytest.mark.parametrize(
    ("before", "now", "lines"),
    [
        (
            "sampling.logprobs=raw",
            "sampling.logprobs=processed",
            ["sampling.logprobs=processed: this run was made with"],
        ),
        (
            "sampling.logprobs=raw",
            "sampling.logprobs=none",
            [
                "sampling.logprobs=none: this run was made with raw",
                "store.token_ids=False: this run was made with True",
            ],
        ),
        ("store.token_ids=false", "store.token_ids=true", ["store.token_ids=True: this run was made with False"]),
        ("store.token_ids=true", "store.token_ids=false", ["store.token_ids=False: this run was made with True"]),
    ],
)
def test_a_resume_that_turns_them_on_or_off_is_refused_with_both_values(
    before: str, now: str, lines: list[str], rollout: Rollout
) -> None:
    run_dir = rollout(ROWS, before)
    with pytest.raises(UserError) as refused:
        resume(saved_config.load(run_dir, [now, "sampling.n_samples=9"]), run_dir)
    assert len(refused.value.problems) == len(lines)
    assert all(map(str.startswith, refused.value.problems, lines))


def test_log_probabilities_keep_the_ids_whatever_store_token_ids_says(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, "sampling.logprobs=raw")
    assert resume(saved_config.load(run_dir, ["store.token_ids=true"]), run_dir) is None  # nothing else was asked for


def test_the_names_are_the_inputs_own_while_nothing_of_the_kind_is_kept(rollout: Rollout, tmp_path: Path) -> None:
    rows = [{"prompt": chat("hi"), "response_token_ids": [[1, 2], [3]], "prompt_token_ids": "mine"} for _ in range(3)]
    flat = pq.read_table(rollout(rows) / "flat.parquet").to_pylist()
    assert flat[0]["response_token_ids"] == [[1, 2], [3]]
    assert flat[0]["prompt_token_ids"] == "mine"
    path = tmp_path / "run.parquet"
    with pytest.raises(UserError, match=r"column response_token_ids,prompt_token_ids is a reserved output column; re"):
        start(composed(*ECHO, f"data.path={path}", "store.token_ids=true"), tmp_path / "refused")


@pytest.mark.long
def test_shards_are_merged_to_the_bytes_of_one_run(tmp_path: Path) -> None:
    whole, merged = whole_and_merged(tmp_path, *ON)
    assert merged.read_bytes() == whole.read_bytes()


def test_filter_keeps_them_with_their_response(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, *ON, "postprocess.steps=[flatten,filter]", "postprocess.filter.min_tokens=15")
    flat, kept, dropped = (
        pq.read_table(run_dir / f"{name}.parquet") for name in ("flat", "filtered", "filtered.dropped")
    )
    assert 0 < kept.num_rows < flat.num_rows
    both = pa.concat_tables([kept, dropped.select(kept.schema.names)]).sort_by([("row_id", "ascending")])
    by_row = flat.to_pylist()
    assert sorted(map(str, both.to_pylist())) == sorted(map(str, by_row))
    first = rows_of(run_dir)[0]
    for index, response in enumerate(by_row[:3]):
        assert [response[name] for name in ALL] == [first[ALL[0]], first[ALL[1]][index], first[ALL[2]][index]]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_an_export_has_them_as_lists_and_can_be_read_again(suffix: str, rollout: Rollout) -> None:
    export = ("postprocess.steps=[flatten,export]", f"postprocess.export.file=export{suffix}")
    run_dir = rollout([*ROWS, {"prompt": None, "number": 0}], *ON, *export)
    flat = pq.read_table(run_dir / "flat.parquet")
    source = open_source(run_dir / f"export{suffix}")
    again = pa.Table.from_batches(source.batches())
    for name in ALL:
        assert again.column(name).to_pylist() == flat.column(name).to_pylist()


def test_numbers_in_text_are_as_short_as_they_can_be(rollout: Rollout) -> None:
    file = "postprocess.export.file=export"
    run_dir = rollout(ROWS, *ON, "postprocess.steps=[export]", f"{file}.jsonl")
    (first, *_) = (run_dir / "export.jsonl").read_text().splitlines()
    logprobs = json.loads(first)["response_logprobs"]
    assert max(len(str(value)) for value in logprobs) < 14  # not those of a double
    recorded = rows_of(run_dir)[0]["response_logprobs"][0]
    assert np.array_equal(np.array(logprobs, np.float32), np.array(recorded, np.float32))


def test_chats_have_them_beside_the_messages_when_named(rollout: Rollout) -> None:
    run_dir = rollout(
        ROWS,
        *ON,
        "postprocess.steps=[export]",
        "postprocess.export.format=messages",
        "postprocess.export.columns=[response_token_ids,response_logprobs]",
    )
    lines = [json.loads(line) for line in (run_dir / "export.jsonl").read_text().splitlines()]
    assert [line["response_token_ids"] for line in lines] == [i for row in rows_of(run_dir) for i in row[ALL[1]]]


def test_a_csv_that_others_have_broken_is_one_line(rollout: Rollout, tmp_path: Path) -> None:
    flat = pq.read_table(rollout(ROWS, *ON) / "flat.parquet", columns=["row_id", "sample_idx", "response"])
    broken = flat.append_column("response_token_ids", pa.array(["[1, x]"] * flat.num_rows))
    pa_csv.write_csv(broken, tmp_path / "broken.csv")
    with pytest.raises(UserError, match="column response_token_ids holds string, not list<"):
        list(open_source(tmp_path / "broken.csv").batches())


def test_parts_of_a_journal_without_them_read_as_null(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, *ON, "store.flush_samples=20")
    before = rows_of(run_dir)
    old = parts(run_dir)[0]
    pq.write_table(pq.read_table(old).drop_columns(ALL), old)
    (run_dir / "rollouts.parquet").unlink()
    resume(saved_config.load(run_dir, []), run_dir)
    rows = rows_of(run_dir)
    assert [row["responses"] for row in rows] == [row["responses"] for row in before]
    assert rows[0]["response_token_ids"] == [None] * 3
    assert rows[-1] == before[-1]


def test_a_flush_counts_their_bytes(rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
    long = ("engine.echo.response_tokens=1000", "sampling.n_samples=4")
    monkeypatch.setattr(journal, "_FLUSH_BYTES", 60_000)  # of text a response has 5 kB, of numbers 8 kB
    assert len(parts(rollout(ROWS, *long, name="text"))) == 80 // 12 + 1
    assert len(parts(rollout(ROWS, *long, "sampling.logprobs=raw", name="all"))) == 80 // 5


def test_a_nucleus_is_one_warning_where_probabilities_are_those_that_were_sampled_from() -> None:
    def warnings(*overrides: str) -> list[str]:
        return list(config_warnings(composed(*overrides)))

    assert warnings("sampling.logprobs=raw") == warnings() == []
    (line,) = warnings("sampling.logprobs=processed", "sampling.top_k=5")
    assert line.startswith(
        "sampling.logprobs=processed: with top_p=0.95, top_k=5 the probabilities are normalised over"
    )
    assert "wants sampling.top_p=1" in line
    assert warnings("sampling.logprobs=processed", "sampling.top_p=1") == []
    assert warnings("sampling.logprobs=processed", "sampling.temperature=0", "sampling.n_samples=1") == []


def test_what_the_numbers_mean_is_in_the_footer_while_they_are_kept(rollout: Rollout) -> None:
    run_dir = rollout(ROWS, "sampling.logprobs=processed", "sampling.temperature=0.7", "sampling.top_k=9")
    footer = pq.read_metadata(run_dir / "rollouts.parquet").metadata
    tokens = json.loads(footer[b"rollout.tokens"])
    assert tokens.keys() == {"logprobs", "temperature", "top_p", "top_k", "min_p", "vocabulary"}
    assert (tokens["logprobs"], tokens["temperature"], tokens["top_p"], tokens["top_k"]) == ("processed", 0.7, 0.95, 9)
    about = json.loads((run_dir / "run.json").read_text())
    assert tokens["vocabulary"] == about["provenance"]["model"]["vocabulary"]
    assert {name: about["config"]["sampling"][name] for name in tokens if name != "vocabulary"} | {
        "vocabulary": tokens["vocabulary"]
    } == tokens
    plain = rollout(ROWS, name="plain")
    assert b"rollout.tokens" not in pq.read_metadata(plain / "rollouts.parquet").metadata


def test_the_report_names_the_least_likely_tokens_of_a_response(rollout: Rollout) -> None:
    """By their ids, for the echo engine's are those of no vocabulary; the text is asked for below."""
    run_dir = rollout(ROWS, *ON)
    (first, *_) = sample_rows(open_source(run_dir / "rollouts.parquet"), [0], DataConfig(), None)
    recorded = rows_of(run_dir)[0]
    logprobs, tokens = recorded["response_logprobs"][1], first["responses"][1]["unlikely"]
    assert [token["position"] - 1 for token in tokens] == np.argsort(logprobs)[:3].tolist()
    assert tokens[0]["id"] == recorded["response_token_ids"][1][tokens[0]["position"] - 1]
    assert math.isclose(tokens[0]["probability"], math.exp(min(logprobs)))
    assert '"unlikely":' in (run_dir / "report.html").read_text().replace('"unlikely": ', '"unlikely":')


def test_a_tokens_text_is_what_it_adds_to_those_before_it(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        ["the quick fox"], trainers.BpeTrainer(special_tokens=["</s>"], initial_alphabet=alphabet, show_progress=False)
    )
    bpe.save(str(tmp_path / "tokenizer.json"))
    model, known = ModelConfig(str(tmp_path)), vocabulary_hash(tmp_path)
    text = token_text(model, known)
    assert text is not None
    ids = [*bpe.encode("the fox").ids, 0]
    assert "".join(text(ids, position) for position in range(len(ids))) == "the fox</s>"
    assert token_text(model, "blake2b:other") is None
    assert token_text(ModelConfig(str(tmp_path / "gone")), known) is None


def test_an_engine_is_shared_unless_it_gives_log_probabilities_of_the_other_kind() -> None:
    def key(kind: str) -> str:
        return EngineSpec.of(composed(f"sampling.logprobs={kind}")).key()

    assert key("none") == key("raw") != key("processed")


def test_a_file_with_them_is_read_as_any_other(rollout: Rollout, tmp_path: Path) -> None:
    run_dir = rollout(ROWS, *ON)
    frame = pq.read_table(run_dir / "rollouts.parquet").to_pandas()
    frame.to_parquet(tmp_path / "pandas.parquet")
    again = pa.Table.from_batches(open_source(tmp_path / "pandas.parquet").batches())
    assert again.equals(pq.read_table(run_dir / "flat.parquet"))
    shutil.copy(run_dir / "flat.parquet", tmp_path / "flat.parquet")
    assert pa.Table.from_batches(open_source(tmp_path / "flat.parquet").batches()).equals(again)

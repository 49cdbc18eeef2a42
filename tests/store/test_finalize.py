"""The journal and its merge: whatever the order, overlap or repetition of its parts, one and the same output."""

import random
import time
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.config import StoreConfig
from rollout.data.row_sampling import SampleCounts
from rollout.data.tables import Table, open_table
from rollout.records import EXTRAS, ROLLOUT_FIELDS, SAMPLE_SCHEMA, Sample, failed_sample
from rollout.store.finalize import finalize
from rollout.store.journal import Journal, parts
from rollout.store.layout import JOURNAL, OUTPUT
from tests.conftest import write_input


def answer(row_id: int, sample_idx: int, text: str | None = None) -> Sample:
    text = f"answer {row_id}-{sample_idx}" if text is None else text
    seed, tokens = 1000 * row_id + sample_idx, 7 * row_id + sample_idx
    return Sample(row_id, sample_idx, seed, text, "length" if sample_idx % 2 else "stop", row_id + 1, tokens)


def failure(row_id: int, sample_idx: int, error: str = "refused") -> Sample:
    return failed_sample(row_id, sample_idx, 1000 * row_id + sample_idx, error)


def journal(run_dir: Path, **store: Any) -> Journal:
    run_dir.mkdir(exist_ok=True)
    return Journal(run_dir, StoreConfig(**store))


def write_shards(run_dir: Path, *batches: list[Sample]) -> None:
    for batch in batches:
        writer = journal(run_dir)
        for sample in batch:
            writer.add(sample)
        writer.flush()


def questions(folder: Path, rows: int) -> Table:
    return open_table(write_input(folder / "input.parquet", [{"q": f"question {row}"} for row in range(rows)]), "input")


def finalized(run_dir: Path, table: Table, n_samples: int, **metadata: str) -> Path:
    finalize(run_dir, table, SampleCounts.equal(table.num_rows, n_samples), metadata)
    return run_dir / OUTPUT


def merged(run_dir: Path, table: Table, n_samples: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(finalized(run_dir, table, n_samples)).to_pylist()
    return rows


def expected_row(row_id: int, n_samples: int) -> dict[str, Any]:
    samples = [answer(row_id, index) for index in range(n_samples)]
    return {
        "q": f"question {row_id}",
        "row_id": row_id,
        "responses": [sample.response for sample in samples],
        "finish_reasons": [sample.finish_reason for sample in samples],
        "num_prompt_tokens": row_id + 1,
        "num_generated_tokens": [sample.num_generated_tokens for sample in samples],
        "seeds": [sample.seed for sample in samples],
        "error": None,
        "truncated_prompt": None,
    }


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@st.composite
def shard_layouts(draw: st.DrawFn) -> tuple[int, int, list[list[Sample]]]:
    """Every sample of some rows, in any order, some of them more than once or of no row's interest, cut anywhere."""
    rows, n_samples = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    wanted = [answer(row, index) for row in range(rows) for index in range(n_samples)]
    doubled = draw(st.lists(st.sampled_from(wanted), max_size=5))
    surplus = [answer(row, n_samples) for row in range(rows)] if draw(st.booleans()) else []
    samples = draw(st.permutations([*wanted, *doubled, *surplus]))
    cuts = sorted(draw(st.sets(st.integers(1, len(samples)), max_size=5)) | {0, len(samples)})
    return rows, n_samples, [samples[start:end] for start, end in pairwise(cuts)]


@given(layout=shard_layouts())
@settings(max_examples=60, deadline=None)
def test_shards_in_any_order_merge_to_the_same_rows(
    layout: tuple[int, int, list[list[Sample]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows, n_samples, batches = layout
    run_dir = tmp_path_factory.mktemp("run")
    write_shards(run_dir, *batches)
    assert merged(run_dir, questions(run_dir, rows), n_samples) == [expected_row(row, n_samples) for row in range(rows)]


def with_extras(sample: Sample) -> Sample:
    return replace(
        sample,
        prompt_token_ids=np.full(3, sample.row_id, np.int32),
        response_token_ids=np.array([sample.row_id, sample.sample_idx], np.int32),
        response_logprobs=np.array([-0.5, -sample.sample_idx], np.float32),
        reasoning=f"hm {sample.row_id} {sample.sample_idx}",
        num_reasoning_tokens=sample.row_id,
        reasoning_closed=sample.sample_idx != 1,
        is_scored=True,
        score=float(sample.row_id - sample.sample_idx),
    )


def extras_of_row(row_id: int, n_samples: int) -> dict[str, Any]:
    return {
        "prompt_token_ids": [row_id] * 3,
        "response_token_ids": [[row_id, index] for index in range(n_samples)],
        "response_logprobs": [[-0.5, -index] for index in range(n_samples)],
        "reasonings": [f"hm {row_id} {index}" for index in range(n_samples)],
        "num_reasoning_tokens": [row_id] * n_samples,
        "reasoning_closed": [index != 1 for index in range(n_samples)],
        "scores": [row_id - index for index in range(n_samples)],
        "stopped": f"because {row_id}",
    }


@pytest.mark.long
@given(layout=shard_layouts())
@settings(max_examples=60, deadline=None)
def test_tokens_and_thinking_stay_with_their_sample_and_prompts_with_their_row_however_shards_are_laid_out(
    layout: tuple[int, int, list[list[Sample]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows, n_samples, batches = layout
    run_dir = tmp_path_factory.mktemp("run")
    for batch in batches:
        writer = Journal(run_dir, StoreConfig(), extras=EXTRAS)
        for sample in batch:
            writer.add(with_extras(sample))
        writer.flush()
    stopped = [f"because {row}" for row in range(rows)]
    finalize(run_dir, questions(run_dir, rows), SampleCounts.equal(rows, n_samples), {}, EXTRAS, stopped)
    expected = [expected_row(row, n_samples) | extras_of_row(row, n_samples) for row in range(rows)]
    assert pq.read_table(run_dir / OUTPUT).to_pylist() == expected


@pytest.mark.parametrize("shuffled", [False, True])
def test_an_input_of_many_batches_merges_in_its_own_order(shuffled: bool, tmp_path: Path) -> None:
    samples = [answer(row, index) for row in range(3000) for index in range(2)]
    if shuffled:
        random.Random(0).shuffle(samples)
    write_shards(tmp_path, *[samples[start : start + 700] for start in range(0, len(samples), 700)])
    assert merged(tmp_path, questions(tmp_path, 3000), 2) == [expected_row(row, 2) for row in range(3000)]


@pytest.mark.parametrize("in_one_shard", [True, False])
@pytest.mark.parametrize(
    ("attempts", "response", "error"),
    [
        (["first", "second"], "first", None),
        (["ERROR 1", "second"], "second", None),
        (["first", "ERROR 2"], "first", None),
        (["ERROR 1", "second", "third"], "second", None),
        (["ERROR 1", "ERROR 2"], None, "ERROR 1"),
        (["", "second"], "", None),
    ],
)
def test_of_several_attempts_at_a_sample_the_first_success_counts(
    attempts: list[str], response: str | None, error: str | None, in_one_shard: bool, tmp_path: Path
) -> None:
    samples = [failure(0, 0, text) if text.startswith("ERROR") else answer(0, 0, text) for text in attempts]
    write_shards(tmp_path, *([samples] if in_one_shard else [[sample] for sample in samples]))
    (row,) = merged(tmp_path, questions(tmp_path, 1), 1)
    assert (row["responses"], row["error"]) == ([response], error)
    assert row["finish_reasons"] == ["error" if response is None else "stop"]


def test_samples_beyond_n_samples_are_left_out(tmp_path: Path) -> None:
    write_shards(tmp_path, [answer(row, index) for row in range(2) for index in range(8)])
    assert merged(tmp_path, questions(tmp_path, 2), 3) == [expected_row(row, 3) for row in range(2)]


def test_a_failed_sample_leaves_its_place_empty_and_the_row_says_why(tmp_path: Path) -> None:
    write_shards(
        tmp_path,
        [answer(0, 0), failure(0, 1, "too long"), failure(0, 2, "too long"), failure(0, 3, "bad role")],
        [failure(1, index, "too long") for index in range(4)],
        [answer(2, index) for index in range(4)],
    )
    partly, never, well = merged(tmp_path, questions(tmp_path, 3), 4)
    assert partly["responses"] == ["answer 0-0", None, None, None]
    assert partly["finish_reasons"] == ["stop", "error", "error", "error"]
    assert partly["num_generated_tokens"] == [0, 0, 0, 0]
    assert partly["seeds"] == [0, 1, 2, 3]
    assert (partly["error"], partly["num_prompt_tokens"]) == ("too long; bad role", 1)
    assert (never["responses"], never["error"], never["num_prompt_tokens"]) == ([None] * 4, "too long", None)
    assert well == expected_row(2, 4)


@pytest.mark.parametrize("missing", [(0, 0), (1, 1), (2, 1)])
def test_a_missing_sample_is_an_error_and_leaves_no_file(missing: tuple[int, int], tmp_path: Path) -> None:
    samples = [answer(row, index) for row in range(3) for index in range(2) if (row, index) != missing]
    write_shards(tmp_path, samples)
    with pytest.raises(RuntimeError, match="1 samples of rows 0 to 2 are not in the journal"):
        finalize(tmp_path, questions(tmp_path, 3), SampleCounts.equal(3, 2), {})
    assert files_in(tmp_path) == ["input.parquet", JOURNAL]


def test_an_empty_journal_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="4 samples"):
        finalize(tmp_path, questions(tmp_path, 2), SampleCounts.equal(2, 2), {})


def test_the_same_journal_gives_the_same_bytes(tmp_path: Path) -> None:
    write_shards(tmp_path, [answer(row, index) for row in range(1500) for index in range(2)])
    written = []
    for _ in range(2):
        finalize(tmp_path, questions(tmp_path, 1500), SampleCounts.equal(1500, 2), {"key": "x"})
        written.append((tmp_path / OUTPUT).read_bytes())
    assert written[0] == written[1]
    assert files_in(tmp_path) == ["input.parquet", OUTPUT, JOURNAL]


def test_the_footer_holds_the_metadata(tmp_path: Path) -> None:
    write_shards(tmp_path, [answer(0, 0)])
    output = finalized(tmp_path, questions(tmp_path, 1), 1, digest="abc")
    assert pq.read_schema(output).metadata == {b"digest": b"abc"}


LATE = [None] * 1500


@pytest.mark.parametrize(
    "values",
    [
        pa.array([*LATE, "x"]),
        pa.array([*LATE, None]),
        pa.array([*LATE, 2**64 - 1], pa.uint64()),
        pa.array([*LATE, {"x": [{"y": None, "z": "é"}]}]),
        pa.array([*LATE, [("x", 1)]], pa.map_(pa.string(), pa.int8())),
        pa.array([*LATE, Decimal("1.50")]),
        pa.array([*LATE, 1], pa.timestamp("ns", "UTC")),
        pa.array([*LATE, [1.5, 2.5]], pa.list_(pa.float32(), 2)),
        pa.array([str(number) for number in range(1501)]).dictionary_encode(),
        pa.array([*LATE, "x"], pa.large_string()),
        pa.array([*LATE, b"\xff"]),
    ],
    ids=lambda values: str(values.type),
)
def test_input_columns_are_unchanged_and_ours_have_their_declared_types(values: pa.Array, tmp_path: Path) -> None:
    path = tmp_path / "input.parquet"
    pq.write_table(pa.table({"x": values}), path)
    write_shards(tmp_path, [failure(row, 0) for row in range(len(values))])
    output = pq.read_table(finalized(tmp_path, open_table(path, "input"), 1))
    assert output.schema == pa.schema([*pq.read_schema(path), *ROLLOUT_FIELDS])
    assert output.column("x").to_pylist() == values.to_pylist()


def test_the_journal_is_written_every_flush_samples(tmp_path: Path) -> None:
    writer = journal(tmp_path, flush_samples=3)
    for number in range(8):
        writer.add(answer(number, 0))
        assert len(parts(tmp_path)) == (number + 1) // 3
    writer.flush()
    assert [pq.read_metadata(part).num_rows for part in parts(tmp_path)] == [3, 3, 2]


def test_the_journal_is_written_once_its_oldest_sample_has_waited_flush_seconds(tmp_path: Path) -> None:
    writer = journal(tmp_path, flush_seconds=0.2)
    for number in range(2):
        writer.add(answer(number, 0))
        time.sleep(0.12)
    writer.flush_if_old()
    assert [pq.read_metadata(part).num_rows for part in parts(tmp_path)] == [2]


def test_samples_that_have_not_waited_long_stay_in_memory(tmp_path: Path) -> None:
    writer = journal(tmp_path, flush_seconds=60)
    writer.add(answer(0, 0))
    writer.flush_if_old()
    assert parts(tmp_path) == []


def test_a_new_sample_after_a_flush_waits_anew(tmp_path: Path) -> None:
    writer = journal(tmp_path, flush_seconds=0.2)
    writer.add(answer(0, 0))
    writer.flush()
    time.sleep(0.25)
    writer.add(answer(0, 1))
    writer.flush_if_old()
    assert len(parts(tmp_path)) == 1


def test_nothing_to_write_is_no_shard(tmp_path: Path) -> None:
    writer = journal(tmp_path, flush_seconds=1e-9)
    writer.flush()
    writer.flush_if_old()
    assert files_in(tmp_path / JOURNAL) == []


def test_a_shard_is_sorted_and_has_the_declared_schema(tmp_path: Path) -> None:
    samples = [answer(2, 1), failure(2, 0), answer(0, 3), answer(10, 0)]
    write_shards(tmp_path, samples)
    part = pq.read_table(parts(tmp_path)[0])
    assert part.schema == SAMPLE_SCHEMA
    assert [Sample(**row) for row in part.to_pylist()] == [samples[2], samples[1], samples[0], samples[3]]


def test_a_second_journal_of_a_folder_adds_to_the_first(tmp_path: Path) -> None:
    write_shards(tmp_path, [answer(0, 0)], [answer(0, 1)], [answer(0, 2)])
    assert files_in(tmp_path / JOURNAL) == [f"part-00000{number}.parquet" for number in range(3)]
    assert [pq.read_table(part)["sample_idx"].to_pylist() for part in parts(tmp_path)] == [[0], [1], [2]]


def test_a_write_that_fails_leaves_no_partial_file_and_loses_no_sample(tmp_path: Path) -> None:
    writer = journal(tmp_path)
    in_the_way = tmp_path / JOURNAL / "part-000000.parquet"
    in_the_way.mkdir()
    writer.add(answer(0, 0))
    writer.add(answer(0, 1))
    with pytest.raises(OSError, match="part-000000"):
        writer.flush()
    assert files_in(tmp_path / JOURNAL) == [in_the_way.name]
    in_the_way.rmdir()
    writer.flush()
    assert merged(tmp_path, questions(tmp_path, 1), 2) == [expected_row(0, 2)]


def test_row_groups_are_cut_by_the_size_of_their_responses_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [answer(row, index, "x" * (100 * row)) for row in range(50) for index in range(2)]
    write_shards(tmp_path, samples)
    table = questions(tmp_path, 50)
    whole = merged(tmp_path, table, 2)
    monkeypatch.setattr("rollout.store.finalize.BATCH_BYTES", 5_000)
    files = set()
    for step in (2, 14, 2048):
        monkeypatch.setattr("rollout.store.journal_reader._STEP_SAMPLES", step)
        assert merged(tmp_path, table, 2) == whole
        files.add((tmp_path / OUTPUT).read_bytes())
    (_one_file,) = files
    about = pq.read_metadata(tmp_path / OUTPUT)
    sizes = [about.row_group(number).num_rows for number in range(about.num_row_groups)]
    # row N has 200 * N bytes: the first 7 have 4,200, the next 3 4,800, two pairs follow, and then each is alone
    assert sizes == [7, 3, 2, 2, *[1] * 36]


def test_row_groups_count_tokens_and_log_probabilities_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, logprobs = np.arange(25, dtype=np.int32), np.arange(25, dtype=np.float32)
    extras = ("prompt_token_ids", "response_token_ids", "response_logprobs")
    writer = Journal(tmp_path, StoreConfig(), extras=extras)
    for row, index in product(range(10), range(2)):
        sample, prompt = answer(row, index, "x" * 50), np.full(150, row, np.int32)
        writer.add(
            replace(sample, prompt_token_ids=prompt, response_token_ids=ids, response_logprobs=logprobs),
        )
    writer.flush()
    monkeypatch.setattr("rollout.store.finalize.BATCH_BYTES", 3_300)
    finalize(tmp_path, questions(tmp_path, 10), SampleCounts.equal(10, 2), {}, extras)
    about = pq.read_metadata(tmp_path / OUTPUT)
    # a row has 2 * 50 bytes of text, 4 * 2 * 2 * 25 of the responses' numbers and 4 * 150 of the prompt's
    assert [about.row_group(number).num_rows for number in range(about.num_row_groups)] == [3, 3, 3, 1]
    rows = pq.read_table(tmp_path / OUTPUT).to_pylist()
    assert [row["prompt_token_ids"] for row in rows] == [[row] * 150 for row in range(10)]
    assert rows[9]["response_logprobs"] == [logprobs.tolist()] * 2


@pytest.mark.slow
def test_responses_of_more_than_an_arrow_array_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2.25 GB in one step of 2,048 samples, as where those before them were short; a `string` array ends at 2 GiB."""
    monkeypatch.setattr("rollout.store.journal_reader._STEP_BYTES", 1 << 40)
    writer, text = journal(tmp_path), "long " * 220_000
    for row in range(32):
        for index in range(64):
            writer.add(answer(row, index, f"{row}-{index} {text}"))
    writer.flush()
    about = pq.ParquetFile(finalized(tmp_path, questions(tmp_path, 32), 64))
    assert about.metadata.num_rows == 32
    for group in range(about.num_row_groups):
        for row in about.read_row_group(group).to_pylist():
            assert [text[:6].split()[0] for text in row["responses"]] == [f"{row['row_id']}-{n}" for n in range(64)]
            assert {len(text) for text in row["responses"]} <= {1_100_000 + extra for extra in range(4, 7)}

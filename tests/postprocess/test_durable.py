"""What is durable of a run while it grows: every sample counts once, whatever the journal holds of it."""

import random
from collections import Counter
from pathlib import Path

import pytest

from rollout.config import AnalyzeConfig, RunConfig, ScoreConfig
from rollout.data.prompts import open_input
from rollout.data.row_sampling import SampleCounts
from rollout.data.tables import Table
from rollout.postprocess.analyze import analyze
from rollout.postprocess.durable import Durable, durable_source
from rollout.postprocess.source import open_source
from rollout.records import Sample
from rollout.store.journal import parts
from rollout.store.run_record import read
from tests.conftest import run_in
from tests.store.test_finalize import answer, failure, finalized, questions, write_shards

ROWS, N_SAMPLES = 30, 4


def seen(run_dir: Path) -> Durable:
    durable = Durable(run_dir)
    durable.look()
    return durable


def samples_of(durable: Durable, table: Table | None) -> list[dict[str, object]]:
    counts = durable.counts(N_SAMPLES) if table is None else SampleCounts.equal(table.num_rows, N_SAMPLES)
    source = durable_source(durable, RunConfig(), table, counts)
    return [row for batch in source.batches() for row in batch.to_pylist()]


def drawn(seed: int) -> list[list[Sample]]:
    """Parts of some samples of some rows: in no order, some twice, some that failed first or last."""
    rng = random.Random(seed)
    places = [(row, index) for row in range(ROWS) for index in range(N_SAMPLES) if rng.random() < 0.6]
    all_samples = [answer(*place) for place in places]
    all_samples += [rng.choice([answer, failure])(*place) for place in rng.sample(places, 20)]
    all_samples += [failure(ROWS - 1, index) for index in range(N_SAMPLES)]
    rng.shuffle(all_samples)
    return [all_samples[start : start + 17] for start in range(0, len(all_samples), 17)]


@pytest.mark.parametrize("seed", range(6))
def test_looked_at_after_any_number_of_parts_it_counts_each_sample_once(seed: int, tmp_path: Path) -> None:
    durable, known = Durable(tmp_path / "run"), list[Sample]()
    durable.look()
    for part in drawn(seed):
        write_shards(tmp_path / "run", part)
        known += part
        if random.Random(seed + len(known)).random() < 0.5:
            continue
        durable.look()
        done = {(one.row_id, one.sample_idx): one for one in known if one.error is None}
        failed = {(one.row_id, one.sample_idx) for one in known} - done.keys()
        assert (durable.num_done, durable.num_failed) == (len(done), len(failed))
        assert durable.finish_reasons == Counter(one.finish_reason for one in done.values())
        assert durable.errors == Counter({"refused": len(failed)} if failed else {})
        assert durable.num_rows == len({row for row, _ in (*done, *failed)})
        lengths = [one.num_generated_tokens for one in done.values()]
        assert durable.tokens is not None
        assert durable.tokens.mean == pytest.approx(sum(lengths) / len(lengths))
        assert durable.tokens.max == max(lengths)


@pytest.mark.parametrize("with_input", [True, False], ids=["with_input", "without_input"])
@pytest.mark.parametrize("seed", range(3))
def test_the_samples_are_a_stream_of_each_once_in_order_beside_their_row(
    seed: int, with_input: bool, tmp_path: Path
) -> None:
    table, batches = questions(tmp_path, ROWS), drawn(seed)
    write_shards(tmp_path / "run", *batches)
    found = samples_of(seen(tmp_path / "run"), table if with_input else None)
    known = {(one.row_id, one.sample_idx): one for batch in batches for one in batch if one.error is not None}
    known |= {(one.row_id, one.sample_idx): one for batch in batches for one in batch if one.error is None}
    assert [(row["row_id"], row["sample_idx"]) for row in found] == sorted(known)
    for row in found:
        one = known[row["row_id"], row["sample_idx"]]  # type: ignore[index]
        assert (row["response"], row["error"], row["num_generated_tokens"], row["seed"]) == (
            *(one.response, one.error, one.num_generated_tokens, one.seed),
        )
        assert row.get("q") == (f"question {row['row_id']}" if with_input else None)


def test_of_a_whole_journal_the_analysis_is_that_of_the_result(tmp_path: Path) -> None:
    table = questions(tmp_path, ROWS)
    write_shards(tmp_path / "run", [answer(row, index) for row in range(ROWS) for index in range(N_SAMPLES)])
    source = durable_source(seen(tmp_path / "run"), RunConfig(), table, SampleCounts.equal(ROWS, N_SAMPLES))
    result = open_source(finalized(tmp_path / "run", table, N_SAMPLES))
    assert source.schema == result.schema
    found = [analyze(one, tmp_path, AnalyzeConfig(), ScoreConfig()) for one in (source, result)]
    assert found[0] == found[1]


def test_the_columns_that_only_some_runs_have_are_there(tmp_path: Path) -> None:
    more = ("sampling.logprobs=raw", "model.reasoning_parser=qwen3", "engine.echo.think_tokens=5", "data.limit=4")
    run_dir = run_in(tmp_path / "run", *more, "sampling.n_samples=3", "postprocess=none")
    result, durable = open_source(run_dir / "rollouts.parquet"), seen(run_dir)
    run = read(run_dir).config
    table = open_input(run.data)
    source = durable_source(durable, run, table, SampleCounts.equal(table.num_rows, 3))
    assert source.schema == result.schema
    kept = [name for name in source.schema.names if name != "prompt_token_ids"]  # beside one sample of a row only
    ours, theirs = (
        [row for batch in one.batches() for row in batch.select(kept).to_pylist()] for one in (source, result)
    )
    assert ours == theirs


def test_what_is_being_written_and_what_is_damaged_does_not_count_until_it_is_whole(tmp_path: Path) -> None:
    write_shards(tmp_path, [answer(0, 0)], [answer(0, 1)])
    first, second = parts(tmp_path)
    whole = second.read_bytes()
    second.rename(second.with_name(f".{second.name}.partial"))
    durable = seen(tmp_path)
    assert (durable.num_done, durable.damaged) == (1, {})
    second.write_bytes(whole[: len(whole) // 2])
    durable.look()
    assert durable.num_done == 1
    assert "damaged" in durable.damaged[second]
    second.write_bytes(whole)
    durable.look()
    assert (durable.num_done, durable.damaged) == (2, {})
    first.unlink()  # somebody deletes one: its samples are going to be generated again
    durable.look()
    assert durable.num_done == 1

"""The journal of a run with several engines: a writer each, names of their own, one result."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rollout.config import StoreConfig
from rollout.data.row_sampling import SampleCounts
from rollout.errors import UserError
from rollout.records import Outcome, Sample
from rollout.store.finalize import finalize
from rollout.store.journal import Journal, finished, parts, writer_name
from rollout.store.judged import outcomes_of
from rollout.store.layout import JOURNAL, OUTPUT
from tests.store.test_finalize import answer, failure, questions


def write(run_dir: Path, writer: str | None, *batches: list[Sample]) -> Journal:
    run_dir.mkdir(exist_ok=True)
    journal = Journal(run_dir, StoreConfig(), writer)
    for batch in batches:
        for sample in batch:
            journal.add(sample)
        journal.flush()
    return journal


def names(run_dir: Path) -> list[str]:
    return [path.name for path in parts(run_dir)]


def outcome(sample: Sample) -> Outcome:
    return Outcome(
        sample.row_id, sample.sample_idx, sample.num_prompt_tokens, sample.num_generated_tokens, sample.error
    )


def test_each_writer_numbers_its_own_shards(tmp_path: Path) -> None:
    write(tmp_path, "0123456789a-000", [answer(0, 0)], [answer(0, 1)])
    write(tmp_path, "0123456789a-001", [answer(1, 0)])
    assert names(tmp_path) == [
        "part-0123456789a-000-000000.parquet",
        "part-0123456789a-000-000001.parquet",
        "part-0123456789a-001-000000.parquet",
    ]


def test_a_single_engine_goes_on_with_its_numbers_beside_the_shards_of_replicas(tmp_path: Path) -> None:
    write(tmp_path, None, [answer(0, 0)])
    write(tmp_path, "0123456789a-000", [answer(0, 1)], [answer(0, 2)], [answer(0, 3)])
    write(tmp_path, None, [answer(1, 0)])
    assert [name for name in names(tmp_path) if name.count("-") == 1] == ["part-000000.parquet", "part-000001.parquet"]


def test_a_replica_that_is_started_again_has_another_name_of_the_same_form(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = [1_795_514_176_536, 1_795_514_176_537, 2_000_000_000_000]
    nanoseconds = iter(1_000_000 * moment for moment in moments)
    monkeypatch.setattr("rollout.store.journal.time.time_ns", lambda: next(nanoseconds))
    written = [writer_name(7) for _ in moments]
    assert len(set(written)) == 3
    assert sorted(written) == written
    assert all(re.fullmatch(r"[0-9a-f]{11}-007", name) for name in written)


def test_files_of_other_names_are_no_shards(tmp_path: Path) -> None:
    write(tmp_path, writer_name(12), [answer(0, 0)])
    for name in (
        "part-x.parquet",
        "part-0123456789a-000000.parquet",
        "part-000000.parquet.bak",
        ".part-000001.parquet",
    ):
        (tmp_path / JOURNAL / name).touch()
    assert len(names(tmp_path)) == 1


def test_a_writer_counts_what_it_has_made_durable(tmp_path: Path) -> None:
    journal = write(tmp_path, "0123456789a-000", [answer(0, 0), answer(0, 1)], [answer(1, 0)])
    journal.add(answer(1, 1))
    assert journal.num_durable == 3
    journal.flush()
    assert journal.num_durable == 4


def test_the_outcomes_of_one_writer_are_those_of_its_shards_only(tmp_path: Path) -> None:
    mine = [answer(0, 0), failure(3, 1), answer(2, 1)]
    write(tmp_path, "0123456789a-000", mine[:2], mine[2:])
    write(tmp_path, "0123456789a-001", [answer(5, 0)])
    write(tmp_path, "0123456789b-000", [answer(6, 0)])
    write(tmp_path, None, [answer(7, 0)])
    assert list(outcomes_of(tmp_path, "0123456789a-000")) == [outcome(sample) for sample in mine]
    assert list(outcomes_of(tmp_path, "0123456789c-000")) == []


def test_several_writers_make_the_result_of_one_and_what_they_hold_twice_counts_once(tmp_path: Path) -> None:
    table = questions(tmp_path, 6)
    samples = [failure(row, index) if row == 4 else answer(row, index) for row in range(6) for index in range(3)]
    write(tmp_path / "one", None, samples)
    several = tmp_path / "several"
    write(several, "0123456789a-000", samples[::-3], samples[1:4])
    write(several, "0123456789a-001", samples[::2])
    write(several, None, samples[1::2])
    for run_dir in (tmp_path / "one", several):
        finalize(run_dir, table, SampleCounts.equal(6, 3), {})
        assert finished(run_dir, SampleCounts.equal(6, 3)).num_owed == 3
    assert (several / OUTPUT).read_bytes() == (tmp_path / "one" / OUTPUT).read_bytes()


def test_a_sample_that_succeeded_counts_more_than_one_that_failed_whoever_wrote_it_later(tmp_path: Path) -> None:
    table = questions(tmp_path, 1)
    for name, first, second in (("a", answer(0, 0), failure(0, 0)), ("b", failure(0, 0), answer(0, 0))):
        write(tmp_path / name, "0123456789a-000", [first])
        write(tmp_path / name, "0123456789b-001", [second])
        finalize(tmp_path / name, table, SampleCounts.equal(1, 1), {})
        assert finished(tmp_path / name, SampleCounts.equal(1, 1)).num_owed == 0
    assert (tmp_path / "a" / OUTPUT).read_bytes() == (tmp_path / "b" / OUTPUT).read_bytes()


def result_of_a_run(path: Path) -> None:
    finalize(path.parents[1], questions(path.parents[1], 1), SampleCounts.equal(1, 1), {})
    shutil.copy(path.parents[1] / OUTPUT, path)


@pytest.mark.parametrize(
    ("put", "says"),
    [
        (result_of_a_run, "no part of a run's samples; move it elsewhere"),
        (Path.mkdir, "no part of a run's samples; move it elsewhere"),
        (lambda path: path.symlink_to("unmounted"), "cannot be read (No such file or directory); make it readable"),
        (Path.touch, "damaged (Parquet file size is 0 bytes)"),
    ],
    ids=["another table", "a folder", "a link to nowhere", "nothing in it"],
)
def test_what_is_no_part_is_named_before_anything_is_generated(
    put: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    write(tmp_path, None, [answer(0, 0)])
    put(path := tmp_path / JOURNAL / "part-000777.parquet")
    with pytest.raises(UserError, match=re.escape(f"{path}: {says}")):
        finished(tmp_path, SampleCounts.equal(1, 1))


def test_a_part_that_the_machine_does_not_let_us_read_is_not_to_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, None, [answer(0, 0)])

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Failed to open local file. Detail: [errno 13] Permission denied")

    monkeypatch.setattr(pq, "read_table", refused)
    with pytest.raises(UserError) as error:
        finished(tmp_path, SampleCounts.equal(1, 1))
    assert str(error.value).endswith("part-000000.parquet: cannot be read (Permission denied); make it readable")

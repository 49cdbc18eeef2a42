"""The steps after generation, against the same thing said in plain Python, on tables of every shape."""

import dataclasses
import json
import statistics
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.config import FilterConfig, PostprocessConfig
from rollout.postprocess import Analysis, Distribution, run_steps
from rollout.postprocess.analyze import analyze
from rollout.postprocess.filter import filter_responses
from rollout.postprocess.flatten import flatten
from rollout.records import FLAT_FIELDS, ROLLOUT_FIELDS
from tests.conftest import Rollout, chat

INPUT_FIELDS = (
    pa.field("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    pa.field("answer", pa.string()),
)


@dataclass(frozen=True)
class Row:
    """An input row and its samples: (response, finish reason, tokens), or None for one that failed."""

    samples: list[tuple[str, str, int] | None]
    answer: str | None = None
    error: str | None = None


def answered(*responses: str | None, error: str | None = None) -> Row:
    samples = [None if text is None else (text, "stop", len(text.split())) for text in responses]
    return Row(samples, error="refused" if None in responses and error is None else error)


def write_rollouts(folder: Path, rows: list[Row]) -> Path:
    written = [
        {
            "prompt": chat(f"question {row_id}"),
            "answer": row.answer,
            "row_id": row_id,
            "responses": [sample and sample[0] for sample in row.samples],
            "finish_reasons": [sample[1] if sample else "error" for sample in row.samples],
            "num_prompt_tokens": 5 if any(row.samples) else None,
            "num_generated_tokens": [sample[2] if sample else 0 for sample in row.samples],
            "seeds": [100 * row_id + index for index in range(len(row.samples))],
            "error": row.error,
            "truncated_prompt": row.answer,
        }
        for row_id, row in enumerate(rows)
    ]
    path = folder / "rollouts.parquet"
    pq.write_table(pa.Table.from_pylist(written, pa.schema([*INPUT_FIELDS, *ROLLOUT_FIELDS])), path)
    return path


def flat_rows(rows: list[Row]) -> list[dict[str, Any]]:
    """What flat.parquet has to hold."""
    return [
        {
            "prompt": chat(f"question {row_id}"),
            "answer": row.answer,
            "row_id": row_id,
            "sample_idx": index,
            "response": sample[0] if sample else None,
            "finish_reason": sample[1] if sample else "error",
            "num_prompt_tokens": 5 if any(row.samples) else None,
            "num_generated_tokens": sample[2] if sample else 0,
            "seed": 100 * row_id + index,
            "error": None if sample else row.error,
            "truncated_prompt": row.answer,
        }
        for row_id, row in enumerate(rows)
        for index, sample in enumerate(row.samples)
    ]


def about(value: float) -> Any:
    return pytest.approx(value, abs=1e-9)


def distribution(values: list[int]) -> Distribution | None:
    if not values:
        return None
    ordered = sorted(values)

    def quantile(share: float) -> float:
        below, part = divmod(share * (len(ordered) - 1), 1)
        low, high = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
        return low + part * (high - low)

    return Distribution(
        mean=about(statistics.fmean(values)),
        std=about(statistics.pstdev(values)),
        min=ordered[0],
        p50=about(quantile(0.5)),
        p90=about(quantile(0.9)),
        p99=about(quantile(0.99)),
        max=ordered[-1],
    )


def analysis_of(rows: list[Row]) -> Analysis:
    """What analyze has to find."""
    samples = [sample for row in rows for sample in row.samples]
    responses = [sample for sample in samples if sample]
    texts = [[sample[0] for sample in row.samples if sample] for row in rows]
    errors = Counter(str(row.error) for row in rows for sample in row.samples if not sample)
    reasons = Counter(reason for _, reason, _ in responses)
    return Analysis(
        rows=len(rows),
        rows_with_errors=sum(None in row.samples for row in rows),
        samples=len(samples),
        failed=samples.count(None),
        finish_reasons=dict(reasons),
        truncated_fraction=about(reasons["length"] / max(len(responses), 1)),
        empty=sum(not text.strip() for text, _, _ in responses),
        duplicates=sum(len(of_row) - len(set(of_row)) for of_row in texts),
        characters=distribution([len(text) for text, _, _ in responses]),
        tokens=distribution([tokens for _, _, tokens in responses]),
        errors=dict(errors.most_common(10)),
    )


ODD_TEXTS = ["", " ", "\n\t", "\u3000", "\x1f", "same", "Same", "é", "e\u0301", "👩‍👩‍👧", "a\x00b", "中文"]
TEXTS = st.sampled_from(ODD_TEXTS) | st.text(max_size=20)
SAMPLES = st.none() | st.tuples(TEXTS, st.sampled_from(["stop", "length"]), st.integers(0, 5000))


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    """A few different rows, repeated in some tables until they fill several batches."""
    n_samples = draw(st.integers(1, 4))
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        samples = draw(st.lists(SAMPLES, min_size=n_samples, max_size=n_samples))
        error = draw(st.sampled_from(["too long", "no role; no content", "é"])) if None in samples else None
        rows.append(Row(samples, draw(st.none() | TEXTS), error))
    return rows * draw(st.sampled_from([1, 1, 1, 1, 600]))


def read(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


@given(rows=tables())
@settings(max_examples=40, deadline=None)
def test_flatten_gives_one_row_per_sample_in_order(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("flatten")
    output = flatten(write_rollouts(folder, rows), folder)
    assert read(output) == flat_rows(rows)
    assert pq.read_schema(output) == pa.schema([*INPUT_FIELDS, *FLAT_FIELDS])


LENGTHS = st.none() | st.integers(0, 12)


@given(rows=tables(), min_length=LENGTHS, max_length=LENGTHS)
@settings(max_examples=40, deadline=None)
def test_filter_splits_the_samples_by_characters_and_loses_none(
    rows: list[Row], min_length: int | None, max_length: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def passes(response: str | None) -> bool:
        low, high = min_length or 0, 10**9 if max_length is None else max_length
        return response is not None and low <= len(response) <= high

    folder = tmp_path_factory.mktemp("filter")
    counts = filter_responses(write_rollouts(folder, rows), folder, FilterConfig(min_length, max_length))
    kept, dropped = read(folder / "filtered.parquet"), read(folder / "filtered.dropped.parquet")
    flat = flat_rows(rows)
    assert kept == [row for row in flat if passes(row["response"])]
    assert dropped == [row for row in flat if not passes(row["response"])]
    assert counts == (len(kept), len(dropped))


@given(rows=tables())
@settings(max_examples=60, deadline=None)
def test_analyze_finds_what_plain_python_finds(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("analyze")
    analysis = analyze(write_rollouts(folder, rows), folder)
    assert analysis == analysis_of(rows)
    assert json.loads((folder / "analysis.json").read_text()) == dataclasses.asdict(analysis)


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({}, ["", "four", "fives"]),
        ({"min_length": 0}, ["", "four", "fives"]),
        ({"min_length": 5}, ["fives"]),
        ({"max_length": 4}, ["", "four"]),
        ({"min_length": 4, "max_length": 4}, ["four"]),
        ({"max_length": 0}, [""]),
        ({"min_length": 6}, []),
    ],
)
def test_both_bounds_of_the_filter_belong_to_what_it_keeps(
    rules: dict[str, int], kept: list[str], tmp_path: Path
) -> None:
    rollouts = write_rollouts(tmp_path, [answered("", "four", None, "fives")])
    filter_responses(rollouts, tmp_path, FilterConfig(**rules))
    assert [row["response"] for row in read(tmp_path / "filtered.parquet")] == kept


def test_the_two_files_of_the_filter_have_the_schema_of_flat_even_when_empty(tmp_path: Path) -> None:
    filter_responses(write_rollouts(tmp_path, [answered("kept")]), tmp_path, FilterConfig(min_length=1))
    for name in ("filtered.parquet", "filtered.dropped.parquet"):
        assert pq.read_schema(tmp_path / name) == pa.schema([*INPUT_FIELDS, *FLAT_FIELDS])


def test_the_same_text_in_two_rows_is_no_duplicate(tmp_path: Path) -> None:
    rows = [answered("a", "a", "a", "b"), answered("a", "b", None, None)]
    assert analyze(write_rollouts(tmp_path, rows), tmp_path).duplicates == 2


def test_where_all_samples_failed_there_is_nothing_to_measure(tmp_path: Path) -> None:
    analysis = analyze(write_rollouts(tmp_path, [answered(None, None)]), tmp_path)
    assert (analysis.characters, analysis.tokens, analysis.truncated_fraction) == (None, None, 0.0)
    assert (analysis.samples, analysis.failed, analysis.finish_reasons) == (2, 2, {})


def test_the_ten_most_frequent_errors_are_named(tmp_path: Path) -> None:
    rows = [answered(*[None] * 12, error="common"), *[answered(*[None] * 12, error=f"rare {n}") for n in range(11)]]
    rows.append(rows[0])
    errors = analyze(write_rollouts(tmp_path, rows), tmp_path).errors
    assert len(errors) == 10
    assert next(iter(errors.items())) == ("common", 24)


@pytest.mark.parametrize(
    ("steps", "files"),
    [
        ([], []),
        (["flatten"], ["flat.parquet"]),
        (["filter"], ["filtered.dropped.parquet", "filtered.parquet"]),
        (["analyze"], ["analysis.json"]),
        (["analyze", "flatten"], ["analysis.json", "flat.parquet"]),
    ],
)
def test_only_the_steps_named_are_run(steps: list[str], files: list[str], tmp_path: Path) -> None:
    rows, output = [answered("a", None)], tmp_path / "output"
    output.mkdir()
    analysis = run_steps(write_rollouts(tmp_path, rows), output, PostprocessConfig(steps))
    assert sorted(path.name for path in output.iterdir()) == files
    assert analysis == (analysis_of(rows) if "analyze" in steps else None)


def test_a_whole_run_ends_with_its_tables(rollout: Rollout) -> None:
    run_dir = rollout(
        [{"prompt": chat(f"question {number}"), "answer": None} for number in range(5)],
        "sampling.n_samples=3",
        "postprocess.steps=[flatten,filter,analyze]",
        "postprocess.filter.min_length=60",
    )
    flat = read(run_dir / "flat.parquet")
    assert [(row["row_id"], row["sample_idx"]) for row in flat] == [
        (row, index) for row in range(5) for index in range(3)
    ]
    assert read(run_dir / "filtered.parquet") == [row for row in flat if len(row["response"]) >= 60]
    assert json.loads((run_dir / "analysis.json").read_text())["samples"] == 15


def test_prompts_too_long_to_be_repeated_at_once_are_flattened_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [answered("a", "b", "c") for _ in range(20)]
    path = write_rollouts(tmp_path, rows)
    monkeypatch.setitem(flatten.__globals__, "BATCH_BYTES", 1_000)
    flat = pq.read_table(flatten(path, tmp_path))
    assert flat.to_pylist() == flat_rows(rows)
    assert pq.read_metadata(tmp_path / "flat.parquet").num_row_groups > 3

"""The numbers of analysis.json, against the same counted in plain Python."""

import dataclasses
import statistics
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.config import AnalyzeConfig, ScoreConfig
from rollout.postprocess.analyze import MOST_GROUPS, OTHERS, Analysis, read_analysis
from rollout.postprocess.analyze import analyze as analyze_source
from rollout.postprocess.repetition import is_looping
from rollout.postprocess.source import open_source
from rollout.scoring.distribution import Distribution, Histogram, ValueCounts
from tests.postprocess.tables import Row, answered, source_of, tables

_OF_OTHERS = pa.schema([(name, pa.string()) for name in ("prompt", "response", "finish_reason")])


def analyze(folder: Path, rows: list[Row], by: str | None = None, clusters: bool = False) -> Analysis:
    return analyze_source(source_of(folder, rows), folder, AnalyzeConfig(by, clusters), ScoreConfig())


def without_errors(analysis: Analysis) -> Analysis:
    """Without the error bars, which have tests of their own."""
    return dataclasses.replace(analysis, estimates={})


def about(value: float) -> Any:
    return pytest.approx(value, abs=1e-9)


class AnyHistogram(Histogram):
    """Equal to every histogram; histograms have a test of their own."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Histogram)

    __hash__ = None  # type: ignore[assignment]


def distribution(values: list[int]) -> Distribution | None:
    if not values:
        return None
    p50, p90, p99 = (about(float(quantile)) for quantile in np.quantile(values, (0.5, 0.9, 0.99)))
    mean, std = about(statistics.fmean(values)), about(statistics.pstdev(values))
    return Distribution(mean, std, min(values), p50, p90, p99, max(values), AnyHistogram([], []))


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
        looping=0,
        characters=distribution([len(text) for text, _, _ in responses]),
        tokens=distribution([tokens for _, _, tokens in responses]),
        distinct_responses=distribution([len(set(of_row)) for of_row in texts if of_row]),
        scores=None,
        errors=dict(errors.most_common(10)),
    )


@given(rows=tables())
@settings(max_examples=60, deadline=None)
def test_analyze_finds_what_plain_python_finds(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("analyze")
    analysis = analyze(folder, rows)
    assert analysis_of(rows) == without_errors(analysis)
    assert read_analysis(folder) == analysis


@given(rows=tables())
@settings(max_examples=20, deadline=None)
def test_a_group_is_analyzed_as_if_it_were_alone(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("groups")
    analysis = analyze(folder, rows, by="answer")
    answers = {"null" if row.answer is None else row.answer for row in rows}
    assert list(analysis.groups) == sorted(answers)
    for answer, group in analysis.groups.items():
        of_group = [row for row in rows if ("null" if row.answer is None else row.answer) == answer]
        assert analysis_of(of_group) == without_errors(group)


def test_a_column_of_too_many_values_leaves_the_rest_to_one_group(tmp_path: Path) -> None:
    rows = [Row([("a", "stop", 1)], answer=f"{number:04}") for number in range(MOST_GROUPS + 20)]
    groups = analyze(tmp_path, rows, by="answer").groups
    assert len(groups) == MOST_GROUPS + 1
    assert groups[OTHERS].rows == 20


def test_the_same_text_in_two_rows_is_no_duplicate(tmp_path: Path) -> None:
    rows = [answered("a", "a", "a", "b"), answered("a", "b", None, None)]
    assert analyze(tmp_path, rows).duplicates == 2


def test_where_all_samples_failed_there_is_nothing_to_measure(tmp_path: Path) -> None:
    analysis = analyze(tmp_path, [answered(None, None)])
    assert (analysis.characters, analysis.tokens, analysis.truncated_fraction) == (None, None, 0.0)
    assert (analysis.samples, analysis.failed, analysis.finish_reasons) == (2, 2, {})


def test_the_ten_most_frequent_errors_are_named(tmp_path: Path) -> None:
    rows = [answered(*[None] * 12, error="common"), *[answered(*[None] * 12, error=f"rare {n}") for n in range(11)]]
    rows.append(rows[0])
    errors = analyze(tmp_path, rows).errors
    assert len(errors) == 10
    assert next(iter(errors.items())) == ("common", 24)


@given(chunks=st.lists(st.lists(st.integers(0, 300), min_size=1), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_quantiles_are_exact_and_every_value_is_in_one_bin(chunks: list[list[int]]) -> None:
    counts = ValueCounts()
    for chunk in chunks:
        counts.add(np.array(chunk))
    values = [value for chunk in chunks for value in chunk]
    found = counts.distribution()
    assert found == distribution(values)
    assert found is not None
    edges = found.histogram.edges
    expected = [sum(low <= value < high for value in values) for low, high in pairwise(edges)]
    assert found.histogram.counts == expected
    assert sum(expected) == len(values)


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("The answer is 4. " * 20, True),
        ("Let me see. " + "The answer is 4. " * 20 + "The ans", True),
        ("I think so" + "!" * 80, True),
        ("A long passage of more than sixty-four characters, which is said over and over again. " * 4, True),
        ("A long passage of more than sixty-four characters, which is said over and over again. " * 3, False),
        ("The answer is 4. " * 20 + "So it is 4.", False),
        ("ha ha ha ha", False),
        (" ".join(f"{number}. item" for number in range(100)), False),
        ("An ordinary answer that ends." * 1, False),
        ("", False),
        (" " * 200, False),
        ("中文重复" * 40, True),
    ],
)
def test_a_response_loops_when_it_ends_in_a_passage_said_four_times(text: str, loops: bool) -> None:
    assert is_looping(text) is loops


@given(start=st.text(max_size=50), passage=st.text(min_size=1, max_size=120), cut=st.integers(0, 119))
@settings(max_examples=200, deadline=None)
def test_every_loop_of_one_passage_is_found_wherever_it_is_cut_off(start: str, passage: str, cut: int) -> None:
    text = start + passage * (5 + 70 // len(passage)) + passage[: cut % len(passage)]
    assert is_looping(text) or text.isspace()


def test_shares_have_error_bars_over_rows_whatever_the_rows_hold(tmp_path: Path) -> None:
    rows = [
        Row([("a", "length", 1), ("a", "stop", 1), None]),
        Row([("b", "length", 1)]),
        Row([("", "stop", 1), ("c", "stop", 1)]),
        Row([None, None]),
    ]
    found = analyze(tmp_path, rows).estimates
    shares = {name: (estimate.value, estimate.n) for name, estimate in found.items()}
    assert shares == {
        "stop_fraction": (about(3 / 5), 3),
        "truncated_fraction": (about(2 / 5), 3),
        "empty_fraction": (about(1 / 5), 3),
        "duplicate_fraction": (about(1 / 5), 3),
        "looping_fraction": (0.0, 3),
        "failed_fraction": (about(3 / 8), 4),
    }
    spread = (1 - 2 * 0.4) ** 2 + (1 - 0.4) ** 2 + (2 * 0.4) ** 2
    assert found["truncated_fraction"].se == about((3 / 2 * spread) ** 0.5 / 5)


def test_a_finish_reason_that_comes_late_was_in_no_row_before(tmp_path: Path) -> None:
    rows = [Row([("a", "stop", 1)])] * 6 + [Row([("a", "abort", 1)])] * 2
    found = analyze(tmp_path, rows).estimates["abort_fraction"]
    assert (found.value, found.n) == (0.25, 8)


def test_how_responses_ended_is_told_of_those_of_which_it_is_known(tmp_path: Path) -> None:
    lines = [{"prompt": f"question {row}", "response": "yes", "finish_reason": None} for row in range(4)]
    for name, known in (("none", []), ("some", ["length", "stop", "stop"])):
        told = [{**line, "finish_reason": reason} for line, reason in zip(lines, [*known, *[None] * 4], strict=False)]
        pq.write_table(pa.Table.from_pylist(told, schema=_OF_OTHERS), tmp_path / f"{name}.parquet")
    none, some = (
        analyze_source(open_source(tmp_path / f"{name}.parquet"), tmp_path, AnalyzeConfig(), ScoreConfig())
        for name in ("none", "some")
    )
    assert (none.truncated_fraction, none.finish_reasons) == (None, {})
    assert none.estimates.keys() == {f"{name}_fraction" for name in ("empty", "duplicate", "looping", "failed")}
    assert (some.truncated_fraction, some.estimates["truncated_fraction"].n) == (about(1 / 3), 3)
    assert some.estimates["stop_fraction"].value == about(2 / 3)
    assert some.estimates["empty_fraction"].n == 4
    assert read_analysis(tmp_path) == some


def test_groups_as_clusters_count_once_each(tmp_path: Path) -> None:
    rows = [Row([("a", "length" if number < 6 else "stop", 1)], answer=str(number // 3)) for number in range(12)]
    over_rows, over_groups = (analyze(tmp_path, rows, "answer", clusters) for clusters in (False, True))
    assert (over_rows.clusters, over_groups.clusters) == ("rows", "groups")
    row_bar, group_bar = (of.estimates["truncated_fraction"] for of in (over_rows, over_groups))
    assert (row_bar.value, row_bar.n, group_bar.value, group_bar.n) == (0.5, 12, 0.5, 4)
    assert row_bar.se is not None
    assert group_bar.se == about(row_bar.se * (11 / 3) ** 0.5)
    assert {group.estimates["truncated_fraction"].n for group in over_groups.groups.values()} == {3}

"""Columns of any type: whether their values are equal, and their values as another type."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.data.arrow import cast, equal
from tests.data.odd_columns import COLUMNS

TEXT = st.none() | st.sampled_from(["", "a", "b"])
MESSAGE = st.none() | st.fixed_dictionaries({"role": TEXT, "content": TEXT})
VALUES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.string(), TEXT),
    (pa.dictionary(pa.int8(), pa.string()), TEXT),
    (pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])), st.none() | st.lists(MESSAGE, max_size=3)),
    (pa.large_list(pa.list_(pa.int64())), st.none() | st.lists(st.none() | st.lists(st.integers(0, 1), max_size=2))),
    (pa.map_(pa.string(), pa.int64()), st.none() | st.dictionaries(st.sampled_from("ab"), st.integers(0, 1))),
]


@pytest.mark.parametrize(("kind", "cells"), VALUES, ids=[str(kind) for kind, _ in VALUES])
def test_what_is_equal_in_python_is_equal_in_arrow(kind: pa.DataType, cells: st.SearchStrategy[Any]) -> None:
    @given(pairs=st.lists(st.tuples(cells, cells)))
    @settings(max_examples=60, deadline=None)
    def check(pairs: list[tuple[Any, Any]]) -> None:
        first, second = (pa.array([pair[place] for pair in pairs], kind) for place in (0, 1))
        expected = [one == other for one, other in zip(first.to_pylist(), second.to_pylist(), strict=True)]
        assert equal(first, second).tolist() == expected
        cut = len(pairs) // 2
        assert equal(first[cut:], second[cut:]).tolist() == expected[cut:]

    check()


@pytest.mark.parametrize("name", COLUMNS)
def test_every_value_equals_itself(name: str) -> None:
    column, _ = COLUMNS[name]
    assert equal(column, column).tolist() == [True] * len(column)


def test_missing_values_are_equal_to_each_other_only() -> None:
    first, second = pa.array([np.nan, np.nan, None, 1.0]), pa.array([np.nan, None, 1.0, 1.0])
    assert equal(first, second).tolist() == [True, True, False, True]


@pytest.mark.parametrize("texts", [["6", "7"], ["6.0", None, "7"], ["6e0", "70e-1"]])
def test_whole_numbers_may_be_written_as_floats(texts: list[str | None]) -> None:
    expected = [None if text is None else int(float(text)) for text in texts]
    assert cast(pa.array(texts), pa.int32()).to_pylist() == expected


@pytest.mark.parametrize("text", ["6.5", "six", "nan", "3e9", ""])
def test_what_is_no_whole_number_is_not_read_as_one(text: str) -> None:
    with pytest.raises(pa.ArrowInvalid):
        cast(pa.array(["6", text]), pa.int32())


def test_large_whole_numbers_keep_all_their_digits() -> None:
    assert cast(pa.array([str(2**63 - 1)]), pa.int64()).to_pylist() == [2**63 - 1]
    with pytest.raises(pa.ArrowInvalid):  # as floats they would be others
        cast(pa.array(["6.0", str(2**53 + 1)]), pa.int64())

"""Dotted paths into columns."""

import pyarrow as pa

from rollout.data.column_path import values_at


def test_a_column_typed_as_json_holds_what_its_text_means() -> None:
    texts = ['["a", "b"]', '"c"', "3", '{"d": 1}', None, "not JSON"]
    column = pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(texts))
    batch = pa.RecordBatch.from_arrays([column, pa.array(texts)], ["typed", "text"])
    assert values_at(batch, "typed") == [["a", "b"], "c", 3, {"d": 1}, None, None]
    assert values_at(batch, "text") == texts

"""Dotted paths into columns."""

import pyarrow as pa

from rollout.data.column_path import path_problem, values_at


def test_a_column_typed_as_json_holds_what_its_text_means() -> None:
    texts = ['["a", "b"]', '"c"', "3", '{"d": 1}', None, "not JSON"]
    column = pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(texts))
    batch = pa.RecordBatch.from_arrays([column, pa.array(texts)], ["typed", "text"])
    assert values_at(batch, "typed") == [["a", "b"], "c", 3, {"d": 1}, None, None]
    assert values_at(batch, "text") == texts


def test_the_name_of_a_field_alone_is_told_where_it_is() -> None:
    answer = pa.struct([("style", pa.string()), ("ground_truth", pa.string())])
    schema = pa.schema([("prompt", pa.string()), ("reward_model", answer), ("extra", pa.struct([("own", answer)]))])
    assert path_problem(schema, "ground_truth") == (
        "no such column, did you mean reward_model.ground_truth or extra.own.ground_truth?"
    )
    assert path_problem(schema, "truth") == "no such column, choose from extra, prompt, reward_model"

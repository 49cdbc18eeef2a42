"""A column nobody asked about never fails a run: whatever its type and values, it is kept, shown and exported."""

import csv
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.postprocess.source import open_source
from rollout.store.samples import samples_of
from tests.commands import run_command
from tests.conftest import Rollout, run_in
from tests.data.odd_columns import COLUMNS, UUID, raw_text, typed, write_odd

pytestmark = pytest.mark.long

STEPS = "postprocess.steps=[flatten,filter,analyze,export,report]"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    source = write_odd(folder / "odd.parquet")
    return run_in(folder / "run", f"data.path={source}", STEPS, "sampling.n_samples=2")


def test_every_column_is_kept_with_its_type(run_dir: Path) -> None:
    before, after = pq.read_table(run_dir.parent / "odd.parquet"), pq.read_table(run_dir / "rollouts.parquet")
    for name, column in zip(before.column_names, before.columns, strict=True):
        if "view" not in str(column.type) and name != "nan":
            assert after.column(name).equals(column), name


@pytest.mark.parametrize("name", COLUMNS)
def test_every_value_has_a_form_in_jsonl(name: str, run_dir: Path) -> None:
    first, *others = [json.loads(line) for line in (run_dir / "export.jsonl").read_text("utf-8").splitlines()]
    assert first[name] == COLUMNS[name][1]
    assert {json.dumps(row[name]) for row in others} == {json.dumps(first[name])}


def test_every_value_has_a_form_in_csv(run_dir: Path) -> None:
    done = run_in(
        run_dir.parent / "csv", f"data.path={run_dir.parent / 'odd.parquet'}", STEPS, "postprocess.export.file=e.csv"
    )
    with (done / "e.csv").open(encoding="utf-8", newline="") as file:
        first = next(csv.DictReader(file))
    assert first["uuid"] == str(UUID)
    assert json.loads(first["json in a list"]) == ['{"a": 1}']
    assert first["bool8"] == "true"
    assert first["another zone"] == "1970-01-01 00:00:00.000000Z"
    assert first["latin-1"] == "caf\ufffd"
    assert first["infinite date"] == "2147483647 (date32[day], cannot be shown)"
    assert first["far timestamp in UTC"] == "17036-07-06 14:00:27.387904Z"
    assert first["date"] == "2026-01-02"
    for name in ("duration", "nano duration"):
        assert first[name] == COLUMNS[name][1], "text, as in JSONL: a number would not say its unit"
    assert json.loads(first["time in a struct"]) == {"a": "00:00:00.000001001"}
    assert set(first) >= set(COLUMNS)


def test_every_value_is_shown_in_the_report(run_dir: Path) -> None:
    page = (run_dir / "report.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert found is not None
    row = json.loads(found[1])["rows"][0]
    assert set(row["fields"]) == set(COLUMNS)
    assert row["fields"]["infinite date"] == "2147483647 (date32[day], cannot be shown)"
    assert row["fields"]["uuid"] == str(UUID)


def postprocess(run_dir: Path, output: Path, *steps: str) -> None:
    """Do `steps` on the result in `run_dir`."""
    words = (f"input={run_dir / 'rollouts.parquet'}", f"output_dir={output}", *steps)
    done = run_command(*words, cwd=run_dir.parent, module="rollout.postprocess")
    assert done.returncode == 0, done.stderr


def test_chats_are_exported_beside_every_column(run_dir: Path) -> None:
    columns = f"postprocess.export.columns=[{','.join(json.dumps(name) for name in COLUMNS)}]"
    for number, file in enumerate(("chats.jsonl", "chats.parquet", "chats.csv")):
        output = run_dir.parent / f"chats-{number}"
        export = [
            "steps=[export]",
            "export.format=messages",
            f"export.file={file}",
            columns.removeprefix("postprocess."),
        ]
        postprocess(run_dir, output, *export)
    assert pq.read_table(run_dir.parent / "chats-1/chats.parquet").column("uuid").type == pa.uuid()


def test_a_path_leads_into_json_and_to_values_of_other_types(run_dir: Path) -> None:
    for truth in ("json.a", "uuid", "struct.a.b"):
        output = run_dir.parent / f"scores {truth}"
        score = ["steps=[score,analyze]", "score.scorer=exact_match", f"score.ground_truth={truth}"]
        postprocess(run_dir, output, *score)
        assert pq.read_table(output / "scores.parquet").column("score").null_count == 0


def test_a_function_of_the_users_gets_every_value(run_dir: Path) -> None:
    folder = run_dir.parent
    (folder / "own.py").write_text(
        "def known(response, truth, row):\n    return sum(v is not None for v in row.values())\n"
    )
    postprocess(run_dir, folder / "own", "steps=[score]", "score.scorer=own:known")
    scores = pq.read_table(folder / "own/scores.parquet").column("score").to_pylist()
    assert set(scores) == {len(COLUMNS)}  # all but the column of nulls, and the prompt


def test_the_prompt_may_be_json_or_not_utf8(tmp_path: Path, rollout: Rollout) -> None:
    chat = json.dumps([{"role": "user", "content": "hi"}])
    pq.write_table(pa.table({"prompt": typed(pa.json_(), [chat, '"hi"'])}), tmp_path / "json.parquet")
    rows = pq.read_table(run_in(tmp_path / "json", f"data.path={tmp_path / 'json.parquet'}") / "rollouts.parquet")
    assert rows.column("error").to_pylist() == [None, None]

    pq.write_table(pa.table({"prompt": raw_text(b"caf\xe9", b"q")}), tmp_path / "raw.parquet")
    done = run_in(tmp_path / "raw", f"data.path={tmp_path / 'raw.parquet'}", "data.max_error_fraction=1")
    rows = pq.read_table(done / "rollouts.parquet").select(["error"])
    assert rows.column("error").to_pylist() == ["the prompt is not UTF-8", None]
    assert [sample.prompt for sample in samples_of(done / "rollouts.parquet", "prompt", 4)][-1] == "q"


def test_responses_of_others_may_be_json_columns(tmp_path: Path) -> None:
    responses = typed(pa.json_(), ['["1", null]', "[]", "x"])
    pq.write_table(pa.table({"responses": responses}), tmp_path / "responses.parquet")
    (batch,) = open_source(tmp_path / "responses.parquet").batches()
    assert batch.column("response").to_pylist() == ["1", None, None, None]


def test_objects_with_other_keys_come_out_as_they_went_in(tmp_path: Path) -> None:
    metas = [{"x": 1}, {"y": 2}, {}, {"x": None, "z": [{"a": 1}, {"b": 2.5}]}, None]
    lines = [{"prompt": f"q{number}", "meta": meta} for number, meta in enumerate(metas)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    overrides = ["postprocess.steps=[flatten,export]", "sampling.n_samples=1", f"data.path={tmp_path / 'in.jsonl'}"]
    done = run_in(tmp_path / "run", *overrides)
    texts = pq.read_table(done / "rollouts.parquet").column("meta").to_pylist()
    assert [text and json.loads(text) for text in texts] == metas
    again = tmp_path / "again"
    for folder, export in ((done, done / "export.jsonl"), (again, again / "export.jsonl")):
        if folder == again:  # from the file instead of in one go
            run_command(
                *("input=run/flat.parquet", "output_dir=again", "steps=[export]"),
                cwd=tmp_path,
                module="rollout.postprocess",
            )
        assert [json.loads(line)["meta"] for line in export.read_text().splitlines()] == metas

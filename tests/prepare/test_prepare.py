"""`rollout.prepare`: every row is written as it should be or refused with a reason, and a run takes what comes out."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.config import DataConfig, PrepareConfig
from rollout.config.keys import field_docs
from rollout.data.prompts import open_input, read_prompts
from rollout.data.tables import BATCH_ROWS
from rollout.errors import UserError
from rollout.prepare.__main__ import Report, prepare
from rollout.prepare.chat_rows import CHATS_AS_JSON
from rollout.records import RESERVED_COLUMNS
from tests.commands import ECHO, command, run_command
from tests.conftest import chat, write_input
from tests.data.test_tables import write_lines
from tests.prepare.test_folders import write_stream
from tests.test_lifecycle import expected_responses

SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "add", "arguments": {"a": 1}}}]}


def prepared(folder: Path, source: str, **keys: Any) -> tuple[list[dict[str, Any]], Report]:
    """The rows written from `folder/source`, and the report."""
    report = prepare(PrepareConfig(str(folder / source), str(folder / "out.parquet"), overwrite=True, **keys))
    return pq.read_table(folder / "out.parquet").to_pylist(), report


def problems_of(folder: Path, source: str, **keys: Any) -> tuple[str, ...]:
    with pytest.raises(UserError) as refused:
        prepare(PrepareConfig(str(folder / source), str(folder / "out.parquet"), **keys))
    return refused.value.problems


def what_a_run_reads(path: Path, **data: Any) -> list[Any]:
    config = DataConfig(path=str(path), **data)
    return [prompt.messages for prompt in read_prompts(open_input(config), config) if prompt.error is None]


TEXTS = st.text(st.sampled_from('ab {}[]"\n\\é'), max_size=4).filter(lambda text: text.strip()[-1:] != "]")
ROWS = st.lists(
    st.none()
    | st.fixed_dictionaries(
        {
            "q": st.none() | TEXTS,
            "n": st.none() | st.integers(-(2**63), 2**63 - 1),
            "tags": st.none() | st.lists(TEXTS, max_size=2),
            "meta": st.none() | st.fixed_dictionaries({"x": st.none() | TEXTS}),
        }
    ),
    min_size=1,
    max_size=8,
)
FIELDS = ["q", "n", "tags", "meta.x"]


def cell(row: dict[str, Any], field: str) -> Any:
    return (row["meta"] or {}).get("x") if field == "meta.x" else row[field]


def chat_by_hand(row: dict[str, Any] | None, pieces: list[str], is_template: bool) -> list[Any] | str:
    """The chat of a row, or why it has none."""
    if row is None:
        return "not JSON"
    fields = [piece for piece in pieces if piece in FIELDS] if is_template else ["q"]
    for field in fields:
        if cell(row, field) is None:
            return f"{{{field}}} is null" if is_template else "the prompt is null"
    if is_template:
        values = {field: cell(row, field) for field in fields}
        texts = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in values.items()}
        text = "".join(texts.get(piece, piece) for piece in pieces)
    else:
        text = row["q"]
    return chat(text) if text.strip() else "the prompt is empty"


@pytest.mark.long
@given(
    rows=ROWS,
    pieces=st.lists(st.sampled_from([*FIELDS, "", "{", "}}", "\n", " text "]), min_size=1, max_size=5),
    is_template=st.booleans(),
    has_system=st.booleans(),
    drop_duplicates=st.booleans(),
    limit=st.none() | st.integers(1, 9),
)
@settings(max_examples=200, deadline=None)
def test_what_is_written_is_what_plain_python_makes_of_the_rows(
    rows: list[Any],
    pieces: list[str],
    is_template: bool,
    has_system: bool,
    drop_duplicates: bool,
    limit: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("random")
    typed = {"q": "?", "n": 0, "tags": ["?"], "meta": {"x": "?"}}  # so that every column has its type
    rows, pieces = [*rows, typed], [*pieces, "q"]
    lines = ["nope" if row is None else json.dumps(row) for row in rows]
    (folder / "in.jsonl").write_text("\n".join(lines))
    expected, refused, duplicates, seen = [], dict[str, int](), 0, list[Any]()
    for row in rows[:limit]:
        made = chat_by_hand(row, pieces, is_template)
        if isinstance(made, str):
            refused[made] = refused.get(made, 0) + 1
        elif drop_duplicates and made in seen:
            duplicates += 1
        else:
            seen.append(made)
            expected.append({"prompt": [SYSTEM, *made] if has_system else made, "tags": row["tags"], "n": row["n"]})
    escaped = ["{" + p + "}" if p in FIELDS else p.replace("{", "{{").replace("}", "}}") for p in pieces]
    keys: dict[str, Any] = {"template": "".join(escaped)} if is_template else {"prompt_key": "q"}
    keys |= {"keep": ["tags", "n"], "drop_duplicates": drop_duplicates, "limit": limit}
    keys["system_prompt"] = SYSTEM["content"] if has_system else None
    if not expected:
        (problem,) = problems_of(folder, "in.jsonl", **keys)
        assert "no row has a usable prompt" in problem
        assert [path.name for path in folder.iterdir()] == ["in.jsonl"]
        return
    written, report = prepared(folder, "in.jsonl", **keys)
    assert written == expected
    assert {reason: places.rows for reason, places in report.refused.items()} == refused
    assert (report.read, report.written, report.duplicates) == (len(rows[:limit]), len(expected), duplicates)


CONTENTS = st.sampled_from(["hi", "é [", None, "", [{"type": "text", "text": "hi"}], 7])
MESSAGES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": CONTENTS},
    optional={
        "name": st.sampled_from(["Ann", None]),
        "tool_calls": st.just(CALL["tool_calls"]) | st.just([]),
        "more": st.dictionaries(st.sampled_from("xy"), st.sampled_from([1, "a", {}, None]), max_size=2),
    },
)
CELLS = st.lists(st.none() | st.lists(MESSAGES, max_size=3) | st.sampled_from(["text", "[1] text", ""]), max_size=5)


@pytest.mark.long
@given(cells=CELLS, as_text=st.booleans(), system=st.none() | st.just("Be brief."))
@settings(max_examples=200, deadline=None)
def test_a_run_reads_the_same_chats_from_the_prepared_file_as_from_the_source(
    cells: list[Any], as_text: bool, system: str | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("random")
    cells = [json.dumps(c) if as_text and isinstance(c, list) else c for c in [*cells, chat("one is good")]]
    source = write_lines(folder / "in.jsonl", [{"messages": cell} for cell in cells])
    prepared(folder, "in.jsonl", prompt_key="messages", system_prompt=system)
    expected = what_a_run_reads(source, prompt_key="messages", system_prompt=system)
    assert what_a_run_reads(folder / "out.parquet") == expected


def test_fields_that_only_some_messages_have_are_columns_of_their_own_type(tmp_path: Path) -> None:
    turn = {**chat("hi")[0], "name": None}
    write_input(tmp_path / "in.parquet", [{"prompt": [turn]}, {"prompt": [*chat("1+1?"), CALL]}])
    written, report = prepared(tmp_path, "in.parquet")
    assert written[1]["prompt"][1] == {**CALL, "content": None}
    assert report.plan.chat_type.value_type.names == ["role", "content", "tool_calls"]


def test_what_parquet_has_no_form_for_is_json_in_a_chat_and_refused_as_a_column(tmp_path: Path) -> None:
    turns = [{**chat("hi")[0], "arguments": {}}]
    write_stream(tmp_path / "in", pa.Table.from_pylist([{"prompt": turns, "more": {}, "id": 1, "level": 2}]))
    assert problems_of(tmp_path, "in") == (
        "keep=more: the column holds struct<>, for which Parquet has no form; set keep=[id,level]",
    )
    assert json.loads(prepared(tmp_path, "in", keep=[])[0][0]["prompt"]) == turns


def test_chats_in_json_texts_stay_json_where_one_has_more_than_role_and_content(tmp_path: Path) -> None:
    rows = [{"prompt": json.dumps(made)} for made in [chat("hi")] * 3000 + [[*chat("1+1?"), CALL]]]
    write_input(tmp_path / "in.parquet", rows)
    written, report = prepared(tmp_path, "in.parquet", drop_duplicates=True)
    assert [json.loads(row["prompt"]) for row in written] == [chat("hi"), [*chat("1+1?"), {**CALL, "content": None}]]
    assert pq.read_schema(tmp_path / "out.parquet").field("prompt").type == CHATS_AS_JSON
    assert (report.read, report.written, report.duplicates) == (3001, 2, 2999)


def test_columns_stay_but_the_source_of_the_prompt_and_names_a_run_needs(tmp_path: Path) -> None:
    row = {"prompt": "old", "question": "hi", "error": "x", "answer": 1, "id": 2}
    write_input(tmp_path / "in.parquet", [row])
    written, report = prepared(tmp_path, "in.parquet", prompt_key="question")
    assert written == [{"prompt": chat("hi"), "answer": 1, "id": 2}]
    assert report.plan.left_out == ["prompt", "error"]
    written, _ = prepared(tmp_path, "in.parquet", template="{question}!{prompt}")
    assert written == [{"prompt": chat("hi!old"), "question": "hi", "answer": 1, "id": 2}]
    written, _ = prepared(tmp_path, "in.parquet", keep=["id", "question", "prompt"])
    assert written == [{"prompt": chat("old"), "id": 2, "question": "hi"}]
    assert list(written[0]) == ["prompt", "id", "question"]
    assert prepared(tmp_path, "in.parquet", keep=[])[0] == [{"prompt": chat("old")}]


@pytest.mark.parametrize("name", sorted(RESERVED_COLUMNS))
def test_a_name_that_a_run_needs_cannot_be_kept(name: str, tmp_path: Path) -> None:
    write_input(tmp_path / "in.parquet", [{"prompt": "hi", name: 1}])
    (problem,) = problems_of(tmp_path, "in.parquet", keep=[name])
    assert problem == (
        f"keep={name}: a run needs that name for a column of its own; rename it, or leave it out of keep"
    )


def test_rows_at_random_are_the_same_for_a_seed_and_stay_when_there_are_more(tmp_path: Path) -> None:
    rows = [{"prompt": f"{number}" if number % 3 else None, "number": number} for number in range(2 * BATCH_ROWS + 7)]
    write_input(tmp_path / "in.parquet", rows)

    def taken(limit: int, seed: int) -> tuple[list[int], str]:
        written, report = prepared(tmp_path, "in.parquet", limit=limit, seed=seed)
        assert report.read == min(limit, len(rows)) == len(written) + report.refused["the prompt is null"].rows
        return [row["number"] for row in written], str(report.refused["the prompt is null"])

    some, refused = taken(300, seed=1)
    assert some == sorted(some)
    assert some == taken(300, seed=1)[0] != taken(300, seed=2)[0]
    assert 60 < sum(number < len(rows) // 2 for number in some) < 140  # half of some 200, so from all of the input
    assert all(int(place.removeprefix("row ")) % 3 == 0 for place in refused.removesuffix(", ...").split(", "))
    assert set(some) < set(taken(600, seed=1)[0])
    assert taken(10_000, seed=1)[0] == [number for number in range(len(rows)) if number % 3]


def test_a_seed_without_a_limit_is_refused(folder: Path) -> None:
    line = "seed=1: has no use without limit, the number of rows to take; give both, or none"
    assert problems_of(folder, "questions.csv", prompt_key="question", seed=1) == (line,)


def test_the_first_rows_of_every_reason_are_named(tmp_path: Path) -> None:
    lines = ["nope", '{"prompt": "hi"}', '{"prompt": null}', '{"prompt": " "}', "[", *['{"prompt": null}'] * 9]
    (tmp_path / "in.jsonl").write_text("\n".join(["", *lines]))
    _, report = prepared(tmp_path, "in.jsonl")
    assert {reason: str(places) for reason, places in report.refused.items()} == {
        "not JSON": "line 2, line 6",
        "the prompt is null": "row 2, row 5, row 6, ...",
        "the prompt is empty": "row 3",
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with `questions.csv` and, for rows that are all refused, `empty.csv`."""
    (tmp_path / "questions.csv").write_text(
        "question,answer,row_id\nWhat is 2+2?,4,a\nWhat is 2+2?,4,b\nCapital of France?,,c\nTwice 21?,42,d\n"
    )
    (tmp_path / "empty.csv").write_text("question,answer\n,1\n ,2\n,3\n")
    (tmp_path / "there.parquet").write_bytes(b"something")
    return tmp_path


def do(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, cwd=folder, module="rollout.prepare")


OF_QUESTIONS = ["input=questions.csv", "output=o.parquet"]


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        (["questions.csv"], [
            "output: must be given; give it as the second path, or write output=...",
        ]),
        (["questions.csv", "o.parquet", "more.parquet", "templat=x"], [
            "templat: no such key, did you mean template?",
            "more.parquet: more paths than IN and OUT; put a pattern in quotes",
        ]),
        (["--input", "questions.csv", "--overwrite", "--limit=0"], [
            "--input questions.csv: no such option; write input=questions.csv",
            "--overwrite: no such option; write overwrite=true",
            "--limit=0: no such option; write limit=0",
            "limit=0: must be at least 1",
            "output: must be given; give it as the second path, or write output=...",
        ]),
        ([*OF_QUESTIONS, "limt=3", "limit=0", "overwrite=yes", "limit=1", "keep="], [
            "limt: no such key, did you mean limit?",
            "limit=0: must be at least 1",
            "overwrite=yes: must be true or false",
            "limit=1: is given twice; leave one out",
            "keep=: must have a value; write one, or leave keep out",
        ]),
        (["input=question.csv", "output=o.csv"], [
            "output=o.csv: must end in .parquet",
            "input=question.csv: no such file; check the path (it is relative to {cwd})",
        ]),
        (["input=questions.csv", "output=there.parquet", "prompt_key=question"], [
            "output=there.parquet: already exists; choose another name, or set overwrite=true",
        ]),
        (["input=questions.csv", "output=new/o.parquet", "prompt_key=question"], [
            "output=new/o.parquet: there is no folder new; make it, or choose another",
        ]),
        ([*OF_QUESTIONS, "keep=answers,row_id"], [
            "prompt_key=prompt: questions.csv has no such column, choose from answer, question, row_id, or "
            "make prompts of columns: template='{NAME} ...'",
            "keep=answers: questions.csv has no such column, did you mean answer?",
            "keep=row_id: a run needs that name for a column of its own; rename it, or leave it out of keep",
        ]),
        ([*OF_QUESTIONS, "template={qestion} {question!r} {answer:>9}", "prompt_key=question"], [
            "prompt_key=question: has no use beside a template; leave one of them out",
            "template={qestion}: no such column, did you mean question?",
            "template={question}: a column is inserted as it is; leave out what follows its name",
            "template={answer}: a column is inserted as it is; leave out what follows its name",
        ]),
        ([*OF_QUESTIONS, r"template=\boxed{} {question.__class__}"], [
            "template={}: no such column, choose from answer, question, row_id; "
            "write {{ and }} for braces that are text",
            "template={question.__class__}: no such column, did you mean question?",
        ]),
        ([*OF_QUESTIONS, "template={question"], [
            "template={question: expected '}' before end of string; write {{ and }} for braces that are text",
        ]),
        ([*OF_QUESTIONS, "template=Say hello."], [
            "template=Say hello.: names no column; write one in braces, for example {question}",
        ]),
        (["input=empty.csv", "output=there.parquet", "overwrite=true", "prompt_key=question"], [
            "input=empty.csv: no row has a usable prompt (2: the prompt is null; 1: the prompt is empty); "
            "check prompt_key or template",
        ]),
        (["input=there.parquet", "output=there.parquet"], [
            "output=there.parquet: is the input, or inside it; choose another name",
            "input=there.parquet: not a readable .parquet file (Parquet magic bytes not found in footer. Either the "
            "file is corrupted or this is not a parquet file); write it again",
        ]),
        (["input=th*.parquet", "output=there.parquet", "overwrite=true"], [
            "output=there.parquet: is the input, or inside it; choose another name",
            "input=there.parquet: not a readable .parquet file (Parquet magic bytes not found in footer. Either the "
            "file is corrupted or this is not a parquet file); write it again",
        ]),
    ],
)  # fmt: skip
def test_a_mistake_ends_in_one_line_and_changes_nothing(
    arguments: list[str], problems: list[str], folder: Path
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    done = do(folder, *arguments)
    assert done.stderr.splitlines() == [f"error: {line.replace('{cwd}', str(folder))}" for line in problems]
    assert (done.returncode, done.stdout) == (1, "")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_command_says_what_it_did(folder: Path) -> None:
    template = r"template={question}\nBy \\boxed{{}}: {answer}"
    done = do(folder, *OF_QUESTIONS, template, r"system_prompt=Be\nbrief.", "drop_duplicates=true")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "read 4 rows, wrote 2, refused 1, duplicates 1: o.parquet",
        "refused       1: {answer} is null (row 2)",
        "columns       prompt, question, answer",
        "left out      row_id: a run needs the name for a column of its own",
        r'first prompt  [{"role": "system", "content": "Be\nbrief."}, '
        r'{"role": "user", "content": "What is 2+2?\nBy \\boxed{}: 4"}]',
        "use it with   python -m rollout data.path=o.parquet",
    ]


def test_duplicates_are_not_counted_where_nobody_looks_for_them(folder: Path) -> None:
    done = do(folder, *OF_QUESTIONS, "template={question}")
    assert done.stdout.splitlines()[0] == "read 4 rows, wrote 4, refused 0: o.parquet"


def test_help_explains_every_key(folder: Path) -> None:
    shown = do(folder, "--help")
    assert shown.returncode == 0
    assert all(f"\n  {key} " in shown.stdout for key in field_docs(PrepareConfig))


def test_a_run_answers_the_prepared_rows_in_their_order(folder: Path) -> None:
    rows = [{"question": f"question {number % 70}", "number": number} for number in range(200)]
    write_lines(folder / "in.jsonl", rows)
    name = "with, odd 'name'.parquet"
    done = do(folder, "input=in.jsonl", f"output={name}", "template={question}?", "drop_duplicates=true")
    last_line = done.stdout.splitlines()[-1]
    override = subprocess.run(
        ["bash", "-c", f"printf %s {last_line.split('python -m rollout ')[1]}"], capture_output=True, text=True
    ).stdout
    run = run_command(*ECHO, override, "hydra.run.dir=run", "sampling.n_samples=3", cwd=folder)
    assert run.returncode == 0, run.stderr
    results = pd.read_parquet(folder / "run/rollouts.parquet")
    assert list(results["number"]) == list(range(70))
    expected = expected_responses([{"prompt": chat(f"question {number}?")} for number in range(70)], 3)
    assert [list(responses) for responses in results["responses"]] == expected


def test_datasets_and_pandas_read_what_is_written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert do(folder, *OF_QUESTIONS, "prompt_key=question", "system_prompt=Be brief.").returncode == 0
    chats = [[SYSTEM, *chat(text)] for text in ["What is 2+2?"] * 2 + ["Capital of France?", "Twice 21?"]]
    cache = str(tmp_path_factory.mktemp("cache"))
    loaded = datasets.load_dataset("parquet", data_files=str(folder / "o.parquet"), cache_dir=cache, split="train")
    assert loaded["prompt"][:] == chats
    assert loaded["answer"][:] == ["4", "4", None, "42"]
    assert [list(turns) for turns in pd.read_parquet(folder / "o.parquet")["prompt"]] == chats


def large(folder: Path) -> int:
    """A Parquet file with much text; the bytes of the text."""
    with pq.ParquetWriter(folder / "large.parquet", pa.schema([("prompt", pa.string())])) as writer:
        for group in range(60):
            texts = [f"{group}-{row} {'word ' * 1600}" for row in range(1000)]
            writer.write_table(pa.table({"prompt": texts}))
    return 60 * 1000 * 8000


PEAK_MEMORY = """
import re, sys
from rollout.prepare.__main__ import main
main(sys.argv[1:])
print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
"""
"""The command, then its peak memory in KiB, without what the process it was started from had (ru_maxrss has it)."""


@pytest.mark.long
def test_memory_does_not_grow_with_the_input(folder: Path) -> None:
    size, peaks = large(folder), []
    for limit in ("limit=1", "limit=null"):
        keys = ["input=large.parquet", "output=o.parquet", "overwrite=true", limit]
        line = [sys.executable, "-c", PEAK_MEMORY, *keys]
        done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]) * 1024)
    assert peaks[1] - peaks[0] < size / 2


@pytest.mark.long
def test_a_full_disk_is_one_line_and_leaves_nothing(folder: Path) -> None:
    large(folder)
    line = command("input=large.parquet", "output=there.parquet", "overwrite=true", module="rollout.prepare")
    limit = (1 << 16, 1 << 16)
    done = subprocess.run(
        line, cwd=folder, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "error: output=there.parquet: the disk is full (File too large); free some space\n"
    assert (folder / "there.parquet").read_bytes() == b"something"
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_half_written(signum: signal.Signals, code: int, folder: Path) -> None:
    large(folder)
    line = command("input=large.parquet", "output=o.parquet", module="rollout.prepare")
    with subprocess.Popen(line, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        while not list(folder.glob(".o.parquet.partial")):
            assert process.poll() is None
        process.send_signal(signum)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (code, "")
    assert not list(folder.glob("*o.parquet*"))
    assert not list(folder.glob(".o.parquet*"))

"""Generating rows of a run again: what is the same is counted, what differs is shown, the run's files stay."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.records import Sample, failed_sample
from rollout.verify.compare import Comparison, Difference, difference
from rollout.verify.regenerate import is_chosen
from tests.commands import ECHO, command, run_command, verify
from tests.conftest import chat, write_input

pytestmark = pytest.mark.long

BAD: list[dict[str, Any]] = [{"prompt": None}, {"prompt": chat("please refuseme")}]
ROWS: list[dict[str, Any]] = [*({"prompt": chat(f"question {number}")} for number in range(48)), *BAD]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 50 rows, two of which failed, 3 samples each."""
    folder = tmp_path_factory.mktemp("verify")
    write_input(folder / "input.parquet", ROWS)
    settings = ("sampling.n_samples=3", "engine.echo.refuse_word=refuseme", "engine.echo.max_steps=5")
    files = ("data.path=input.parquet", "hydra.run.dir=run")
    result = run_command(*ECHO, *settings, *files, "sampling.logprobs=raw", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def tampered(result: Path, row_id: int, **changes: Any) -> None:
    """Change cells of one row of a rollouts.parquet."""
    table = pq.read_table(result)
    rows = table.to_pylist()
    rows[row_id] |= changes
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), result)


@pytest.mark.parametrize(
    ("arguments", "count"),
    [((), 32), (("rows=all",), 50), (("rows=7",), 7), (("rows=1000", "hardware.max_num_seqs=1"), 50)],
    ids=["default", "all", "few", "more than there are, one at a time"],
)
def test_an_untouched_run_matches_in_full_and_nothing_in_it_changes(
    arguments: tuple[str, ...], count: int, original: Path
) -> None:
    before = contents(original)
    result = verify("run", *arguments, cwd=original)
    assert result.returncode == 0, result.stderr
    assert f"verifying run: {count} of 50 rows\n" in result.stdout
    assert result.stdout.endswith(f"\n{3 * count} of {3 * count} samples match (100.0%)\n")
    assert "not as in the run" not in result.stdout
    assert contents(original) == before


def test_a_tampered_response_is_shown_where_it_parts_ways(copy: Path) -> None:
    rows = pq.read_table(copy / "run/rollouts.parquet").to_pylist()
    responses = rows[20]["responses"]
    changed = [responses[0], responses[1][:12] + "#" + responses[1][13:], responses[2]]
    tampered(copy / "run/rollouts.parquet", 20, responses=changed)
    tampered(copy / "run/rollouts.parquet", 21, responses=[*rows[21]["responses"][:2], None])
    tampered(copy / "run/rollouts.parquet", 22, finish_reasons=["length"] * 3)
    ids = rows[23]["response_token_ids"]
    tampered(copy / "run/rollouts.parquet", 23, response_token_ids=[ids[0], [*ids[1][:-1], 7], ids[2]])
    tampered(copy / "run/rollouts.parquet", 24, prompt_token_ids=[1, *rows[24]["prompt_token_ids"][1:]])
    result = verify("run", "rows=all", cwd=copy)
    assert result.returncode == 1
    assert f"row 20, sample 1: differs at character 12\n  recorded     '#{responses[1][13:25]}" in result.stdout
    assert f"  regenerated  '{responses[1][12:25]}" in result.stdout
    assert "row 21, sample 2: differs at character 0\n  recorded     'no response'\n" in result.stdout
    assert "row 22, sample 0: differs at character " in result.stdout
    assert "recorded     'length after " in result.stdout
    assert f"row 23, sample 1: differs at token {len(ids[1]) - 1}\n  recorded     '7'\n" in result.stdout
    assert "row 24, sample 2: differs at token of the prompt 0\n  recorded     '1 " in result.stdout
    assert "\n141 of 150 samples match (94.0%)\nthe run is exact: A replay on the CPU " in result.stdout


def test_only_the_first_differences_are_shown_and_the_rest_is_counted(copy: Path) -> None:
    edit = json.loads((copy / "run/run.json").read_text())
    config = copy / "run/.hydra/config.yaml"
    config.write_text(config.read_text().replace("seed: 42", "seed: 43"))
    edit["reproducibility"] = {"level": "seeded", "means": "Many responses again."}
    edit["provenance"]["packages"]["torch"] = "1.0"
    (copy / "run/run.json").write_text(json.dumps(edit))
    result = verify("run", "rows=all", cwd=copy)
    assert result.returncode == 1
    shown = [line for line in result.stdout.splitlines() if line.startswith("row ")]
    assert [line.partition(":")[0] for line in shown[:4]] == [
        "row 0, sample 0",
        "row 0, sample 1",
        "row 0, sample 2",
        "row 1, sample 0",
    ]
    assert len(shown) == 10
    assert "\n... and 134 more\n6 of 150 samples match (4.0%)\n" in result.stdout  # the two rows that fail are the same
    assert "warning: not as in the run: torch 1.0 -> " in result.stdout
    assert result.stdout.endswith("the run is seeded: Many responses again.\n")


def test_the_input_may_have_moved_but_must_be_the_runs(copy: Path) -> None:
    config = copy / "run/.hydra/config.yaml"
    lines = [line for line in config.read_text().splitlines() if "input.parquet" not in line]
    config.write_text("\n".join(lines).replace("data:", f"data:\n  path: {copy}/gone.parquet"))
    gone = verify("run", cwd=copy)
    assert gone.returncode == 1
    assert gone.stderr.startswith(f"error: data.path={copy}/gone.parquet: no such file")
    assert verify("run", "data.path=input.parquet", cwd=copy).returncode == 0
    write_input(copy / "other.parquet", ROWS[:-1])
    other = verify("run", "data.path=other.parquet", cwd=copy)
    assert other.stderr == "error: data.path=other.parquet: 49 rows, and the run has 50; give the run's input\n"
    write_input(copy / "changed.parquet", [{"prompt": chat("changed")}, *ROWS[1:]])
    changed = verify("run", "data.path=changed.parquet", "rows=all", cwd=copy)
    assert changed.returncode == 1
    assert "warning: not as in the run: input content blake2b:" in changed.stdout
    assert "147 of 150 samples match (98.0%)" in changed.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: not a run folder"),
        (["run", "rows=0"], "rows=0: must be a whole number of at least 1, or all"),
        (["run", "rows=some"], "rows=some: must be a whole number of at least 1, or all"),
        (["run", "sampling.seed=1"], "sampling.seed=1: the run is verified as it was made; leave it out"),
        (["run", "hydra.run.dir=x"], "hydra.run.dir=x: the run is verified as it was made; leave it out"),
        (["run", "hardware=fast"], "hardware=fast: no such preset"),
        (["run", "hardware.max_num_seqs=0"], "hardware.max_num_seqs=0: must be at least 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, original: Path) -> None:
    result = verify(*arguments, cwd=original)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {message}")


def test_a_scorer_of_the_run_is_not_needed(copy: Path) -> None:
    config = copy / "run/.hydra/config.yaml"
    scored = "steps: [score]\n  score:\n    scorer: nowhere:score\n"
    config.write_text(re.sub(r"(?m)^postprocess:\n(?: .*\n)*", f"postprocess:\n  {scored}", config.read_text()))
    assert "nowhere:score" in config.read_text()
    assert verify("run", cwd=copy).returncode == 0


def test_a_run_without_a_readable_result_is_one_line(copy: Path) -> None:
    result = copy / "run/rollouts.parquet"
    content = result.read_bytes()
    result.write_bytes(content[:-9])
    line = "error: run/rollouts.parquet: cannot be read; write it again with `python -m rollout resume run`\n"
    assert verify("run", cwd=copy).stderr == line
    pq.write_table(pq.read_table(copy / "run/flat.parquet").drop(["error"]), result)
    assert "has no column error; delete it and `python -m rollout resume run`" in verify("run", cwd=copy).stderr
    table = pq.read_table(pa.BufferReader(content))
    position, kind = table.schema.names.index("responses"), table.schema.field("responses").type
    pq.write_table(table.set_column(position, pa.field("responses", kind), pa.nulls(len(table), kind)), result)
    assert "row 0 has not the run's" in verify("run", cwd=copy).stderr
    result.unlink()
    assert verify("run", cwd=copy).stderr == (
        "error: run/rollouts.parquet: there is no result yet; finish the run with `python -m rollout resume run`\n"
    )


def test_ctrl_c_ends_it_with_130_and_leaves_nothing(copy: Path) -> None:
    config = copy / "run/.hydra/config.yaml"
    config.write_text(config.read_text().replace("step_seconds: 0.0", "step_seconds: 0.2"))
    environment = os.environ | {"TMPDIR": str(copy), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command("run", "hardware.max_num_seqs=1", module="rollout.verify"),
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "sampling:" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert not list(copy.glob("rollout-verify-*"))


def test_an_engine_that_dies_is_one_line_and_its_log_is_there_to_read(copy: Path) -> None:
    config = copy / "run/.hydra/config.yaml"
    config.write_text(config.read_text().replace("die_after: null", "die_after: 5"))
    result = verify("run", cwd=copy)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: the engine died (")
    log = Path(line.partition("; see ")[2].partition(",")[0])
    assert "verifying run" in log.read_text()
    shutil.rmtree(log.parent)


@given(rows=st.integers(1, 40), total=st.integers(1, 200))
def test_the_rows_are_spread_evenly(rows: int, total: int) -> None:
    rows = min(rows, total)
    chosen = {row_id for row_id in range(total) if is_chosen(row_id, rows, total)}
    assert chosen == {place * total // rows for place in range(rows)}
    assert len(chosen) == rows


def row_of(
    response: str | None, finish_reason: str = "stop", tokens: int = 3, error: str | None = None
) -> dict[str, Any]:
    return {
        "responses": [response],
        "finish_reasons": [finish_reason],
        "num_generated_tokens": [tokens],
        "error": error,
    }


@given(recorded=st.text("ab", max_size=60), regenerated=st.text("ab", max_size=60))
def test_a_difference_begins_where_the_common_prefix_ends(recorded: str, regenerated: str) -> None:
    found = difference(Sample(4, 0, 1, regenerated, "stop", 1, 3), row_of(recorded))
    if recorded == regenerated:
        assert found is None
    else:
        assert found is not None
        assert recorded[: found.offset] == regenerated[: found.offset]
        assert recorded[found.offset :][:1] != regenerated[found.offset :][:1]
        for shown, text in ((found.recorded, recorded), (found.regenerated, regenerated)):
            rest = text[found.offset :]
            assert shown == rest if len(rest) <= 40 else (shown[:37] == rest[:37] and len(shown) == 40)


def test_equal_texts_with_another_end_or_length_differ() -> None:
    found = difference(Sample(4, 0, 1, "abc", "stop", 1, 3), row_of("abc", "length", 2))
    assert found == Difference(4, 0, 3, "length after 2 tokens", "stop after 3 tokens")


def test_failed_samples_are_the_same_when_they_failed_for_the_same_reason() -> None:
    row = row_of(None, "error", 0, "too long; refused")
    assert difference(failed_sample(4, 0, 1, "refused"), row) is None
    assert difference(failed_sample(4, 0, 1, "null"), row) == Difference(
        4, 0, 0, "failed: too long; refused", "failed: null"
    )
    answered = difference(Sample(4, 0, 1, "abc", "stop", 1, 3), row)
    assert answered == Difference(4, 0, 0, "failed: too long; refused", "abc")


@given(st.permutations(range(30)))
def test_the_first_differences_are_kept_in_whatever_order_samples_finish(order: list[int]) -> None:
    found = Comparison()
    for number in order:
        found.add(Difference(number // 3, number % 3, 0, "", "") if number % 2 else None)
    assert (found.samples, found.matches) == (30, 15)
    assert [(one.row_id, one.sample_idx) for one in found.differences] == [
        (number // 3, number % 3) for number in range(1, 20, 2)
    ]


def test_a_share_is_never_rounded_up_to_all() -> None:
    shares = Counter(Comparison(10_000, matches).share() for matches in (0, 9_999, 10_000))
    assert shares == Counter(["0.0%", "99.9%", "100.0%"])

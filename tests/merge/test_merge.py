"""The shards of a job array as one result: the file that a run of the whole input writes, or a line saying why not."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollout.config import ScoreConfig
from rollout.errors import UserError
from rollout.merge.__main__ import merge as merge_runs
from rollout.postprocess.score import score_responses
from rollout.postprocess.source import open_source
from rollout.store.layout import MERGED, OUTPUT, SCORES
from tests.commands import ECHO, merge, resume, run_command
from tests.conftest import chat, run_in, write_input
from tests.in_process import run_here

pytestmark = pytest.mark.long

WORDS = [{"prompt": chat(f"question {number}"), "number": number} for number in range(40)]


def run_shards(folder: Path, num_shards: int, *overrides: str, name: str = "shards") -> list[Path]:
    """The folders of finished runs, one for each shard."""
    shard = [f"data.num_shards={num_shards}", "postprocess=none", *overrides]
    return [run_in(folder / name / str(i), *shard, f"data.shard_index={i}") for i in range(num_shards)]


def write_table(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path, row_group_size=700)
    return path


def write_lines(path: Path, num_rows: int) -> Path:
    """Chats as lists in JSON, whose types Arrow infers, and lines that hold no row."""
    rows = [{"prompt": chat(f"question {row}"), "tags": [row, None], "more": {"a": None}} for row in range(num_rows)]
    path.write_text("\n".join("nope" if row % 90 == 5 else json.dumps(cells) for row, cells in enumerate(rows)) + "\n")
    return path


def write_words(path: Path, num_rows: int) -> Path:
    path.write_text("prompt,answer\n" + "".join(f"question {row},{row}\n" for row in range(num_rows)))
    return path


def inputs(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Inputs, each with overrides of its own."""
    prompts = pa.array([None if row % 90 == 7 else f"question {row}" for row in range(2500)])
    numbers = pa.array(range(2500), pa.uint64())
    yield write_table(folder / "a.parquet", pa.table({"prompt": prompts, "number": numbers})), []
    yield folder / "a.parquet", ["data.limit=2040", "data.drop_columns=[number]"]
    yield write_lines(folder / "b.jsonl", 1100), ["sampling.n_samples=2"]
    yield write_words(folder / "c.csv", 1100), ["sampling.n_samples=1", "engine.echo.refuse_word=77"]


@pytest.mark.parametrize("which", range(4), ids=["parquet", "limit", "jsonl", "csv"])
@pytest.mark.parametrize("num_shards", [2, pytest.param(7, marks=pytest.mark.long)])
def test_the_merged_file_is_the_one_of_an_unsharded_run(num_shards: int, which: int, tmp_path: Path) -> None:
    path, overrides = list(inputs(tmp_path))[which]
    arguments = [f"data.path={path}", "sampling.n_samples=3", "engine.echo.max_steps=5", *overrides]
    whole = run_in(tmp_path / "whole", *arguments, "postprocess=none")
    merge_runs(run_shards(tmp_path, num_shards, *arguments), tmp_path / "merged")
    merged, expected = pq.read_table(tmp_path / "merged" / OUTPUT), pq.read_table(whole / OUTPUT)
    assert merged.schema.equals(expected.schema, check_metadata=True)
    assert merged.equals(expected)
    assert (tmp_path / "merged" / OUTPUT).read_bytes() == (whole / OUTPUT).read_bytes()
    totals = json.loads((whole / "run.json").read_text())["totals"]
    assert json.loads((tmp_path / "merged" / MERGED).read_text())["totals"] == totals


def test_categories_of_several_row_groups_are_merged(tmp_path: Path) -> None:
    kinds = pa.array([f"kind {row // 300}" for row in range(1500)]).dictionary_encode()
    prompts = pa.array([f"question {row}" for row in range(1500)])
    path = write_table(tmp_path / "input.parquet", pa.table({"prompt": prompts, "kind": kinds}))
    merge_runs(run_shards(tmp_path, 4, f"data.path={path}"), tmp_path / "merged")
    merged = pq.read_table(tmp_path / "merged" / OUTPUT)
    assert merged.schema.field("kind").type == kinds.type
    assert merged.column("kind").to_pylist() == kinds.to_pylist()


@pytest.mark.parametrize(("cell", "n_samples"), [("word " * 10, 20), ("".join(map(chr, range(256, 1256))), 1)])
def test_long_responses_and_wide_rows_are_merged_in_pieces(
    cell: str, n_samples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": "hi", "wide": f"{row}{cell}"} for row in range(300)]
    source = write_input(tmp_path / "input.parquet", rows)
    arguments = [f"data.path={source}", f"sampling.n_samples={n_samples}"]
    folders = run_shards(tmp_path, 3, *arguments)
    expected = pq.read_table(run_in(tmp_path / "whole", *arguments) / OUTPUT)
    for module in ("store.finalize", "data.tables", "merge.results"):
        monkeypatch.setattr(f"rollout.{module}.BATCH_BYTES", 40_000)
    merge_runs(folders, tmp_path / "merged")
    assert pq.read_table(tmp_path / "merged" / OUTPUT).equals(expected)
    about = pq.read_metadata(tmp_path / "merged" / OUTPUT)
    assert max(about.row_group(number).num_rows for number in range(about.num_row_groups)) <= 40


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished job array of three runs, in the folder `shards`."""
    folder = tmp_path_factory.mktemp("merge")
    source = write_input(folder / "input.parquet", WORDS)
    run_shards(folder, 3, f"data.path={source}", "sampling.n_samples=2")
    return folder


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def edit(run_dir: Path, **changes: Any) -> None:
    """Change values of a run.json; a double underscore leads into a dictionary."""
    manifest = json.loads((run_dir / "run.json").read_text())
    for path, value in changes.items():
        *parents, key = path.split("__")
        place = manifest
        for parent in parents:
            place = place[parent]
        place[key.replace("_DOT_", ".")] = value
    (run_dir / "run.json").write_text(json.dumps(manifest))


def refused(folder: Path, *arguments: str) -> list[str]:
    """The lines of a merge that is refused and writes nothing."""
    result = merge(*arguments, "output=merged", cwd=folder)
    assert (result.returncode, result.stdout) == (1, "")
    assert not (folder / "merged" / OUTPUT).exists()
    return [line.removeprefix("error: ") for line in result.stderr.splitlines()]


def test_what_was_merged_is_said_on_screen_and_in_a_file(copy: Path) -> None:
    result = merge("shards/1", "shards/0", "shards/2", "output=a/b c", cwd=copy)
    assert result.returncode == 0, result.stderr
    first, totals, following = result.stdout.splitlines()
    assert first == "merged 3 shards: a/b c/rollouts.parquet"
    assert totals.startswith("40 rows, 80 samples, 0 failed, ")
    about = json.loads((copy / "a/b c/merge.json").read_text())
    assert [(shard["shard_index"], shard["totals"]["rows"]) for shard in about["shards"]] == [(0, 13), (1, 13), (2, 14)]
    assert about["shards"][1]["run_dir"] == str(copy / "shards/1")
    assert (about["digest"]["data.num_shards"], about["config"]["data"]["num_shards"]) == (1, 1)
    assert about["config"]["sampling"]["n_samples"] == 2

    module, *arguments = shlex.split(following.partition("python -m ")[2])
    shown = run_command(*arguments, "output=analysis.json", cwd=copy, module=module)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads((copy / "analysis.json").read_text())["rows"] == 40


def test_the_last_folder_is_the_one_that_is_written(copy: Path) -> None:
    assert merge("shards/0", "shards/1", "shards/2", "-a=b", cwd=copy).returncode == 0
    assert run_command("merge", "shards", "~c", cwd=copy).returncode == 0
    assert (copy / "-a=b" / OUTPUT).read_bytes() == (copy / "~c" / OUTPUT).read_bytes()
    assert "has .hydra in it already" in merge("shards/0", "shards/1", cwd=copy).stderr
    assert merge("shards", "--output=x", cwd=copy).stderr.splitlines() == [
        "error: --output: no such key, did you mean output?",
        "error: output: must be given; give it as the last path, or write output=FOLDER",
    ]


def test_a_folder_of_runs_stands_for_them_and_the_runs_do_not_change(copy: Path) -> None:
    (copy / "shards/notes").mkdir()
    before = {path: path.read_bytes() for path in (copy / "shards").rglob("*") if path.is_file()}
    assert merge("shards", "output=merged", cwd=copy).returncode == 0
    assert sorted(path.name for path in (copy / "merged").iterdir()) == [MERGED, OUTPUT]
    assert before == {path: path.read_bytes() for path in (copy / "shards").rglob("*") if path.is_file()}


def test_scores_are_merged_and_the_rewards_with_them(tmp_path: Path) -> None:
    source = write_input(tmp_path / "input.parquet", WORDS)
    scored = (
        "postprocess.steps=[score]",
        "postprocess.score.scorer=regex",
        "postprocess.score.pattern='echo .*[02468] word'",
    )
    given = (f"data.path={source}", "store.token_ids=true", "adaptive=first_pass", "sampling.n_samples=4", *scored)
    folders = run_shards(tmp_path, 3, *given)
    whole = run_in(tmp_path / "whole", *given)
    merged = tmp_path / "merged"
    merge_runs(folders[::-1], merged)
    assert pq.read_table(merged / SCORES).equals(pq.read_table(whole / SCORES))
    assert set(pq.read_table(merged / SCORES).column("score").to_pylist()) == {0.0, 1.0}
    assert pq.read_schema(merged / SCORES).equals(pq.read_schema(whole / SCORES), check_metadata=True)
    for name in ("merged", "whole"):
        assert run_here("export", name, f"{name}.jsonl", "format=tokens", cwd=tmp_path).returncode == 0
    assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def left_out(shards: Path) -> str:
    (warning, *_) = merge(str(shards), "output=merged", cwd=shards.parent).stdout.splitlines()
    assert not (shards.parent / "merged" / SCORES).exists()
    return warning


def test_scores_of_some_shards_or_made_otherwise_are_left_out_with_a_warning(copy: Path) -> None:
    folder = copy / "shards"
    of_all = [open_source(folder / number / OUTPUT) for number in "012"]
    score_responses(of_all[0], folder / "0", ScoreConfig("exact_match", "number"))
    said = "warning: the scores are left out: {}; score the merge, or the shards alike"
    assert left_out(folder) == said.format("there are none in shards/1 and shards/2")
    (copy / "merged" / OUTPUT).unlink()  # as if it had been killed
    (copy / "merged" / SCORES).write_text("of that one")
    score_responses(of_all[1], folder / "1", ScoreConfig("exact_match", "number"))
    score_responses(of_all[2], folder / "2", ScoreConfig("exact_match", "row_id"))
    assert left_out(folder) == said.format("made otherwise in shards/2")
    shutil.rmtree(copy / "merged")
    shutil.copy(folder / "2" / SCORES, folder / "1" / SCORES)
    assert left_out(folder) == said.format("not those of all responses in shards/1")


def test_a_merge_loads_no_heavy_package(copy: Path) -> None:
    trace = [sys.executable, "-X", "importtime", "-m", "rollout.merge", "shards", "output=merged"]
    result = subprocess.run(trace, cwd=copy, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "pyarrow" in imported
    assert not imported & {"vllm", "torch", "transformers", "wandb", "pandas", "matplotlib"}


def test_shards_of_other_machines_are_merged_with_a_warning(copy: Path) -> None:
    manifest = json.loads((copy / "shards/2/run.json").read_text())
    manifest["provenance"]["packages"]["torch"] = "1.0"
    (copy / "shards/2/run.json").write_text(json.dumps(manifest))
    table = pq.read_table(copy / "shards/2" / OUTPUT)
    metadata = table.schema.metadata | {b"rollout.version.torch": b"1.0"}
    pq.write_table(table.replace_schema_metadata(metadata), copy / "shards/2" / OUTPUT)
    result = merge("shards", "output=merged", cwd=copy)
    assert result.returncode == 0, result.stderr
    warning = result.stdout.splitlines()[0]
    assert warning.startswith("warning: not the same in all shards: torch ")
    assert warning.endswith(" -> 1.0 (in shards/2)")
    footer = pq.read_schema(copy / "merged" / OUTPUT).metadata
    assert b"rollout.version.torch" not in footer
    assert b"rollout.version.pyarrow" in footer


@pytest.mark.parametrize(
    ("folders", "lines"),
    [
        (
            ["shards/0", "shards/2"],
            [
                "data.shard_index=1: missing, with data.num_shards=3; run what is missing, or give its folder too",
            ],
        ),
        (
            ["shards/2"],
            ["data.shard_index=0,1: missing, with data.num_shards=3; run what is missing, or give its folder too"],
        ),
        (
            ["shards", "shards/1"],
            ["data.shard_index=1: in shards/1 and shards/1; leave out all but one"],
        ),
        (
            ["shards/0", "shards/0", "shards/1"],
            [
                "data.shard_index=2: missing, with data.num_shards=3; run what is missing, or give its folder too",
                "data.shard_index=0: in shards/0 and shards/0; leave out all but one",
            ],
        ),
        (
            ["shards", "nowhere", "input.parquet"],
            [
                "nowhere: not a run folder (no readable run.json in it); give the folder of a run",
                "input.parquet: not a run folder (no readable run.json in it); give the folder of a run",
            ],
        ),
        (["shards", "outptu=x"], ["outptu: no such key, did you mean output?"]),
        (
            ["shards", "output=x"],
            ["output=x,merged: must be given once; give it as the last path, or write output=FOLDER"],
        ),
        ([], ["RUN_DIR: no runs to merge; give their folders, or the folder that holds them"]),
    ],
)
def test_shards_that_are_not_there_exactly_once_are_refused(folders: list[str], lines: list[str], copy: Path) -> None:
    assert refused(copy, *folders) == lines


def test_a_merge_is_a_folder_and_no_file(copy: Path) -> None:
    result = merge("shards", "out.parquet", cwd=copy)
    cure = "is the name of a file, a merge is a folder; leave .parquet out"
    assert result.stderr == f"error: output=out.parquet: {cure}\n"
    assert not (copy / "out.parquet").exists()


def test_another_experiment_is_refused_with_every_key_and_both_values(copy: Path) -> None:
    edit(copy / "shards/1", digest__sampling_DOT_seed=43, digest__sampling_DOT_stop=["x"])
    cure = "merge the shards of one run only"
    assert refused(copy, "shards") == [
        f"sampling.seed=43: in shards/1, and 42 in others; {cure}",
        f"sampling.stop=['x']: in shards/1, and [] in others; {cure}",
    ]


def test_other_numbers_of_samples_rows_and_shards_are_refused(copy: Path) -> None:
    edit(copy / "shards/0", config__sampling__n_samples=4, config__data__limit=30, digest__data_DOT_num_shards=2)
    cure = "merge the shards of one run only"
    assert refused(copy, "shards") == [
        f"data.limit=30: in shards/0, and None in others; {cure}",
        f"data.num_shards=2: in shards/0, and 3 in others; {cure}",
        "sampling.n_samples=4: in shards/0, and 2 in others; give all as many with `python -m rollout resume`",
    ]


def test_runs_that_are_not_shards_are_refused(copy: Path) -> None:
    for shard in "012":
        edit(copy / f"shards/{shard}", digest__data_DOT_num_shards=1, digest__data_DOT_shard_index=0)
    assert refused(copy, "shards") == [
        "data.shard_index=0: in shards/0, shards/1 and shards/2; leave out all but one",
    ]


def test_every_shard_that_is_not_finished_is_named_with_the_command_that_does_it(copy: Path) -> None:
    edit(copy / "shards/0", status="running")
    edit(copy / "shards/1", status="failed")
    (copy / "shards/2" / OUTPUT).unlink()
    assert refused(copy, "shards") == [
        "shards/0: not finished, its status is killed; finish the run with `python -m rollout resume shards/0`",
        "shards/1: not finished, its status is failed; finish the run with `python -m rollout resume shards/1`",
        "shards/2: has no rollouts.parquet; write it again with `python -m rollout resume shards/2`",
    ]
    assert resume("shards/2", cwd=copy).returncode == 0
    assert len(refused(copy, "shards")) == 2


def test_results_that_are_not_as_their_run_wrote_them_are_refused(copy: Path) -> None:
    table = pq.read_table(copy / "shards/1" / OUTPUT)
    pq.write_table(table.replace_schema_metadata({}), copy / "shards/0" / OUTPUT)
    pq.write_table(table.drop_columns(["number"]), copy / "shards/1" / OUTPUT)
    (copy / "shards/2" / OUTPUT).write_bytes(b"PAR1")
    lines = refused(copy, "shards")
    assert len(lines) == 3
    assert lines[0] == (
        "shards/0/rollouts.parquet: not the file that the run has written; delete it, then "
        "`python -m rollout resume shards/0`"
    )
    assert lines[1].startswith("shards/1/rollouts.parquet: its columns are not those of shards/0/rollouts.parquet; ")
    assert lines[2].startswith("rollouts.parquet=shards/2/rollouts.parquet: not a readable .parquet file")


def test_a_row_out_of_place_ends_the_merge_and_mended_it_can_be_repeated(copy: Path) -> None:
    path = copy / "shards/1" / OUTPUT
    table = pq.read_table(path)
    pq.write_table(table.take([1, 0, *range(2, 13)]), path)
    assert refused(copy, "shards") == [
        "shards/1/rollouts.parquet: its row_ids do not go on with 13; delete it, then "
        "`python -m rollout resume shards/1`"
    ]
    shutil.copy(copy / "shards/0" / OUTPUT, path)
    assert refused(copy, "shards")[0].startswith("shards/1/rollouts.parquet: not the file that the run has written; ")
    path.unlink()
    assert resume("shards/1", cwd=copy).returncode == 0
    assert merge("shards", "output=merged", cwd=copy).returncode == 0


def test_a_last_shard_that_has_lost_rows_is_refused(copy: Path) -> None:
    path = copy / "shards/2" / OUTPUT
    pq.write_table(pq.read_table(path).slice(0, 13), path)
    (line,) = refused(copy, "shards")
    assert line.startswith("shards/2/rollouts.parquet: has 13 rows, and the run has 14; delete it, then ")


def test_an_output_that_is_there_is_left_as_it_is(copy: Path) -> None:
    (copy / "file").touch()
    (copy / "empty").mkdir()
    for output, problem in (
        ("file", "output=file: is a file; choose a folder"),
        ("shards/0", "output=shards/0: has .hydra in it already; choose another folder"),
    ):
        result = merge("shards", f"output={output}", cwd=copy)
        assert (result.returncode, result.stderr) == (1, f"error: {problem}\n")
    assert merge("shards", "output=empty", cwd=copy).returncode == 0
    assert "has rollouts.parquet in it already" in merge("shards", "output=empty", cwd=copy).stderr


def test_a_run_that_is_all_of_the_input_merges_to_itself(copy: Path) -> None:
    run_in(copy / "whole", f"data.path={copy}/input.parquet")
    merge_runs([copy / "whole"], copy / "merged")
    assert (copy / "merged" / OUTPUT).read_bytes() == (copy / "whole" / OUTPUT).read_bytes()


def test_shards_with_more_samples_merge_to_a_run_with_more_samples(copy: Path) -> None:
    for shard in "01":
        assert resume(f"shards/{shard}", "sampling.n_samples=5", cwd=copy).returncode == 0
    assert refused(copy, "shards") == [
        "sampling.n_samples=2: in shards/2, and 5 in others; give all as many with `python -m rollout resume`"
    ]
    assert resume("shards/2", "sampling.n_samples=5", cwd=copy).returncode == 0
    merge_runs([copy / "shards"], copy / "merged")
    run_in(copy / "whole", f"data.path={copy}/input.parquet", "sampling.n_samples=5")
    assert pq.read_table(copy / "merged" / OUTPUT).equals(pq.read_table(copy / "whole" / OUTPUT))


def test_a_disk_that_is_full_leaves_no_result(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", full)
    with pytest.raises(UserError, match=r"^output=.*: the disk is full \(No space left on device\); free some"):
        merge_runs([copy / "shards"], copy / "merged")
    assert not (copy / "merged" / OUTPUT).exists()


@pytest.mark.long
def test_a_job_array_through_submitit_ends_in_one_file(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    write_input(tmp_path / "input.parquet", WORDS)
    common = [*ECHO, "data.path=input.parquet", "sampling.n_samples=3"]
    array = ["hydra/launcher=submitit_local", "data.num_shards=4", "data.shard_index=range(4)", "hydra.sweep.dir=array"]
    dying = ("engine.echo.die_after=8", "engine.echo.max_steps=20", "engine.max_restarts=0")
    result = run_command("-m", *common, *array, *dying, cwd=tmp_path)
    assert result.returncode == 1
    lines = refused(tmp_path, "array")
    assert [line.partition(",")[0] for line in lines] == [f"array/{index}: not finished" for index in range(4)]

    again = run_command("-m", *common, *array, cwd=tmp_path)  # does what is not done
    assert again.returncode == 0, again.stderr
    assert merge("array", "output=merged", cwd=tmp_path).returncode == 0
    assert run_command(*common, "hydra.run.dir=whole", cwd=tmp_path).returncode == 0
    assert (tmp_path / "merged" / OUTPUT).read_bytes() == (tmp_path / "whole" / OUTPUT).read_bytes()

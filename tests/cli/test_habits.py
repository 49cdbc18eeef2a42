"""The smaller commands answer what is typed from habit with one line that says what was meant."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.conftest import chat, run_in, write_input
from tests.in_process import run_here


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an input and a finished run."""
    folder = tmp_path_factory.mktemp("here")
    source = write_input(folder / "q.parquet", [{"prompt": chat("hi"), "answer": "1"}])
    run_in(folder / "run", f"data.path={source}", "sampling.n_samples=1", "sampling.max_tokens=4")
    return folder


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("postprocess input=run", "input=run: is the folder of a run; write run_dir=run"),
        (
            "postprocess run_dir=run/rollouts.parquet",
            "run_dir=run/rollouts.parquet: is a file; write input=run/rollouts.parquet",
        ),
        ("postprocess run", "run: has no key; write run_dir=run"),
        ("postprocess run/rollouts.parquet", "run/rollouts.parquet: has no key; write input=run/rollouts.parquet"),
        ("postprocess run_dir=run step=flatten", "step: no such key, did you mean steps?"),
        (
            "postprocess run_dir=run scorer=exact_match ground_truth=answer",
            "scorer=exact_match: no such key; write score.scorer=exact_match",
        ),
        ("postprocess run_dir=run --steps analyze", "--steps analyze: no such option; write 'steps=[analyze]'"),
        ("postprocess run_dir=run steps=analyze", "steps=analyze: must be a list; write 'steps=[analyze]'"),
        ("resume run_dir=run", "run_dir=run: the folder comes first and has no key; write run"),
        ("replay run_dir=run", "run_dir=run: the folder comes first and has no key; write run"),
        ("verify run_dir=run", "run_dir=run: the folder comes first and has no key; write run"),
        ("resume run n_samples=4", "n_samples=4: no such key; write sampling.n_samples=4"),
        ("replay run --seed 4", "--seed 4: no such option; write sampling.seed=4"),
        ("replay run hardware.tp=2", "hardware.tp=2: no such key; write hardware.tensor_parallel_size=2"),
        ("prepare --input q.parquet output=o.parquet", "--input q.parquet: no such option; write input=q.parquet"),
        ("replay -m run", "-m: the run's folder comes first; see --help"),
        ("prepare --input=q.parquet output=o.parquet", "--input=q.parquet: no such option; write input=q.parquet"),
    ],
)
def test_one_line_names_what_was_meant(command: str, line: str, here: Path) -> None:
    module, *words = shlex.split(command)
    result = run_here(*words, cwd=here, module=f"rollout.{module}")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[0] == f"error: {line}"


def test_the_cures_of_the_second_stage_are_accepted(here: Path, tmp_path: Path) -> None:
    shutil.copytree(here / "run", tmp_path / "run")
    for words in (["run"], ["run_dir=run", "--steps", "analyze"], ["run_dir=run", "steps=analyze"]):
        error = run_here(*words, cwd=tmp_path, module="rollout.postprocess").stderr
        (cure,) = re.findall("write (.*)", error)
        kept = [word for word in words if word.startswith("run_dir=")]
        again = run_here(*kept, *shlex.split(cure), cwd=tmp_path, module="rollout.postprocess")
        assert (again.returncode, again.stderr) == (0, "")


def test_every_mistake_of_a_verification_is_reported(here: Path) -> None:
    lines = run_here("run", "rows=0", "sampling.seed=1", "data.limit=3", cwd=here, module="rollout.verify").stderr
    assert [line.split("=")[0] for line in lines.splitlines()] == [
        "error: sampling.seed",
        "error: data.limit",
        "error: rows",
    ]

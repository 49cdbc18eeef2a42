"""What the report says of its run."""

import json
from pathlib import Path
from typing import Any

import pytest

from rollout.postprocess.report import typed_command
from tests.commands import ECHO, run_command
from tests.conftest import Rollout, chat


def content_of(run_dir: Path) -> dict[str, Any]:
    """What its report shows."""
    page = (run_dir / "report.html").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(page.split('id="content">', 1)[1].split("</script>", 1)[0])
    return content


@pytest.mark.parametrize(
    ("command", "typed"),
    [
        (["/usr/bin/python3", "-m", "rollout", "sampling.n_samples=2"], "python -m rollout sampling.n_samples=2"),
        (["python", "-m", "rollout.replay", "a b", "-m", "x=1,2"], "python -m rollout.replay 'a b' -m x=1,2"),
        (["python", "-u", "-X", "dev", "-m", "rollout", "x=1"], "python -m rollout x=1"),
        (["python", "/x/bin/rollout", "data.limit=3"], "python -m rollout data.limit=3"),
        (["python", "/x/rollout/__main__.py", "-m", "x=1,2"], "python -m rollout -m x=1,2"),
        (["python", "/x/rollout/replay.py", "run"], "python -m rollout.replay run"),
        (["python", "-u", "mine/train.py", "x=1"], "python mine/train.py x=1"),
        (["python", "-c", "import rollout"], "python -c 'import rollout'"),
        (["python", "-i"], "python"),
        (["python", "-"], "python -"),
    ],
)
def test_a_command_is_shown_as_it_was_typed(command: list[str], typed: str) -> None:
    assert typed_command(command) == typed


@pytest.mark.long
def test_the_report_shows_the_command_of_its_run(tmp_path: Path) -> None:
    result = run_command(*ECHO, "data.limit=2", "hydra.run.dir=run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    content = content_of(tmp_path / "run")
    assert content["run"]["command"] == f"python -m rollout {' '.join(ECHO)} data.limit=2 hydra.run.dir=run"


REPLICA = {"host": "node-1", "gpus": "", "load_seconds": 1.5, "restarts": 0, "samples": 4, "generated_tokens": 60}


def reported(rollout: Rollout, rates: list[list[float]]) -> dict[str, Any]:
    """What the report shows of a run on as many engines as there are rates in each of `rates`, a list per point."""
    run_dir = rollout([{"prompt": chat("hello")}])
    about = json.loads((run_dir / "run.json").read_text())
    about["engine"]["replicas"] = [REPLICA | {"output_tok_s": rate} for rate in rates[-1]]
    (run_dir / "run.json").write_text(json.dumps(about))
    point = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
    lines = [point] + [point | {"elapsed_seconds": 9.0 + at, "replica_tok_s_now": of} for at, of in enumerate(rates)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run_command(f"run_dir={run_dir}", "steps=[analyze,report]", cwd=run_dir, module="rollout.postprocess")
    assert result.returncode == 0, result.stderr
    return content_of(run_dir)


def test_the_report_has_a_line_and_a_row_for_each_of_several_engines(rollout: Rollout) -> None:
    content = reported(rollout, [[10.0, 20.0], [30.0, 40.0]])
    assert content["replica_lines"] == ["replica 0", "replica 1"]
    assert [point.get("replica_tok_s_now") for point in content["series"]] == [None, [10.0, 20.0], [30.0, 40.0]]
    assert content["run"]["replicas"] == [REPLICA | {"gpus": None, "output_tok_s": rate} for rate in (30.0, 40.0)]


def test_of_many_engines_the_slowest_the_median_and_the_fastest_are_drawn(rollout: Rollout) -> None:
    content = reported(rollout, [[float(rate) for rate in range(101)], [5.0] * 101])
    assert content["replica_lines"] == ["slowest", "median", "fastest"]
    assert [point.get("replica_tok_s_now") for point in content["series"]] == [None, [0.0, 50.0, 100.0], [5.0] * 3]
    assert len(content["run"]["replicas"]) == 101


def test_a_run_with_one_engine_says_nothing_of_replicas(rollout: Rollout) -> None:
    content = content_of(rollout([{"prompt": chat("hello")}]))
    assert content["replica_lines"] == content["run"]["replicas"] == []
    assert not any("replica_tok_s_now" in point for point in content["series"])

"""`rollout watch`: how a run or a sweep is, from outside, and a report of what is durable; nothing is touched."""

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rollout.cli.watched import WatchedRun, WatchedSweep
from rollout.store.lock import locked
from rollout.sweep.notes import num_jobs
from tests.conftest import chat, run_in, write_input
from tests.in_process import run_here

Completed = subprocess.CompletedProcess[str]

DONE = """\
run       run
status    done
model     embedded:SmolLM2-135M-Instruct, n_samples=3, max_tokens=2048
samples   12, of 4 rows, 3 failed
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of four rows, one of them bad."""
    here = tmp_path_factory.mktemp("finished")
    rows = [{"prompt": chat(f"number {number}") if number else None, "kind": "ab"[number % 2]} for number in range(4)]
    write_input(here / "input.parquet", rows)
    more = ("data.max_error_fraction=1", "store.flush_samples=3", "postprocess.analyze.by=kind")
    run_in(here / "run", f"data.path={here / 'input.parquet'}", "sampling.n_samples=3", *more)
    return here


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that a rule stops, of forty rows, a quarter of which pass."""
    here = tmp_path_factory.mktemp("ruled")
    rows = [{"prompt": chat(f"number {number}"), "rate": float(number % 4 == 0)} for number in range(40)]
    write_input(here / "input.parquet", rows)
    scored = ("postprocess.score.scorer=tests.graders:by_rate", "postprocess.score.ground_truth=rate")
    rule = ("adaptive=first_pass", "sampling.n_samples=4", "postprocess.score.workers=1", "postprocess=none")
    run_in(here / "run", f"data.path={here / 'input.parquet'}", *scored, *rule)
    return here


@pytest.fixture(autouse=True)
def _nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(_: float) -> None:
        pytest.fail("it waits for something")

    monkeypatch.setattr("rollout.cli.watch.time.sleep", wait)


@pytest.fixture
def here(finished: Path, tmp_path: Path) -> Path:
    """A copy of it. The files that this test has not changed are as they were at its end."""
    return Path(shutil.copytree(finished, tmp_path / "here"))


def files_in(folder: Path) -> dict[Path, tuple[int, bytes]]:
    paths = [folder, *folder.rglob("*")]
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in paths}


@pytest.fixture
def killed(here: Path) -> Path:
    """The run as if it had been killed with half of its samples durable."""
    run_dir = here / "run"
    for name in ("rollouts.parquet", "flat.parquet", "analysis.json", "report.html", "samples/part-000001.parquet"):
        (run_dir / name).unlink()
    (run_dir / "samples/part-000003.parquet").rename(run_dir / "samples/.part-000003.parquet.partial")
    say(run_dir, status="running", ended=None, totals=None, throughput=None)
    return here


def say(run_dir: Path, **changes: Any) -> None:
    record = json.loads((run_dir / "run.json").read_text()) | changes
    (run_dir / "run.json").write_text(json.dumps(record))


def measured(run_dir: Path, **changes: Any) -> None:
    """Add a line to metrics.jsonl, ten seconds old."""
    last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0])
    line = last | {"time": time.time() - 10, "elapsed_seconds": 50.0} | changes
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write("\n" + json.dumps(line) + '\n{"time": 17955')


@pytest.fixture
def working(killed: Path) -> Iterator[Path]:
    """The run as if it still worked, with a third of it done."""
    for part in killed.glob("run/samples/part-*.parquet"):  # which say when the run began, a moment ago
        pq.write_table(pq.read_table(part).replace_schema_metadata(None), part)
    with locked(killed / "run"):
        holder = json.loads((killed / "run/.lock").read_text())
        (killed / "run/.lock").write_text(json.dumps(holder | {"began": holder["began"] - 61}))
        say(killed / "run", started=datetime.fromtimestamp(time.time() - 60, UTC).isoformat())
        numbers = {"output_tok_s": 40.0, "output_tok_s_now": 44.4, "eta_seconds": 75.0, "running": 2, "waiting": 1}
        measured(killed / "run", samples_done=7, samples_failed=0, samples_total=12, **numbers)
        yield killed


def watch(folder: Path, *words: str) -> Completed:
    """Look at a run in `folder`, of which nothing changes but what `words` ask for."""
    before = files_in(folder / "run")
    result = run_here("watch", *words, cwd=folder)
    assert files_in(folder / "run") == before
    return result


def said(result: Completed) -> dict[str, str]:
    lines = [line.partition(" ") for line in result.stdout.splitlines()]
    return {name: words.strip() for name, _, words in lines}


def test_a_run_that_is_done_says_what_there_is_and_the_watch_ends(here: Path) -> None:
    result = watch(here, "run")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(DONE)
    assert said(result)["results"] == "run/rollouts.parquet"
    assert said(result)["report"] == "run/report.html"
    assert said(result)["error"] == "3 samples: the prompt is null"


def test_a_killed_run_says_so_with_the_command_that_continues_it(killed: Path) -> None:
    result = watch(killed, "run")
    assert (result.returncode, result.stderr) == (1, "")
    assert said(result)["status"] == "killed: its process has ended without a word"
    assert said(result)["process"].startswith(f"{os.getpid()} on {socket.gethostname()} since ")
    assert said(result)["samples"] == "3 of 12 samples (25%); durable: 3, of 2 rows, 3 failed"
    assert said(result)["continue"] == "python -m rollout resume run"
    assert said(result)["log"] == "run/rollout.log"


def test_where_nothing_says_how_many_samples_there_are_to_be_the_input_does(killed: Path) -> None:
    (killed / "run/metrics.jsonl").unlink()
    assert "3 of 12 samples" in watch(killed, "run").stdout
    (killed / "run/.hydra/config.yaml").write_text("data: {path: gone.parquet}")
    assert said(watch(killed, "run"))["samples"].startswith("3 of ? samples; durable: 3")


def test_a_run_that_works_says_how_far_how_fast_and_how_long_yet(working: Path) -> None:
    found = said(watch(working, "run", "once=true"))
    assert found["status"] == "running: sampling for 1m00s"
    assert found["process"].startswith(f"{os.getpid()} on {socket.gethostname()} since ")
    assert found["samples"] == "7 of 12 samples (58%); durable: 3, of 2 rows, 3 failed"
    assert found["speed"] == "44 tok/s now, 40 overall  ETA 1m05s; 2 running, 1 waiting"
    assert found.keys() >= {"tokens", "ended", "error", "log"}
    assert "continue" not in found


def test_of_several_engines_each_has_its_rate(working: Path) -> None:
    measured(working / "run", replica_tok_s_now=[20.2, 24.2], samples_total=12, samples_done=6)
    assert said(watch(working, "run", "once=true"))["replicas"] == "2: 20, 24 tok/s now"
    measured(working / "run", replica_tok_s_now=[float(rate) for rate in range(100)], samples_done=6)
    assert said(watch(working, "run", "once=true"))["replicas"] == "100: 0 to 99, median 50 tok/s now"


@pytest.mark.parametrize(
    ("changes", "phase"),
    [({"time": 0.0}, "loading"), ({"samples_done": 12}, "finishing"), ({"samples_done": 11}, "sampling")],
)
def test_it_tells_what_the_run_is_doing(changes: dict[str, Any], phase: str, working: Path) -> None:
    measured(working / "run", samples_total=12, **changes)
    assert said(watch(working, "run", "once=true"))["status"].startswith(f"running: {phase}")


def test_failed_samples_of_an_earlier_session_are_not_done_in_this_one(working: Path) -> None:
    """They are owed again: with 3 of 9 durable and 3 that failed, 6 are still to come."""
    measured(working / "run", time=0.0)
    assert said(watch(working, "run", "once=true"))["samples"].startswith("3 of 12 samples (25%)")


def test_a_run_that_failed_says_why(killed: Path) -> None:
    say(killed / "run", status="failed", error="the disk is full", ended=datetime.now(UTC).isoformat())
    result = watch(killed, "run")
    assert result.returncode == 1
    assert said(result)["status"] == "failed: the disk is full"
    assert said(result)["continue"] == "python -m rollout resume run"


def test_a_damaged_part_is_named_and_all_else_is_shown(killed: Path) -> None:
    (killed / "run/samples/part-000002.parquet").write_bytes(b"PAR1 no")
    found = said(watch(killed, "run"))
    assert found["damaged"].startswith("run/samples/part-000002.parquet: damaged")
    assert "durable: 0, of 1 row, 3 failed" in found["samples"]


def content_of(page: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.read_text().split('id="content">', 1)[1].split("</script>", 1)[0])
    return found


def test_a_report_shows_what_is_durable_and_lies_outside_the_run(working: Path) -> None:
    result = watch(working, "run", "once=true", "report=true")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("wrote here-run.html\n")
    page = content_of(working / "here-run.html")
    assert page["title"] == "run (3 of 12 samples)"
    assert page["run"]["status"] == "running"
    assert page["run"]["throughput"]["output_tok_s"] == 40.0
    assert (page["analysis"]["samples"], page["analysis"]["failed"]) == (6, 3)
    assert page["analysis"]["groups"].keys() == {"a"}
    assert [row["prompt"][0]["content"] for row in page["rows"]][1:] == ["number 2"]
    assert [len(row["responses"]) for row in page["rows"]] == [3, 3]


def test_scores_of_a_run_that_a_rule_stops_are_shown_while_it_goes_on(ruled: Path) -> None:
    assert "scores" not in said(watch(ruled, "run"))
    (ruled / "run/rollouts.parquet").unlink()
    say(ruled / "run", status="running", ended=None, totals=None)
    result = watch(ruled, "run", "report=true", "output=page.html")
    shown = "so far: of the first 2 samples of 40 rows, which no rule has stopped by then"
    assert said(result)["scores"] == f"pass rate 25.0% (14.1% to 40.4%); {shown}"
    assert shown in (ruled / "page.html").read_text()


def test_a_report_of_a_run_whose_input_is_elsewhere_has_no_prompts(killed: Path) -> None:
    (killed / "input.parquet").unlink()
    (killed / "run/.hydra/config.yaml").write_text("data: {path: gone.parquet}")
    result = watch(killed, "run", "report=true", "output=page.html")
    assert result.stderr.startswith("warning: data.path=gone.parquet: no such file")
    assert "the page is without the prompts" in result.stderr
    assert content_of(killed / "page.html")["analysis"]["samples"] == 6


def test_a_report_of_a_run_that_is_done_is_that_of_its_result(here: Path) -> None:
    assert watch(here, "run", "report=true", "output=page.html").returncode == 0
    ours, its = content_of(here / "page.html"), content_of(here / "run/report.html")
    assert ours["rows"] == its["rows"]
    assert ours["analysis"] == its["analysis"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["run", "report=true", "output=page.txt"], "output=page.txt: must end in .html"),
        (
            ["run", "report=true", "output=run/rollouts.html/x.html"],
            "output=run/rollouts.html/x.html: there is no folder",
        ),
        (["run", "report=true", "output=there.html"], "output=there.html: already exists; choose another name, or set"),
        (["run", "output=page.html"], "output=page.html: is the name of the report; add report=true"),
        (["run", "every=0"], "every=0.0: must be at least 0.1"),
        (["run", "twice=true"], "twice: no such key, choose from every, once, output, overwrite, report, run"),
        (["nowhere"], "nowhere: not a run folder"),
        (["run", "other"], "other: more paths than RUN; leave out what is too much"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], line: str, here: Path) -> None:
    (here / "there.html").write_text("mine")
    result = watch(here, *words)
    assert result.returncode == 1
    assert result.stderr.startswith(f"error: {line}")
    assert (here / "there.html").read_text() == "mine"


def test_without_a_terminal_there_is_a_line_when_something_changes(
    working: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here: it samples, then it writes its result, then it is done."""
    run_dir = working / "run"
    events: Iterator[Callable[[], None]] = iter(
        [
            lambda: None,
            lambda: measured(run_dir, samples_total=12, samples_done=12),
            lambda: say(run_dir, status="done", ended=datetime.now(UTC).isoformat()),
        ]
    )
    monkeypatch.setattr("rollout.cli.watch.time.sleep", lambda _: next(events)())
    result = run_here("watch", "run", cwd=working)
    assert result.returncode == 0
    lines = [line.partition(" ")[2] for line in result.stdout.splitlines()[:2]]
    assert lines[0] == "sampling  7 of 12 samples (58%)  44 tok/s now, 40 overall  ETA 1m05s  3 durable"
    assert lines[1].startswith("finishing  12 of 12 samples (100%)")
    assert said(result)["status"] == "done"


NO_LUCK = {"failed": "no luck"}


def sweep(folder: Path, *statuses: str) -> Path:
    """A sweep of three jobs, of which those with a status have begun."""
    sweep_dir = folder / "sweep"
    (sweep_dir / "jobs").mkdir(parents=True)
    sweeper = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": None}
    asked = {"hydra": {"sweeper": sweeper, "overrides": {"task": ["sampling.seed=1,2,3", "data.limit=1"]}}}
    (sweep_dir / "multirun.yaml").write_text(json.dumps(asked))
    for num, status in enumerate(statuses):
        note = {"num": num, "run_dir": f"/moved/sweep/{num}", "overrides": [f"sampling.seed={num + 1}"]}
        note |= {"status": status, "started": "2026-01-01T00:00:00+00:00", "error": NO_LUCK.get(status)}
        (sweep_dir / "jobs" / f"{num}.json").write_text(json.dumps(note))
        shutil.copytree(folder / "run", sweep_dir / str(num))
        holder = json.loads((sweep_dir / str(num) / ".lock").read_text()) | {"pid": 2**22 + 1}
        (sweep_dir / str(num) / ".lock").write_text(json.dumps(holder))
    return sweep_dir


def test_of_a_sweep_it_says_which_job_works_and_how_many_are_done(working: Path) -> None:
    sweep_dir = sweep(working, "done", "failed", "running")
    with locked(sweep_dir / "2"):
        say(sweep_dir / "2", started=datetime.now(UTC).isoformat())
        watched = WatchedSweep(sweep_dir)
        watched.look()
        assert watched.goes_on
        assert watched.is_well
        assert watched.share_done == pytest.approx((1 + 3 / 12) / 3)
        lines = list(watched.describe())
        assert lines[1] == ("jobs", "1 of 3 done, 1 running, 1 not done")
        assert ("job", "2 (sampling.seed=3)") in lines
        assert any(name == "status" and words.startswith("running: loading") for name, words in lines)
        assert watched.progress_line().startswith("1 of 3 done, 1 running, 1 not done; job 2: loading  3 of 12 samples")


def test_a_sweep_between_two_jobs_goes_on_as_long_as_its_process(here: Path) -> None:
    sweep_dir = sweep(here, "done")
    with locked(sweep_dir / "0"):
        watched = WatchedSweep(sweep_dir)
        watched.look()
        assert watched.goes_on
    holder = json.loads((sweep_dir / "0/.lock").read_text()) | {"pid": 2**22 + 1}
    (sweep_dir / "0/.lock").write_text(json.dumps(holder))
    watched.look()
    assert not watched.goes_on
    assert not watched.is_well  # two of three jobs were never tried
    assert ("continue", f"give the command of the sweep again with hydra.sweep.dir={sweep_dir}") in watched.describe()


def test_a_sweep_that_has_ended_names_the_jobs_that_are_not_done(killed: Path) -> None:
    sweep_dir = sweep(killed, "done", "failed", "running")
    result = run_here("watch", "sweep", cwd=killed)
    assert result.returncode == 1
    assert "jobs      1 of 3 done, 2 not done\n" in result.stdout
    assert "job       1 (sampling.seed=2): failed: no luck\n" in result.stdout
    assert "job       2 (sampling.seed=3): killed\n" in result.stdout
    for num in "12":
        note = json.loads((sweep_dir / f"jobs/{num}.json").read_text())
        (sweep_dir / f"jobs/{num}.json").write_text(json.dumps(note | {"status": "done", "error": None}))
    assert run_here("watch", "sweep", cwd=killed).returncode == 0


def test_a_job_says_how_to_look_at_its_sweep(here: Path) -> None:
    sweep(here, "done")
    assert run_here("watch", "sweep/0", cwd=here).stdout.endswith("sweep     python -m rollout watch sweep\n")


def test_a_report_of_a_sweep_is_its_own_page(here: Path) -> None:
    sweep(here, "done")
    result = run_here("watch", "sweep", "report=true", cwd=here)
    assert result.stderr.startswith("error: report=true: a sweep has its own page, sweep.html in its folder")


@pytest.mark.parametrize(
    ("task", "count"),
    [(["a=1,2", "b=x,y,z"], 6), (["a=1"], 1), (["a=range(4)", "b=choice(1,2)"], 8), (["a=interval(0,1)"], None)],
)
def test_how_many_jobs_there_are_is_known_from_what_was_asked(
    task: list[str], count: int | None, tmp_path: Path
) -> None:
    sweeper = {"_target_": "a.BasicSweeper", "params": None}
    (tmp_path / "multirun.yaml").write_text(json.dumps({"hydra": {"sweeper": sweeper, "overrides": {"task": task}}}))
    assert num_jobs(tmp_path) == count
    trials = {"hydra": {"sweeper": {"_target_": "Optuna", "n_trials": 20}, "overrides": {"task": []}}}
    (tmp_path / "multirun.yaml").write_text(json.dumps(trials))
    assert num_jobs(tmp_path) == 20
    (tmp_path / "multirun.yaml").write_text("- no")
    assert num_jobs(tmp_path) is None


def test_a_folder_that_may_not_be_written_to_is_read_all_the_same(killed: Path) -> None:
    for path in [killed / "run", *(killed / "run").rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        watched = WatchedRun(killed / "run")
        watched.look()
        assert watched.seen.seen.status == "killed"
        assert not list(watched.write_report(killed / "page.html"))
    finally:
        for path in [killed / "run", *(killed / "run").rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)


@pytest.mark.parametrize("words", [["analyze", "run"], ["verify", "run"], ["run_dir=run"]])
def test_what_needs_a_result_points_to_watch_while_the_run_works(words: list[str], working: Path) -> None:
    module = "rollout.postprocess" if words[0].startswith("run_dir") else "rollout"
    line = "the run still works; look at it with `python -m rollout watch run`"
    assert line in run_here(*words, cwd=working, module=module).stderr

"""Rows that stop when a rule has what it wants: the samples are those that it selects from the full budget."""

import json
import random
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rollout.compare.comparison import compare
from rollout.compare.notes import notes_of
from rollout.config import AdaptiveConfig
from rollout.data.prompts import open_input
from rollout.data.row_sampling import SampleCounts
from rollout.data.stopping import DONE, FAILED, NO_TRUTH, PASSED, SCORED, judge, vote_of
from rollout.postprocess.durable import Durable, durable_source
from rollout.scoring.summary import PLAIN
from rollout.terminal.estimates import LEGEND
from tests.commands import ECHO, merge, resume, run_command, start_command, verify
from tests.conftest import chat, composed, run_in, write_input
from tests.graders import by_rate, number_of
from tests.sides import side_of_run

pytestmark = pytest.mark.long

BUDGET = 16
NUM_ROWS = 300
RATES = [None if row % 50 == 9 else (row % 101) / 100 for row in range(NUM_ROWS)]
ROWS = [{"prompt": None if row % 60 == 4 else chat(f"question {row}"), "rate": rate} for row, rate in enumerate(RATES)]
"""Some have no prompt, and some no ground truth."""

SCORED_BY = ("postprocess.score.scorer=tests.graders:by_rate", "postprocess.score.ground_truth=rate")
RUN = (
    *ECHO,
    "data.path=input.parquet",
    f"sampling.n_samples={BUDGET}",
    "engine.echo.max_steps=9",
    "hardware.max_num_seqs=16",
    "postprocess.score.workers=1",
    *SCORED_BY,
)
RULES = {
    "passes": ("adaptive=first_pass",),
    "two": ("adaptive=first_pass", "adaptive.passes=2", "adaptive.rounds=[1]"),
    "mixed": ("adaptive=mixed",),
    "interval": ("adaptive=difficulty", "adaptive.width=0.4", "adaptive.rounds=[4]"),
}


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A saved config names a function of ours."""
    monkeypatch.setenv("ROLLOUT_TRUST", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adaptive")
    write_input(folder / "input.parquet", ROWS)
    return folder


@pytest.fixture(scope="module")
def full(folder: Path) -> list[dict[str, Any]]:
    """Every row with all samples that it may have."""
    result = run_command(*RUN, "postprocess=none", "postprocess.score.scorer=null", "hydra.run.dir=full", cwd=folder)
    assert result.returncode == 0, result.stderr
    return rows(folder / "full")


@pytest.fixture(scope="module")
def passes(folder: Path) -> Path:
    """A run that nothing disturbs."""
    return done(folder, "passes", *RULES["passes"])


def done(folder: Path, name: str, *overrides: str) -> Path:
    result = run_command(*RUN, *overrides, f"hydra.run.dir={name}", cwd=folder)
    assert result.returncode == 0, result.stderr
    (folder / name / "said.txt").write_text(result.stdout)
    return folder / name


def rows(run_dir: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(run_dir / "rollouts.parquet").to_pylist()
    return found


def manifest(run_dir: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run_dir / "run.json").read_text())
    return content


def rule_of(run_dir: Path) -> AdaptiveConfig:
    return AdaptiveConfig(**manifest(run_dir)["config"]["adaptive"])


def flags(responses: Sequence[str | None], rate: float | None) -> bytes:
    def of(response: str | None) -> int:
        if response is None:
            return FAILED
        if rate is None:
            return DONE | SCORED | NO_TRUTH
        return DONE | SCORED | (PASSED if by_rate(response, rate, {}) else 0)

    return bytes(map(of, responses))


def assert_selected_from(full: list[dict[str, Any]], run_dir: Path) -> None:
    """Each row has the samples that the rule selects, and says why it has no more."""
    found = rows(run_dir)
    assert len(found) == len(full)
    for row, whole in zip(found, full, strict=True):
        end, reason = judge(rule_of(run_dir), flags(whole["responses"], row["rate"]), ())
        assert (len(row["responses"]), row["stopped"]) == (end, reason)
        for name in ("responses", "seeds", "finish_reasons", "num_generated_tokens"):
            assert row[name] == whole[name][:end]
        assert row["scores"] == [
            None if None in (response, row["rate"]) else float(by_rate(response, row["rate"], {}))
            for response in row["responses"]
        ]


@pytest.mark.parametrize("rule", [*RULES])
def test_the_samples_are_those_that_the_rule_selects_from_the_full_budget(
    rule: str, folder: Path, full: list[dict[str, Any]], passes: Path
) -> None:
    run_dir = passes if rule == "passes" else done(folder, rule, *RULES[rule])
    assert_selected_from(full, run_dir)


def test_the_closing_lines_and_run_json_say_what_was_saved(folder: Path, passes: Path) -> None:
    found, about = rows(passes), manifest(passes)["adaptive"]
    samples = sum(len(row["responses"]) for row in found)
    assert (about["samples"], about["full_samples"]) == (samples, NUM_ROWS * BUDGET)
    assert about["generated_tokens"] == sum(sum(row["num_generated_tokens"]) for row in found)
    assert about["saved_samples"] == pytest.approx(1 - samples / (NUM_ROWS * BUDGET), abs=1e-4)
    assert about["rows_without_truth"] == sum(row["rate"] is None and row["prompt"] is not None for row in found)
    assert about["stopped"]["error"] == sum(row["prompt"] is None for row in found)
    said = (passes / "said.txt").read_text()
    assert (
        f"at the full budget: 4,800 samples, about {about['full_tokens']:,} tokens; {about['saved']:.0%} saved" in said
    )
    assert f"{about['rows_without_truth']} rows have no ground truth and got their full budget" in said
    assert manifest(passes)["throughput"]["samples"] == samples


def test_the_score_step_has_the_scores_that_were_made_while_sampling(folder: Path, passes: Path) -> None:
    scored = pq.read_table(passes / "scores.parquet").to_pylist()
    flat, stopped = pq.read_table(passes / "flat.parquet").to_pylist(), [row["stopped"] for row in rows(passes)]
    for one, sample in zip(scored, flat, strict=True):
        assert (one["row_id"], one["sample_idx"]) == (sample["row_id"], sample["sample_idx"])
        assert sample["stopped"] == stopped[sample["row_id"]]
        if sample["response"] is None:
            assert (one["score"], one["score_error"]) == (None, None)
        elif sample["rate"] is None:
            assert (one["score"], one["score_error"]) == (None, "rate is null")
        else:
            assert one["score"] == float(number_of(sample["response"]) < sample["rate"])


def test_the_tables_show_what_is_right_on_average_and_not_the_share_of_the_passes(folder: Path, passes: Path) -> None:
    written = [row for row in rows(passes) if row["rate"] is not None and any(row["finish_reasons"]) and row["scores"]]
    scored = [row["scores"] for row in written if any(score is not None for score in row["scores"])]
    solved = sum(any(score == 1 for score in scores) for scores in scored) / len(scored)
    rates = sum(row["rate"] for row in written) / len(written)
    naive = sum(sum(score or 0 for score in scores) / len(scores) for scores in scored) / len(scored)
    shown = json.loads((passes / "analysis.json").read_text())["scores"]
    assert shown["pass_at_k"]["16"] == pytest.approx(solved)  # who stops, has a pass
    low, high = shown["estimates"]["pass@1"]["interval"]
    assert low < rates < high < naive
    assert shown["pass_rate"] == shown["mean"] == shown["pass_at_k"]["1"]

    one, same = compare([side_of_run("A", "one", passes), side_of_run("B", "same", passes)]).sides
    assert {name: of.value for name, of in one.estimates.items() if name.startswith("pass@")} == {
        f"pass@{k}": pytest.approx(value) for k, value in shown["pass_at_k"].items()
    }
    assert one.estimates["score"].value == pytest.approx(shown["mean"])
    assert same.estimates == one.estimates


def test_numbers_by_other_scores_than_the_rules_say_what_they_are(folder: Path, passes: Path) -> None:
    assert manifest(passes)["config"]["postprocess"]["score"]["pass_score"] == 1.0
    shown = run_command("analyze", "passes", "pass_score=0.5", "output=other.json", cwd=folder)
    assert PLAIN in shown.stdout
    assert f"{LEGEND}, or rows that a rule has stopped\n" in shown.stdout
    plain = json.loads((folder / "other.json").read_text())["scores"]
    assert plain["note"] == PLAIN
    assert not any(estimate["trusted"] for estimate in plain["estimates"].values())
    assert json.loads((passes / "analysis.json").read_text())["scores"]["note"] is None
    sides = [side_of_run("A", "one", passes), side_of_run("B", "same", passes)]
    found = compare(sides, pass_score=0.5)
    assert f"A: {PLAIN}" in notes_of(sides, found)
    assert not any(PLAIN in note for note in notes_of(sides, compare(sides)))


def test_scores_that_may_lean_are_shown_and_not_tested(folder: Path, passes: Path) -> None:
    flat = run_command("flatten", "passes", "as_file.parquet", cwd=folder)
    assert flat.returncode == 0, flat.stderr
    compared = run_command("compare", "passes", "as_file.parquet", "output=compared", cwd=folder)
    assert compared.returncode == 0, compared.stderr
    assert f"note: B: {PLAIN}\n" in compared.stdout
    assert "A, B in score: not tested, a rule has stopped rows of B (see the note)\n" in compared.stdout
    assert re.search(r"^score .* \*  +-  +\d+ +\d+ +\d+ *$", compared.stdout, re.MULTILINE)
    (pair,) = json.loads((folder / "compared/compare.json").read_text())["pairs"]
    for name, found in pair["metrics"].items():
        is_score = name.startswith(("score", "pass@", "majority@"))
        assert found["untested"] == ("a rule has stopped rows of B" if is_score else None)
        assert (found["paired"]["p"] is None) == is_score


def test_a_run_that_was_scored_anew_is_no_longer_taken_for_scored_as_its_rule_went(folder: Path, passes: Path) -> None:
    anew = shutil.copytree(passes, folder / "anew")
    words = (f"run_dir={anew}", "steps=[score,analyze]", "score.scorer=exact_match")
    assert run_command(*words, cwd=folder, module="rollout.postprocess").returncode == 0
    assert run_command("analyze", "anew", "output=anew.json", cwd=folder).returncode == 0
    shown = json.loads((folder / "anew.json").read_text())["scores"]
    assert (shown["note"], shown) == (PLAIN, json.loads((anew / "analysis.json").read_text())["scores"])
    sides = [side_of_run("A", "as the rule", passes), side_of_run("B", "anew", anew)]
    notes = [*notes_of(sides, compare(sides))]
    assert f"B: {PLAIN}" in notes
    assert any("(A by tests.graders:by_rate, B by exact_match)" in note for note in notes)


def test_numbers_of_what_a_filter_has_left_say_what_they_are(folder: Path, passes: Path) -> None:
    filtered = shutil.copytree(passes, folder / "filtered")
    steps = ("steps=[filter,analyze]", "filter.finish_reasons=[stop]", "analyze.by=rate")
    result = run_command(f"run_dir={filtered}", *steps, cwd=folder, module="rollout.postprocess")
    assert result.returncode == 0, result.stderr
    kept = pq.read_table(filtered / "filtered.parquet").column("score").drop_null().to_pylist()
    shown = json.loads((filtered / "analysis.json").read_text())["scores"]
    assert (shown["note"], shown["pass_rate"]) == (PLAIN, pytest.approx(sum(kept) / len(kept)))


def test_what_is_durable_can_be_looked_at_while_it_grows(folder: Path, passes: Path) -> None:
    run = composed(*RUN, *RULES["passes"], f"data.path={folder / 'input.parquet'}")
    durable = Durable(passes)
    durable.look()
    counts = SampleCounts.equal(NUM_ROWS, BUDGET)
    source = durable_source(durable, run, open_input(run.data), counts)
    found = [row for batch in source.batches() for row in batch.to_pylist()]
    assert len(found) == manifest(passes)["totals"]["samples"]
    assert {row["stopped"] for row in found} == {None}


def kill_after(process: Any, seconds: float) -> None:
    time.sleep(seconds)
    process.kill()
    process.wait()


SLOWLY = ("engine.echo.step_seconds=0.02", "store.flush_seconds=0.1")


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(1))
def test_killed_at_random_and_resumed_it_asks_for_the_same_samples(seed: int, folder: Path, passes: Path) -> None:
    """Killed before it has a run.json, it is started again."""
    name, rng = f"killed-{seed}", random.Random(seed)

    def go_on(*overrides: str) -> Any:
        if (folder / name / "run.json").exists():
            return start_command(name, *overrides, cwd=folder, module="rollout.resume")
        return start_command(*RUN, *RULES["passes"], *overrides, f"hydra.run.dir={name}", cwd=folder)

    for _ in range(2):
        kill_after(go_on(*SLOWLY), rng.uniform(1.0, 2.5))
    assert go_on().wait() == 0
    assert_same_results(passes, folder / name)


def assert_same_results(run_dir: Path, other: Path) -> None:
    for name in ("rollouts.parquet", "scores.parquet", "flat.parquet", "analysis.json"):
        assert (run_dir / name).read_bytes() == (other / name).read_bytes()


def test_samples_that_lost_their_scores_are_scored_again_and_not_generated(folder: Path, passes: Path) -> None:
    """As after a kill: what was flushed before it had its score."""
    name = done(folder, "unscored", *RULES["passes"])
    (part,) = name.glob("samples/part-*.parquet")
    table = pq.read_table(part)
    nulls = {"is_scored": None, "score": None, "extracted_answer": None, "score_error": None}
    kept = [row | (nulls if row["row_id"] % 2 else {}) for row in table.to_pylist()]
    pq.write_table(type(table).from_pylist(kept, schema=table.schema), part, row_group_size=256)
    (name / "rollouts.parquet").unlink()
    result = resume("unscored", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert_same_results(passes, name)
    assert manifest(name)["throughput"]["samples"] == manifest(name)["totals"]["failed"]  # which are tried again


def test_a_larger_budget_goes_on_where_each_row_stopped(folder: Path, passes: Path) -> None:
    small = done(folder, "small", *RULES["passes"], "sampling.n_samples=4")
    before = manifest(small)["totals"]["samples"]
    assert resume("small", f"sampling.n_samples={BUDGET}", cwd=folder).returncode == 0
    assert rows(small) == rows(passes)
    about = manifest(small)
    assert about["throughput"]["samples"] <= about["totals"]["samples"] - before + about["totals"]["failed"]


def test_another_rule_goes_on_with_the_samples_that_are_there(folder: Path, full: list[dict[str, Any]]) -> None:
    done(folder, "changed", *RULES["passes"])
    assert resume("changed", "adaptive.until=mixed", cwd=folder).returncode == 0
    assert_selected_from(full, folder / "changed")
    assert resume("changed", "adaptive.until=null", cwd=folder).returncode == 0
    plain = {"rate", "prompt", "row_id", "responses", "seeds"}
    assert [{key: row[key] for key in plain} for row in rows(folder / "changed")] == [
        {key: row[key] for key in plain} for row in full
    ]
    assert "stopped" not in rows(folder / "changed")[0]


def test_another_scorer_is_another_experiment(folder: Path) -> None:
    (folder / "grader.py").write_text("def grade(response, truth, row):\n    return 1\n")
    done(folder, "scorers", *RULES["passes"], "postprocess.score.scorer=grader:grade", "data.limit=3")
    refused = resume("scorers", "postprocess.score.pass_score=2", "data.limit=4", cwd=folder)
    assert "postprocess.score.pass_score=2.0: this run was made with 1.0" in refused.stderr
    (folder / "grader.py").write_text("def grade(response, truth, row):\n    return 0\n")
    refused = resume("scorers", "data.limit=4", cwd=folder)
    assert refused.returncode == 1
    assert refused.stderr == (
        "error: postprocess.score.scorer=grader:grade: its source is not what this run was made with; restore it, or "
        "start a new run for it\n"
    )


def test_verify_and_merge_know_that_rows_have_as_many_samples_as_the_rule_says(folder: Path, passes: Path) -> None:
    shards = [
        done(folder, f"shards/{index}", *RULES["passes"], "data.num_shards=2", f"data.shard_index={index}")
        for index in range(2)
    ]
    assert merge(*map(str, shards), "merged", cwd=folder).returncode == 0
    assert rows(folder / "merged") == rows(passes)
    verified = verify("passes", "rows=40", cwd=folder)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "not as in the run" not in verified.stdout


def test_shards_of_two_rules_are_not_merged(folder: Path) -> None:
    for index, rule in enumerate((RULES["passes"], RULES["mixed"])):
        done(folder, f"unlike/{index}", *rule, "data.limit=4", "data.num_shards=2", f"data.shard_index={index}")
    refused = merge("unlike", "never", cwd=folder)
    assert "adaptive.until=mixed: in unlike/1, and passes in others; give all the same rule" in refused.stderr


def test_a_scorer_that_hangs_dies_or_raises_costs_its_own_sample(folder: Path) -> None:
    rough = ("postprocess.score.scorer=tests.graders:rough", "postprocess.score.timeout=0.3", "data.limit=25")
    run_dir = done(folder, "rough", *RULES["passes"], *rough, "adaptive.passes=2")
    errors = {0: "timed out after 0.3 s", 1: "the scorer ended its process (exit code 7)", 2: "RuntimeError: no idea"}
    seen = set()
    scored = pq.read_table(run_dir / "scores.parquet").to_pylist()
    for one, sample in zip(scored, pq.read_table(run_dir / "flat.parquet").to_pylist(), strict=True):
        if sample["response"] is not None and sample["rate"] is not None:
            case = int(1000 * number_of(sample["response"])) % 40
            assert one["score_error"] == errors.get(case)
            assert (one["score"] is None) == (case in errors)
            seen.add(case)
    assert seen >= {0, 1, 2}


def test_agreement_needs_no_ground_truth(folder: Path, full: list[dict[str, Any]]) -> None:
    without = ("postprocess.score.scorer=tests.graders:votes", "postprocess.score.ground_truth=null")
    limit = ("data.limit=40", "data.drop_columns=[]")
    run_dir = done(folder, "agree", "adaptive=agree", *without, *limit)
    rule = rule_of(run_dir)
    for row, whole in zip(rows(run_dir), full[:40], strict=True):
        if row["prompt"] is None or row["rate"] is None:
            continue
        answers = [
            "a" if number < row["rate"] else "bcd"[int(1000 * number) % 3]
            for number in map(number_of, whole["responses"])
        ]
        end, reason = judge(rule, bytes([DONE | SCORED] * BUDGET), [*map(vote_of, answers)])
        assert (len(row["responses"]), row["stopped"]) == (end, reason)
        if reason == "agree":
            assert max("abcd", key=answers[:end].count) == max("abcd", key=answers.count)


FIRST_DIGIT = ("postprocess.score.scorer=regex", "postprocess.score.pattern='-([0-9a-f])'", "data.limit=70")


def test_agreement_asks_rows_without_a_ground_truth_for_answers_and_gives_them_no_score(folder: Path) -> None:
    run_dir = done(folder, "some-truths", "adaptive=agree", *FIRST_DIGIT)
    scored = pq.read_table(run_dir / "scores.parquet").to_pylist()
    without = [one for one in scored if RATES[one["row_id"]] is None]
    assert {one["row_id"] for one in without} == {9, 59}
    assert {(one["score"], one["score_error"]) for one in without} == {(None, "rate is null")}
    assert all(one["extracted_answer"] for one in without)
    assert manifest(run_dir)["adaptive"]["rows_without_truth"] == 0  # they need none
    shown = json.loads((run_dir / "analysis.json").read_text())["scores"]
    assert (shown["unscored"], shown["scored"]) == (len(without), sum(one["score"] is not None for one in scored))


def test_another_rule_after_agreement_knows_the_rows_without_a_ground_truth(folder: Path) -> None:
    rounds = ("adaptive.rounds=[4]", "adaptive.low=0.6")
    done(folder, "agreed", "adaptive.until=agree", *FIRST_DIGIT, *rounds)
    assert resume("agreed", "adaptive.until=interval", cwd=folder).returncode == 0
    begun_so = done(folder, "not-agreed", "adaptive.until=interval", *FIRST_DIGIT, *rounds)
    assert rows(folder / "agreed") == rows(begun_so)
    assert manifest(folder / "agreed")["adaptive"] == manifest(begun_so)["adaptive"]
    assert rows(begun_so)[9]["stopped"] == "budget"


def test_agreement_among_rows_that_all_lack_a_ground_truth_keeps_their_answers(folder: Path) -> None:
    write_input(folder / "unknown.parquet", [{"prompt": chat("a"), "rate": None}])
    run_dir = done(folder, "unknown", "adaptive=agree", *FIRST_DIGIT, "data.path=unknown.parquet")
    assert all(one["extracted_answer"] for one in pq.read_table(run_dir / "scores.parquet").to_pylist())
    assert manifest(run_dir)["missing"] is None


def test_the_built_in_scorers_find_answers_without_a_ground_truth(folder: Path) -> None:
    own = ("postprocess.score.scorer=numeric_match", "postprocess.score.ground_truth=null", "data.limit=3")
    run_dir = done(folder, "numbers", "adaptive.until=agree", *own)
    scored = pq.read_table(run_dir / "scores.parquet").to_pylist()
    assert {one["score"] for one in scored} == {None}
    assert all(one["extracted_answer"] for one in scored)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ("adaptive=first_pass", "postprocess.score.scorer=null"),
            "adaptive.until=passes: no scorer is set; set postprocess.score.scorer to exact_match, numeric_match, "
            "math, regex or module:function",
        ),
        (
            ("adaptive=mixed", "postprocess.score.scorer=exact_match", "postprocess.score.ground_truth=null"),
            "postprocess.score.scorer=exact_match: needs the right answers; set postprocess.score.ground_truth "
            "to their column, one of rate",
        ),
        (
            ("adaptive=first_pass", "sampling.temperature=0", "sampling.n_samples=1", "adaptive.rounds=[1]"),
            "adaptive.until=passes: temperature=0 makes every sample of a prompt the same; raise it",
        ),
    ],
)
def test_what_the_rule_lacks_is_one_line(words: tuple[str, ...], line: str, folder: Path) -> None:
    refused = run_command(*RUN, *words, "hydra.run.dir=refused", cwd=folder)
    assert (refused.returncode, refused.stderr) == (1, f"error: {line}\n")


def test_a_column_of_the_input_may_be_called_as_ours_while_no_rule_stops_rows(folder: Path, tmp_path: Path) -> None:
    write_input(folder / "taken.parquet", [{"prompt": chat("a"), "scores": 1, "stopped": "x", "rate": 0.5}])
    taken = ("data.path=taken.parquet", "hydra.run.dir=taken")
    refused = run_command(*RUN, *RULES["passes"], *taken, cwd=folder)
    assert "column scores,stopped is a reserved output column" in refused.stderr
    run_dir = run_in(tmp_path / "run", f"data.path={folder / 'taken.parquet'}")
    (row,) = rows(run_dir)
    assert (row["scores"], row["stopped"]) == (1, "x")
    (flat, *_) = pq.read_table(run_dir / "flat.parquet").to_pylist()
    assert (flat["scores"], flat["stopped"]) == (1, "x")

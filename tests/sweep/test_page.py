"""sweep.html as a reader sees it: opened from the disk in a real browser."""

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from rollout.pages.sweep_content import SweepPage
from rollout.pages.write import write_page
from rollout.scoring.intervals import share_of
from tests.browser import (
    Open,
    drawn,
    is_dark,
    marks_outside_their_frames,
    rows_listed,
    search,
    sections,
    texts_and_pale_ones,
    wait_for_charts,
)
from tests.report_content import HOSTILE, response
from tests.sweep_content import COMMAND, bar, failed, grid, hostile_sweep, job, line, metrics, scored, sweep, sweep_row

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

SPEED = "Generation speed"


@pytest.fixture
def opened(windows: Callable[[str], Open]) -> Open:
    return windows("sweep.html")


def chart(page: "Page", title: str = SPEED) -> "Locator":
    wait_for_charts(page)
    return page.locator("figure", has=page.get_by_role("heading", name=title, exact=True))


def dots(page: "Page", axis: str, title: str = SPEED) -> list[float]:
    """Where the points stand, in pixels; axis: cx or cy."""
    return [float(dot.get_attribute(axis) or "nan") for dot in chart(page, title).locator("circle").all()]


def ticks(page: "Page") -> list[str]:
    """The labels of the x axis."""
    return chart(page).locator("svg text[text-anchor=middle]:not(.label)").all_text_contents()


def answers(page: "Page", side: int) -> list[str]:
    return page.locator(".side").nth(side).locator(".card .text").all_text_contents()


def column(page: "Page", name: str) -> list[str]:
    """What the table of jobs shows under this heading."""
    at = page.locator("#jobs th").all_text_contents().index(name)
    return page.locator(f"#jobs td:nth-child({at + 1})").all_text_contents()


def test_the_head_says_what_was_typed_what_differs_and_how_far_the_sweep_is(opened: Open) -> None:
    page = opened(
        sweep(jobs=[*grid(), job(6, {"sampling.temperature": "2"}, status="running", report=None, metrics={})])
    )
    assert page.title() == "outputs/2026-11-23/04-10-00-123456-sweep · rollout"
    expect(page.locator(".top .badge")).to_have_text(["5 of 7 jobs done", "1 failed", "1 running"])
    expect(page.locator(".top .command code")).to_have_text(COMMAND)
    expect(page.locator(".when")).to_have_text("sweeps sampling.temperature (4 values), sampling.n_samples (3 values)")
    assert sections(page) == ["Overview", "Jobs", "Failures", "Comparison", "Side by side"]


def test_tiles_add_the_jobs_up_and_name_the_best(opened: Open) -> None:
    page = opened(sweep())
    tiles = dict(zip(*(page.locator(f".tile .{part}").all_text_contents() for part in ("name", "value")), strict=True))
    assert tiles == {
        "samples": "200",
        "generated tokens": "10,000",
        "generating": "62.5 s",
        "fastest, tokens / s": "104",
        "highest pass@4": "60%",
    }
    expect(page.locator(".tile .note").nth(2)).to_have_text("model loaded once, 20 s")
    expect(page.locator(".tile .note").nth(3)).to_have_text("job 4: temperature=1.0, n_samples=1")


def test_the_number_of_a_job_leads_to_its_report(opened: Open, tmp_path: Path) -> None:
    odd = job(1, report="a b/#1?/javascript:x/report.html")
    page = opened(sweep(jobs=[job(0), odd, failed(2, {})], parameters=[]))
    links = page.locator("#jobs td a").evaluate_all("(links) => links.map((link) => link.href)")
    assert links == [
        (tmp_path / "0" / "report.html").as_uri(),
        f"{tmp_path.as_uri()}/a%20b/%231%3F/javascript%3Ax/report.html",
    ]


def test_numbers_among_the_parameters_sort_as_numbers(opened: Open) -> None:
    page = opened(line(["0.3", "0.25", "10", "1e-1"]))
    page.get_by_role("button", name="temperature").click()
    page.get_by_role("button", name="temperature").click()
    assert column(page, "temperature") == ["1e-1", "0.25", "0.3", "10"]


def test_parameters_of_the_same_last_name_keep_their_whole_names(opened: Open) -> None:
    overrides = {"a.path": "x", "b.path": "y", "c.seed": "1"}
    page = opened(sweep(jobs=[job(0, overrides), job(1, overrides)], parameters=list(overrides)))
    assert page.locator("#jobs th").all_text_contents()[2:5] == ["a.path", "b.path", "seed"]


def test_the_best_figures_of_the_jobs_that_are_done_are_stressed(opened: Open) -> None:
    slow = metrics(output_tok_s=1.0, truncated_fraction=0.3, looping_fraction=0.1)
    fast = metrics(output_tok_s=2.0, truncated_fraction=0.2, looping_fraction=0.2)
    killed = metrics(output_tok_s=3.0, truncated_fraction=0.1, looping_fraction=0.3)
    jobs = [job(0, metrics=slow), job(1, metrics=fast), job(2, status="killed", metrics=killed)]
    page = opened(sweep(jobs=jobs, parameters=[], rows=[]))
    stressed = page.locator("#jobs tr", has=page.locator("strong")).locator("strong").all_text_contents()
    assert stressed == ["2"]


def judged(*passed: int, best: list[int]) -> SweepPage:
    """Jobs of 200 rows, of which so many pass, and what Python has found to be the best."""
    bars = [bar(share_of([1.0] * count + [0.0] * (200 - count))) for count in passed]
    jobs = [
        job(num, {"a": str(num)}, metrics=scored(**{"pass@1": it["value"]}), estimates={"pass@1": it})
        for num, it in enumerate(bars)
    ]
    for one in jobs:
        one["metrics"] = {name: value for name, value in one["metrics"].items() if name not in ("pass@2", "pass@4")}
    return sweep(jobs=jobs, parameters=["a"], best={"pass@1": best})


def test_a_job_is_the_best_where_its_interval_says_so(opened: Open) -> None:
    page = opened(judged(60, 120, 70, best=[1]))
    assert page.locator("#jobs strong").all_text_contents() == ["60%53.1% to 66.6%"]
    expect(page.locator(".tile").last).to_have_text("best pass@160%job 1: a=1, 53.1% to 66.6%")
    expect(page.locator("#overview > .note")).to_contain_text("Ranges are 95% intervals. * is not to rely on")


def test_a_tie_is_shown_as_a_tie(opened: Open) -> None:
    page = opened(judged(60, 120, 115, best=[1, 2]))
    assert page.locator("#jobs strong").count() == 0
    assert column(page, "pass@1") == ["30%24.1% to 36.7%", "60%53.1% to 66.6% · tied", "57.5%50.6% to 64.2% · tied"]
    expect(page.locator(".tile").last).to_contain_text("highest pass@1")
    expect(page.locator(".tile").last).to_contain_text("tied with 1 other job")


def test_an_interval_that_is_not_to_rely_on_is_marked(opened: Open) -> None:
    assert column(opened(judged(5, 120, best=[1])), "pass@1")[0] == "2.5%1.1% to 5.7% *"


def test_charts_have_error_bars_and_the_pointer_reads_them(opened: Open) -> None:
    page = opened(judged(60, 120, 70, best=[1]))
    heights = [
        float(line.get_attribute("y1") or 0) - float(line.get_attribute("y2") or 0)
        for line in chart(page, "Rows that pass").locator(".whisker").all()
    ]
    assert len(heights) == 3
    assert min(heights) > 1
    chart(page, "Rows that pass").locator(".plot").hover(position={"x": 60, "y": 60})
    expect(chart(page, "Rows that pass").locator(".tip")).to_contain_text("pass@1 30% (24.1% to 36.7%)")


def test_failures_give_their_reasons(opened: Open) -> None:
    page = opened(sweep())
    cells = page.locator("#failures td").all_text_contents()
    assert cells == ["5", "failed", "no memory left", "1.0", "4"]


def test_every_chart_is_drawn_inside_its_frame(opened: Open) -> None:
    page = opened(sweep())
    titles = page.locator("#comparison h3").all_text_contents()
    assert titles == [
        SPEED,
        "Tokens per response, mean",
        "Tokens per response, p99",
        "Cut off by max_tokens",
        "pass@1",
        "pass@4",
        "majority@4",
        "Mean score",
        "Distinct responses per row",
        "pass@k of the jobs",
    ]
    assert marks_outside_their_frames(page) == []
    assert "NaN" not in drawn(page)


def test_a_line_is_a_combination_of_the_other_parameters(opened: Open) -> None:
    page = opened(sweep())
    expect(page.get_by_label("x axis")).to_have_value("sampling.temperature")
    expect(page.locator(".charts-head .legend li")).to_have_text(["n_samples=1", "n_samples=4"])
    lines = chart(page).locator("polyline")
    assert [len((points.get_attribute("points") or "").split()) for points in lines.all()] == [3, 2]
    page.get_by_label("x axis").select_option("sampling.n_samples")
    expect(page.locator(".charts-head .legend li")).to_have_text(
        ["temperature=0.3", "temperature=0.7", "temperature=1.0"]
    )
    assert ticks(page) == ["1", "4"]
    page.get_by_label("x axis").select_option("job")
    expect(page.locator(".charts-head .legend li")).to_have_count(0)
    assert ticks(page) == ["0", "1", "2", "3", "4"]


def test_the_pointer_reads_all_lines_of_a_chart(opened: Open) -> None:
    page = opened(sweep())
    chart(page).locator(".plot").hover(position={"x": 60, "y": 60})
    expect(chart(page).locator(".tip")).to_have_text("0.3 sampling.temperature · n_samples=1 100 · n_samples=4 101")


def test_with_one_parameter_the_metrics_of_a_group_share_a_chart(opened: Open) -> None:
    jobs = [job(num, {"sampling.top_p": value}, metrics=scored()) for num, value in enumerate(("0.5", "0.9"))]
    page = opened(sweep(jobs=jobs, parameters=["sampling.top_p"]))
    expect(chart(page, "Tokens per response").locator(".legend li")).to_have_text(["mean", "p99"])
    names = ["pass@1", "pass@4", "majority@4", "pass@2"]
    expect(chart(page, "Rows that pass").locator(".legend li")).to_have_text(names)


@pytest.mark.parametrize(
    ("values", "share"),
    [
        (["0.0", "0.1", "1.0"], 0.1),
        (["1", "10", "20"], 9 / 19),
        (["1", "10", "100"], 0.5),
        (["0", "10", "100"], 0.1),
        (["1e-6", "1e-5", "1e-4"], 0.5),
        (["a", "b", "c"], 0.5),
        (["1", "null", "100"], 0.5),
    ],
)
def test_numbers_stand_at_their_place_from_20_times_on_by_logarithm_and_texts_evenly(
    opened: Open, values: list[str], share: float
) -> None:
    first, second, third = dots(opened(line(values)), "cx")
    assert (second - first) / (third - first) == pytest.approx(share, abs=0.001)


def test_a_job_without_the_parameter_stays_off_its_axis(opened: Open) -> None:
    page = opened(sweep(jobs=[*line(["1", "2"])["jobs"], job(2)], parameters=["sampling.temperature"]))
    assert len(dots(page, "cx")) == 2
    assert column(page, "temperature") == ["1", "2", "–"]


def test_values_that_were_counted_up_are_labelled_without_their_rounding(opened: Open) -> None:
    assert ticks(opened(line(["0.2", "0.4", "0.6000000000000001"]))) == ["0.2", "0.4", "0.6"]


def test_paths_are_labelled_by_their_last_parts_where_these_differ(opened: Open) -> None:
    assert ticks(opened(line(["/models/a", "org/b"], "model.path"))) == ["a", "b"]
    assert ticks(opened(line(["x/a", "y/a"], "model.path"))) == ["x/a", "y/a"]


def test_long_names_and_many_values_do_not_run_into_each_other(opened: Open) -> None:
    names = ticks(opened(line([f"/models/{'x' * 40}-{n}" for n in range(4)], "model.path")))
    assert [name[-2:] for name in names] == ["-0", "-1", "-2", "-3"]
    assert all("…" in name for name in names)
    page = opened(line([f"name {n}" for n in range(60)], "model.path"))
    boxes = [text.bounding_box() for text in chart(page).locator("svg text[text-anchor=middle]:not(.label)").all()]
    edges = [(box["x"], box["x"] + box["width"]) for box in boxes if box]
    assert all(right < left for (_, right), (left, _) in pairwise(edges))
    assert len(edges) > 1


def test_of_many_combinations_the_first_are_drawn_and_the_page_says_so(opened: Open) -> None:
    jobs = [job(num, {"a": str(num % 10), "b": str(num // 10)}) for num in range(100)]
    page = opened(sweep(jobs=jobs, parameters=["a", "b"]))
    expect(page.locator(".charts-head .note")).to_have_text("the first 8 of 10 combinations are drawn")
    expect(chart(page).locator("polyline")).to_have_count(8)
    assert len(page.locator("#comparison .legend").first.locator("li").all()) == 8


def test_scores_below_zero_are_drawn_above_the_axis_labels(opened: Open) -> None:
    jobs = [job(num, {"t": str(num)}, metrics=metrics(mean_score=-2.5 + 3 * num)) for num in range(2)]
    page = opened(sweep(jobs=jobs, parameters=["t"]))
    low, high = dots(page, "cy", "Mean score")
    assert high < low <= float(chart(page, "Mean score").locator("text.label").last.get_attribute("y") or 0) - 32 + 0.1


def test_figures_that_are_missing_leave_gaps(opened: Open) -> None:
    bare: list[dict[str, float | None]] = [{}, {"output_tok_s": None, "samples": 3}, {"output_tok_s": 5.0}]
    page = opened(sweep(jobs=[job(n, {"t": str(n)}, metrics=of) for n, of in enumerate(bare)], parameters=["t"]))
    assert page.locator("#comparison h3").all_text_contents() == [SPEED]
    assert column(page, "tokens / s") == ["–", "–", "5"]


def test_jobs_that_differ_in_nothing_are_compared_by_number(opened: Open) -> None:
    page = opened(sweep(jobs=[job(0), job(1)], parameters=[], rows=[]))
    expect(page.locator(".when")).to_have_text("no parameter differs between the jobs")
    assert ticks(page) == ["0", "1"]


def test_a_sweep_of_one_job_has_a_page_without_comparisons(opened: Open) -> None:
    page = opened(sweep(jobs=[job(0)], parameters=[], rows=[sweep_row(0, "question", {"0": [response()]})]))
    assert sections(page) == ["Overview", "Jobs"]
    expect(page.locator("#jobs td strong")).to_have_count(0)


def test_a_sweep_without_a_job_that_is_done_has_a_page(opened: Open) -> None:
    page = opened(sweep(jobs=[failed(0, {"sampling.temperature": "0.3"}), failed(1, {})], rows=[]))
    assert sections(page) == ["Jobs", "Failures"]
    expect(page.locator(".top .badge")).to_have_text(["0 of 2 jobs done", "2 failed"])
    assert sections(opened(sweep(jobs=[], rows=[]))) == []


def test_the_first_and_the_last_job_that_is_done_stand_side_by_side(opened: Open) -> None:
    page = opened(sweep())
    expect(page.locator(".side h4")).to_have_text(["job 0", "job 4"])
    expect(page.locator(".side code")).to_have_text(["temperature=0.3, n_samples=1", "temperature=1.0, n_samples=1"])
    expect(page.locator(".outcomes")).to_have_text(["1 of 1 passed", "0 of 1 passed"])
    assert (answers(page, 0), answers(page, 1)) == (["Paris, of course."], ["It is Lille."])
    expect(page.locator(".row dd")).to_have_text("Paris")


def test_a_job_that_is_not_done_can_be_chosen_but_is_not_shown_first(opened: Open) -> None:
    jobs = [job(0, status="interrupted"), job(1), job(2), job(3, status="running")]
    row = sweep_row(0, "question", {str(num): [response()] for num in range(4)})
    page = opened(sweep(jobs=jobs, parameters=[], rows=[row]))
    expect(page.locator(".side h4")).to_have_text(["job 1", "job 2"])
    page.get_by_label("left job").select_option("3")
    expect(page.locator(".side h4")).to_have_text(["job 3", "job 2"])


def test_jobs_without_responses_cannot_be_chosen(opened: Open) -> None:
    page = opened(sweep())
    titles = [f"job {num}: temperature={t}, n_samples={n}" for num, t, n in ((0, 0.3, 1), (1, 0.3, 4), (4, "1.0", 1))]
    expect(page.get_by_label("left job").locator("option")).to_have_text(titles)


def test_another_job_can_be_chosen_for_a_side_and_both_can_be_swapped(opened: Open) -> None:
    page = opened(sweep())
    page.get_by_label("right job").select_option("1")
    expect(page.locator(".side h4")).to_have_text(["job 0", "job 1"])
    assert len(answers(page, 1)) == 4
    assert page.url.endswith("#left=0&right=1&row=3")
    page.get_by_role("button", name="swap").click()
    expect(page.locator(".side h4")).to_have_text(["job 1", "job 0"])
    page.go_back()
    expect(page.locator(".side h4")).to_have_text(["job 0", "job 1"])
    expect(page.get_by_label("left job")).to_have_value("0")


def test_the_responses_of_a_sample_stand_beside_each_other(opened: Open) -> None:
    long, short = response(0, "line\n" * 9), response(0, "short")
    both = {"0": [long, response(1, "second")], "1": [short, response(1, "second")]}
    page = opened(sweep(rows=[sweep_row(0, "question", both)], jobs=[job(0), job(1)], parameters=[]))
    boxes = [card.bounding_box() for card in page.locator(".side [data-sample='1']").all()]
    (left, right) = [box for box in boxes if box]
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]


def test_on_a_phone_the_sides_stand_below_each_other(opened: Open) -> None:
    page = opened(sweep(), width=390)
    left, right = (side.bounding_box() for side in page.locator(".side").all())
    assert left
    assert right
    assert left["y"] + left["height"] < right["y"]


def test_an_address_names_two_jobs_and_a_row(opened: Open) -> None:
    page = opened(sweep(), "#left=4&right=1&row=12")
    expect(page.locator(".side h4")).to_have_text(["job 4", "job 1"])
    expect(page.locator(".row h3")).to_have_text("Row 12")
    expect(page.locator(".rows [aria-current=true] .row-id")).to_have_text("12")
    expect(page.locator("#rows h2")).to_be_in_viewport()
    page.locator("nav a", has_text="Jobs").click()
    expect(page.locator(".row h3")).to_have_text("Row 12")


def test_an_address_of_what_is_not_there_shows_what_is(opened: Open) -> None:
    page = opened(sweep(), "#left=77&right=__proto__&row=999")
    expect(page.locator(".side h4")).to_have_text(["job 0", "job 4"])
    expect(page.locator(".row h3")).to_have_text("Row 3")


def test_a_job_without_the_row_says_so(opened: Open) -> None:
    page = opened(sweep(), "#left=0&right=1&row=20")
    expect(page.locator(".side").first.locator(".missing")).to_have_text("(this job has no responses to this row)")
    assert answers(page, 1) == ["Indeed."]


def test_jobs_that_asked_differently_have_their_prompts_side_by_side(opened: Open) -> None:
    asked = [sweep_row(7, f"Question {num}", {str(num): [response(0, f"to {num}")]}) for num in range(3)]
    page = opened(sweep(jobs=[job(0), job(1), job(2)], parameters=[], rows=asked))
    assert rows_listed(page) == ["7"]
    assert page.locator(".side .bubble .text").all_text_contents() == ["Question 0", "Question 2"]
    assert (answers(page, 0), answers(page, 1)) == (["to 0"], ["to 2"])
    search(page, "question 2")
    assert rows_listed(page) == ["7"]
    search(page, "question 1")
    assert rows_listed(page) == []


def test_rows_that_neither_job_has_are_not_listed(opened: Open) -> None:
    page = opened(sweep(), "#left=0&right=4&row=20")
    assert rows_listed(page) == ["3", "12"]
    expect(page.locator(".row h3")).to_have_text("Row 3")


def test_search_looks_into_the_two_jobs_in_view(opened: Open) -> None:
    page = opened(sweep())
    assert rows_listed(page) == ["3", "12"]
    search(page, "LYON")
    expect(page.locator(".rows .nothing")).to_contain_text("No row matches")
    search(page, "paris")
    assert rows_listed(page) == ["3", "12"]
    assert page.locator(".card mark").all_text_contents() == ["Paris", "Paris"]
    search(page, "lyon")
    page.get_by_label("left job").select_option("1")
    assert rows_listed(page) == ["3"]
    expect(page.locator(".counter")).to_have_text("1 of 3 rows")


def test_rows_can_be_filtered_by_the_side_that_passes_more(opened: Open) -> None:
    page = opened(sweep())
    page.get_by_label("which side is better").select_option("left")
    assert rows_listed(page) == ["3"]
    page.get_by_label("which side is better").select_option("right")
    assert rows_listed(page) == ["12"]
    page.get_by_role("button", name="clear", exact=True).click()
    assert rows_listed(page) == ["3", "12"]


def test_the_score_from_which_a_response_passes_is_the_content_s(opened: Open) -> None:
    both = {"0": [response(score=0.5)], "1": [response(score=0.4)]}
    page = opened(sweep(rows=[sweep_row(0, "?", both)], jobs=[job(0), job(1)], parameters=[], pass_score=0.5))
    expect(page.locator(".outcomes")).to_have_text(["1 of 1 passed", "0 of 1 passed"])


def test_without_scores_there_is_nothing_about_scores(opened: Open) -> None:
    both = {"0": [response()], "1": [response()]}
    page = opened(sweep(rows=[sweep_row(0, "?", both)], jobs=[job(0), job(1)], parameters=[]))
    expect(page.locator(".outcomes")).to_have_text(["1 response"] * 2)
    expect(page.get_by_label("which side is better")).to_have_count(0)
    assert "mean score" not in page.locator("#jobs th").all_text_contents()
    assert "Mean score" not in page.locator("#comparison h3").all_text_contents()


def test_keys_go_through_the_rows_and_keep_the_jobs(opened: Open) -> None:
    page = opened(sweep(), "#left=1&right=0")
    page.keyboard.press("j")
    expect(page.locator(".row h3")).to_have_text("Row 12")
    expect(page.locator(".side h4")).to_have_text(["job 1", "job 0"])
    page.keyboard.press("/")
    page.keyboard.type("france")
    assert rows_listed(page) == ["3"]
    page.keyboard.press("Escape")
    assert rows_listed(page) == ["3", "12", "20"]


PLACES_OF_TEXT = (
    *("h1", ".command code", ".against option", "#jobs td.text", "#jobs .badge", "#failures td.text"),
    *(".bubble .role", ".bubble .text", ".row dd", ".card .badge", ".card .text", ".card .answer mark", ".card .error"),
)


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_from_data_stay_texts(opened: Open, text: str) -> None:
    page = opened(hostile_sweep(text))
    page.get_by_label("x axis").select_option(text)
    search(page, text)
    assert page.evaluate("window.broken") is None
    assert page.locator("img, iframe, object, [onerror], [onmouseover]").count() == 0
    for place in PLACES_OF_TEXT:
        assert text in page.locator(place).all_text_contents(), place
    targets = page.locator("a").evaluate_all("(links) => links.map((link) => link.getAttribute('href'))")
    assert {target[0] for target in targets} == {"#", "."}


def test_the_policy_of_the_page_stops_a_script_that_got_in(opened: Open, tmp_path: Path) -> None:
    page = opened(sweep()).context.new_page()  # not listened to: here Chromium must complain
    html = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    broken_into = tmp_path / "other.html"
    broken_into.write_text(html.replace("<noscript>", "<script>window.broken = 1</script><noscript>"), encoding="utf-8")
    page.goto(broken_into.as_uri())
    expect(page.locator("h1")).to_be_visible()
    assert page.evaluate("window.broken") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_system_and_every_text_has_enough_contrast(opened: Open, scheme: str) -> None:
    page = opened(sweep(), color_scheme=scheme)
    assert is_dark(page) == (scheme == "dark")
    search(page, "Paris")
    texts, pale = texts_and_pale_ones(page)
    assert texts > 100
    assert pale == []


@pytest.mark.parametrize("width", [390, 800, 1600])
def test_no_width_needs_scrolling_to_the_side(opened: Open, width: int) -> None:
    long_word = "a" * 500
    page = opened(hostile_sweep(long_word), width=width)
    page.get_by_label("x axis").select_option(long_word)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert marks_outside_their_frames(page) == []


def test_a_hundred_jobs_open_at_once(opened: Open) -> None:
    jobs = [job(num, {"a": str(num % 10), "b": str(num // 10)}, metrics=scored()) for num in range(100)]
    both = {str(num): [response(n, f"word{num} " * 50) for n in range(8)] for num in range(100)}
    before = time.monotonic()
    page = opened(sweep(jobs=jobs, parameters=["a", "b"], rows=[sweep_row(n, "question", both) for n in range(30)]))
    expect(page.locator(".card")).to_have_count(16)
    assert "the best 8 of 100 jobs" in (chart(page, "pass@k of the jobs").locator("p").text_content() or "")
    page.get_by_label("x axis").select_option("b")
    page.get_by_label("right job").select_option("50")
    expect(page.locator(".side").last.locator(".text").first).to_contain_text("word50")
    assert page.locator("#jobs .scroll").evaluate("(table) => table.clientHeight") < 900
    assert time.monotonic() - before < 8


def test_on_paper_the_table_of_jobs_is_complete_and_choices_are_gone(opened: Open) -> None:
    page = opened(line([str(n) for n in range(60)]))
    page.emulate_media(media="print")
    assert page.locator("#jobs .scroll").evaluate("(table) => table.scrollHeight <= table.clientHeight")
    expect(page.get_by_role("button", name="copy")).to_be_hidden()


def test_a_sheet_of_paper_is_wide_enough_for_a_grid_with_scores(opened: Open) -> None:
    page = opened(sweep(), width=720)
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") == 720


def test_the_page_itself_is_small_and_names_no_address(tmp_path: Path) -> None:
    write_page(tmp_path / "sweep.html", "sweep.html", sweep(rows=[]))
    html = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    assert len(html) < 100_000
    assert html.replace("http://www.w3.org/2000/svg", "").count("://") == 0

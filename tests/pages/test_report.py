"""report.html as a reader sees it: opened from the disk in a real browser."""

import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from rollout.pages.report_content import Thought, Token
from rollout.pages.write import write_page
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
from tests.report_content import (
    HOSTILE,
    analysis,
    empty_analysis,
    hostile_report,
    replica,
    replicated_report,
    report,
    response,
    row,
    run,
    scores,
)


@pytest.fixture
def opened(windows: Callable[[str], Open]) -> Open:
    return windows("report.html")


def test_the_page_shows_the_key_figures_of_the_run(opened: Open) -> None:
    page = opened(report())
    assert page.title() == "outputs/2026-11-22/18-10-25-239818 · rollout"
    expect(page.locator("h1")).to_have_text("outputs/2026-11-22/18-10-25-239818")
    expect(page.locator(".when")).to_have_text("started 2026-11-22 18:10:25 UTC, took 3 min")
    tiles = dict(zip(*(page.locator(f".tile .{part}").all_text_contents() for part in ("name", "value")), strict=True))
    shown = {"samples": "4", "generated tokens": "1.23M", "tokens / s": "25,400", "pass rate": "33.3%", "pass@2": "50%"}
    assert shown.items() <= tiles.items()


def test_scores_and_shares_have_their_intervals(opened: Open) -> None:
    page = opened(report(analysis=analysis(scores=scores(), by="topic", groups={"a": analysis(scores=scores())})))
    tile = page.locator(".tile", has_text="pass@2")
    expect(tile).to_contain_text("at least one passes, 15% to 51.3% *")
    expect(page.locator(".tile", has_text="cut off")).to_contain_text("by max_tokens, 15% to 51.3%")
    expect(page.locator("#overview > .note")).to_contain_text("Ranges are 95% intervals over rows.")
    figure = page.locator("figure", has=page.get_by_role("heading", name="pass@k", exact=True))
    wait_for_charts(page)
    expect(figure.locator(".whisker")).to_have_count(4)
    expect(page.locator("figure", has_text="Finish reasons")).to_contain_text("1  33.3% (15% to 51.3%)")
    expect(page.locator("#groups tbody td").nth(4)).to_have_text("33.3%15% to 51.3%")


def test_the_page_has_a_section_for_all_that_is_there(opened: Open) -> None:
    everything = ["Overview", "Throughput", "Responses", "Scores", "By topic", "Errors", "Rows", "Run"]
    assert sections(opened(report())) == everything


def test_the_least_likely_tokens_of_a_response_are_under_it(opened: Open) -> None:
    known = Token(position=3, id=7, text=" \nParis<", probability=0.0123)
    unknown = Token(position=1, id=9, text=None, probability=1e-9)
    page = opened(report(rows=[row(0, "why", response(unlikely=[unknown, known]), response(1))]))
    expect(page.locator(".card .unlikely")).to_have_text('least likely id 9 < 0.01%, " \\nParis<" 1.2%')
    assert page.locator(".card .unlikely code").last.get_attribute("title") == "token 3, id 7"


def test_thinking_is_folded_over_its_answer_and_opened_where_it_is_searched(opened: Open) -> None:
    closed = Thought(text="so 2+2 <b>", tokens=4, closed=True)
    unclosed = Thought(text="wait", tokens=None, closed=False)
    answers = [response(0, "4", thinking=closed), response(1, "", thinking=unclosed), response(2)]
    page = opened(report(rows=[row(0, "why", *answers)]))
    first, second, third = page.locator(".card").all()
    expect(first.locator("summary")).to_have_text("thinking, 4 tokens")
    expect(first.locator(".thinking .text")).to_be_hidden()
    first.locator("summary").click()
    expect(first.locator(".thinking .text")).to_have_text("so 2+2 <b>")
    expect(second).to_contain_text("thinking never closed")
    expect(second).to_contain_text("(no answer)")
    expect(third.locator(".thinking")).to_have_count(0)
    search(page, "wait")
    expect(second.locator(".thinking .text")).to_be_visible()


def test_every_chart_is_drawn_inside_its_frame(opened: Open) -> None:
    page = opened(report())
    charts = page.locator(".plot svg")
    assert charts.count() == 9
    assert marks_outside_their_frames(page) == []
    assert "NaN" not in drawn(page)


@pytest.mark.parametrize("width", [360, 1000, 1440])
def test_the_names_of_bars_are_whole_beside_their_intervals(opened: Open, width: int) -> None:
    stopped = {"value": 0.946, "se": 0.006, "interval": [0.932, 0.957], "n": 150, "trusted": False}
    ended = {"samples": 1201, "finish_reasons": {"stop": 1135, "length": 65}, "estimates": {"stop_fraction": stopped}}
    page = opened(report(analysis=analysis(**ended)), width=width)
    heights = (
        page.locator("figure", has_text="Finish reasons")
        .locator(".bars :is(.name, .value)")
        .evaluate_all("parts => parts.map((part) => part.getBoundingClientRect().height)")
    )
    assert len(heights) == 4
    assert len(set(heights)) == 1


def test_a_bar_is_as_high_as_its_count(opened: Open) -> None:
    page = opened(report(analysis=analysis()))
    figure = page.locator("figure", has=page.get_by_role("heading", name="Characters per response"))
    low, high = (float(bar.get_attribute("height") or 0) for bar in figure.locator("rect.bar").all())
    assert high == pytest.approx(2 * low)


def test_the_pointer_reads_a_chart(opened: Open) -> None:
    page = opened(report())
    figure = page.locator("figure", has=page.get_by_role("heading", name="Generation speed"))
    expect(figure.locator(".tip")).to_be_hidden()
    figure.locator(".plot").hover(position={"x": 60, "y": 60})
    expect(figure.locator(".tip")).to_have_text("5 seconds · now 76 · since the start 76")
    figure.locator(".plot").hover(position={"x": 340, "y": 60})
    expect(figure.locator(".tip")).to_have_text("15 seconds · now 120 · since the start 120")


def test_sections_without_content_are_left_out(opened: Open) -> None:
    assert sections(opened(report(analysis=analysis(errors={})))) == [
        "Overview",
        "Throughput",
        "Responses",
        "Rows",
        "Run",
    ]


def test_a_file_that_no_run_made_has_a_page_too(opened: Open) -> None:
    page = opened(report(run=None, series=[], analysis=analysis(errors={})))
    assert sections(page) == ["Overview", "Responses", "Rows"]
    assert "generated tokens" not in page.locator(".tile .name").all_text_contents()


def test_a_run_without_a_single_response_has_a_page_too(opened: Open) -> None:
    started = run(ended=None, totals=None, throughput=None, seconds={}, facts=[], status="failed", error="no GPU")
    page = opened(report(run=started, series=[], analysis=empty_analysis(), rows=[], rows_total=0))
    assert sections(page) == ["Overview", "Run"]
    expect(page.locator(".top .error")).to_have_text("no GPU")


def test_one_interval_and_one_response_are_enough_for_charts(opened: Open) -> None:
    one = {"edges": [5, 5], "counts": [1]}
    lengths = {"mean": 5.0, "std": 0.0, "min": 5, "p50": 5.0, "p90": 5.0, "p99": 5.0, "max": 5, "histogram": one}
    page = opened(report(series=report()["series"][:1], analysis=analysis(tokens=lengths)))
    assert "NaN" not in drawn(page)


PLACES_OF_TEXT = (
    *("h1", ".top .badge", ".top .error", ".facts dt", ".facts dd", ".bars .name"),
    *(
        "#replicas .legend li",
        "#replicas td.text",
        "#groups th",
        "#groups td.text",
        "#errors td.text",
        ".bubble .role",
        ".bubble .text",
        ".row dt",
        ".row dd",
    ),
    *(".card .badge", ".card .text", ".card .answer mark", ".card .error"),
    *(".command code", "details dt", "details dd"),
)


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_from_data_stay_texts(opened: Open, text: str) -> None:
    page = opened(hostile_report(text))
    search(page, text)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("window.broken") is None
    assert page.locator("img, iframe, object, [onerror], [onmouseover]").count() == 0
    for place in PLACES_OF_TEXT:
        assert text in page.locator(place).all_text_contents(), place


def test_the_policy_of_the_page_stops_a_script_that_got_in(opened: Open, tmp_path: Path) -> None:
    page = opened(report()).context.new_page()  # not listened to: here Chromium must complain
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    broken_into = tmp_path / "other.html"
    broken_into.write_text(html.replace("<noscript>", "<script>window.broken = 1</script><noscript>"), encoding="utf-8")
    page.goto(broken_into.as_uri())
    expect(page.locator("h1")).to_be_visible()
    assert page.evaluate("window.broken") is None


def test_a_run_on_several_engines_shows_how_fast_each_was(opened: Open) -> None:
    page = opened(replicated_report())
    assert "Replicas" in sections(page)
    expect(page.locator("#replicas thead th")).to_have_text(
        ["replica", "host", "GPU", "samples", "tokens", "tokens / s", "loading", "restarts"]
    )
    expect(page.locator("#replicas tbody tr").last.locator("td")).to_have_text(
        ["1", "node-2", "0", "2", "600", "10", "61.5 s", "1"]
    )
    widths = [bar.evaluate("bar => bar.style.width") for bar in page.locator("#replicas .share span").all()]
    assert widths == ["50%", "100%"]
    expect(page.locator("#replicas .when")).to_have_count(0)
    expect(page.locator("#replicas .legend li")).to_have_text(["replica 0", "replica 1"])
    page.locator("#replicas .plot").hover(position={"x": 60, "y": 60})
    expect(page.locator("#replicas .tip")).to_have_text("5 seconds · replica 0 40 · replica 1 30")
    assert marks_outside_their_frames(page) == []


def test_engines_without_a_gpu_and_engines_that_were_never_ready_have_a_row_too(opened: Open) -> None:
    never_ready = replica(host=None, gpus=None, load_seconds=None, samples=0, generated_tokens=0, output_tok_s=None)
    page = opened(replicated_report(replica(gpus=None), never_ready))
    rows = page.locator("#replicas tbody tr")
    expect(rows.first.locator("td")).to_have_text(["0", "node-1", "2", "600", "5", "61.5 s", "0"])
    expect(rows.last.locator("td")).to_have_text(["1", "–", "0", "0", "–", "–", "0"])
    expect(page.locator("#replicas .when")).to_have_text("of the newest session, which generated 2 of the 4 samples")


def test_a_thousand_engines_scroll_in_a_box_of_their_own(opened: Open) -> None:
    page = opened(replicated_report(*(replica(host=f"node-{number}") for number in range(1000))), width=390)
    assert page.locator("#replicas tbody tr").count() == 1000
    assert page.evaluate("document.querySelector('#replicas .scroll').clientHeight") < 900
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_search_finds_texts_of_prompts_and_responses_in_any_case(opened: Open) -> None:
    page = opened(report())
    assert rows_listed(page) == ["3", "12"]
    both = ["3", "12"]
    for typed, found in {
        "capital of": ["3"],
        "c.pital": [],
        "SEINE": ["12"],
        "paris": both,
        "(any)": ["12"],
        ".": both,
    }.items():
        search(page, typed)
        assert rows_listed(page) == found, typed
    expect(page.locator(".counter")).to_have_text("2 of 2 rows, a sample of the 500 of the run")


def test_search_marks_what_it_found_and_where(opened: Open) -> None:
    page = opened(report(), "#row=12")
    search(page, "paris")
    assert page.locator(".card mark").all_text_contents() == ["Paris", "PARIS"]
    assert page.locator(".rows .found mark").all_text_contents() == ["Paris", "Paris", "PARIS"]
    expect(page.locator(".card").first.locator(".text")).to_have_text("The Seine flows through Paris. PARIS!")


def test_search_without_a_match_says_so_and_can_be_cleared(opened: Open) -> None:
    page = opened(report())
    search(page, "no such text")
    expect(page.locator(".rows .nothing")).to_contain_text("No row matches")
    expect(page.locator(".card")).to_have_count(0)
    page.get_by_role("button", name="Clear the filters").click()
    assert rows_listed(page) == ["3", "12"]
    expect(page.locator(".card")).to_have_count(2)


def test_filters_keep_the_responses_that_pass_them(opened: Open) -> None:
    page = opened(report())
    page.get_by_label("finish reason").select_option("length")
    assert rows_listed(page) == ["3"]
    expect(page.locator(".card .text")).to_have_text(["It is Lyon (I think)."])
    expect(page.locator("h4")).to_have_text("1 response (1 more do not pass the filters)")


@pytest.mark.parametrize(("outcome", "kept"), [("passed", ["3"]), ("failed", ["3", "12"]), ("unscored", ["12"])])
def test_the_filter_for_outcomes_compares_scores_with_one(opened: Open, outcome: str, kept: list[str]) -> None:
    page = opened(report())
    page.get_by_label("outcome").select_option(outcome)
    assert rows_listed(page) == kept


def test_the_smallest_score_filters_responses(opened: Open) -> None:
    page = opened(report())
    page.get_by_label("min score").fill("0.5")
    assert rows_listed(page) == ["3", "12"]
    page.get_by_label("min score").fill("0.6")
    assert rows_listed(page) == ["3"]


def test_without_scores_there_is_nothing_about_scores(opened: Open) -> None:
    page = opened(report(analysis=analysis(), rows=[row(0, "a question", response())]))
    assert "Scores" not in sections(page)
    assert "pass rate" not in page.locator(".tile .name").all_text_contents()
    expect(page.get_by_label("outcome")).to_have_count(0)
    expect(page.locator(".card .badge")).to_have_text(["stop"])


def test_what_is_to_be_known_of_the_scores_stands_over_them(opened: Open) -> None:
    page = opened(report(analysis=analysis(scores=scores(note="of the first round"))))
    expect(page.locator("#scores > p")).to_have_text("of the first round")
    expect(opened(report(analysis=analysis(scores=scores()))).locator("#scores > p")).to_have_count(0)


def test_an_address_names_a_row(opened: Open) -> None:
    page = opened(report(), "#row=12")
    expect(page.locator(".row h3")).to_have_text("Row 12")
    expect(page.locator(".rows [aria-current=true] .row-id")).to_have_text("12")
    expect(page.locator("#rows h2")).to_be_in_viewport()
    page.locator(".rows a").first.click()
    expect(page.locator(".row h3")).to_have_text("Row 3")
    assert page.url.endswith("#row=3")
    page.go_back()
    expect(page.locator(".row h3")).to_have_text("Row 12")


def test_arrow_keys_and_buttons_go_through_the_rows_that_are_listed(opened: Open) -> None:
    page = opened(report())
    page.keyboard.press("ArrowRight")
    expect(page.locator(".row h3")).to_have_text("Row 12")
    expect(page.get_by_role("button", name="next")).to_be_disabled()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".row h3")).to_have_text("Row 12")
    page.get_by_role("button", name="previous").click()
    expect(page.locator(".row h3")).to_have_text("Row 3")
    page.keyboard.press("/")
    page.keyboard.type("jkl")
    expect(page.get_by_label("Search prompts and responses")).to_have_value("jkl")
    page.keyboard.press("Escape")
    assert rows_listed(page) == ["3", "12"]


def test_failed_and_blank_responses_say_so(opened: Open) -> None:
    page = opened(report(rows=[row(0, "", response(0, None, error="too long"), response(1, " \n"), response(2, ""))]))
    expect(page.locator(".card .missing")).to_have_text(["(no response)", *["(nothing but white space)"] * 2])
    expect(page.locator(".card .error")).to_have_text("too long")
    expect(page.locator(".bubble .missing")).to_have_text("(empty)")


def test_a_table_sorts_by_the_column_whose_heading_is_pressed(opened: Open) -> None:
    groups = {"b": analysis(rows=10), "a": analysis(rows=9), "c": analysis(rows=100)}
    page = opened(report(analysis=analysis(by="letter", groups=groups)))
    names = page.locator("#groups td.text")
    expect(names).to_have_text(["b", "a", "c"])
    page.locator("#groups").get_by_role("button", name="rows", exact=True).click()
    expect(names).to_have_text(["c", "b", "a"])
    page.locator("#groups").get_by_role("button", name="letter").click()
    expect(names).to_have_text(["a", "b", "c"])


def test_the_config_can_be_searched(opened: Open) -> None:
    page = opened(report())
    page.get_by_text("Config (2 keys)").click()
    page.get_by_label("Search the config").fill("temp")
    expect(page.locator("details[open] dt")).to_have_text(["sampling.temperature"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_system_and_every_text_has_enough_contrast(opened: Open, scheme: str) -> None:
    page = opened(replicated_report(), color_scheme=scheme)
    assert is_dark(page) == (scheme == "dark")
    search(page, "Paris")
    texts, pale = texts_and_pale_ones(page)
    assert texts > 100
    assert pale == []


def test_the_button_changes_the_colours(opened: Open) -> None:
    page = opened(report(), color_scheme="light")
    page.get_by_role("button", name="dark colours").click()
    assert is_dark(page)
    page.get_by_role("button", name="light colours").click()
    assert not is_dark(page)


@pytest.mark.parametrize("width", [390, 800, 1600])
def test_no_width_needs_scrolling_to_the_side(opened: Open, width: int) -> None:
    long_word = "a" * 500
    wide = row(0, long_word, response(0, long_word, answer=long_word), fields={long_word: long_word})
    groups = {long_word: analysis()}
    page = opened(report(title=long_word, rows=[wide], analysis=analysis(by="x", groups=groups)), width=width)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_hundred_rows_of_long_responses_open_at_once(opened: Open) -> None:
    rows = [row(n, f"question {n}", *(response(i, f"word{n} " * 500) for i in range(16))) for n in range(100)]
    before = time.monotonic()
    page = opened(report(rows=rows))
    expect(page.locator(".card")).to_have_count(16)
    assert page.evaluate("document.querySelectorAll('*').length") < 5000
    search(page, "word77")
    assert rows_listed(page) == ["77"]
    assert time.monotonic() - before < 5


def test_on_paper_the_row_in_view_is_complete_and_buttons_are_gone(opened: Open) -> None:
    page = opened(report(rows=[row(0, "question", response(0, "line\n" * 100))]))
    page.emulate_media(media="print")
    assert page.evaluate("(text => text.scrollHeight <= text.clientHeight)(document.querySelector('.card .text'))")
    expect(page.get_by_role("button", name="copy")).to_be_hidden()
    expect(page.locator("#groups th").first).to_be_visible()


def test_the_page_itself_is_small_and_names_no_address(tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", "report.html", report(rows=[], series=[]))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(html) < 100_000
    assert html.replace("http://www.w3.org/2000/svg", "").count("://") == 0


def test_half_a_character_does_not_keep_the_page_from_being_written(opened: Open) -> None:
    expect(opened(report(title="file \ud800 name")).locator("h1")).to_contain_text("file")


def test_a_number_that_json_lacks_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_page(tmp_path / "report.html", "report.html", {"mean": math.nan})
    assert list(tmp_path.iterdir()) == []

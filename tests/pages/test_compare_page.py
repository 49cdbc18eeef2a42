"""compare.html as a reader sees it: opened from the disk in a real browser."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

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
from tests.compare_content import compare_page, hostile_comparison
from tests.report_content import HOSTILE


@pytest.fixture
def opened(windows: Callable[[str], Open]) -> Open:
    return windows("compare.html")


def test_the_head_and_the_tiles_say_what_is_compared_and_which_is_better(opened: Open) -> None:
    page = opened(compare_page())
    assert page.title() == "A outputs/run-A · B outputs/run-B · rollout"
    assert sections(page) == ["Overview", "Differences, row by row", "Each by itself", "pass@k", "Side by side"]
    tiles = dict(zip(*(page.locator(f".tile .{part}").all_text_contents() for part in ("name", "value")), strict=True))
    assert tiles == {"rows that all have": "40", "score, A": "0.375", "score, B": "0.563", "B - A": "+0.188"}
    expect(page.locator(".notes li")).to_have_count(2)
    link = page.locator("#sides a")
    assert (link.text_content(), link.get_attribute("href")) == ("outputs/run-A", "./../run-A/report.html")


def test_differences_of_two_stand_below_each_other_with_intervals_and_a_verdict(opened: Open) -> None:
    page = opened(compare_page())
    score = page.locator("#differences tbody tr").first.locator("td").all_text_contents()
    assert score[:4] == ["score", "0.375", "0.563", "+0.188"]
    assert score[4].startswith("+0.15")
    assert score[-6:] == ["30", "10", "0", "40", "B has more", "sign-flip, exact"]


def test_numbers_have_three_digits_however_small_or_large(opened: Open) -> None:
    page = opened(compare_page())
    shown = page.evaluate("[2.5e-10, -1.234e308, 0.0123456, 12345.6, 0].map(number)")
    assert shown == ["2.50e-10", "-1.23e+308", "0.0123", "12,346", "0"]


def test_scores_that_may_lean_are_not_tested_and_the_page_says_why(opened: Open) -> None:
    content = compare_page()
    (of_pair,) = content["comparison"]["pairs"]
    score = of_pair["metrics"]["score"]
    score["untested"], score["paired"]["p"], score["paired"]["test"] = "a rule has stopped rows of A", None, None
    page = opened(content)
    line = page.locator("#differences tbody tr").first.locator("td").all_text_contents()
    assert "not tested: a rule has stopped rows of A" in line
    assert page.locator(".tile", has_text="B - A").inner_text().endswith("a rule has stopped rows of A")


def test_of_several_a_metric_is_chosen_and_p_is_corrected(opened: Open) -> None:
    page = opened(compare_page("A", "B", "C"))
    assert page.locator("#differences tbody td:first-child").all_text_contents() == ["B - A", "C - A", "C - B"]
    headings = page.locator("#differences th").all_text_contents()
    assert "p, Holm" in headings
    page.get_by_label("metric").select_option("pass@4")
    expect(page.locator("#differences tbody tr").first.locator("td").nth(1)).to_contain_text("%")


def test_curves_have_bands_inside_their_frames(opened: Open) -> None:
    page = opened(compare_page())
    wait_for_charts(page)
    assert page.locator("#curves polygon.band").count() == 3
    assert marks_outside_their_frames(page) == []
    page.locator("#curves .plot").first.hover(position={"x": 60, "y": 60})
    expect(page.locator("#curves .tip").first).to_contain_text("A 37.5% (")
    assert "NaN" not in drawn(page)


def test_rows_are_read_side_by_side_the_one_that_differs_most_first(opened: Open) -> None:
    page = opened(compare_page())
    assert rows_listed(page) == ["7", "3"]
    assert page.locator(".side h4").all_text_contents() == ["A", "B"]
    assert page.locator(".side .card .text").all_text_contents() == ["no, Seine?", "yes, Seine?"]
    assert page.locator(".side > header .badge").all_text_contents() == ["score 0", "score 1", "row 107 there"]


def test_rows_are_searched_and_filtered_as_in_the_report(opened: Open) -> None:
    page = opened(compare_page())
    search(page, "rhine")
    assert rows_listed(page) == ["3"]
    page.get_by_role("button", name="clear", exact=True).click()
    page.get_by_label("which side is better").select_option("left")
    assert rows_listed(page) == ["3"]
    page.get_by_label("which side is better").select_option("")
    page.get_by_label("finish reason").select_option("length")
    assert rows_listed(page) == ["7"]
    page.get_by_label("finish reason").select_option("")
    page.get_by_label("min score").fill("2")
    assert rows_listed(page) == []


def test_without_rows_and_without_pass_at_k_their_sections_are_not_there(opened: Open) -> None:
    content = compare_page(rows=[])
    for side in content["comparison"]["sides"]:
        side["estimates"] = {"tokens": side["estimates"]["tokens"]}
    content["comparison"]["metric"] = "tokens"
    content["comparison"]["pairs"][0]["metrics"] = {}
    assert sections(opened(content)) == ["Overview", "Differences, row by row", "Each by itself"]


PLACES_OF_TEXT = (
    *("h1", ".command code", ".notes li", "#sides td.text", ".side code", ".bubble .role", ".bubble .text"),
    *(".row dd", ".card .badge", ".card .text", ".card .answer mark", ".card .error"),
)


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_from_data_stay_texts(opened: Open, text: str) -> None:
    page = opened(hostile_comparison(text))
    search(page, text)
    assert page.evaluate("window.broken") is None
    assert page.locator("img, iframe, object, [onerror], [onmouseover]").count() == 0
    for place in PLACES_OF_TEXT:
        assert text in page.locator(place).all_text_contents(), place
    targets = page.locator("a").evaluate_all("(links) => links.map((link) => link.getAttribute('href'))")
    assert {target[0] for target in targets} == {"#", "."}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(opened: Open, scheme: str) -> None:
    page = opened(compare_page(), color_scheme=scheme)
    assert is_dark(page) == (scheme == "dark")
    texts, pale = texts_and_pale_ones(page)
    assert texts > 100
    assert pale == []


@pytest.mark.parametrize("width", [390, 1280])
def test_no_width_needs_scrolling_to_the_side(opened: Open, width: int) -> None:
    page = opened(hostile_comparison("a" * 500), width=width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert marks_outside_their_frames(page) == []


def test_the_page_itself_is_small_and_names_no_address(tmp_path: Path) -> None:
    write_page(tmp_path / "compare.html", "compare.html", compare_page(rows=[]))
    html = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert len(html) < 100_000
    assert html.replace("http://www.w3.org/2000/svg", "").count("://") == 0

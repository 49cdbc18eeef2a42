"""Pages in a real browser, for the tests of report.html and sweep.html: fixtures, and what every page must keep to."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rollout.pages.write import write_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

QUIET = """--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync
--no-first-run"""

Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    executable = next(found, None)
    if executable is None and os.environ.get("ROLLOUT_NEED_CHROMIUM"):
        pytest.fail("ROLLOUT_NEED_CHROMIUM is set and there is no chromium, chromium-browser or google-chrome")
    if executable is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on this machine")
    from playwright.sync_api import sync_playwright  # here, so that the other tests do not wait for it

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=QUIET.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def window(browser: "Browser") -> "Page":
    """What the tests of a file show their pages in, one after the other: a new window takes half a second."""
    return browser.new_context().new_page()


@pytest.fixture
def windows(browser: "Browser", window: "Page", tmp_path: Path) -> Iterator[Callable[[str], Open]]:
    """`windows("report.html")(content)` is the page in a window; in one of its own with `options` for the browser.

    Whatever a test does, the console is silent and nothing is fetched.
    """
    complaints: list[str] = []

    def note_request(path: Path, url: str) -> None:
        if url.split("#")[0] != path.as_uri():
            complaints.append(f"request: {url}")

    with ExitStack() as opened:
        free = [window]

        def a_window(options: dict[str, Any]) -> "Page":
            if free and not options:
                opened.callback(_empty, window)
                return free.pop()
            context = browser.new_context(**options)
            opened.callback(context.close)
            return context.new_page()

        def opener(template: str) -> Open:
            path = tmp_path / template

            def open_page(content: Mapping[str, Any], address: str = "", width: int = 1280, **options: Any) -> "Page":
                write_page(path, template, content)
                page = a_window(options)
                page.set_viewport_size({"width": width, "height": 900})
                page.set_default_timeout(5000)
                for event, note in {
                    "console": lambda message: complaints.append(f"{message.type}: {message.text}"),
                    "pageerror": lambda error: complaints.append(f"error: {error}"),
                    "request": lambda request: note_request(path, request.url),
                }.items():
                    page.on(event, note)  # type: ignore[call-overload]  # each event has an overload of its own
                    opened.callback(page.remove_listener, event, note)
                page.goto(path.as_uri() + address)
                return page

            return open_page

        yield opener
    assert not complaints


def _empty(window: "Page") -> None:
    """Leave nothing of this test's page for the next."""
    for other in window.context.pages:
        if other != window:
            other.close()
    window.emulate_media(media="null")
    window.goto("about:blank")


def sections(page: "Page") -> list[str]:
    return page.locator("main h2").all_text_contents()


def rows_listed(page: "Page") -> list[str]:
    """The numbers of the rows in the list."""
    return page.locator(".rows .row-id").all_text_contents()


def search(page: "Page", text: str) -> None:
    page.get_by_label("Search prompts and responses").fill(text)


def drawn(page: "Page") -> str:
    """What the scripts made, as HTML."""
    return page.content().split("</script>")[-1]


def wait_for_charts(page: "Page") -> None:
    """They are drawn when the browser has told them their sizes."""
    page.locator(".plot:empty").first.wait_for(state="detached")


def marks_outside_their_frames(page: "Page") -> list[str]:
    wait_for_charts(page)
    found: list[str] = page.evaluate(OUTSIDE)
    return found


def texts_and_pale_ones(page: "Page") -> tuple[int, list[str]]:
    """How many texts there are, and those with less contrast than 4.5, as https://www.w3.org/TR/WCAG22/ asks for."""
    count, pale = page.evaluate(LOW_CONTRAST)
    return count, pale


def is_dark(page: "Page") -> bool:
    return bool(page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 20)")


OUTSIDE = """[...document.querySelectorAll(".plot svg :is(text, rect, circle, polyline)")].filter((mark) => {
    const [inner, outer] = [mark.getBoundingClientRect(), mark.closest("figure").getBoundingClientRect()];
    return inner.left < outer.left || inner.right > outer.right || inner.bottom > outer.bottom + 1;
}).map((mark) => mark.outerHTML)"""

LOW_CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (node) => {
    const colour = rgb(getComputedStyle(node).backgroundColor);
    return colour[3] === 255 || !node.parentElement ? colour : behind(node.parentElement);
  };
  const ratio = (node) => {
    const style = getComputedStyle(node);
    const ink = luminance(rgb(node instanceof SVGElement ? style.fill : style.color));
    const paper = luminance(behind(node));
    return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  };
  const texts = [...document.querySelectorAll("body :not(script, noscript)")].filter((node) => !node.disabled &&
    node.checkVisibility() && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
  const named = (node) => `${node.className} ${node.textContent} ${ratio(node)}`;
  return [texts.length, texts.filter((node) => ratio(node) < 4.5).map(named)];
}"""
